"""Codecs: bounded error, exact sizes, and no hostile bytes get through."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from eigen.training.codec import (
    BLOCK_VALUES,
    CODECS,
    SCALE_MAX,
    TINY,
    VALUE_MAX,
    encode_with_feedback,
)
from eigen.training.errors import CodecError

INT8, FP32 = CODECS["int8"], CODECS["fp32"]

vectors = hnp.arrays(
    np.float32,
    st.integers(1, 700),
    elements=st.floats(-(2.0**62), 2.0**62, width=32),
    fill=st.floats(-1, 1, width=32),
).map(torch.from_numpy)


@settings(deadline=None)
@given(vectors)
def test_fp32_keeps_every_bit(part_P: torch.Tensor) -> None:
    data = FP32.encode(part_P)
    assert len(data) == FP32.encoded_bytes(part_P.numel()) == 4 * part_P.numel()
    assert FP32.decode(data, part_P.numel()).numpy().tobytes() == part_P.numpy().tobytes()


@settings(deadline=None)
@given(vectors)
def test_int8_is_within_half_a_step_of_each_block(part_P: torch.Tensor) -> None:
    data = INT8.encode(part_P)
    assert len(data) == INT8.encoded_bytes(part_P.numel())
    back_P = INT8.decode(data, part_P.numel())
    for start in range(0, part_P.numel(), BLOCK_VALUES):
        block, back = part_P[start : start + BLOCK_VALUES], back_P[start : start + BLOCK_VALUES]
        peak = float(block.abs().max())
        error = float((block.double() - back.double()).abs().max())
        assert error <= max(peak / 252, TINY)
    assert INT8.decode(INT8.encode(back_P), back_P.numel()).isfinite().all()


def test_int8_sizes_and_edges() -> None:
    assert [INT8.encoded_bytes(n) for n in (0, 1, 256, 257, 131_072)] == [0, 3, 258, 261, 132_096]
    assert INT8.encode(torch.zeros(0)) == b""
    assert INT8.decode(b"", 0).shape == (0,)
    zeros = INT8.encode(torch.zeros(300))
    assert zeros == bytes(304)
    assert torch.equal(INT8.decode(zeros, 300), torch.zeros(300))
    largest = torch.tensor([VALUE_MAX, -VALUE_MAX, 0.0])
    assert torch.equal(INT8.decode(INT8.encode(largest), 3), largest)
    assert INT8.decode(INT8.encode(torch.tensor([2.0**-99])), 1).item() == pytest.approx(
        2.0**-99, rel=1 / 127
    )
    assert INT8.encode(torch.tensor([2.0**-101, -(2.0**-140)])) == bytes(4)


def test_int8_values_are_on_a_grid_of_exact_products() -> None:
    part_P = torch.linspace(-1, 1, 256)
    data = INT8.encode(part_P)
    scale = np.frombuffer(data, "<u2", 1).astype("<u4")[0] << 16
    step = np.array(scale, "<u4").view("<f4")
    codes = np.frombuffer(data, np.int8, offset=2)
    assert codes.min() >= -127
    exact = codes.astype(np.float64) * float(step)
    assert np.array_equal(INT8.decode(data, 256).double().numpy(), exact)


@pytest.mark.parametrize("codec", [INT8, FP32])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 2.0**63])
def test_values_without_an_encoding_are_refused(codec, bad: float) -> None:
    part_P = torch.zeros(600)
    part_P[511] = bad
    with pytest.raises(CodecError, match="NaN, infinite or above"):
        codec.encode(part_P)


@settings(max_examples=300, deadline=None)
@given(st.data(), st.sampled_from(["fp32", "int8"]), st.integers(0, 300))
def test_hostile_bytes_never_crash_nor_overflow(draw, name: str, values: int) -> None:
    codec = CODECS[name]
    size = max(0, codec.encoded_bytes(values) + draw.draw(st.sampled_from([0, 0, 0, -1, 1])))
    data = draw.draw(st.binary(min_size=size, max_size=size))
    try:
        part_P = codec.decode(data, values)
    except CodecError:
        return
    assert len(data) == codec.encoded_bytes(values)
    assert part_P.shape == (values,)
    assert part_P.dtype == torch.float32
    assert bool((part_P.abs() <= VALUE_MAX).all())


def scaled(scale_bits: int, codes: bytes = b"\x01") -> bytes:
    return scale_bits.to_bytes(2, "little") + codes


@pytest.mark.parametrize(
    "data",
    [
        scaled(0x7F80),  # infinity
        scaled(0x7FC0),  # NaN
        scaled(0xBF80),  # -1
        scaled(0x8000, b"\0"),  # -0
        scaled(0x0001),  # subnormal
        scaled(0x5C00),  # above the largest scale
        scaled(0x0000, b"\x01"),  # scale 0, integer 1
        scaled(0x3F80, b"\x80"),  # integer -128
        scaled(0x3F80, b"\x01\x01"),  # a byte too many
        scaled(0x3F80, b""),  # a byte too few
    ],
)
def test_int8_that_no_encoder_writes_is_refused(data: bytes) -> None:
    with pytest.raises(CodecError):
        INT8.decode(data, 1)


def test_the_probes_above_differ_from_good_bytes_in_one_thing() -> None:
    assert INT8.decode(scaled(0x3F80), 1).tolist() == [1.0]
    assert INT8.decode(scaled(0x5B80), 1).tolist() == [SCALE_MAX]


@pytest.mark.parametrize("bits", [0x7FC00000, 0x7F800000, 0xFF800000, 0x5F800000])
def test_fp32_that_is_not_finite_or_too_large_is_refused(bits: int) -> None:
    with pytest.raises(CodecError):
        FP32.decode(bits.to_bytes(4, "little"), 1)


def test_feedback_carries_over_what_was_left_out() -> None:
    generator = torch.Generator().manual_seed(5)
    update_P = torch.randn(1000, generator=generator)
    residual_P, sent_P = torch.zeros(1000), torch.zeros(1000)
    for _ in range(50):
        data, residual_P = encode_with_feedback(INT8, update_P, residual_P)
        sent_P += INT8.decode(data, 1000)
    step = float(update_P.abs().max()) / 100
    assert float((sent_P - 50 * update_P).abs().max()) < step
    alone = float((50 * INT8.decode(INT8.encode(update_P), 1000) - 50 * update_P).abs().max())
    assert alone > 5 * step


def test_without_loss_there_is_nothing_to_feed_back() -> None:
    data, residual_P = encode_with_feedback(FP32, torch.tensor([1.5, -0.1]), torch.zeros(2))
    assert FP32.decode(data, 2).tolist() == torch.tensor([1.5, -0.1]).tolist()
    assert residual_P.tolist() == [0.0, 0.0]
