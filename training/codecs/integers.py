"""Small integers in blocks with a bfloat16 scale: 8 or 4 bits a value.

Shape legend: P values of a part, B blocks of a part, W values of a block.
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


class Integers:
    """Blocks of 256 values as integers of `bits` (8 or 4) times a scale, to the nearest, even.

    All scales, then all integers in two's complement; of 4 bits, two share a byte, the first in the
    lower half, and the last may stand alone. The scale is the block's largest magnitude over the
    largest integer (127 or 7), to the nearest bfloat16: that magnitude then always rounds to the
    largest integer, and integer times scale is exact in fp32. The error of a value is at most half
    its block's scale: 1/252 or 1/13.9 of the largest magnitude.
    """

    lossless = False
    sparse = False
    block_values = BLOCK_VALUES
    residual_decay = 1.0

    def __init__(self, bits: int) -> None:
        if bits not in (4, 8):
            raise ValueError(f"integers of {bits} bits")
        self.answer = f"int{bits}"
        self._bits = bits
        self._largest = 2 ** (bits - 1) - 1
        self._scale_max = VALUE_MAX / self._largest

    def encoded_bytes(self, values: int) -> int:
        """`bits` a value, in whole bytes, and two bytes a block."""
        return -(-values * self._bits // 8) + 2 * block_count(values, BLOCK_VALUES)

    def encode(self, part_P: "Tensor") -> bytes:
        """See `Codec`."""
        value_BW = in_blocks(values_of(part_P), BLOCK_VALUES)
        half_B = bfloat16(peaks(value_BW) / np.float32(self._largest), self._scale_max)
        scale_B = np.where(half_B, widen(half_B), np.float32(np.inf))  # all of the block to zeros
        quotient_BW = value_BW / scale_B[:, None]
        code_BW = np.rint(quotient_BW, out=quotient_BW).astype(np.int8)
        code_P = code_BW.ravel()[: part_P.numel()]
        return write_scales(half_B) + (code_P if self._bits == 8 else _pairs(code_P)).tobytes()

    def decode(self, data: bytes, values: int) -> "Tensor":
        """See `Codec`."""
        import torch

        check_length(data, self.encoded_bytes(values))
        blocks = block_count(values, BLOCK_VALUES)
        half_B = read_scales(data, blocks, self._scale_max)
        code_P = np.frombuffer(data, np.int8, offset=2 * blocks)
        code_BW = in_blocks(code_P if self._bits == 8 else _unpair(code_P, values), BLOCK_VALUES)
        value_BW = code_BW.astype(np.float32)
        if not (peaks(value_BW) == np.where(half_B, self._largest, 0)).all():
            raise CodecError(f"a block's largest integer is not {self._largest}, or 0 for scale 0")
        return torch.from_numpy(scaled(value_BW, widen(half_B)).reshape(-1)[:values])


def _pairs(code_P: NDArray[np.int8]) -> NDArray[np.uint8]:
    code_B2 = in_blocks(code_P.view(np.uint8), 2)
    pair_B: NDArray[np.uint8] = code_B2[:, 0] & np.uint8(15) | code_B2[:, 1] << np.uint8(4)
    return pair_B


def _unpair(pair_B: NDArray[np.int8], values: int) -> NDArray[np.int8]:
    code_B2 = np.empty((len(pair_B), 2), np.int8)
    code_B2[:, 0] = pair_B << 4 >> 4
    code_B2[:, 1] = pair_B >> 4
    if code_B2.reshape(-1)[values:].any():
        raise CodecError("padding bits are not zeros")
    return code_B2.reshape(-1)[:values]
