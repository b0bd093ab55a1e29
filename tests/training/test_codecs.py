"""Every codec: bounded error, announced sizes, one encoding, and no hostile bytes get through."""

import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from eigen.protocol.limits import PART_BYTES_MAX, PART_VALUES_MAX
from eigen.training.codecs.blocks import BLOCK_VALUES, SCALE_MIN, VALUE_MAX
from eigen.training.codecs.codec import encode_with_feedback
from eigen.training.codecs.registry import CODECS, DEFAULT_CODEC
from eigen.training.errors import CodecError

SPARSE = [name for name in CODECS if name.startswith("top")]

values = st.one_of(
    st.floats(-(2.0**62), 2.0**62, width=32),
    st.floats(-1, 1, width=32),
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0**-149, -(2.0**-130), 2.0**-100, VALUE_MAX]),
)
vectors = st.one_of(
    hnp.arrays(np.float32, st.integers(1, 700), elements=values, fill=values),
    hnp.arrays(np.float32, st.integers(4000, 9000), elements=values, fill=st.just(np.float32(0))),
).map(torch.from_numpy)


def normal(count: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


def blocks(*vectors_P: torch.Tensor) -> Iterator[tuple[np.ndarray, ...]]:
    """The same block of each vector, in double precision."""
    for start in range(0, len(vectors_P[0]), BLOCK_VALUES):
        yield tuple(v[start : start + BLOCK_VALUES].double().numpy() for v in vectors_P)


def round_trip(name: str, part_P: torch.Tensor) -> torch.Tensor:
    return CODECS[name].decode(CODECS[name].encode(part_P), len(part_P))


# What comes back --------------------------------------------------------------------------------


@settings(deadline=None)
@given(vectors)
def test_fp32_keeps_every_bit(part_P: torch.Tensor) -> None:
    data = CODECS["fp32"].encode(part_P)
    assert data == part_P.numpy().tobytes()
    assert CODECS["fp32"].decode(data, len(part_P)).numpy().tobytes() == data


@settings(deadline=None)
@given(vectors)
def test_fp16_keeps_eleven_bits_of_whatever_size(part_P: torch.Tensor) -> None:
    for block, back in blocks(part_P, round_trip("fp16", part_P)):
        peak = np.abs(block).max()
        bound = np.maximum(np.abs(block) * 2.0**-11, peak * 2.0**-39)
        assert (np.abs(block - back) <= np.maximum(bound, SCALE_MIN * 2.0**16)).all()


@settings(deadline=None)
@given(vectors, st.sampled_from([("int8", 252), ("int4", 13.9)]))
def test_integers_are_within_half_a_step_of_each_block(
    part_P: torch.Tensor, kind: tuple[str, float]
) -> None:
    name, steps = kind
    for block, back in blocks(part_P, round_trip(name, part_P)):
        peak = np.abs(block).max()
        assert np.abs(block - back).max() <= max(peak / steps, SCALE_MIN * 128)


@settings(deadline=None)
@given(vectors, st.sampled_from(["2bit", "1bit"]))
def test_levels_keep_signs_and_never_add_to_a_block(part_P: torch.Tensor, name: str) -> None:
    """A mean of magnitudes is the best level: what is left out is less than what was there."""
    for block, back in blocks(part_P, round_trip(name, part_P)):
        assert len(np.unique(np.abs(back))) <= int(name[0])
        apart = (block < 0) & (back > 0) | (block > 0) & (back < 0)
        assert not apart.any()
        assert np.linalg.norm(block - back) <= np.linalg.norm(block) * (1 + 2**-8)


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("fp32", 0, 0),
        ("fp16", 1e-4, 3e-4),
        ("int8", 0.006, 0.008),
        ("int4", 0.1, 0.13),
        ("2bit", 0.33, 0.345),
        ("1bit", 0.59, 0.605),
        ("top256-2bit", 0.81, 0.83),
        ("top64-2bit", 0.935, 0.945),
        ("top64-1bit", 0.935, 0.945),
    ],
)
def test_what_is_left_of_a_normal_part(name: str, least: float, most: float) -> None:
    """Two bits: the optimal quantiser of four levels leaves 0.343 (Max 1960)."""
    part_P = normal(40_960)
    error = float((round_trip(name, part_P) - part_P).norm() / part_P.norm())
    assert least <= error <= most


def test_two_levels_fit_blocks_that_fixed_levels_would_not() -> None:
    few = torch.zeros(256)
    few[::16] = torch.tensor([1.0, -1.0]).repeat(8)
    assert torch.equal(round_trip("2bit", few), few), "most values zero"
    apart = torch.full((256,), 2.0**-14)
    apart[7] = -1.0
    assert torch.equal(round_trip("2bit", apart), apart), "one value far out"


@settings(deadline=None)
@given(vectors, st.sampled_from([("top64-2bit", 64), ("top256-1bit", 256)]))
def test_the_largest_of_each_chunk_are_kept_and_of_equals_the_first(
    part_P: torch.Tensor, kind: tuple[str, int]
) -> None:
    name, kept = kind
    back_P = round_trip(name, part_P).numpy()
    for start in range(0, len(part_P), 4096):
        chunk = part_P.numpy()[start : start + 4096]
        count = -(-kept * len(chunk) // 4096)
        order = np.argsort(-np.abs(chunk), kind="stable")[:count]
        found = np.flatnonzero(back_P[start : start + 4096])
        assert set(found) <= set(order)
        kept_P = np.abs(chunk[order])
        if kept_P.min() > max(SCALE_MIN, kept_P.max() * 2.0**-15):  # else its level may be zero
            assert set(found) == set(order)


def test_of_equal_values_the_first_are_kept() -> None:
    part_P = torch.ones(4096 + 640)
    part_P[1::2] = -1.0
    back_P = round_trip("top64-1bit", part_P)
    assert back_P.nonzero().ravel().tolist() == [*range(64), *range(4096, 4106)]
    assert torch.equal(back_P[:64], part_P[:64])


# Sizes, edges -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CODECS)
def test_every_size_comes_back_and_has_the_announced_bytes(name: str) -> None:
    codec, whole_P = CODECS[name], normal(600)
    for count in (*range(1, 601), 4095, 4096, 4097, 8192):
        part_P = whole_P[:count] if count <= 600 else normal(count)
        data = codec.encode(part_P)
        most = codec.encoded_bytes(count)
        assert len(data) <= most if name in SPARSE else len(data) == most
        back_P = codec.decode(data, count)
        assert (back_P.shape, back_P.dtype) == ((count,), torch.float32)
        assert torch.equal(codec.decode(codec.encode(back_P), count), back_P)


@pytest.mark.parametrize("name", CODECS)
def test_a_part_of_the_largest_size_fits_a_message(name: str) -> None:
    assert CODECS[name].encoded_bytes(PART_VALUES_MAX) <= PART_BYTES_MAX
    for part_P in (
        normal(PART_VALUES_MAX),
        torch.ones(PART_VALUES_MAX),
        torch.arange(PART_VALUES_MAX) % 4096 + 1.0,
    ):
        assert len(CODECS[name].encode(part_P)) <= CODECS[name].encoded_bytes(PART_VALUES_MAX)


def test_sizes_in_bytes() -> None:
    counts = (0, 1, 256, 257, 131_072)
    sizes = {name: [CODECS[name].encoded_bytes(n) for n in counts] for name in CODECS}
    assert sizes["fp32"] == [0, 4, 1024, 1028, 524_288]
    assert sizes["fp16"] == [0, 4, 514, 518, 263_168]
    assert sizes["int8"] == [0, 3, 258, 261, 132_096]
    assert sizes["int4"] == [0, 3, 130, 133, 66_560]
    assert sizes["2bit"] == [0, 6, 68, 74, 34_816]
    assert sizes["1bit"] == [0, 3, 34, 37, 17_408]
    assert sizes["top256-2bit"][-1] == 1 + 32 * (4 + 64 + 188)
    assert sizes["top64-2bit"][-1] == 1 + 32 * (4 + 16) + 1280 + 760


def test_an_update_and_its_answer_are_400_times_smaller_than_fp32_every_step() -> None:
    up, down = CODECS[DEFAULT_CODEC], CODECS[CODECS[DEFAULT_CODEC].answer]
    sent = up.encoded_bytes(PART_VALUES_MAX) + down.encoded_bytes(PART_VALUES_MAX)
    assert 400 * sent < 30 * 2 * 4 * PART_VALUES_MAX


@pytest.mark.parametrize("name", CODECS)
def test_an_answer_has_a_codec_that_keeps_no_less(name: str) -> None:
    answer = CODECS[CODECS[name].answer]
    assert answer.encoded_bytes(PART_VALUES_MAX) >= CODECS[name].encoded_bytes(PART_VALUES_MAX)


@pytest.mark.parametrize("name", CODECS)
def test_zeros_subnormals_and_largest_values(name: str) -> None:
    codec = CODECS[name]
    assert codec.decode(codec.encode(torch.zeros(0)), 0).shape == (0,)
    for small in (0.0, -0.0, 2.0**-149, -(2.0**-127)):
        back_P = round_trip(name, torch.full((300,), small))
        assert torch.equal(back_P, torch.full((300,), small if name == "fp32" else 0.0))
        if name != "fp32":
            assert not back_P.signbit().any()
    largest_P = torch.full((300,), VALUE_MAX)
    largest_P[::3] *= -1
    back_P = round_trip(name, largest_P)
    assert float(back_P.abs().max()) <= VALUE_MAX
    assert float((back_P - largest_P)[back_P != 0].abs().max()) <= VALUE_MAX / 500


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 2.0**63])
def test_values_without_an_encoding_are_refused(name: str, bad: float) -> None:
    part_P = torch.zeros(600)
    part_P[511] = bad
    with pytest.raises(CodecError, match="NaN, infinite or above"):
        CODECS[name].encode(part_P)
    with pytest.raises(CodecError, match="NaN, infinite or above"):
        encode_with_feedback(CODECS[name], part_P, torch.zeros(600))


@settings(max_examples=200, deadline=None)
@given(vectors, st.sampled_from(list(CODECS)))
@example(torch.tensor([1.0, 1.0 + 2.0**-23, 1.0 + 2.0**-22]), "2bit")
@example(torch.cat([torch.ones(255), torch.tensor([1.0 + 2.0**-8])]), "2bit")
def test_what_came_back_is_sent_again_without_loss(part_P: torch.Tensor, name: str) -> None:
    back_P = round_trip(name, part_P)
    assert torch.equal(round_trip(name, back_P), back_P)


# Hostile bytes ----------------------------------------------------------------------------------


def harmless(name: str, data: bytes, count: int) -> bool:
    """Whether `data` decodes. If so, to bounded values; if not, with a named error."""
    codec = CODECS[name]
    try:
        part_P = codec.decode(data, count)
    except CodecError:
        return False
    assert len(data) <= codec.encoded_bytes(count)
    assert (part_P.shape, part_P.dtype) == ((count,), torch.float32)
    assert bool((part_P.abs() <= VALUE_MAX).all())
    if name != "fp32":
        assert not bool((part_P.signbit() & (part_P == 0)).any()), "negative zero"
    return True


@settings(max_examples=400, deadline=None)
@given(st.data(), st.sampled_from(list(CODECS)), st.integers(0, 300) | st.integers(4000, 9000))
def test_garbage_never_crashes_nor_overflows(draw, name: str, count: int) -> None:
    size = CODECS[name].encoded_bytes(count) + draw.draw(st.sampled_from([0, 0, 0, -1, 1]))
    harmless(name, draw.draw(st.binary(min_size=max(0, size), max_size=max(0, size))), count)


@settings(max_examples=400, deadline=None)
@given(st.data(), vectors, st.sampled_from(list(CODECS)))
def test_flipped_bits_never_crash_nor_overflow(draw, part_P: torch.Tensor, name: str) -> None:
    data = bytearray(CODECS[name].encode(part_P))
    for _ in range(draw.draw(st.integers(1, 3))):
        bit = draw.draw(st.integers(0, 8 * len(data) - 1))
        data[bit // 8] ^= 1 << bit % 8
    harmless(name, bytes(data), len(part_P))


@pytest.mark.parametrize("name", CODECS)
def test_other_lengths_are_refused(name: str) -> None:
    data = CODECS[name].encode(normal(5000))
    assert harmless(name, data, 5000)
    for other in (b"", data[:-1], data + b"\0", data + b"\1", data[1:], data * 2, data * 100):
        assert not harmless(name, other, 5000)
    assert not harmless(name, data, 4000)
    assert not harmless(name, data, 6000)


def flipped_somewhere(name: str, count: int, bits: range) -> int:
    """How many of these single flipped bits are accepted."""
    data = CODECS[name].encode(normal(count))
    accepted = 0
    for bit in bits:
        bad = bytearray(data)
        bad[bit // 8] ^= 1 << bit % 8
        accepted += harmless(name, bytes(bad), count)
    return accepted


def test_padding_bits_are_zeros() -> None:
    for name, end in (("int4", 8 * 3), ("2bit", 8 * 6), ("1bit", 8 * 3)):
        assert flipped_somewhere(name, 1, range(end - 4, end)) == 0


def scaled(scale_bits: int, codes: bytes = b"\x7f") -> bytes:
    return scale_bits.to_bytes(2, "little") + codes


ONE = 0x3F80
BAD_SCALES = [
    0x7F80,  # infinity
    0x7FC0,  # NaN
    0xBF80,  # -1
    0x8000,  # -0
    0x0001,  # subnormal
    0x0D7F,  # just below 2^-100
    0x6000,  # 2^65
]


@pytest.mark.parametrize("scale", BAD_SCALES)
def test_scales_that_no_encoder_writes_are_refused(scale: int) -> None:
    for name, codes in (("fp16", b"\x00\x78"), ("int8", b"\x7f"), ("int4", b"\x07")):
        assert harmless(name, scaled(ONE, codes), 1)
        assert not harmless(name, scaled(scale, codes), 1)
        assert not harmless(name, scaled(scale, bytes(len(codes))), 1)
    assert harmless("1bit", scaled(ONE, b"\1"), 1)
    assert not harmless("1bit", scaled(scale, b"\0"), 1)
    assert harmless("2bit", two_bit(0, ONE, 0, 1), 2)
    assert not harmless("2bit", two_bit(0, scale, 0, 1), 2)
    assert not harmless("2bit", two_bit(scale, ONE, 0, 1), 2)


def two_bit(lower: int, upper: int, negative: int, has_upper: int) -> bytes:
    """One block of up to eight values."""
    return scaled(lower, b"") + scaled(upper, b"") + bytes([negative, has_upper])


@pytest.mark.parametrize(
    ("name", "good", "bad", "count"),
    [
        ("int8", scaled(ONE, b"\x81"), scaled(ONE, b"\x80"), 1),  # -128
        ("int8", scaled(ONE, b"\x7f"), scaled(ONE, b"\x7e"), 1),  # a smaller scale would do
        ("int8", scaled(0, b"\x00"), scaled(0, b"\x01"), 1),  # a value without a scale
        ("int8", scaled(0x5B80), scaled(0x5B81), 1),  # above 2^63
        ("int4", scaled(ONE, b"\x79"), scaled(ONE, b"\x78"), 2),  # -8
        ("int4", scaled(ONE, b"\x07"), scaled(ONE, b"\x06"), 1),
        ("fp16", scaled(ONE, b"\x00\x78"), scaled(ONE, b"\x00\x7c"), 1),  # infinity
        ("fp16", scaled(ONE, b"\x00\x78"), scaled(ONE, b"\x00\x74"), 1),  # a smaller scale
        ("fp16", scaled(ONE, b"\x00\x78"), scaled(ONE + 1, b"\x00\x78"), 1),  # no power of two
        ("fp16", scaled(ONE, b"\0\x78\0\0"), scaled(ONE, b"\0\x78\0\x80"), 2),  # -0
        ("fp16", scaled(0x5700, b"\xf0\x7b"), scaled(0x5700, b"\xf1\x7b"), 1),  # above 2^63
        ("1bit", scaled(0, b"\0"), scaled(0, b"\1"), 1),  # -0
        ("2bit", two_bit(ONE, ONE + 1, 3, 1), two_bit(ONE + 2, ONE + 1, 3, 1), 2),  # wrong order
        ("2bit", two_bit(0, ONE, 1, 1), two_bit(0, ONE, 2, 1), 2),  # -0
        ("2bit", two_bit(0, ONE, 0, 3), two_bit(ONE, ONE, 0, 3), 2),  # nobody has the lower
        ("2bit", two_bit(ONE, ONE, 0, 1), two_bit(ONE, ONE, 0, 0), 2),  # nobody has the upper
        ("2bit", two_bit(0, 0, 0, 0), two_bit(0, 0, 0, 1), 2),  # an upper of zero
    ],
)
def test_codes_that_no_encoder_writes_are_refused(
    name: str, good: bytes, bad: bytes, count: int
) -> None:
    assert harmless(name, good, count), "differs from the bad one in one thing"
    assert not harmless(name, bad, count)


def test_sparse_bytes_that_no_encoder_writes_are_refused() -> None:
    """256 values keep four: one block of 6 bytes, then r, then quotients."""
    codec = CODECS["top64-2bit"]
    part_P = torch.zeros(256)
    part_P[[0, 1, 2, 4]] = torch.tensor([1.0, -1.0, 1.0, 1.0])
    levels, gaps = codec.encode(part_P)[:6], codec.encode(part_P)[6:]
    assert gaps == bytes([0, 0b10111])
    assert harmless("top64-2bit", levels + gaps, 256)
    for bad in (
        bytes([13, 0b10111]),  # no such parameter
        bytes([1, 0, 0b1111]),  # not the best one
        bytes([1, 0]),  # ends early
        bytes([0, 0b111]),  # too few
        bytes([0, 0b110111]),  # too many
        bytes([0, 0b10111, 0]),  # padding that is none
        bytes([0]),
        b"",
    ):
        assert not harmless("top64-2bit", levels + bad, 256)


def test_indices_stay_in_the_part_and_chunks_keep_their_share() -> None:
    codec = CODECS["top64-1bit"]
    part_P = torch.zeros(8192)
    part_P[:64], part_P[4096:4160] = 1.0, 1.0
    data = codec.encode(part_P)
    for other_P, count in (
        (torch.cat([part_P, torch.zeros(4096)]), 12_288),
        (part_P.roll(1), 8192),
    ):
        assert harmless("top64-1bit", codec.encode(other_P), count)
    from eigen.training.codecs.rice import encode_gaps

    levels = data[: 4 + 16]

    def with_indices(*index: range) -> bytes:
        index_N = np.concatenate([np.array(i) for i in index])
        return levels + encode_gaps(np.diff(index_N, prepend=-1) - 1)

    assert with_indices(range(64), range(4096, 4160)) == data
    assert not harmless("top64-1bit", with_indices(range(63), range(4096, 4161)), 8192)
    assert not harmless("top64-1bit", with_indices(range(64), range(4095, 4159)), 8192)
    assert harmless("top64-1bit", with_indices(range(64), range(8128, 8192)), 8192)
    assert not harmless("top64-1bit", with_indices(range(64), range(8129, 8193)), 8192)


@pytest.mark.parametrize("name", CODECS)
def test_memory_is_a_few_arrays_of_the_part(name: str) -> None:
    """numpy's arrays, and the bytes; torch's are one or two more."""
    part_bytes, part_P = 4 * PART_VALUES_MAX, normal(PART_VALUES_MAX)
    codec, data = CODECS[name], CODECS[name].encode(part_P)
    sizes = []
    for act in (
        lambda: codec.encode(part_P),
        lambda: codec.decode(data, PART_VALUES_MAX),
        lambda: harmless(name, b"\xff" * codec.encoded_bytes(PART_VALUES_MAX), PART_VALUES_MAX),
        lambda: harmless(name, bytes(codec.encoded_bytes(PART_VALUES_MAX)), PART_VALUES_MAX),
        lambda: harmless(name, b"\xff" * 2 * PART_BYTES_MAX, 1),
    ):
        tracemalloc.start()
        act()
        sizes.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert max(sizes) < 6 * part_bytes
