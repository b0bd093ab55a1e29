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
    read_bits,
    read_scales,
    values_of,
    write_bits,
    write_scales,
)
from eigen.training.errors import CodecError

if TYPE_CHECKING:
    from torch import Tensor

Magnitudes = NDArray[np.float32]

BORDER = 0.625
"""Where the border goes between two first means. In the middle (0.5, one step of Lloyd's algorithm)
the error of normally distributed values is 1 % larger, of heavy tails 3 %. Four such steps do no
better for the former than this one, and take 4 % off the latter."""


class Levels:
    """Blocks of values, each its sign times one of the block's levels (1 or 2 of them, bfloat16).

    One level is the block's mean magnitude (the scaled sign of arXiv:1901.09847). Two are the means
    of the smaller and of the larger magnitudes, after Lloyd (1982): the mean of all splits them
    first, then a border between the means of the two. For normally distributed values the best
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
        self._width = block_values

    def encoded_bytes(self, values: int) -> int:
        """A bit a value and level, in whole bytes a plane, and two bytes a block and level."""
        return self._levels * (-(-values // 8) + 2 * block_count(values, self._width))

    def encode(self, part_P: "Tensor") -> bytes:
        """See `Codec`."""
        value_P = values_of(part_P)
        magnitude_BW = in_blocks(np.abs(value_P), self._width)
        count_B = self._counts(len(value_P))
        if self._levels == 1:
            half_LB = bfloat16(_ordered_sum(magnitude_BW) / count_B, VALUE_MAX)[None]
            has_level_BW = np.broadcast_to(half_LB[0][:, None] > 0, magnitude_BW.shape)
            upper_BW = None
        else:
            half_LB, upper_BW = _two_levels(magnitude_BW, count_B)
            has_level_BW = upper_BW | (half_LB[0] > 0)[:, None]
        negative_P = (value_P < 0) & has_level_BW.reshape(-1)[: len(value_P)]
        planes = write_bits(negative_P)
        if upper_BW is not None:
            planes += write_bits(upper_BW.reshape(-1)[: len(value_P)])
        return write_scales(half_LB) + planes

    def decode(self, data: bytes, values: int) -> "Tensor":
        """See `Codec`."""
        import torch

        check_length(data, self.encoded_bytes(values))
        blocks, plane_bytes = block_count(values, self._width), -(-values // 8)
        half_LB = read_scales(data, self._levels * blocks, VALUE_MAX).reshape(self._levels, -1)
        start = 2 * half_LB.size
        negative_P = read_bits(data[start : start + plane_bytes], values)
        bits_BW = np.repeat(half_LB[0] << 16, self._width).reshape(blocks, self._width)
        if self._levels == 2:
            upper_BW = in_blocks(read_bits(data[start + plane_bytes :], values), self._width)
            self._check_use(half_LB, upper_BW, values)
            # The bits of one level or of the other, without a branch.
            bits_BW ^= ((half_LB[0] ^ half_LB[1]) << 16)[:, None] * upper_BW
        bits_P = bits_BW.reshape(-1)[:values]
        bits_P |= negative_P.astype(np.uint32) << 31
        if (bits_P == 0x80000000).any():
            raise CodecError("a value is negative zero")
        return torch.from_numpy(bits_P.view(np.float32))

    def _counts(self, values: int) -> Magnitudes:
        """Values of each block."""
        count_B = np.full(block_count(values, self._width), self._width, np.float32)
        count_B[-1:] -= -values % self._width
        return count_B

    def _check_use(
        self, half_LB: NDArray[np.uint32], upper_BW: NDArray[np.uint8], values: int
    ) -> None:
        lower_B, upper_B = half_LB
        if (lower_B > upper_B).any():
            raise CodecError("a block's lower level is above its upper one")
        uses_B = upper_BW.sum(1, dtype=np.uint32)
        if not ((uses_B > 0) == (upper_B > 0)).all():
            raise CodecError("an upper level is zero, or no value has it")
        if not ((uses_B < self._counts(values)) | (lower_B == 0)).all():
            raise CodecError("no value has a lower level, and it is not zero")


def _two_levels(
    magnitude_BW: Magnitudes, count_B: Magnitudes
) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
    """The lower and upper levels [2, B], and which values have the upper."""
    border_B = _ordered_sum(magnitude_BW) / count_B
    lower_B, upper_B, _ = _split(magnitude_BW, border_B, count_B)
    border_B = lower_B + (upper_B - lower_B) * np.float32(BORDER)
    lower_B, upper_B, upper_BW = _split(magnitude_BW, border_B, count_B)
    upper_half_B = bfloat16(upper_B, VALUE_MAX)
    lower_half_B = np.minimum(bfloat16(lower_B, VALUE_MAX), upper_half_B)
    return np.stack([lower_half_B, upper_half_B]), upper_BW


def _split(
    magnitude_BW: Magnitudes, border_B: Magnitudes, count_B: Magnitudes
) -> tuple[Magnitudes, Magnitudes, NDArray[np.bool_]]:
    """The means below a border and from it on, 0 where there is nothing; what lies from it on.

    The border lies between a block's least and largest. It is first moved down by more than
    rounding can have moved it up, so that the largest always reaches it, unless it is too small to
    be sent.
    """
    border_B = np.maximum(border_B * np.float32(1 - 2.0**-18), np.float32(SCALE_MIN))
    upper_BW = magnitude_BW >= border_B[:, None]
    uses_B = _row_counts(upper_BW)
    upper_part_BW = magnitude_BW * upper_BW
    lower_part_BW = magnitude_BW - upper_part_BW
    upper_B: Magnitudes = np.divide(_ordered_sum(upper_part_BW), np.maximum(uses_B, 1))
    lower_B: Magnitudes = np.divide(_ordered_sum(lower_part_BW), np.maximum(count_B - uses_B, 1))
    return lower_B, upper_B, upper_BW


def _row_counts(bit_BW: NDArray[np.bool_]) -> Magnitudes:
    """How many are set in each row, whose width is a multiple of 64."""
    words = np.packbits(bit_BW).view(np.uint64).reshape(len(bit_BW), bit_BW.shape[1] // 64)
    count_B: Magnitudes = np.bitwise_count(words).sum(1, dtype=np.uint32).astype(np.float32)
    return count_B


def _ordered_sum(value_BW: Magnitudes) -> Magnitudes:
    """The sum of each row in one order everywhere: halves are added until one value is left.

    The width is a power of two. From 16 on, rows lie across, so that additions stay long.
    """
    while value_BW.shape[1] > 16:
        half = value_BW.shape[1] // 2
        value_BW = value_BW[:, :half] + value_BW[:, half:]
    value_WB = np.ascontiguousarray(value_BW.T)
    while len(value_WB) > 1:
        half = len(value_WB) // 2
        value_WB = value_WB[:half] + value_WB[half:]
    sum_B: Magnitudes = value_WB[0]
    return sum_B
