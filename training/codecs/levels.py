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

LLOYD_STEPS = 2
"""Times that the border between the levels moves. From one step to two the error of normally
distributed values falls by 0.7 %, of heavy tails by 4 %; from two to four by 0.4 % and 3 %."""


class Levels:
    """Blocks of values, each its sign times one of the block's levels (1 or 2 of them, bfloat16).

    One level is the block's mean magnitude (the scaled sign of arXiv:1901.09847). Two are the
    means of the smaller and of the larger magnitudes, split by Lloyd's algorithm (1982): from the
    mean of all, the border moves to the middle of the two means, `LLOYD_STEPS` times. For normally
    distributed values the best quantiser of four fixed levels leaves 0.343 of the norm; so does
    this, and where tails are heavy or most values are zero it leaves much less.

    All lower levels, all upper ones, then bit planes, each in whole bytes: the signs, and, for two
    levels, whether a value has the upper one. A value of level zero is positive, and a level that
    no value has is zero.
    """

    lossless = False
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
    peak_B = magnitude_BW.max(1)
    border_B = _ordered_sum(magnitude_BW) / count_B
    for step in range(LLOYD_STEPS + 1):
        # Rounding never leaves a block's largest magnitude, if it is to be sent, below the border.
        border_B = np.maximum(np.minimum(border_B, peak_B), np.float32(SCALE_MIN))
        upper_BW = magnitude_BW >= border_B[:, None]
        upper_sum_BW = magnitude_BW * upper_BW
        uses_B = upper_BW.sum(1).astype(np.float32)
        upper_B = _ordered_sum(upper_sum_BW) / np.maximum(uses_B, 1)
        lower_B = _ordered_sum(magnitude_BW - upper_sum_BW) / np.maximum(count_B - uses_B, 1)
        if step < LLOYD_STEPS:
            border_B = (lower_B + upper_B) * np.float32(0.5)
    upper_half_B = bfloat16(upper_B, VALUE_MAX)
    return np.stack(
        [np.minimum(bfloat16(lower_B, VALUE_MAX), upper_half_B), upper_half_B]
    ), upper_BW


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
