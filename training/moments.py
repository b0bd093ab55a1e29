"""What trainers tell each other of AdamW's second moment, so that no round starts without one.

Of each matrix its rows' and its columns' means (as Adafactor keeps them: Shazeer and Stern,
arXiv:1804.04235), of each vector all of it; a byte a value; and of several trainers the median, so
that one liar cannot set everybody's step size. All of it is public: a late joiner and a validator
have it from the checkpoint. Knows no torch.

Shape legend: P parameters of the model, M values of the folded moment, or of a part of it.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from eigen.training.errors import CodecError
from eigen.training.layout import Layout, Shape

_LEAST_EXPONENT = -44
_LEAST_BITS = (127 + _LEAST_EXPONENT) << 23
_CODE_SHIFT = 21
LEAST = 2.0**_LEAST_EXPONENT
MOST = 1.75 * 2.0**19
"""The second moment of gradients of 2.4e-7 and of 958. What is outside is taken to the bound: a
step is at worst too short where gradients are smaller, and no sane loss has larger ones."""

CODE_STEP = 2.0**0.25 - 1.0
"""How much larger a value's next code stands for, on average: four codes double it."""


def folded(layout: Layout) -> Layout:
    """Where the folded moment's values lie: `<name>/row` and `<name>/col`, or a vector's `<name>`.

    A weight of more than two dimensions is a matrix of its first against all others.
    """
    shapes: dict[str, Shape] = {}
    for name, shape in zip(layout.names, layout.shapes, strict=True):
        if len(shape) == 1:
            shapes[name] = shape
        else:
            shapes[f"{name}/row"] = (shape[0],)
            shapes[f"{name}/col"] = (math.prod(shape[1:]),)
    return Layout.of(shapes)


def fold(layout: Layout, second_P: NDArray[np.float32]) -> NDArray[np.float32]:
    """Row and column means of a second moment, [M] as `folded` has it."""
    folds: dict[str, NDArray[np.float32]] = {}
    for name, shape, place in layout.slots():
        if len(shape) == 1:
            folds[name] = second_P[place]
        else:
            second_RC = second_P[place].reshape(shape[0], -1)
            folds[f"{name}/row"] = second_RC.mean(1)
            folds[f"{name}/col"] = second_RC.mean(0)
    return np.concatenate([folds[name] for name in folded(layout).names])


def unfold(layout: Layout, folded_M: NDArray[np.float32]) -> NDArray[np.float32]:
    """The matrices of rank one that have these means: row times column over the mean. [P]."""
    folds = {name: folded_M[place] for name, _, place in folded(layout).slots()}
    second_P = np.empty(layout.values, np.float32)
    for name, shape, place in layout.slots():
        if len(shape) == 1:
            second_P[place] = folds[name]
        else:
            row_R, col_C = folds[f"{name}/row"], folds[f"{name}/col"]
            mean = np.float32(math.fsum(row_R) / len(row_R))
            second_P[place] = np.outer(row_R / (mean or np.float32(1.0)), col_C).reshape(-1)
    return second_P


def encode(part_M: NDArray[np.float32]) -> bytes:
    """A byte a value: the upper bits of fp32, six of the exponent and two of the mantissa.

    A value is within an eighth, so a step within a sixteenth. Every byte decodes. Raises
    `CodecError` for NaN.
    """
    if np.isnan(part_M).any():
        raise CodecError("a second moment is NaN")
    bits_M = np.clip(part_M, np.float32(LEAST), np.float32(MOST)).view(np.int32)
    code_M = (bits_M - _LEAST_BITS + (1 << (_CODE_SHIFT - 1))) >> _CODE_SHIFT
    return code_M.astype(np.uint8).tobytes()


def decode(data: bytes, values: int) -> NDArray[np.float32]:
    """`values` second moments, all within `LEAST` to `MOST`. Raises `CodecError` for the length."""
    code_M = _codes(data, values).astype(np.int32)
    return ((code_M << _CODE_SHIFT) + _LEAST_BITS).view(np.float32)


def median(parts: Sequence[bytes], samples_N: Sequence[int]) -> bytes:
    """Of each value the encoded one that half the samples do not exceed; of two, the larger.

    Codes are in the order of what they stand for, so the result is one of the inputs: nothing is
    rounded, and while liars have less than half of the samples it lies between honest values. The
    inputs are equally long.
    """
    code_NM = np.stack([_codes(part, len(parts[0])) for part in parts])
    order_NM = code_NM.argsort(axis=0, kind="stable")
    below_NM = np.array(samples_N, np.int64)[order_NM].cumsum(axis=0)
    middle_M = (2 * below_NM > sum(samples_N)).argmax(axis=0)
    place_M = np.take_along_axis(order_NM, middle_M[None], axis=0)
    return np.take_along_axis(code_NM, place_M, axis=0).tobytes()


def _codes(data: bytes, values: int) -> NDArray[np.uint8]:
    if len(data) != values:
        raise CodecError(f"{len(data)} bytes where {values} are expected")
    return np.frombuffer(data, np.uint8)
