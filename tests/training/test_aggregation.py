"""The weighted mean and the outer steps, against the same arithmetic in numpy and in fp64."""

import numpy as np
import pytest
import torch

from eigen.protocol.run import AggregationSpec, OuterSpec
from eigen.training.aggregation import RULES
from eigen.training.outer import OUTER_RULES

MEAN = AggregationSpec("mean")


def random_parts(count: int, values: int = 1000) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(11)
    return [torch.randn(values, generator=generator) for _ in range(count)]


@pytest.mark.parametrize("samples", [[1], [5, 5, 5, 5], [1, 10, 100], [800, 1, 799, 3, 64]])
def test_the_mean_weighs_by_samples(samples: list[int]) -> None:
    parts = random_parts(len(samples))
    copies = [part_P.clone() for part_P in parts]
    mean_P = RULES["mean"](parts, samples, MEAN, None)
    wanted = np.average([part_P.double().numpy() for part_P in parts], axis=0, weights=samples)
    assert np.abs(mean_P.double().numpy() - wanted).max() < 1e-6
    assert all(torch.equal(a, b) for a, b in zip(parts, copies, strict=True))


def test_the_mean_is_one_multiplication_and_one_addition_at_a_time() -> None:
    parts, samples = random_parts(3), [10, 20, 33]
    sum_P = np.zeros(1000, np.float32)
    for part_P, count in zip(parts, samples, strict=True):
        sum_P = sum_P + part_P.numpy() * np.float32(count / 63)
    assert np.array_equal(RULES["mean"](parts, samples, MEAN, None).numpy(), sum_P)


def test_sgd_goes_against_the_pseudo_gradient() -> None:
    theta_P, delta_P = random_parts(2)
    new_P, momentum_P = OUTER_RULES["sgd"].step(theta_P, None, delta_P, OuterSpec("sgd", 0.7, 0.0))
    assert momentum_P is None
    assert np.array_equal(new_P.numpy(), theta_P.numpy() - delta_P.numpy() * np.float32(0.7))


def test_nesterov_is_torchs_sgd_with_the_pseudo_gradient_for_gradient() -> None:
    theta_P, *deltas = random_parts(5)
    spec = OuterSpec("nesterov", 0.7, 0.9)
    reference_P = theta_P.clone()
    optimizer = torch.optim.SGD([reference_P], lr=0.7, momentum=0.9, nesterov=True)
    momentum_P: torch.Tensor | None = torch.zeros(1000)
    for delta_P in deltas:
        theta_P, momentum_P = OUTER_RULES["nesterov"].step(theta_P, momentum_P, delta_P, spec)
        reference_P.grad = delta_P
        optimizer.step()
    assert torch.allclose(theta_P, reference_P, rtol=1e-5, atol=1e-6)
    assert not torch.equal(theta_P, random_parts(5)[0])
