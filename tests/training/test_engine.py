"""The engine from bytes to bytes: a round, and every input that can be wrong."""

from dataclasses import replace

import numpy as np
import pytest

from eigen.protocol.limits import SKETCH_BYTES
from eigen.protocol.run import OuterSpec
from eigen.training.codecs.blocks import VALUE_MAX
from eigen.training.codecs.registry import CODECS
from eigen.training.datasets import Samples, write_shard
from eigen.training.errors import (
    BadInput,
    CheckpointError,
    Diverged,
    ResidualError,
    ShardError,
    SpecError,
)
from eigen.training.spec import part_bytes, part_sizes, result_bytes

ORDER = b"order".ljust(32)


@pytest.fixture
def spec(make_spec):
    return make_spec()


@pytest.fixture
def base(engine, spec) -> bytes:
    return engine.initial_checkpoint(spec)


def test_an_update_has_parts_of_the_announced_sizes(engine, spec, base, shards) -> None:
    update = engine.train(spec, base, shards[:2], ORDER, b"")
    assert engine.part_count(spec) == len(update.parts) == 3
    assert [len(part) for part in update.parts] == part_bytes(spec)
    assert len(update.residual) == 4 * sum(part_sizes(spec))
    assert len(update.sketch) == SKETCH_BYTES
    assert update.samples == 4 * 16
    assert update == engine.train(spec, base, shards[:2], ORDER, b"")


def test_one_trainer_without_loss_lands_where_it_trained(
    engine, make_spec, shards, held_out
) -> None:
    spec = make_spec(codec="fp32", result_codec="fp32", outer=OuterSpec("sgd", 1.0, 0.0))
    base = engine.initial_checkpoint(spec)
    update = engine.train(spec, base, shards, ORDER, b"")
    assert update.residual == b""
    results = [
        engine.aggregate(spec, i, [(part, 64)], b"").data for i, part in enumerate(update.parts)
    ]
    assert results == update.parts
    after = engine.outer_step(spec, base, results)
    assert engine.evaluate(spec, after, held_out).loss < engine.evaluate(spec, base, held_out).loss


def test_the_residual_goes_into_the_next_update(engine, spec, base, shards) -> None:
    first = engine.train(spec, base, shards, ORDER, b"")
    with_residual = engine.train(spec, base, shards, ORDER, first.residual)
    codec = CODECS[spec.codec]
    start = 0
    for part, again, count in zip(first.parts, with_residual.parts, part_sizes(spec), strict=True):
        old = np.frombuffer(first.residual, "<f4")[start : start + count]
        new = np.frombuffer(with_residual.residual, "<f4")[start : start + count]
        sent_once, sent_again = codec.decode(part, count), codec.decode(again, count)
        assert np.abs(old).max() > 0
        # update = sent + old residual; sent again + new residual = update + old residual
        wanted = sent_once.numpy() + 2 * old
        assert np.allclose(sent_again.numpy() + new, wanted, atol=1e-6)
        start += count


@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_carries_a_round_and_its_answer(engine, make_spec, shards, codec: str) -> None:
    spec = make_spec(codec=codec, result_codec=CODECS[codec].answer)
    checkpoint = engine.initial_checkpoint(spec)
    residual, carried = b"", [b""] * 3
    for _ in range(2):
        update = engine.train(spec, checkpoint, shards, ORDER, residual)
        for part, most in zip(update.parts, part_bytes(spec), strict=True):
            assert len(part) <= most
        results = [
            engine.aggregate(spec, i, [(part, 64)] * 2, left)
            for i, (part, left) in enumerate(zip(update.parts, carried, strict=True))
        ]
        for result, most in zip(results, result_bytes(spec), strict=True):
            assert len(result.data) <= most
        residual, carried = update.residual, [result.carried for result in results]
        checkpoint = engine.outer_step(spec, checkpoint, [result.data for result in results])
    assert (residual == b"") == CODECS[codec].lossless


def test_a_bad_residual_is_our_own_fault_and_named(engine, spec, base, shards) -> None:
    with pytest.raises(ResidualError, match="12 bytes of residual for 2410 values"):
        engine.train(spec, base, shards, ORDER, bytes(12))
    with pytest.raises(ResidualError, match="NaN"):
        engine.train(spec, base, shards, ORDER, b"\xff" * 4 * 2410)
    lossless = replace(spec, codec="fp32")
    with pytest.raises(ResidualError, match="leaves no residual"):
        engine.train(lossless, base, shards, ORDER, bytes(4 * 2410))


def test_a_bad_shard_is_named_by_its_place(engine, spec, base, shards) -> None:
    narrow = write_shard(Samples(np.zeros((40, 63), np.uint8), np.zeros(40, np.uint8)))
    with pytest.raises(ShardError, match=r"shard 1: x has shape \(40, 63\), not \(40, 64\)"):
        engine.train(spec, base, [shards[0], narrow], ORDER, b"")
    with pytest.raises(ShardError, match="no shard"):
        engine.train(spec, base, [], ORDER, b"")


def test_a_foreign_checkpoint_is_refused_everywhere(engine, make_spec, spec, shards) -> None:
    foreign = engine.initial_checkpoint(make_spec(mlp={"hidden": 33}))
    for call in (
        lambda: engine.train(spec, foreign, shards, ORDER, b""),
        lambda: engine.outer_step(spec, foreign, [b""] * 3),
        lambda: engine.evaluate(spec, foreign, shards[0]),
    ):
        with pytest.raises(CheckpointError, match="options is"):
            call()


def test_a_bad_input_is_refused_by_its_index(engine, spec, base, shards) -> None:
    part = engine.train(spec, base, shards, ORDER, b"").parts[0]
    good = (part, 64)
    for bad, reason in (
        ((part[:-1], 64), "811 bytes where 812 are expected"),
        ((b"\xff" * len(part), 64), "scale is NaN"),
        ((part, 0), "0 samples, a round has 1 to 64"),
        ((part, 65), "65 samples, a round has 1 to 64"),
    ):
        with pytest.raises(BadInput, match=reason) as refused:
            engine.aggregate(spec, 0, [good, good, bad], b"")
        assert refused.value.index == 2
    with pytest.raises(BadInput, match="input 1"):
        engine.outer_step(spec, base, [part, part[1:], part])


def test_misuse_is_an_error_of_the_caller(engine, spec, base) -> None:
    with pytest.raises(ValueError, match="0 inputs, 1 to 128"):
        engine.aggregate(spec, 0, [], b"")
    with pytest.raises(ValueError, match="part 3, the run has parts 0 to 2"):
        engine.aggregate(spec, 3, [(b"", 1)], b"")
    with pytest.raises(ValueError, match="2 results, the run has 3 parts"):
        engine.outer_step(spec, base, [b"", b""])


@pytest.mark.parametrize("codec", CODECS)
def test_the_largest_values_of_many_peers_stay_finite(engine, make_spec, codec: str) -> None:
    import torch

    momentum = 0.5 if CODECS[codec].sparse else 0.99
    outer = OuterSpec("nesterov", 10.0, momentum)
    spec = make_spec(codec=codec, result_codec=codec, outer=outer)
    results = []
    for index, values in enumerate(part_sizes(spec)):
        data = CODECS[codec].encode(torch.full((values,), VALUE_MAX))
        inputs = [(data, 1 + i % 64) for i in range(64)]
        results.append(engine.aggregate(spec, index, inputs, b"").data)
    checkpoint = engine.outer_step(spec, engine.initial_checkpoint(spec), results)
    assert checkpoint


def test_an_outer_step_that_overflows_is_refused(engine, make_spec) -> None:
    spec = make_spec(outer=OuterSpec("nesterov", 10.0, 0.99), codec="fp32", result_codec="fp32")
    declared_base = engine.initial_checkpoint(spec)
    from eigen.training import checkpoint as checkpoints
    from eigen.training.spec import check

    state = checkpoints.read(declared_base, spec, check(spec))
    state.theta_P.fill_(-3.4e38)
    assert state.momentum_P is not None
    state.momentum_P.fill_(3e38)
    base = checkpoints.write(state, check(spec))
    with pytest.raises(Diverged, match="outer step"):
        engine.outer_step(spec, base, [bytes(4 * values) for values in part_sizes(spec)])


def test_a_bad_spec_is_refused_by_every_call(engine, make_spec) -> None:
    bad = make_spec(codec="zip")
    for call in (
        lambda: engine.initial_checkpoint(bad),
        lambda: engine.part_count(bad),
        lambda: engine.train(bad, b"", [], ORDER, b""),
        lambda: engine.aggregate(bad, 0, [(b"", 1)], b""),
        lambda: engine.outer_step(bad, b"", []),
        lambda: engine.evaluate(bad, b"", b""),
    ):
        with pytest.raises(SpecError, match="codec: 'zip' is unknown"):
            call()
