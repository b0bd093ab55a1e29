"""Checkpoints: canonical, complete, and nothing but this run's."""

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eigen.protocol.run import AggregationSpec, OuterSpec
from eigen.training import checkpoint as checkpoints
from eigen.training import tensorfile
from eigen.training.errors import CheckpointError
from eigen.training.spec import check

SGD = OuterSpec("sgd", 1.0, 0.0)


def test_a_checkpoint_holds_parameters_and_momentum_by_name(make_spec) -> None:
    spec = make_spec()
    declared = check(spec)
    state = checkpoints.initial(spec, declared)
    data = checkpoints.write(state, declared)
    tensors = safetensors.numpy.load(data)
    assert sorted(tensors) == sorted(
        prefix + name for prefix in ("", "momentum/") for name in declared.layout.names
    )
    assert tensors["layer00.weight"].shape == (32, 64)
    again = checkpoints.read(data, spec, declared)
    assert torch.equal(again.theta_P, state.theta_P)
    assert again.momentum_P is not None
    assert again.momentum_P.count_nonzero() == 0
    assert checkpoints.write(again, declared) == data


def test_without_momentum_there_is_none_in_the_file(make_spec) -> None:
    spec = make_spec(outer=SGD)
    declared = check(spec)
    data = checkpoints.write(checkpoints.initial(spec, declared), declared)
    assert not any(name.startswith("momentum") for name in safetensors.numpy.load(data))
    assert checkpoints.read(data, spec, declared).momentum_P is None


def changed(data: bytes, change) -> bytes:
    metadata, arrays = tensorfile.read(data)
    arrays = {name: array.copy() for name, array in arrays.items()}
    change(metadata, arrays)
    return tensorfile.write(arrays, metadata)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m, a: m.update(format="eigen-checkpoint-2"), "format is 'eigen-checkpoint-2'"),
        (lambda m, a: m.update(architecture="cnn"), "architecture is 'cnn'"),
        (lambda m, a: m.update(options="classes=10"), "options is 'classes=10'"),
        (lambda m, a: m.pop("format"), "format is None"),
        (lambda m, a: m.update(more="x"), "unknown keys"),
        (lambda m, a: a.pop("layer00.bias"), "tensor layer00.bias is missing"),
        (lambda m, a: a.pop("momentum/layer00.bias"), "tensor momentum/layer00.bias is missing"),
        (lambda m, a: a.update(extra=np.zeros(1, np.float32)), "'extra' does not belong"),
        (lambda m, a: a.update({"layer00.bias": np.zeros(8, np.float32)}), "has shape"),
        (lambda m, a: a.update({"layer00.bias": np.zeros(32, np.uint8)}), "is uint8, not float32"),
        (lambda m, a: a["layer01.bias"].__setitem__(3, np.nan), "layer01.bias has NaN"),
        (lambda m, a: a["momentum/layer01.bias"].__setitem__(0, np.inf), "momentum/layer01.bias"),
    ],
)
def test_what_is_not_this_runs_checkpoint_is_refused(make_spec, change, reason: str) -> None:
    spec = make_spec()
    declared = check(spec)
    data = checkpoints.write(checkpoints.initial(spec, declared), declared)
    assert changed(data, lambda m, a: None) == data
    with pytest.raises(CheckpointError, match=reason):
        checkpoints.read(changed(data, change), spec, declared)


def test_a_checkpoint_of_the_other_outer_rule_is_refused(make_spec) -> None:
    with_momentum, without = make_spec(), make_spec(outer=SGD)
    declared = check(with_momentum)
    data = checkpoints.write(checkpoints.initial(without, declared), declared)
    with pytest.raises(CheckpointError, match=r"momentum/.* is missing"):
        checkpoints.read(data, with_momentum, declared)
    data = checkpoints.write(checkpoints.initial(with_momentum, declared), declared)
    with pytest.raises(CheckpointError, match="does not belong"):
        checkpoints.read(data, without, declared)


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_a_named_error(data: bytes) -> None:
    spec = _spec()
    with pytest.raises(CheckpointError):
        checkpoints.read(data, spec, check(spec))


def _spec():
    from eigen.protocol.run import InnerSpec, ModelSpec, RunSpec
    from eigen.protocol.types import Cid

    model = ModelSpec("mlp", (("classes", 2), ("depth", 0), ("hidden", 1), ("inputs", 2)))
    inner = InnerSpec(1, 1, 0.1, 0.0)
    mean = AggregationSpec("mean")
    return RunSpec("r", model, Cid("b"), 1, inner, SGD, "fp32", "fp32", mean, 256, 1, 1, 0, 0, 0)
