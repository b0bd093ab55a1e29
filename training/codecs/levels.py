"""A sign for each value and one or two magnitudes for each block: 1 or 2 bits a value.

Shape legend: P values of a part, B blocks of a part, W values of a block, L levels of a block.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from eigen.training.codecs.blocks import (
    BLOCK_VALUES,
    VALUE_MAX,
    bfloat16,
    block_count,
    check_length,
    check_magnitudes,
    in_blocks,
    read_scales,
    widen,
    write_scales,
)
from eigen.training.errors import CodecError

if TYPE_CHECKING:
    from torch import Tensor

Magnitudes = NDArray[np.float32]

_BITS: NDArray[np.int16] = np.unpackbits(
    np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little"
).astype(np.int16)
"""Of each byte, its bits, the lowest first."""
_SIGNS, _MASKS = _BITS << 15, -_BITS
_NEGATIVE_ZERO = -(2**15)

BORDER = 0.1
"""How far the border of two levels lies from a block's mean magnitude to its largest. For normally
distributed values the error is then 0.3 % above that of the best border, which is 1.23 means; for
heavy tails, whose largest lie further out, so does the border."""
EXPONENT_MIN = 20
"""Biased exponent of the smallest largest magnitude that counts: far below `SCALE_MIN`."""
_FP32_INTEGER_BITS = 24
_SURELY_WHOLE = 7 << 7
"""A lower level less than seven powers of two below the upper one is a whole number of its units:
it has eight bits, and the upper one is 2^14 units or more."""


class Levels:
    """Blocks of values, each its sign times one of the block's levels (1 or 2 of them, bfloat16).

    One level is the block's mean magnitude (the scaled sign of arXiv:1901.09847). Two are the means
    of the smaller and of the larger magnitudes, as in a step of Lloyd's algorithm (1982), with the
    border between a block's mean and its largest. For normally distributed values the best
    quantiser of four fixed levels leaves 0.343 of the norm (Max 1960); so does this, and where
    tails are heavy or most values are zero it leaves much less.

    Magnitudes are counted in units: the power of two in which the largest of a block of 256 has 16
    bits. Sums of a block are then integers that fp32 holds, equal in any order. The lower level is
    a whole number of the upper one's units.

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
        self._unit_bits = _FP32_INTEGER_BITS - block_values.bit_length()

    def encoded_bytes(self, values: int) -> int:
        """A bit a value and level, in whole bytes a plane, and two bytes a block and level."""
        return self._levels * (-(-values // 8) + 2 * block_count(values, self.block_values))

    def encode(self, part_P: "Tensor") -> bytes:
        """See `Codec`."""
        import torch

        part_P = part_P.contiguous()
        values, blocks = part_P.numel(), block_count(part_P.numel(), self.block_values)
        magnitude_BW = torch.empty((blocks, self.block_values))
        torch.abs(part_P, out=magnitude_BW.view(-1)[:values])
        magnitude_BW.view(-1)[values:] = 0.0
        peak_B = magnitude_BW.amax(1).numpy()
        check_magnitudes(peak_B)
        unit_B, units_B = self._units(peak_B)
        count_BW = magnitude_BW.mul_(torch.from_numpy(units_B)[:, None]).round_()
        if self._levels == 1:
            mean_B: Magnitudes = np.divide(count_BW.sum(1).numpy(), self._counts(values))
            half_LB, upper = bfloat16(mean_B * unit_B, VALUE_MAX)[None], b""
        else:
            half_LB, upper = self._two_levels(count_BW, np.rint(peak_B * units_B), unit_B, values)
        negative = np.packbits(part_P.numpy() < 0, bitorder="little")
        if not half_LB[0].all():
            negative &= self._with_level(half_LB[0], upper)[: len(negative)]
        return write_scales(half_LB) + negative.tobytes() + upper

    def _units(self, value_B: Magnitudes) -> tuple[Magnitudes, Magnitudes]:
        """A block's unit, and how many make 1: powers of two, or zeros for tiny values."""
        exponent_B = value_B.view(np.uint32) >> np.uint32(23)
        kept_B = exponent_B >= EXPONENT_MIN
        exponent_B -= kept_B * np.uint32(self._unit_bits)
        unit_B = (exponent_B * kept_B << np.uint32(23)).view(np.float32)
        units_B = ((np.uint32(254) - exponent_B) * kept_B << np.uint32(23)).view(np.float32)
        return unit_B, units_B

    def _two_levels(
        self, count_BW: "Tensor", peak_B: Magnitudes, unit_B: Magnitudes, values: int
    ) -> tuple[NDArray[np.uint32], bytes]:
        """The lower and upper levels [2, B], and the bits of values that have the upper.

        Magnitudes and the largest of them are in units. A level without values is 0.
        """
        import torch

        values_B = self._counts(values)
        sum_B: Magnitudes = count_BW.sum(1).numpy()
        mean_B = sum_B / values_B
        border_B = np.floor(mean_B + (peak_B - mean_B) * np.float32(BORDER))
        border_B = np.maximum(np.minimum(border_B, peak_B - 1), 0)  # the largest lies above it
        above_BW = count_BW - torch.from_numpy(border_B)[:, None]
        upper_BW = np.packbits(above_BW.numpy() > 0, axis=1, bitorder="little")
        uses_B = _bit_counts(upper_BW).astype(np.float32)
        upper_sum_B = above_BW.clamp_min_(0).sum(1).numpy() + uses_B * border_B
        upper_B: Magnitudes = np.divide(upper_sum_B, np.maximum(uses_B, 1))
        upper_half_B = bfloat16(upper_B * unit_B, VALUE_MAX)
        if not upper_half_B.all():
            upper_BW[upper_half_B == 0] = 0
        lower_B: Magnitudes = np.divide(sum_B - upper_sum_B, np.maximum(values_B - uses_B, 1))
        of_upper_B, upper_units_B = self._units(widen(upper_half_B))
        lower_B = np.rint(lower_B * unit_B * upper_units_B) * of_upper_B
        lower_half_B = bfloat16(lower_B, VALUE_MAX)
        half_LB = np.stack([np.minimum(lower_half_B, upper_half_B), upper_half_B])
        return half_LB, upper_BW.tobytes()[: -(-values // 8)]

    def _with_level(self, lower_B: NDArray[np.uint32], upper: bytes) -> NDArray[np.uint8]:
        """The bits of values whose level is not zero: of all or those that have the upper one."""
        byte_B = np.where(lower_B, np.uint8(255), np.uint8(0))
        with_lower: NDArray[np.uint8] = np.repeat(byte_B, self.block_values // 8)
        if upper:
            with_lower[: len(upper)] |= np.frombuffer(upper, np.uint8)
        return with_lower

    def decode(self, data: bytes, values: int) -> "Tensor":
        """See `Codec`."""
        import torch

        check_length(data, self.encoded_bytes(values))
        blocks, plane_bytes = block_count(values, self.block_values), -(-values // 8)
        half_LB = read_scales(data, self._levels * blocks, VALUE_MAX).reshape(self._levels, -1)
        start = 2 * half_LB.size
        negative_BW = self._plane(data[start : start + plane_bytes], values)
        # Values are bfloat16 until they are whole.
        bits_BW = torch.from_numpy(np.take(_SIGNS, negative_BW, axis=0)).view(
            blocks, self.block_values
        )
        level_LB = torch.from_numpy(half_LB.astype(np.int16))[:, :, None]
        if self._levels == 2:
            upper_BW = self._plane(data[start + plane_bytes :], values)
            self._check_use(half_LB, upper_BW, values)
            # The bits of one level or of the other, without a branch.
            chosen_BW = torch.from_numpy(np.take(_MASKS, upper_BW, axis=0)).view(
                blocks, self.block_values
            )
            bits_BW ^= chosen_BW.bitwise_and_(level_LB[0] ^ level_LB[1])
        bits_BW ^= level_LB[0]
        bits_P = bits_BW.view(-1)[:values]
        if not half_LB[0].all() and bool((bits_P == _NEGATIVE_ZERO).any()):
            raise CodecError("a value is negative zero")
        return bits_P.view(torch.bfloat16).float()

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
        uses_B, has_lower_B = _bit_counts(upper_BW), lower_B > 0
        if ((uses_B > 0) != (upper_B > 0)).any():
            raise CodecError("an upper level is zero, or no value has it")
        if (has_lower_B & (uses_B >= self._counts(values))).any():
            raise CodecError("no value has a lower level, and it is not zero")
        far_B = has_lower_B & (lower_B + _SURELY_WHOLE < upper_B)
        whole_B = widen(lower_B[far_B]) * self._units(widen(upper_B[far_B]))[1]
        if (whole_B != np.rint(whole_B)).any():
            raise CodecError("a lower level is no whole number of units")


def _bit_counts(byte_BW: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """How many bits are set in each row, whose width is a multiple of 8 bytes."""
    count_B: NDArray[np.uint32] = np.bitwise_count(byte_BW.view(np.uint64)).sum(1, dtype=np.uint32)
    return count_B
