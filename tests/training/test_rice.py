"""Rice codes: one list of gaps, one code, of the size that the formula says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eigen.training.codecs.rice import PARAMETER_MAX, decode_gaps, encode_gaps, gaps_bytes_max
from eigen.training.errors import CodecError

gaps = st.lists(st.integers(0, 20) | st.integers(0, 8191), max_size=200)


def size(parameter: int, gap_N: list[int]) -> int:
    remainders = -(-len(gap_N) * parameter // 8)
    return 1 + remainders + -(-sum(1 + (gap >> parameter) for gap in gap_N) // 8)


@settings(deadline=None)
@given(gaps)
def test_gaps_come_back_from_the_fewest_bytes(gap_N: list[int]) -> None:
    data = encode_gaps(np.array(gap_N, np.int64))
    assert decode_gaps(data, len(gap_N)).tolist() == gap_N
    sizes = [size(r, gap_N) for r in range(PARAMETER_MAX + 1)]
    assert len(data) == min(sizes)
    assert data[0] == sizes.index(min(sizes))
    assert len(data) <= gaps_bytes_max(len(gap_N), sum(gap_N))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 40), st.sampled_from([None, *range(6)]))
def test_what_decodes_is_what_would_have_been_encoded(
    data: bytes, count: int, parameter: int | None
) -> None:
    if parameter is not None:
        data = bytes([parameter]) + data
    try:
        gap_N = decode_gaps(data, count)
    except CodecError:
        return
    assert encode_gaps(gap_N) == data


def test_codes_read_by_hand() -> None:
    """In unary, with the lowest bits on the right: 1 is 10, 2 is 100, 5 is 100000."""
    assert decode_gaps(bytes([0, 0b00010010, 0b100]), 3).tolist() == [1, 2, 5]
    assert decode_gaps(bytes([1, 0xFF, 0b10101010, 0b10101010]), 8).tolist() == [3] * 8


def test_of_equally_short_codes_the_one_without_remainders_is_right() -> None:
    """With r = 1, the lowest bits of 1, 2, 5 are 1, 0, 1, and the rest is 0, 1, 2."""
    assert size(1, [1, 2, 5]) == size(0, [1, 2, 5]) == 3
    with pytest.raises(CodecError, match="not the best"):
        decode_gaps(bytes([1, 0b101, 0b100101]), 3)
