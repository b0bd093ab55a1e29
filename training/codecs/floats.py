"""Floating point: fp32 as it is, and fp16 in blocks with a power-of-two scale.

Shape legend: P values of a part, B blocks of a part, W values of a block.
"""

from typing import TYPE_CHECKING

import numpy as np

from eigen.training.codecs.blocks import (
    BLOCK_VALUES,
    SCALE_MIN,
    VALUE_MAX,
    block_count,
    check_length,
    check_magnitudes,
    in_blocks,
    peaks,
    read_scales,
    scaled,
    values_of,
    widen,
    write_scales,
)
from eigen.training.errors import CodecError

if TYPE_CHECKING:
    from torch import Tensor

_EXPONENT = 0x7F800000
_FP16_NEGATIVE_ZERO = 0x8000
_FP16_LARGEST = 0x7C00
"""Bits of infinity; from here on they are no numbers."""
_FP16_TOP = 0x7800
"""Bits of 2^15: the largest magnitude of a block lies in the last octave."""


class Fp32:
    """Little-endian fp32."""

    lossless = True
    sparse = False
    block_values = 1
    residual_decay = 1.0
    answer = "fp32"

    def encoded_bytes(self, values: int) -> int:
        """Four bytes a value."""
        return 4 * values

    def encode(self, part_P: "Tensor") -> bytes:
        """See `Codec`."""
        return values_of(part_P).tobytes()

    def decode(self, data: bytes, values: int) -> "Tensor":
        """See `Codec`."""
        import torch

        check_length(data, self.encoded_bytes(values))
        value_P = np.frombuffer(data, "<f4").astype(np.float32)
        check_magnitudes(value_P)
        return torch.from_numpy(value_P)


class Fp16:
    """Blocks of 256 values in IEEE half precision, times a power of two that is the block's.

    All scales, as bfloat16, then all values, both u16 little endian. The scale puts the block's
    largest magnitude, rounded to 11 bits, in the last octave of half precision, so nothing
    overflows, and a value keeps 11 bits down to 2^-29 of the largest: its error is at most 2^-12 of
    it, or 2^-40 of the largest. Negative zero is sent as zero.
    """

    lossless = False
    sparse = False
    block_values = BLOCK_VALUES
    residual_decay = 1.0
    answer = "fp16"

    def encoded_bytes(self, values: int) -> int:
        """Two bytes a value and two a block."""
        return 2 * values + 2 * block_count(values, BLOCK_VALUES)

    def encode(self, part_P: "Tensor") -> bytes:
        """See `Codec`."""
        import torch

        value_BW = in_blocks(values_of(part_P), BLOCK_VALUES)
        peak_B = peaks(value_BW)
        # Half a unit of the eleventh bit carries into the exponent where rounding will.
        octave_B = ((peak_B.view(np.uint32) + 0x1000) & _EXPONENT).view(np.float32)
        scale_B = octave_B * np.float32(2.0**-15)
        sent_B = scale_B >= SCALE_MIN
        inverse_B = np.float32(1) / np.where(sent_B, scale_B, np.float32(1))
        scaled_BW = value_BW * (inverse_B * sent_B)[:, None]
        code_P = torch.from_numpy(scaled_BW).to(torch.float16).numpy().view(np.uint16).ravel()
        code_P[code_P == _FP16_NEGATIVE_ZERO] = 0
        half_B = (scale_B * sent_B).view(np.uint32) >> np.uint32(16)
        return write_scales(half_B) + code_P[: part_P.numel()].astype("<u2").tobytes()

    def decode(self, data: bytes, values: int) -> "Tensor":
        """See `Codec`."""
        import torch

        check_length(data, self.encoded_bytes(values))
        blocks = block_count(values, BLOCK_VALUES)
        half_B = read_scales(data, blocks, VALUE_MAX)
        if (half_B & 0x7F).any():
            raise CodecError("a block's scale is no power of two")
        code_P = np.frombuffer(data, "<u2", values, 2 * blocks).astype(np.uint16)
        if (code_P == _FP16_NEGATIVE_ZERO).any():
            raise CodecError("a value is negative zero")
        code_BW = in_blocks(code_P, BLOCK_VALUES)
        peak_B = (code_BW & 0x7FFF).max(1)
        if not np.where(
            half_B, (peak_B >= _FP16_TOP) & (peak_B < _FP16_LARGEST), peak_B == 0
        ).all():
            raise CodecError("a block's scale is not the one that its largest value asks for")
        value_BW = torch.from_numpy(code_BW.view(np.float16)).to(torch.float32).numpy()
        check_magnitudes(scaled(value_BW, widen(half_B)))
        return torch.from_numpy(value_BW.reshape(-1)[:values])
