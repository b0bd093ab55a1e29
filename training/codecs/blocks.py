"""What codecs share: blocks of values, bfloat16 scales, bit planes, and the checks on all of them.

Shape legend: P values of a part, B blocks of a part, W values of a block, N bits or scales.
"""

from functools import cache
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from eigen.training.errors import CodecError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T", bound=np.generic)

BLOCK_VALUES = 256
"""Values that share a scale. Halving it takes 0.6 to 2 % off the error of two bits, for 6 % more
bytes."""
VALUE_MAX = 127 * 2.0**56
"""Magnitudes above this are refused (about 2^63). A sum of 64 weighted parts, times a learning rate
and a momentum, then stays finite in fp32, so one peer cannot overflow a result."""
SCALE_MIN = 2.0**-100
"""A block whose scale is below this is sent as zeros: no product of a scale is subnormal."""


def values_of(part_P: "Tensor") -> NDArray[np.float32]:
    """The values of a tensor [P]. Raises `CodecError` for NaN, infinity and above `VALUE_MAX`."""
    value_P: NDArray[np.float32] = part_P.contiguous().numpy()
    check_magnitudes(value_P)
    return value_P


def check_magnitudes(value_P: NDArray[np.float32]) -> None:
    """Raises `CodecError` for NaN, infinity and magnitudes above `VALUE_MAX`."""
    if value_P.size and not -VALUE_MAX <= value_P.min() <= value_P.max() <= VALUE_MAX:
        raise CodecError("a value is NaN, infinite or above 2^63")


def peaks(value_BW: NDArray[np.float32]) -> NDArray[np.float32]:
    """The largest magnitude of each block."""
    import torch  # its maximum of short rows takes a tenth of numpy's time

    peak_B: NDArray[np.float32] = torch.from_numpy(value_BW).abs().amax(1).numpy()
    return peak_B


def scaled(value_BW: NDArray[np.float32], factor_B: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each block times its factor, in place."""
    import torch

    torch.from_numpy(value_BW).mul_(torch.from_numpy(factor_B)[:, None])
    return value_BW


def check_length(data: bytes, expected: int) -> None:
    """Raises `CodecError` where there are not exactly `expected` bytes."""
    if len(data) != expected:
        raise CodecError(f"{len(data)} bytes where {expected} are expected")


def block_count(values: int, width: int) -> int:
    """Blocks of `width` that hold `values`; the last may have fewer."""
    return -(-values // width)


def in_blocks(value_P: NDArray[T], width: int) -> NDArray[T]:
    """The values as [B, W], with zeros behind the last."""
    padding = -len(value_P) % width
    if padding:
        value_P = np.concatenate([value_P, np.zeros(padding, value_P.dtype)])
    return value_P.reshape(-1, width)


def bfloat16(value_N: NDArray[np.float32], most: float) -> NDArray[np.uint32]:
    """Upper halves of the fp32 values nearest to `value_N`: 0, or within `SCALE_MIN` and `most`.

    `value_N` has no negative values.
    """
    half_N: NDArray[np.uint32] = (value_N.view(np.uint32) + np.uint32(0x8000)) >> np.uint32(16)
    half_N *= half_N >= _half(SCALE_MIN)
    np.minimum(half_N, _half(most), out=half_N)
    return half_N


def widen(half_N: NDArray[np.uint32]) -> NDArray[np.float32]:
    """The fp32 values of upper halves."""
    return (half_N << 16).view(np.float32)


def read_scales(data: bytes, count: int, most: float) -> NDArray[np.uint32]:
    """The `count` upper halves, u16 little endian, that `data` begins with.

    Raises `CodecError` for what `bfloat16` does not give: NaN, negative, too small, above `most`.
    """
    half_N = np.frombuffer(data, "<u2", count).astype(np.uint32)
    if not ((half_N == 0) | ((half_N >= _half(SCALE_MIN)) & (half_N <= _half(most)))).all():
        raise CodecError("a block's scale is NaN, negative, infinite or out of range")
    return half_N


def write_scales(half_N: NDArray[np.uint32]) -> bytes:
    """Upper halves as u16 little endian."""
    return half_N.astype("<u2").tobytes()


def write_bits(bit_N: NDArray[np.bool_]) -> bytes:
    """Eight bits a byte, the lowest first, zeros behind the last."""
    return np.packbits(bit_N, bitorder="little").tobytes()


def read_bits(data: bytes, count: int) -> NDArray[np.uint8]:
    """`count` bits, 0 or 1, from as many bytes as hold them.

    Raises `CodecError` where the bits behind the last are not zeros.
    """
    bit_N = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    if bit_N[count:].any():
        raise CodecError("padding bits are not zeros")
    return bit_N[:count]


@cache
def _half(scale: float) -> int:
    """The upper half of the fp32 value nearest to zero from `scale`."""
    return int(np.float32(scale).view(np.uint32)) >> 16
