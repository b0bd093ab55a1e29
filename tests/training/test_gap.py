"""The loss gap: what an update does for the samples that it was to learn, and for others."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from eigen.protocol.run import InnerSpec, OuterSpec
from eigen.training.codecs.registry import CODECS
from eigen.training.datasets import drawn, read_shard, split, write_shard
from eigen.training.errors import BadInput, ShardError
from eigen.training.gap import LOSS_MAX, MovingGaps, used_samples
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


def test_the_gap_is_above_that_of_who_did_not_work(engine, spec, base) -> None:
    """Samples without any sense can only be learnt by heart."""
    everything = split(drawn(600, inputs=64, classes=10), 3, 0)
    shards = [write_shard(samples) for samples in everything]
    spec = replace(spec, result_codec="fp32")
    honest, copied = (engine.train(spec, base, [shard], ORDER, b"") for shard in shards[:2])
    inputs = [
        [(mine, 1), (theirs, 1)] for mine, theirs in zip(honest.parts, copied.parts, strict=True)
    ]
    average = [engine.aggregate(spec, i, pair, b"").data for i, pair in enumerate(inputs)]

    def gaps(parts: list[bytes]) -> list[float]:
        work = (spec, base, parts, shards[:1], ORDER, shards[2:3])
        seeds = [bytes([i]) for i in range(8)]
        return [engine.gap(*work, seed, 24, (), average).value for seed in seeds]

    assert np.mean(gaps(honest.parts)) > np.mean(gaps(copied.parts)) + 0.1
    assert gaps(honest.parts) == gaps(honest.parts)
    assert len(set(gaps(honest.parts))) == 8, "each seed draws other samples"


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
    work = (few, base, parts, shards[:1], ORDER, [], b"seed", 1000)
    gap = engine.gap(*work)
    assert gap.assigned == pytest.approx(drop(used), abs=1e-5)
    assert gap.fresh == pytest.approx(drop(others), abs=0.05), "a third of 1000 of 327"
    # Compared with an average that is the update itself, nothing is left.
    assert engine.gap(*work, (), parts).value == 0.0


def test_an_update_that_ruins_the_model_is_bounded(engine, spec, base, shards) -> None:
    huge = [
        CODECS["fp32"].encode(torch.from_numpy(uniform("huge", b"", values)) * 2.0**62)
        for values in part_sizes(spec)
    ]
    gap = engine.gap(spec, base, huge, shards[:1], ORDER, shards[1:], b"seed")
    assert -LOSS_MAX <= gap.assigned < -0.9 * LOSS_MAX


def test_wrong_inputs_are_named(engine, spec, base, shards) -> None:
    update = engine.train(spec, base, shards[:1], ORDER, b"")
    many = replace(spec, inner=replace(spec.inner, steps=100))
    with pytest.raises(ShardError, match="no fresh samples"):
        engine.gap(many, base, update.parts, shards[:1], ORDER, [], b"seed")
    with pytest.raises(ShardError, match="fresh 0: "):
        engine.gap(spec, base, update.parts, shards[:1], ORDER, [b"?"], b"seed")
    with pytest.raises(BadInput, match="2 parts"):
        engine.gap(spec, base, update.parts[:2], shards[:1], ORDER, [], b"seed")


def test_who_stays_below_the_others_is_named() -> None:
    noise = np.random.default_rng(0).normal(0.0, 0.02, (40, 5))
    gaps = MovingGaps[str](rounds=12)
    named = [
        gaps.add(
            {f"honest {i}": value for i, value in enumerate(row[:4])} | {"half": row[4] - 0.03}
        )
        for row in noise + np.linspace(0.5, 0.0, 40)[:, None]  # what all share does not matter
    ]
    assert all("half" in names for names in named[11:])
    assert sum(len(names - {"half"}) for names in named) <= 8, "some 1 in 100"
    assert 0.01 < gaps.deviation < 0.04
    assert gaps.average("half") < -0.02
    gaps.forget("half")
    with pytest.raises(KeyError):
        gaps.average("half")
    assert MovingGaps[str]().add({"one": 1.0, "two": -1.0}) == frozenset(), "nobody to compare with"
