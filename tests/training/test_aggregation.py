"""The weighted mean and the outer steps, against the same arithmetic in numpy and in fp64."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from eigen.protocol import limits
from eigen.protocol.run import AggregationSpec, OuterSpec
from eigen.training.aggregation import RULES
from eigen.training.averaging import aggregate, collect, combine
from eigen.training.codecs.registry import CODECS
from eigen.training.errors import BadInput
from eigen.training.outer import OUTER_RULES
from eigen.training.spec import part_sizes

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


@pytest.mark.parametrize("codec", ["fp32", "2bit", "top64-2bit"])
def test_groups_come_to_what_all_would_come_to_within_eight_bits(make_spec, codec: str) -> None:
    spec = replace(make_spec(), codec=codec, aggregation=MEAN, result_codec="fp32")
    values = part_sizes(spec)[0]
    inputs = [
        (CODECS[codec].encode(part_P), 1 + i) for i, part_P in enumerate(random_parts(7, values))
    ]
    groups = [inputs[:3], inputs[3:5], inputs[5:]]
    collected = [(collect(spec, 0, group), sum(n for _, n in group)) for group in groups]
    whole = torch.frombuffer(bytearray(aggregate(spec, 0, inputs, b"").data), dtype=torch.float32)
    grouped = bytearray(combine(spec, 0, collected, b"").data)
    error_P = torch.frombuffer(grouped, dtype=torch.float32) - whole
    assert float(error_P.norm() / whole.norm()) < 0.02


def test_a_group_that_does_not_decode_is_named(make_spec) -> None:
    spec = make_spec()
    part_P = random_parts(1, part_sizes(spec)[0])[0]
    good = (collect(spec, 0, [(CODECS[spec.codec].encode(part_P), 5)]), 5)
    with pytest.raises(BadInput) as error:
        combine(spec, 0, [good, (good[0][:-1], 5)], b"")
    assert error.value.index == 1
    most = spec.inner.steps * spec.inner.batch * limits.GROUP_MAX
    with pytest.raises(BadInput, match="samples"):
        combine(spec, 0, [good, (good[0], most + 1)], b"")
