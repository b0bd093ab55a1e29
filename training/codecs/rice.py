"""Rice codes for gaps between ascending numbers (Rice and Plaunt 1971). Knows no tensor.

A gap's lowest r bits, its remainder, and what is above them, its quotient, lie apart: first all
remainders, bit by bit, the lowest first; then all quotients in unary, as many zeros and a one. A
decoder finds the ones at once, instead of one gap after another. r is the one that takes the fewest
bytes, and the smallest of these, so one list has one code.

Shape legend: N gaps.
"""

import numpy as np
from numpy.typing import NDArray

from eigen.training.codecs.blocks import read_bits, write_bits
from eigen.training.errors import CodecError

PARAMETER_MAX = 12
"""Remainders of more bits than a chunk's index has never pay."""

Gaps = NDArray[np.int64]


def encode_gaps(gap_N: Gaps) -> bytes:
    """One byte of r, ⌈N r / 8⌉ of remainders, ⌈(N + Σ⌊gap / 2^r⌋) / 8⌉ of quotients."""
    parameter = _parameter(gap_N)
    quotient_N = gap_N >> parameter
    one_N = np.cumsum(quotient_N + 1) - 1
    unary = np.zeros(int(one_N[-1]) + 1 if len(gap_N) else 0, np.bool_)
    unary[one_N] = True
    remainders = [(gap_N >> bit & 1).astype(np.bool_) for bit in range(parameter)]
    planes = np.concatenate([np.zeros(0, np.bool_), *remainders])
    return bytes([parameter]) + write_bits(planes) + write_bits(unary)


def decode_gaps(data: bytes, count: int) -> Gaps:
    """The `count` gaps of a code. The caller bounds `data`; nothing larger than its bits is made.

    Raises `CodecError` for bytes that `encode_gaps` does not write.
    """
    if not data or data[0] > PARAMETER_MAX:
        raise CodecError("no Rice parameter, or one above 12")
    parameter = data[0]
    middle = 1 + -(-count * parameter // 8)
    if len(data) < middle:
        raise CodecError("the gaps end early")
    unary = np.unpackbits(np.frombuffer(data, np.uint8, offset=middle), bitorder="little")
    one_N = np.flatnonzero(unary)
    if len(one_N) != count or len(unary) - (int(one_N[-1]) + 1 if count else 0) >= 8:
        raise CodecError(f"not exactly {count} gaps")
    gap_N = np.diff(one_N, prepend=-1) - 1
    gap_N <<= parameter
    planes = read_bits(data[1:middle], count * parameter).reshape(parameter, count)
    for bit, plane_N in enumerate(planes):
        gap_N |= plane_N.astype(np.int64) << bit
    if _parameter(gap_N) != parameter:
        raise CodecError("the Rice parameter is not the best for these gaps")
    return gap_N


def gaps_bytes_max(count: int, total: int) -> int:
    """The most bytes that `count` gaps with a sum of at most `total` can take."""
    return 1 + min(_bytes(r, count, total >> r) for r in range(PARAMETER_MAX + 1))


def _parameter(gap_N: Gaps) -> int:
    sizes = [_bytes(r, len(gap_N), int((gap_N >> r).sum())) for r in range(PARAMETER_MAX + 1)]
    return sizes.index(min(sizes))


def _bytes(parameter: int, count: int, quotients: int) -> int:
    return -(-count * parameter // 8) + -(-(count + quotients) // 8)
