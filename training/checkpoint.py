"""The canonical checkpoint: one byte string for one state of a run, so that its hash names it.

Safetensors with every parameter and, for an outer rule with momentum, a `momentum/<name>` tensor
for each. Where trainers share moments, `moment/<name>/row` and `moment/<name>/col` of each matrix,
`moment/<name>` of each vector, `moment/steps`, the inner steps behind them, and for each parameter
`update/<name>`, the averaged pseudo-gradient that led here. Metadata: `format`, `architecture`,
`options`. Nothing else is state.

Shape legend: P parameters of the model, M values of its folded second moment.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eigen.protocol.run import RunSpec
from eigen.training import tensorfile
from eigen.training.architectures import Declaration
from eigen.training.errors import CheckpointError, TensorFileError
from eigen.training.layout import Layout, Shape
from eigen.training.models import initial_vector
from eigen.training.moments import folded
from eigen.training.outer import OUTER_RULES
from eigen.training.spec import shares_moments

FORMAT = "eigen-checkpoint-1"
_MOMENTUM = "momentum/"
_UPDATE = "update/"
_MOMENT = "moment/"
_STEPS = "moment/steps"
STEPS_MAX = 1 << 16
"""Inner steps are counted no further: what is left of a second moment's beginning is 3e-29."""


@dataclass(frozen=True, slots=True)
class Moments:
    """What AdamW's moments follow from.

    The trainers' folded second moment [M], the averaged pseudo-gradient of the round before [P],
    and the inner steps behind them.
    """

    folded_M: Tensor
    delta_P: Tensor
    steps: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Parameters [P]; momentum [P] where the outer rule has it, moments where they are shared."""

    theta_P: Tensor
    momentum_P: Tensor | None
    moments: Moments | None


def initial(spec: RunSpec, declared: Declaration) -> Checkpoint:
    """The state before the first round; momentum and moments are zero."""
    theta_P = initial_vector(declared.layout, spec.seed, declared.scales)
    has_momentum = OUTER_RULES[spec.outer.rule].has_momentum
    return Checkpoint(
        theta_P,
        torch.zeros_like(theta_P) if has_momentum else None,
        Moments(torch.zeros(folded(declared.layout).values), torch.zeros_like(theta_P), 0)
        if shares_moments(spec)
        else None,
    )


def write(checkpoint: Checkpoint, declared: Declaration) -> bytes:
    """The canonical bytes. Values must be finite."""
    arrays = _split(declared.layout, checkpoint.theta_P, "")
    if checkpoint.momentum_P is not None:
        arrays |= _split(declared.layout, checkpoint.momentum_P, _MOMENTUM)
    if checkpoint.moments is not None:
        arrays |= _split(folded(declared.layout), checkpoint.moments.folded_M, _MOMENT)
        arrays |= _split(declared.layout, checkpoint.moments.delta_P, _UPDATE)
        arrays[_STEPS] = np.array([checkpoint.moments.steps], np.float32)
    return tensorfile.write(arrays, _metadata(declared))


def read(data: bytes, spec: RunSpec, declared: Declaration) -> Checkpoint:
    """The checkpoint of this run in `data`, whoever served it.

    Raises `CheckpointError` where bytes, metadata, names, shapes or dtypes are not exactly those
    that `write` gives for this spec, or where a value is NaN, infinite, or a negative moment.
    """
    layout, has_momentum = declared.layout, OUTER_RULES[spec.outer.rule].has_momentum
    shapes = dict(zip(layout.names, layout.shapes, strict=True))
    if has_momentum:
        shapes |= {_MOMENTUM + name: shape for name, shape, _ in layout.slots()}
    if shares_moments(spec):
        shapes |= {_UPDATE + name: shape for name, shape, _ in layout.slots()}
        shapes |= {_MOMENT + name: shape for name, shape, _ in folded(layout).slots()}
        shapes[_STEPS] = (1,)
    try:
        metadata, arrays = tensorfile.read(data)
    except TensorFileError as error:
        raise CheckpointError(str(error)) from None
    for key, value in _metadata(declared).items():
        if metadata.get(key) != value:
            raise CheckpointError(f"{key} is {metadata.get(key)!r:.200}, the run has {value!r}")
    if len(metadata) != len(_metadata(declared)):
        raise CheckpointError("the metadata has unknown keys")
    _check_names(arrays, shapes)
    return Checkpoint(
        _join(layout, arrays, ""),
        _join(layout, arrays, _MOMENTUM) if has_momentum else None,
        _moments(layout, arrays) if shares_moments(spec) else None,
    )


def _metadata(declared: Declaration) -> dict[str, str]:
    options = ",".join(f"{name}={value}" for name, value in sorted(declared.options.items()))
    return {"architecture": declared.architecture, "format": FORMAT, "options": options}


def _split(layout: Layout, vector_P: Tensor, prefix: str) -> dict[str, tensorfile.Array]:
    values_P: NDArray[np.float32] = vector_P.numpy()
    return {prefix + name: values_P[place].reshape(shape) for name, shape, place in layout.slots()}


def _check_names(arrays: Mapping[str, tensorfile.Array], shapes: Mapping[str, Shape]) -> None:
    if missing := sorted(shapes.keys() - arrays.keys()):
        raise CheckpointError(f"tensor {missing[0]} is missing")
    if unknown := sorted(arrays.keys() - shapes.keys()):
        raise CheckpointError(f"tensor {unknown[0]!r:.80} does not belong to this run")
    for name, array in arrays.items():
        if array.shape != shapes[name]:
            raise CheckpointError(f"tensor {name} has shape {array.shape}, not {shapes[name]}")
        if array.dtype != np.float32:
            raise CheckpointError(f"tensor {name} is {array.dtype}, not float32")


def _join(layout: Layout, arrays: Mapping[str, tensorfile.Array], prefix: str) -> Tensor:
    vector_P = np.empty(layout.values, np.float32)
    for name, _, place in layout.slots():
        vector_P[place] = arrays[prefix + name].reshape(-1)
        if not np.isfinite(vector_P[place]).all():
            raise CheckpointError(f"tensor {prefix}{name} has NaN or infinite values")
    return torch.from_numpy(vector_P)


def _moments(layout: Layout, arrays: Mapping[str, tensorfile.Array]) -> Moments:
    folded_M = _join(folded(layout), arrays, _MOMENT)
    if bool((folded_M < 0).any()):
        raise CheckpointError("a second moment is negative")
    [steps] = arrays[_STEPS].tolist()
    if steps not in range(STEPS_MAX + 1):
        raise CheckpointError(f"{_STEPS} is {steps}, not a count up to {STEPS_MAX}")
    return Moments(folded_M, _join(layout, arrays, _UPDATE), int(steps))
