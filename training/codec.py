"""How a part of a vector travels: fp32, or 8-bit blocks with error feedback.

Names and sizes are known without torch; it is imported at the first encode or decode. Arithmetic is
separate fp32 elementwise operations, so every machine writes the same bytes.

Shape legend: P values of a part, B blocks of a part, W values of a block (256).
"""

from typing import TYPE_CHECKING, Protocol

import numpy as np

from eigen.training.errors import CodecError

if TYPE_CHECKING:
    from torch import Tensor

BLOCK_VALUES = 256
"""Values that share a scale: 2 bytes of scale in 258."""
SCALE_MAX = 2.0**56
VALUE_MAX = 127 * SCALE_MAX
"""Magnitudes above this are refused (about 2^63). A sum of 64 weighted parts, times a learning rate
and a momentum, then stays finite in fp32, so one peer cannot overflow a result."""
TINY = 2.0**-100
"""A block whose largest magnitude is below this is sent as zeros: no subnormal scales."""


class Codec(Protocol):
    """Bytes for a part, and back. Decoding is strict: it never trusts what a peer sent."""

    @property
    def lossless(self) -> bool:
        """Whether decoding gives back every bit, so that no residual is kept."""
        ...

    def encoded_bytes(self, values: int) -> int:
        """The exact size of `values` encoded values."""
        ...

    def encode(self, part_P: "Tensor") -> bytes:
        """Encode fp32 values. Raises `CodecError` for NaN, infinity or magnitudes too large."""
        ...

    def decode(self, data: bytes, values: int) -> "Tensor":
        """`values` fp32 values, none above `VALUE_MAX`. Raises `CodecError` and nothing else."""
        ...


class Fp32:
    """Little-endian fp32."""

    lossless = True

    def encoded_bytes(self, values: int) -> int:
        """Four bytes a value."""
        return 4 * values

    def encode(self, part_P: "Tensor") -> bytes:
        """See `Codec`."""
        if part_P.numel():
            _check_magnitude(float(part_P.abs().max()))
        return part_P.contiguous().numpy().tobytes()

    def decode(self, data: bytes, values: int) -> "Tensor":
        """See `Codec`."""
        import torch

        _check_length(data, self.encoded_bytes(values))
        part_P = torch.from_numpy(np.frombuffer(data, "<f4").copy())
        if values:
            _check_magnitude(float(part_P.abs().max()))
        return part_P


class Int8:
    """Blocks of 256 values as 8-bit integers times a bfloat16 scale, rounded to nearest even.

    All scales (u16 little endian: the upper half of an fp32), then all integers. A scale is the
    block's largest magnitude over 127, rounded up to bfloat16, so that integers stay within ±127
    and integer times scale is exact in fp32. The error of a value is at most half its block's
    scale: 1/252 of the largest magnitude. Blocks below `TINY` have scale 0.
    """

    lossless = False

    def encoded_bytes(self, values: int) -> int:
        """One byte a value and two a block."""
        return values + 2 * _blocks(values)

    def encode(self, part_P: "Tensor") -> bytes:
        """See `Codec`."""
        import torch

        values = part_P.numel()
        padding = -values % BLOCK_VALUES
        part_BW = torch.nn.functional.pad(part_P, (0, padding)).view(-1, BLOCK_VALUES)
        peak_B = part_BW.abs().amax(1)
        if values:
            _check_magnitude(float(peak_B.max()))
        peak_B[peak_B < TINY] = 0.0
        half_B = ((peak_B / 127.0).view(torch.int32) + 0xFFFF) >> 16
        scale_B = (half_B << 16).view(torch.float32)
        scale_B[half_B == 0] = 1.0  # rounds what is below TINY to zeros
        code_BW = (part_BW / scale_B.unsqueeze(1)).round_()
        scales = half_B.to(torch.int16).numpy().tobytes()
        return scales + code_BW.to(torch.int8).view(-1)[:values].numpy().tobytes()

    def decode(self, data: bytes, values: int) -> "Tensor":
        """See `Codec`."""
        import torch

        _check_length(data, self.encoded_bytes(values))
        blocks = _blocks(values)
        half_B = torch.from_numpy(np.frombuffer(data, "<u2", blocks).astype(np.int32))
        scale_B = (half_B << 16).view(torch.float32)
        code_P = torch.from_numpy(np.frombuffer(data, np.int8, values, 2 * blocks).copy())
        _check_scales(scale_B)
        if values and int(code_P.min()) < -127:
            raise CodecError("an integer is -128; encoders write -127 to 127")
        padding = -values % BLOCK_VALUES
        code_BW = torch.nn.functional.pad(code_P, (0, padding)).view(-1, BLOCK_VALUES)
        if bool(code_BW[half_B == 0].any()):
            raise CodecError("a block with scale 0 has integers other than 0")
        return (code_BW.to(torch.float32) * scale_B.unsqueeze(1)).view(-1)[:values]


CODECS: dict[str, Codec] = {"fp32": Fp32(), "int8": Int8()}
"""Codecs that a run spec may name."""


def encode_with_feedback(
    codec: Codec, update_P: "Tensor", residual_P: "Tensor"
) -> tuple[bytes, "Tensor"]:
    """Encode update + residual; the new residual is what the bytes leave out of that sum.

    Error feedback (Karimireddy et al., arXiv:1901.09847). With a lossless codec both residuals are
    zeros. Raises `CodecError`.
    """
    wanted_P = update_P + residual_P
    data = codec.encode(wanted_P)
    return data, wanted_P - codec.decode(data, wanted_P.numel())


def _blocks(values: int) -> int:
    return -(-values // BLOCK_VALUES)


def _check_length(data: bytes, expected: int) -> None:
    if len(data) != expected:
        raise CodecError(f"{len(data)} bytes where {expected} are expected")


def _check_magnitude(peak: float) -> None:
    if not peak <= VALUE_MAX:
        raise CodecError("a value is NaN, infinite or above 2^63")


def _check_scales(scale_B: "Tensor") -> None:
    from torch import signbit

    fine_B = (scale_B == 0.0) | ((scale_B >= TINY / 127.0) & (scale_B <= SCALE_MAX))
    if not bool((fine_B & ~signbit(scale_B)).all()):
        raise CodecError("a block's scale is NaN, negative, infinite or out of range")
