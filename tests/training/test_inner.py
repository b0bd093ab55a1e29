"""Local steps: replayable to the bit, and a replay notices what was not done."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from eigen.protocol.run import InnerSpec
from eigen.training.adamw import EPSILON, AdamW, Begun, begun
from eigen.training.datasets import Samples, digits, split
from eigen.training.errors import Diverged, ShardError
from eigen.training.inner import LocalSteps, evaluate, local_steps
from eigen.training.models import build, initial_vector
from eigen.training.spec import check

SPEC = InnerSpec(steps=25, batch=32, lr=0.003, weight_decay=0.01)
ORDER = b"order".ljust(32)


@pytest.fixture(scope="module")
def shard() -> Samples:
    return split(digits(0)[0], 4, 0)[0]


@pytest.fixture
def model(make_spec):
    return build(check(make_spec()))


@pytest.fixture
def theta_P(model) -> torch.Tensor:
    return initial_vector(model.declared.layout, 7, {})


def deviation(one: LocalSteps, other: LocalSteps) -> float:
    return float((one.delta_P - other.delta_P).norm() / one.delta_P.norm())


def test_a_replay_gives_every_bit(engine, model, theta_P, shard) -> None:
    before_P = theta_P.clone()
    first = local_steps(model, theta_P, shard, SPEC, ORDER)
    again = local_steps(model, theta_P, shard, SPEC, ORDER)
    assert torch.equal(first.delta_P, again.delta_P)
    assert first.loss_trace == again.loss_trace
    assert len(first.loss_trace) == 25
    assert all(np.float32(loss) == loss for loss in first.loss_trace)
    assert first.samples == 800
    assert torch.equal(theta_P, before_P)


def test_a_replay_notices_other_work(engine, model, theta_P, shard) -> None:
    honest = local_steps(model, theta_P, shard, SPEC, ORDER)
    other_shard = split(digits(0)[0], 4, 0)[1]
    for cheat in (
        local_steps(model, theta_P, shard, replace(SPEC, steps=24), ORDER),
        local_steps(model, theta_P, shard, SPEC, b"other".ljust(32)),
        local_steps(model, theta_P, other_shard, SPEC, ORDER),
    ):
        assert deviation(honest, cheat) > 0.01


def test_steps_lower_the_loss(engine, model, theta_P, shard) -> None:
    local = local_steps(model, theta_P, shard, SPEC, ORDER)
    before = evaluate(model, theta_P, shard)
    after = evaluate(model, theta_P - local.delta_P, shard)
    assert after.loss < before.loss - 0.3
    assert after.accuracy > before.accuracy
    assert after.samples == len(shard)


def test_evaluation_is_the_mean_over_all_samples(engine, model, theta_P) -> None:
    many = Samples(
        np.tile(digits(0)[1].x_NF, (3, 1)), np.tile(digits(0)[1].y_N, 3)
    )  # more than one evaluation batch
    once = evaluate(model, theta_P, digits(0)[1])
    thrice = evaluate(model, theta_P, many)
    assert thrice.samples == 1080
    assert thrice.loss == pytest.approx(once.loss, rel=1e-5)
    assert thrice.accuracy == pytest.approx(once.accuracy)


def test_pictures_and_the_same_numbers_train_alike(engine, model, theta_P, shard) -> None:
    numbers = Samples((shard.x_NF / np.float32(255)).astype(np.float32), shard.y_N)
    one = local_steps(model, theta_P, shard, SPEC, ORDER)
    other = local_steps(model, theta_P, numbers, SPEC, ORDER)
    assert torch.equal(one.delta_P, other.delta_P)


@pytest.mark.parametrize("pieces", [2, 8, 32])
def test_pieces_of_a_batch_add_up_to_it(engine, model, theta_P, shard, pieces: int) -> None:
    whole = local_steps(model, theta_P, shard, SPEC, ORDER)
    spec = replace(SPEC, micro_batches=pieces)
    first = local_steps(model, theta_P, shard, spec, ORDER)
    again = local_steps(model, theta_P, shard, spec, ORDER)
    assert 0 < deviation(whole, first) < 1e-4
    assert np.allclose(first.loss_trace, whole.loss_trace, rtol=1e-5)
    assert torch.equal(first.delta_P, again.delta_P)
    assert first.samples == whole.samples


def test_half_precision_is_close_to_full_and_replays(engine, model, theta_P, shard) -> None:
    full = local_steps(model, theta_P, shard, SPEC, ORDER)
    spec = replace(SPEC, precision="bf16")
    half = local_steps(model, theta_P, shard, spec, ORDER)
    assert 1e-4 < deviation(full, half) < 0.1
    assert half.delta_P.dtype == torch.float32
    assert torch.equal(half.delta_P, local_steps(model, theta_P, shard, spec, ORDER).delta_P)


def test_a_loss_that_is_not_finite_is_named(engine, model, theta_P, shard) -> None:
    with pytest.raises(Diverged, match="the loss of inner step 0 is nan"):
        local_steps(model, theta_P * float("nan"), shard, SPEC, ORDER)
    huge = Samples(np.full((64, 64), 3e38, np.float32), np.zeros(64, np.uint8))
    with pytest.raises(Diverged, match="inner step"):
        local_steps(model, theta_P, huge, SPEC, ORDER)
    with pytest.raises(Diverged, match="the loss is"):
        evaluate(model, theta_P * float("nan"), shard)


def test_steps_are_those_of_torchs_adamw(engine, model, theta_P, shard) -> None:
    reference_P = theta_P.clone().requires_grad_()
    optimizer = torch.optim.AdamW(
        [reference_P], lr=SPEC.lr, weight_decay=SPEC.weight_decay, eps=EPSILON
    )
    generator = torch.Generator().manual_seed(1)
    moved_P = theta_P.clone()
    ours = AdamW(moved_P, SPEC)
    for _ in range(10):
        grad_P = torch.randn(len(theta_P), generator=generator) * 1e-3
        reference_P.grad = grad_P.clone()
        optimizer.step()
        ours.step(grad_P, SPEC.lr)
    assert torch.allclose(moved_P, reference_P, rtol=1e-6, atol=1e-8)
    corrected_P = optimizer.state[reference_P]["exp_avg_sq"] / (1 - 0.999**10)
    assert torch.allclose(ours.second(), corrected_P, rtol=1e-5)


def test_moments_go_on_where_they_were_left(engine, theta_P) -> None:
    generator = torch.Generator().manual_seed(2)
    grads = [torch.randn(len(theta_P), generator=generator) for _ in range(8)]
    whole_P, first_P = theta_P.clone(), theta_P.clone()
    whole, first = AdamW(whole_P, SPEC), AdamW(first_P, SPEC)
    for grad_P in grads:
        whole.step(grad_P, SPEC.lr)
    for grad_P in grads[:5]:
        first.step(grad_P, SPEC.lr)
    mean_P = sum(0.1 * 0.9 ** (4 - i) * grad_P for i, grad_P in enumerate(grads[:5]))
    second = AdamW(first_P, SPEC, Begun(mean_P / (1 - 0.9**5), first.second(), 5))
    assert torch.allclose(second.second(), first.second(), rtol=1e-5)
    for grad_P in grads[5:]:
        second.step(grad_P, SPEC.lr)
    assert torch.allclose(second.second(), whole.second(), rtol=1e-5)
    assert torch.allclose(first_P, whole_P, atol=1e-6)


def test_the_first_moment_is_what_the_last_round_moved_by(engine, theta_P) -> None:
    """Under one and the same gradient, the round's displacement gives it back."""
    grad_P = torch.randn(len(theta_P), generator=torch.Generator().manual_seed(3)) * 0.1
    spec = replace(SPEC, weight_decay=0.0)
    moved_P = theta_P.clone()
    optimizer = AdamW(moved_P, spec)
    for _ in range(spec.steps):
        optimizer.step(grad_P, spec.lr)
    before = begun(theta_P - moved_P, optimizer.second(), [spec.lr] * spec.steps, spec.steps)
    assert torch.allclose(before.first_P, grad_P, rtol=1e-2, atol=1e-4)
    huge = begun((theta_P - moved_P) * 1e6, optimizer.second(), [spec.lr] * spec.steps, spec.steps)
    assert torch.allclose(huge.first_P.abs(), grad_P.abs(), rtol=1e-2, atol=1e-4)


def test_fewer_samples_than_a_batch_are_refused(engine, model, theta_P, shard) -> None:
    few = Samples(shard.x_NF[:31], shard.y_N[:31])
    with pytest.raises(ShardError, match="31 samples, at least one batch of 32"):
        local_steps(model, theta_P, few, SPEC, ORDER)
