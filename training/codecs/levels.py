"""A sign for each value and one or two magnitudes for each block: 1 or 2 bits a value.

Shape legend: P values of a part, B blocks of a part, W values of a block, L levels of a block.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from eigen.training.codecs.blocks import (
    BLOCK_VALUES,
    SCALE_MIN,
    VALUE_MAX,
    bfloat16,
    block_count,
    check_length,
    in_blocks,
    read_scales,
    values_of,
    write_bits,
    write_scales,
)
from eigen.training.errors import CodecError

if TYPE_CHECKING:
    from torch import Tensor

Magnitudes = NDArray[np.float32]

_BITS: NDArray[np.int32] = np.unpackbits(
    np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little"
).astype(np.int32)
"""Of each byte, its bits, the lowest first."""
_SIGNS, _MASKS = _BITS << 31, -_BITS
_NEGATIVE_ZERO = -(2**31)

BORDER = 0.1
"""How far the border of two levels lies from a block's mean magnitude to its largest. For normally
distributed values the error is then 0.3 % above that of the best border, which is 1.23 means; for
heavy tails, whose largest lie further out, so does the border."""


class Levels:
    """Blocks of values, each its sign times one of the block's levels (1 or 2 of them, bfloat16).

    One level is the block's mean magnitude (the scaled sign of arXiv:1901.09847). Two are the means
    of the smaller and of the larger magnitudes, as in a step of Lloyd's algorithm (1982), with the
    border between a block's mean and its largest. For normally distributed values the best
    quantiser of four fixed levels leaves 0.343 of the norm (Max 1960); so does this, and where
    tails are heavy or most values are zero it leaves much less.

    All lower levels, all upper ones, then bit planes, each in whole bytes: the signs, and, for two
    levels, whether a value has the upper one. A value of level zero is positive, and a level that
    no value has is zero.
    """

    lossless = False
    sparse = False
    residual_decay = 1.0

    def __init__(self, levels: int, block_values: int = BLOCK_VALUES) -> None:
        if levels not in (1, 2):
            raise ValueError(f"{levels} levels")
        self.answer = f"{levels}bit"
        self._levels = levels
        self.block_values = block_values

    def encoded_bytes(self, values: int) -> int:
        """A bit a value and level, in whole bytes a plane, and two bytes a block and level."""
        return self._levels * (-(-values // 8) + 2 * block_count(values, self.block_values))

    def encode(self, part_P: "Tensor") -> bytes:
        """See `Codec`."""
        value_P = values_of(part_P)
        magnitude_BW = in_blocks(np.abs(value_P), self.block_values)
        count_B = self._counts(len(value_P))
        if self._levels == 1:
            half_LB = bfloat16(_ordered_sum(magnitude_BW) / count_B, VALUE_MAX)[None]
            upper_BW = np.zeros((1, 1), np.bool_)
        else:
            half_LB, upper_BW = _two_levels(magnitude_BW, count_B)
        negative_P = value_P < 0
        if not half_LB[0].all():
            has_level_BW = np.broadcast_to(upper_BW | (half_LB[0] > 0)[:, None], magnitude_BW.shape)
            negative_P &= has_level_BW.reshape(-1)[: len(value_P)]
        planes = write_bits(negative_P)
        if self._levels == 2:
            planes += write_bits(upper_BW.reshape(-1)[: len(value_P)])
        return write_scales(half_LB) + planes

    def decode(self, data: bytes, values: int) -> "Tensor":
        """See `Codec`."""
        import torch

        check_length(data, self.encoded_bytes(values))
        blocks, plane_bytes = block_count(values, self.block_values), -(-values // 8)
        half_LB = read_scales(data, self._levels * blocks, VALUE_MAX).reshape(self._levels, -1)
        start = 2 * half_LB.size
        negative_BW = self._plane(data[start : start + plane_bytes], values)
        bits_BW = torch.from_numpy(np.take(_SIGNS, negative_BW, axis=0)).view(
            blocks, self.block_values
        )
        lower_B = torch.from_numpy((half_LB[0] << 16).view(np.int32))
        if self._levels == 2:
            upper_BW = self._plane(data[start + plane_bytes :], values)
            self._check_use(half_LB, upper_BW, values)
            # The bits of one level or of the other, without a branch.
            other_B = torch.from_numpy(((half_LB[0] ^ half_LB[1]) << 16).view(np.int32))
            chosen_BW = torch.from_numpy(np.take(_MASKS, upper_BW, axis=0)).view(
                blocks, self.block_values
            )
            bits_BW ^= chosen_BW.bitwise_and_(other_B[:, None])
        bits_BW ^= lower_B[:, None]
        bits_P = bits_BW.view(-1)[:values]
        if not half_LB[0].all() and bool((bits_P == _NEGATIVE_ZERO).any()):
            raise CodecError("a value is negative zero")
        return bits_P.view(torch.float32)

    def _plane(self, data: bytes, values: int) -> NDArray[np.uint8]:
        """A bit plane as bytes, eight values each, in whole blocks [B, W / 8].

        Raises `CodecError` where the bits behind the last value are not zeros.
        """
        if values % 8 and data[-1] >> values % 8:
            raise CodecError("padding bits are not zeros")
        return in_blocks(np.frombuffer(data, np.uint8), self.block_values // 8)

    def _counts(self, values: int) -> Magnitudes:
        """Values of each block."""
        count_B = np.full(block_count(values, self.block_values), self.block_values, np.float32)
        count_B[-1:] -= -values % self.block_values
        return count_B

    def _check_use(
        self, half_LB: NDArray[np.uint32], upper_BW: NDArray[np.uint8], values: int
    ) -> None:
        """`upper_BW` has eight values a byte."""
        lower_B, upper_B = half_LB
        if (lower_B > upper_B).any():
            raise CodecError("a block's lower level is above its upper one")
        uses_B = _bit_counts(upper_BW)
        if not ((uses_B > 0) == (upper_B > 0)).all():
            raise CodecError("an upper level is zero, or no value has it")
        if not ((uses_B < self._counts(values)) | (lower_B == 0)).all():
            raise CodecError("no value has a lower level, and it is not zero")


def _two_levels(
    magnitude_BW: Magnitudes, count_B: Magnitudes
) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
    """The lower and upper levels [2, B], and which values have the upper.

    The border is moved down by more than rounding can have moved it up, so that the largest always
    reaches it, unless it is too small to be sent. A level without values is 0.
    """
    import torch

    mean_B = _ordered_sum(magnitude_BW) / count_B
    peak_B = torch.from_numpy(magnitude_BW).amax(1).numpy()
    border_B = mean_B + (peak_B - mean_B) * np.float32(BORDER)
    border_B = np.maximum(border_B * np.float32(1 - 2.0**-18), np.float32(SCALE_MIN))
    upper_BW = magnitude_BW >= border_B[:, None]
    uses_B = _bit_counts(np.packbits(upper_BW, axis=1)).astype(np.float32)
    part_BW = magnitude_BW * upper_BW
    upper_B: Magnitudes = np.divide(_ordered_sum(part_BW), np.maximum(uses_B, 1))
    np.subtract(magnitude_BW, part_BW, out=part_BW)
    lower_B: Magnitudes = np.divide(_ordered_sum(part_BW), np.maximum(count_B - uses_B, 1))
    upper_half_B = bfloat16(upper_B, VALUE_MAX)
    lower_half_B = np.minimum(bfloat16(lower_B, VALUE_MAX), upper_half_B)
    return np.stack([lower_half_B, upper_half_B]), upper_BW


def _bit_counts(byte_BW: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """How many bits are set in each row, whose width is a multiple of 8 bytes."""
    count_B: NDArray[np.uint32] = np.bitwise_count(byte_BW.view(np.uint64)).sum(1, dtype=np.uint32)
    return count_B


def _ordered_sum(value_BW: Magnitudes) -> Magnitudes:
    """The sum of each row in one order everywhere: halves are added until one value is left.

    The width is a power of two. From 16 on, rows lie across, so that additions stay long.
    """
    import torch  # adds short rows in half of numpy's time

    rows_BW = torch.from_numpy(value_BW)
    while rows_BW.shape[1] > 16:
        half = rows_BW.shape[1] // 2
        rows_BW = rows_BW[:, :half] + rows_BW[:, half:]
    value_WB = np.ascontiguousarray(rows_BW.numpy().T)
    while len(value_WB) > 1:
        half = len(value_WB) // 2
        value_WB = value_WB[:half] + value_WB[half:]
    sum_B: Magnitudes = value_WB[0]
    return sum_B
