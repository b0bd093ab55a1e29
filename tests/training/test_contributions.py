"""What updates contribute: towards the others' average, exaggeration apart, in whole units."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from eigen.training.codecs.registry import CODECS
from eigen.training.contributions import CONTRIBUTION_MAX, UNIT
from eigen.training.errors import BadInput
from eigen.training.spec import part_sizes
from eigen.training.streams import uniform

PEERS = 4


@pytest.fixture
def spec(make_spec):
    return make_spec(codec="fp32", result_codec="fp32")


def drawn(name: str, values: int) -> torch.Tensor:
    return torch.from_numpy(uniform(name, b"", values))


def scores(engine, spec, vectors: list[torch.Tensor], samples: list[int], total: int = 0):
    inputs = [(v.numpy().tobytes(), n) for v, n in zip(vectors, samples, strict=True)]
    result = engine.aggregate(spec, 0, inputs, b"").data
    return engine.contributions(spec, 0, inputs, result, total)


def test_it_is_the_inner_product_with_the_others_average(engine, spec) -> None:
    values = part_sizes(spec)[0]
    vectors = [drawn("common", values) + drawn(f"own {i}", values) for i in range(PEERS)]
    vectors = [vector_P / vector_P.norm() for vector_P in vectors]
    samples = [64, 32, 16, 48]
    exact = [vector_P.double().numpy() for vector_P in vectors]
    for contribution, i in zip(scores(engine, spec, vectors, samples), range(PEERS), strict=True):
        others = [samples[j] * exact[j] for j in range(PEERS) if j != i]
        wanted = exact[i] @ np.sum(others, axis=0) / sum(samples)
        assert type(contribution) is int
        assert contribution * UNIT == pytest.approx(wanted, abs=1e-6)
    # Of a group, the inputs are some of those behind the result.
    alone = scores(engine, spec, vectors[:1], samples[:1], total=640)
    assert alone[0] * UNIT == pytest.approx(1 - samples[0] / 640, abs=1e-6)


def test_who_does_nothing_or_harm_contributes_nothing(engine, spec) -> None:
    values = part_sizes(spec)[0]
    common = drawn("common", values)
    honest = [common + drawn(f"own {i}", values) for i in range(PEERS)]
    vectors = [*honest, torch.zeros(values), -honest[0]]
    found = scores(engine, spec, vectors, [64] * len(vectors))
    assert min(found[:PEERS]) > 0
    assert found[PEERS] == 0
    assert found[PEERS + 1] < 0


def test_nobody_gains_by_exaggeration(engine, spec) -> None:
    values = part_sizes(spec)[0]
    common = drawn("common", values)
    vectors = [common + drawn(f"own {i}", values) for i in range(PEERS + 1)]
    inputs = [(vector_P.numpy().tobytes(), 64) for vector_P in vectors]
    result = engine.aggregate(spec, 0, inputs, b"").data
    modest = engine.contributions(spec, 0, inputs, result)
    louder = (vectors[0] * 4.0).numpy().tobytes()
    loud = engine.contributions(spec, 0, [(louder, 64), *inputs[1:]], result)
    assert loud[0] < modest[0]


def test_moments_contribute_nothing_and_the_largest_values_stay_bounded(engine, make_spec) -> None:
    spec = make_spec(codec="fp32", result_codec="fp32")
    values = part_sizes(spec)[0]
    huge = torch.full((values,), 2.0**63)
    data = CODECS["fp32"].encode(huge * 0.9)
    assert engine.contributions(spec, 0, [(data, 1), (data, 1)], data) == [CONTRIBUTION_MAX] * 2
    zeros = CODECS["fp32"].encode(huge * 0.0)
    assert engine.contributions(spec, 0, [(zeros, 1), (zeros, 1)], data) == [0, 0]
    shared = replace(spec, inner=replace(spec.inner, moments="shared"))
    last = engine.part_count(shared) - 1
    assert engine.contributions(shared, last, [(b"?", 1)] * 3, b"") == [0, 0, 0]


def test_wrong_inputs_are_named(engine, spec) -> None:
    good = CODECS["fp32"].encode(torch.ones(part_sizes(spec)[0]))
    with pytest.raises(BadInput, match="input 1: 3 bytes"):
        engine.contributions(spec, 0, [(good, 1), (b"bad", 1)], good)
    with pytest.raises(BadInput, match="input 1: the result does not decode"):
        engine.contributions(spec, 0, [(good, 1)], b"bad")
    with pytest.raises(ValueError, match="part 9"):
        engine.contributions(spec, 9, [(good, 1)], good)
    with pytest.raises(ValueError, match="0 inputs"):
        engine.contributions(spec, 0, [], good)
