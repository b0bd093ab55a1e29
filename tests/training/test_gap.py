"""The loss gap: what an update does for the samples that it was to learn, and for others."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from eigen.protocol.run import InnerSpec, OuterSpec
from eigen.training.codecs.registry import CODECS
from eigen.training.datasets import read_shard, write_shard
from eigen.training.errors import BadInput, ShardError
from eigen.training.gap import DROP_MAX, GapScale, MovingGap, used_samples
from eigen.training.spec import part_sizes
from eigen.training.streams import uniform

ORDER = b"order".ljust(32)


@pytest.fixture
def spec(make_spec):
    inner = InnerSpec(steps=20, batch=16, lr=0.01, weight_decay=0.0)
    return make_spec(codec="fp32", mlp={"hidden": 64}, inner=inner)


@pytest.fixture
def base(engine, spec) -> bytes:
    return engine.initial_checkpoint(spec)


def test_the_gap_is_above_that_of_who_did_not_work(engine, spec, base, shards) -> None:
    """A model that has learnt what all digits share, and now learns these ones by heart."""
    for number in range(3):
        parts = engine.train(spec, base, shards[3:], bytes([number]) * 32, b"").parts
        base = engine.outer_step(replace(spec, result_codec="fp32"), base, parts)
    honest, copied = (engine.train(spec, base, [shard], ORDER, b"") for shard in shards[:2])

    def gaps(parts: list[bytes]) -> list[float]:
        work = (spec, base, parts, shards[:1], ORDER, shards[2:3])
        return [engine.gap(*work, bytes([i]), 32).value for i in range(16)]

    assert np.mean(gaps(honest.parts)) > np.mean(gaps(copied.parts)) + 0.02
    assert gaps(honest.parts) == gaps(honest.parts)
    assert len(set(gaps(honest.parts))) == 16, "each seed draws other samples"


def test_only_samples_that_the_order_uses_count_as_assigned(engine, spec, shards) -> None:
    few = replace(spec, inner=replace(spec.inner, steps=2), result_codec="fp32")
    few = replace(few, outer=OuterSpec("sgd", 1.0, 0.0))
    samples = read_shard(shards[0], inputs=64, classes=10)
    used = used_samples(ORDER, len(samples), 2, 16)
    others = np.setdiff1d(np.arange(len(samples)), used)
    assert (len(used), len(others)) == (32, len(samples) - 32)
    base = engine.initial_checkpoint(few)
    parts = engine.train(few, base, shards[:1], ORDER, b"").parts
    after = engine.outer_step(few, base, parts)

    def drop(index: np.ndarray) -> float:
        judged = write_shard(samples.take(index))
        return sum(
            sign * engine.evaluate(few, checkpoint, judged).loss
            for sign, checkpoint in ((1, base), (-1, after))
        )

    # Without other shards, the samples left out are the fresh ones.
    gap = engine.gap(few, base, parts, shards[:1], ORDER, [], b"seed", 1000)
    assert gap.assigned == pytest.approx(drop(used), abs=1e-5)
    assert gap.fresh == pytest.approx(drop(others), abs=1e-5)


def test_an_update_that_ruins_the_model_is_bounded(engine, spec, base, shards) -> None:
    huge = [
        CODECS["fp32"].encode(torch.from_numpy(uniform("huge", b"", values)) * 2.0**62)
        for values in part_sizes(spec)
    ]
    gap = engine.gap(spec, base, huge, shards[:1], ORDER, shards[1:], b"seed")
    assert gap.assigned == gap.fresh == -DROP_MAX


def test_wrong_inputs_are_named(engine, spec, base, shards) -> None:
    update = engine.train(spec, base, shards[:1], ORDER, b"")
    many = replace(spec, inner=replace(spec.inner, steps=100))
    with pytest.raises(ShardError, match="no fresh samples"):
        engine.gap(many, base, update.parts, shards[:1], ORDER, [], b"seed")
    with pytest.raises(ShardError, match="fresh 0: "):
        engine.gap(spec, base, update.parts, shards[:1], ORDER, [b"?"], b"seed")
    with pytest.raises(BadInput, match="2 parts"):
        engine.gap(spec, base, update.parts[:2], shards[:1], ORDER, [], b"seed")


def test_an_average_is_held_to_more_the_more_rounds_it_has() -> None:
    scale = GapScale(mean=0.1, deviation=0.05, tolerance=2.0)
    assert scale.least(1) == pytest.approx(0.0)
    assert scale.least(4) == pytest.approx(0.05)
    moving = MovingGap(scale, rounds=4)
    assert [moving.add(0.03) for _ in range(4)] == [True, True, False, False]
    assert [moving.add(0.1) for _ in range(4)] == [False, True, True, True]
    assert moving.average == pytest.approx(0.1)
