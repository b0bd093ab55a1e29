"""Error feedback: what one encoding leaves out, the next ones bring."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from eigen.training.codecs.blocks import VALUE_MAX
from eigen.training.codecs.codec import encode_with_feedback
from eigen.training.codecs.registry import CODECS

SPARSE = [name for name in CODECS if CODECS[name].residual_decay < 1.0]
DENSE = [name for name in CODECS if name not in SPARSE]


def normal(count: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=50, deadline=None)
@given(st.data(), st.sampled_from(DENSE))
def test_what_was_sent_is_what_came_in_less_the_last_residual(draw, name: str) -> None:
    count = draw.draw(st.integers(1, 600))
    updates = draw.draw(
        st.lists(
            hnp.arrays(np.float32, count, elements=st.floats(-1, 1, width=32)),
            min_size=1,
            max_size=8,
        )
    )
    codec, residual_P = CODECS[name], torch.zeros(count)
    sent_P, wanted_P = torch.zeros(count).double(), torch.zeros(count).double()
    for update in updates:
        data, residual_P = encode_with_feedback(codec, torch.from_numpy(update), residual_P)
        sent_P += codec.decode(data, count)
        wanted_P += torch.from_numpy(update)
    assert torch.allclose(sent_P, wanted_P - residual_P, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SPARSE)
def test_sparse_codecs_forget_a_twentieth_a_round(name: str) -> None:
    codec, residual_P = CODECS[name], normal(4096)
    data, left_P = encode_with_feedback(codec, torch.zeros(4096), residual_P)
    assert torch.allclose(codec.decode(data, 4096) + left_P, residual_P * 0.95)
    for _ in range(100):
        _, left_P = encode_with_feedback(codec, torch.zeros(4096), left_P)
    assert float(left_P.norm()) < 0.006 * float(residual_P.norm())


@pytest.mark.parametrize("name", DENSE)
def test_with_feedback_a_steady_update_arrives(name: str) -> None:
    codec, update_P = CODECS[name], normal(1000)
    residual_P, sent_P = torch.zeros(1000), torch.zeros(1000)
    for _ in range(50):
        data, residual_P = encode_with_feedback(codec, update_P, residual_P)
        sent_P += codec.decode(data, 1000)
    alone = float((codec.decode(codec.encode(update_P), 1000) - update_P).norm())
    assert float((sent_P / 50 - update_P).norm()) <= alone / 4 + 1e-4
    assert (alone == 0) == codec.lossless


def test_a_residual_never_makes_a_good_update_unsendable() -> None:
    residual_P = torch.full((300,), 2 * VALUE_MAX)
    for codec in CODECS.values():
        data, left_P = encode_with_feedback(codec, torch.full((300,), VALUE_MAX), residual_P)
        assert float(codec.decode(data, 300).abs().max()) == VALUE_MAX or codec is CODECS["int4"]
        assert bool(left_P.isfinite().all())


def test_without_loss_there_is_nothing_to_feed_back() -> None:
    data, left_P = encode_with_feedback(CODECS["fp32"], torch.tensor([1.5, -0.1]), torch.zeros(2))
    assert CODECS["fp32"].decode(data, 2).tolist() == torch.tensor([1.5, -0.1]).tolist()
    assert left_P.tolist() == [0.0, 0.0]
