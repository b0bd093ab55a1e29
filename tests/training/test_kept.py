"""Moments that each trainer keeps: two rounds are one run of AdamW, and bad states are refused."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from eigen.protocol.run import ModelSpec, OuterSpec, RunSpec
from eigen.training import tensorfile
from eigen.training.adamw import AdamW
from eigen.training.checkpoint import initial, read, write
from eigen.training.datasets import Samples, join, read_shard
from eigen.training.engine import Engine
from eigen.training.errors import SpecError, StateError
from eigen.training.inner import LocalSteps, local_steps
from eigen.training.models import build
from eigen.training.optimizer import Place, hand_of
from eigen.training.optimizer import read as read_state
from eigen.training.spec import check
from eigen.training.streams import batch_indices

ORDER, OTHER = b"o" * 32, b"p" * 32


@pytest.fixture
def spec(make_spec: Callable[..., RunSpec]) -> RunSpec:
    return make_spec(outer=OuterSpec("sgd", 1.0, 0.0))


@pytest.fixture
def kept_spec(spec: RunSpec) -> RunSpec:
    return replace(spec, inner=replace(spec.inner, moments="kept"))


def samples_of(spec: RunSpec, shard: bytes) -> Samples:
    declared = check(spec)
    return join([read_shard(shard, inputs=declared.inputs, classes=declared.classes, text=False)])


def test_an_order_goes_on_where_it_was() -> None:
    whole = batch_indices(ORDER, 10, 9, 4)
    for taken in range(9):
        rest = batch_indices(ORDER, 10, 9 - taken, 4, taken * 4)
        assert np.array_equal(rest, whole[taken:])
    assert np.array_equal(batch_indices(ORDER, 10, 1, 3, 4), whole.reshape(-1)[None, 4:7])


def test_an_optimizer_goes_on_from_its_state_bit_by_bit(spec: RunSpec) -> None:
    theta_P, generator = torch.zeros(50), torch.Generator().manual_seed(1)
    grads = [torch.randn(50, generator=generator) for _ in range(7)]
    apart_P = theta_P.clone()
    whole, first = AdamW(theta_P, spec.inner), AdamW(apart_P, spec.inner)
    for grad_P in grads:
        whole.step(grad_P, spec.inner.lr)
    for grad_P in grads[:3]:
        first.step(grad_P, spec.inner.lr)
    second = AdamW(apart_P, spec.inner, first.state())
    for grad_P in grads[3:]:
        second.step(grad_P, spec.inner.lr)
    assert torch.equal(theta_P, apart_P)


def test_two_rounds_are_one_run_of_adamw_where_averaging_changes_nothing(
    engine: Engine, kept_spec: RunSpec, shards: list[bytes]
) -> None:
    """From zero parameters a delta is minus the parameters, so that no rounding hides anything."""
    linear = tuple((k, 0 if k == "depth" else v) for k, v in kept_spec.model.options)
    lossless = replace(kept_spec, model=ModelSpec("mlp", linear), codec="fp32", result_codec="fp32")
    declared = check(lossless)
    begun = initial(lossless, declared)
    zero_P = torch.zeros_like(begun.theta_P)
    base = write(replace(begun, theta_P=zero_P), declared)
    samples, steps = samples_of(lossless, shards[0]), lossless.inner.steps

    def alone(rounds: int) -> LocalSteps:
        inner = replace(lossless.inner, steps=rounds * steps)
        return local_steps(build(declared), zero_P, samples, inner, ORDER)

    one = engine.train(lossless, base, shards[:1], ORDER, b"")
    theta = engine.outer_step(lossless, base, one.parts)
    theta_P = read(theta, lossless, declared).theta_P
    assert torch.equal(theta_P, zero_P - alone(1).delta_P)
    two = engine.train(lossless, theta, shards[:1], OTHER, b"", kept=one.kept)
    whole = alone(2)
    delta_P = torch.cat([torch.frombuffer(bytearray(p), dtype=torch.float32) for p in two.parts])
    assert torch.equal(delta_P, theta_P - (zero_P - whole.delta_P))
    assert two.loss_trace == whole.loss_trace[steps:]
    state, place = read_state(two.kept, lossless, declared.layout.values)
    assert torch.equal(state.first_P, whole.state.first_P)
    assert torch.equal(state.second_P, whole.state.second_P)
    assert state.steps == 2 * steps
    assert place == Place(hand_of(shards[:1]), ORDER, 2 * steps * lossless.inner.batch)
    afresh = engine.train(lossless, theta, shards[:1], OTHER, b"")
    assert afresh.parts != two.parts


def test_other_shards_are_taken_from_their_own_beginning_with_the_same_moments(
    engine: Engine, kept_spec: RunSpec, shards: list[bytes]
) -> None:
    base = engine.initial_checkpoint(kept_spec)
    one = engine.train(kept_spec, base, shards[:1], ORDER, b"")
    two = engine.train(kept_spec, base, shards[1:2], OTHER, b"", kept=one.kept)
    values = check(kept_spec).layout.values
    state, place = read_state(two.kept, kept_spec, values)
    taken = kept_spec.inner.steps * kept_spec.inner.batch
    assert place == Place(hand_of(shards[1:2]), OTHER, taken)
    assert state.steps == 2 * kept_spec.inner.steps


def test_steps_made_apart_from_their_encoding_keep_the_same(
    engine: Engine, kept_spec: RunSpec, shards: list[bytes]
) -> None:
    base = engine.initial_checkpoint(kept_spec)
    one = engine.train(kept_spec, base, shards[:1], ORDER, b"")
    whole = engine.train(kept_spec, base, shards[:1], ORDER, one.residual, kept=one.kept)
    steps = engine.local_steps(kept_spec, base, shards[:1], ORDER, kept=one.kept)
    assert steps.encoded(engine.encode(kept_spec, steps.delta, one.residual)) == whole


def changed(kept: bytes, **tensors: np.ndarray) -> bytes:
    metadata, arrays = tensorfile.read(kept)
    return tensorfile.write({**arrays, **tensors}, metadata)


def renamed(kept: bytes, **names: str) -> bytes:
    metadata, arrays = tensorfile.read(kept)
    return tensorfile.write(arrays, {**metadata, **names})


def test_a_state_that_is_none_of_this_runs_is_refused_with_what_is_wrong(
    engine: Engine, kept_spec: RunSpec, shards: list[bytes]
) -> None:
    base = engine.initial_checkpoint(kept_spec)
    kept = engine.train(kept_spec, base, shards[:1], ORDER, b"").kept
    values = check(kept_spec).layout.values
    nan_P = np.full(values, np.nan, np.float32)
    another = replace(kept_spec, seed=kept_spec.seed + 1)
    foreign = engine.train(another, base, shards[:1], ORDER, b"").kept
    for bad, why in (
        (b"no file", "safetensors"),
        (kept[:-4], "do not fill the file"),
        (foreign, "spec is"),
        (renamed(kept, format="eigen-optimizer-0"), "format is"),
        (renamed(kept, steps="-1"), "steps is '-1'"),
        (renamed(kept, position="many"), "position is 'many'"),
        (renamed(kept, position="9" * 40), "not a count"),
        (renamed(kept, order_seed="xyz"), "hexadecimal"),
        (changed(kept, first=nan_P), "NaN"),
        (changed(kept, second=-np.ones(values, np.float32)), "negative"),
        (changed(kept, second=np.zeros(3, np.float32)), "of 2410 values"),
        (changed(kept, third=np.zeros(3, np.float32)), "not first and second"),
    ):
        with pytest.raises(StateError, match=why):
            engine.train(kept_spec, base, shards[:1], ORDER, b"", kept=bad)
    fresh = replace(kept_spec, inner=replace(kept_spec.inner, moments="fresh"))
    with pytest.raises(StateError, match="keeps no moments"):
        engine.train(fresh, base, shards[:1], ORDER, b"", kept=kept)


def test_a_run_without_kept_moments_keeps_nothing(
    engine: Engine, spec: RunSpec, shards: list[bytes]
) -> None:
    base = engine.initial_checkpoint(spec)
    assert engine.train(spec, base, shards[:1], ORDER, b"").kept == b""
    with pytest.raises(SpecError, match="fresh, kept, shared"):
        check(replace(spec, inner=replace(spec.inner, moments="lost")))
