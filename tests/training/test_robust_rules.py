"""Every rule against any minority of liars: what holds for which, for any lies and group sizes."""

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eigen.protocol.run import AggregationSpec
from eigen.training.aggregation import RULES, arithmetic
from eigen.training.aggregation.gate import LENGTH_RATIO_MAX, liars, plausible
from eigen.training.codecs.blocks import VALUE_MAX
from eigen.training.codecs.registry import CODECS
from eigen.training.errors import ResidualError

ROBUST = sorted(name for name, rule in RULES.items() if rule.robust)
VALUES = 40
Parts = list[torch.Tensor]


def aggregate(
    rule: str,
    parts: Parts,
    samples: list[int] | None = None,
    tolerated_bps: int = 3_000,
    history_P: torch.Tensor | None = None,
) -> torch.Tensor:
    spec = AggregationSpec(rule, tolerated_bps if RULES[rule].robust else 0)
    copies = [part_P.clone() for part_P in parts]
    result_P = RULES[rule](parts, samples or [1] * len(parts), spec, history_P)
    assert all(torch.equal(a, b) for a, b in zip(parts, copies, strict=True)), "inputs were changed"
    assert result_P.dtype == torch.float32
    assert bool(result_P.isfinite().all())
    return result_P


def honest_parts(seed: int, count: int, spread: float = 0.5) -> Parts:
    """A common direction of length about 1, and each trainer's own."""
    drawn = torch.Generator().manual_seed(seed)
    common_P = torch.randn(VALUES, generator=drawn)
    return [
        (common_P + spread * torch.randn(VALUES, generator=drawn)) / math.sqrt(VALUES)
        for _ in range(count)
    ]


seeds = st.integers(0, 2**32 - 1)
lies = st.lists(
    st.floats(-VALUE_MAX, VALUE_MAX, width=32) | st.floats(-1, 1, width=32),
    min_size=VALUES,
    max_size=VALUES,
).map(torch.tensor)


@st.composite
def groups_with_liars(draw: st.DrawFn) -> tuple[Parts, Parts, list[int]]:
    """Honest parts, lies of any values, and the order in which they come."""
    count = draw(st.integers(3, 16))
    lying = draw(st.integers(0, liars(3_000, count)))
    honest = honest_parts(draw(seeds), count - lying)
    order = draw(st.permutations(range(count)))
    return honest, [draw(lies) for _ in range(lying)], order


def in_order(group: tuple[Parts, Parts, list[int]]) -> Parts:
    honest, false, order = group
    everybody = [*honest, *false]
    return [everybody[i] for i in order]


@settings(deadline=None, max_examples=60)
@given(groups_with_liars())
@pytest.mark.parametrize("rule", ["median", "trimmed-mean"])
def test_sorting_rules_stay_between_honest_values(rule: str, group) -> None:
    result_P, honest_HP = aggregate(rule, in_order(group)), torch.stack(group[0])
    assert bool((result_P >= honest_HP.amin(0)).all())
    assert bool((result_P <= honest_HP.amax(0)).all())


@settings(deadline=None, max_examples=60)
@given(groups_with_liars())
def test_krum_gives_an_input_near_the_honest_ones(group) -> None:
    """The one it picks has more honest neighbours than liars, so it cannot be far from them."""
    parts = in_order(group)
    result_P, honest_HP = aggregate("krum", parts), torch.stack(group[0])
    assert any(torch.equal(result_P, part_P) for part_P in parts)
    near = len(parts) - liars(3_000, len(parts)) - 2
    if near > len(group[1]):
        widest = max(float((a - b).norm()) for a in group[0] for b in group[0])
        assert min((honest_HP - result_P).norm(dim=1)) <= math.sqrt(near) * widest


@settings(deadline=None, max_examples=60)
@given(groups_with_liars(), st.booleans())
def test_centered_clip_goes_no_further_than_honest_trainers_do(group, has_history: bool) -> None:
    """Three steps, each no longer than the way to some honest input from where it starts."""
    history_P = honest_parts(1, 1)[0] if has_history else None
    start_P = torch.zeros(VALUES) if history_P is None else history_P
    result_P = aggregate("centered-clip", in_order(group), history_P=history_P)
    furthest = max(float((part_P - start_P).norm()) for part_P in group[0])
    assert float((result_P - start_P).norm()) <= 7 * furthest * 1.0001


@settings(deadline=None, max_examples=60)
@given(groups_with_liars())
def test_the_geometric_median_stays_near_the_honest_ones(group) -> None:
    """Within 2(1 - a) / (1 - 2a) honest radii for a share `a` of liars, and 8 steps come near."""
    honest_HP, count = torch.stack(group[0]), len(group[0]) + len(group[1])
    result_P = aggregate("geometric-median", in_order(group))
    share = len(group[1]) / count
    radius = float((honest_HP - honest_HP.mean(0)).norm(dim=1).max())
    bound = 2 * (1 - share) / (1 - 2 * share) * radius
    assert float((result_P - honest_HP.mean(0)).norm()) <= 1.5 * bound + 1e-6


@settings(deadline=None, max_examples=60)
@given(groups_with_liars())
def test_the_cosine_filter_is_no_longer_than_honest_inputs(group) -> None:
    result_P = aggregate("cosine-filter", in_order(group))
    assert float(result_P.norm()) <= max(float(part_P.norm()) for part_P in group[0]) * 1.0001


@settings(deadline=None, max_examples=60)
@given(groups_with_liars(), st.floats(0.1, 1e6))
def test_the_cosine_filter_drops_what_goes_against_the_others(group, factor: float) -> None:
    honest, false, order = group
    against_P = -factor * torch.stack(honest).mean(0)
    opposed = honest, [against_P for _ in false], order
    mean_P = torch.stack(honest).mean(0)
    result_P = aggregate("cosine-filter", in_order(opposed))
    assert float(torch.cosine_similarity(result_P, mean_P, 0)) > 0.95
    assert float(result_P.norm()) > 0.7 * float(mean_P.norm())


@settings(deadline=None, max_examples=30)
@given(seeds, st.integers(1, 12), st.randoms(use_true_random=False))
@pytest.mark.parametrize("rule", sorted(RULES))
def test_the_order_of_trainers_changes_nothing_but_rounding(rule: str, seed, count, random) -> None:
    parts = honest_parts(seed, count)
    samples = [random.randint(1, 100) for _ in parts]
    pairs = list(zip(parts, samples, strict=True))
    random.shuffle(pairs)
    shuffled_P = aggregate(rule, [p for p, _ in pairs], [n for _, n in pairs])
    assert torch.allclose(aggregate(rule, parts, samples), shuffled_P, rtol=1e-5, atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(seeds, st.integers(1, 12), st.integers(2, 1000))
@pytest.mark.parametrize("rule", sorted(RULES))
def test_only_the_proportions_of_samples_count(rule: str, seed: int, count: int, factor) -> None:
    parts = honest_parts(seed, count)
    samples = [1 + i % 5 for i in range(count)]
    scaled_P = aggregate(rule, parts, [factor * n for n in samples])
    assert torch.allclose(aggregate(rule, parts, samples), scaled_P, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("rule", sorted(RULES))
@pytest.mark.parametrize("count", [1, 2, 3, 4, 10])
def test_equal_inputs_give_that_input(rule: str, count: int) -> None:
    (part_P,) = honest_parts(5, 1)
    same = [part_P] * count
    assert torch.allclose(aggregate(rule, same), part_P, rtol=1e-6, atol=0)
    assert torch.allclose(aggregate(rule, same, [1 + i for i in range(count)]), part_P, rtol=1e-6)
    zeros_P = torch.zeros(VALUES)
    assert torch.equal(aggregate(rule, [zeros_P] * count), zeros_P)


@pytest.mark.parametrize("rule", sorted(RULES))
def test_one_and_two_inputs_are_averaged(rule: str) -> None:
    a_P, b_P = honest_parts(3, 2)
    assert torch.equal(aggregate(rule, [a_P]), a_P)
    assert torch.allclose(aggregate(rule, [a_P, -9 * b_P], [3, 1]), 0.75 * a_P - 2.25 * b_P)


@pytest.mark.parametrize("rule", ROBUST)
def test_in_a_group_of_three_one_is_outvoted(rule: str) -> None:
    a_P, b_P = honest_parts(3, 2, spread=0.1)
    for lie_P in (-a_P, 1e6 * a_P, 0 * a_P, torch.full((VALUES,), VALUE_MAX)):
        result_P = aggregate(rule, [a_P, lie_P, b_P])
        assert float(torch.cosine_similarity(result_P, a_P + b_P, 0)) > 0.95


@pytest.mark.parametrize("rule", ROBUST)
@pytest.mark.parametrize("factor", [0.0, 1e-6, 1e6, -1e6, 1e15])
def test_lengths_out_of_the_ordinary_do_not_reach_a_rule(rule: str, factor: float) -> None:
    honest = honest_parts(9, 7)
    absurd = [factor * honest[0]] * 3
    trusted = AggregationSpec(rule, 1)  # rounds up to one liar of the seven
    alone_P = RULES[rule](honest, [1] * 7, trusted, None)
    if rule in ("trimmed-mean", "krum", "multi-krum"):
        return  # these know how many liars are left: the next test
    assert torch.equal(aggregate(rule, [*honest, *absurd]), alone_P)


@pytest.mark.parametrize("rule", ["trimmed-mean", "multi-krum"])
def test_whom_the_gate_stops_is_counted_among_the_liars(rule: str) -> None:
    """Three of ten are stopped, so the mean of all the others but Krum's two is left."""
    honest = honest_parts(9, 7)
    result_P = aggregate(rule, [*honest, *[torch.zeros(VALUES)] * 3])
    if rule == "trimmed-mean":
        assert torch.allclose(result_P, torch.stack(honest).mean(0))
    else:
        mean_P = torch.stack(honest).sum(0)
        left_out = [(mean_P - a - b) / 5 for i, a in enumerate(honest) for b in honest[i + 1 :]]
        assert any(torch.allclose(result_P, other_P) for other_P in left_out)


def test_without_the_gate_the_mean_believes_everybody() -> None:
    honest = honest_parts(9, 9)
    assert float(aggregate("mean", [*honest, 1e6 * honest[0]]).norm()) > 1e4


def test_the_gate_goes_by_the_lower_median_length() -> None:
    assert plausible([1.0, 1.0, 1.0, LENGTH_RATIO_MAX]) == [0, 1, 2, 3]
    assert plausible([1.0, 1.0, 1.0, LENGTH_RATIO_MAX * 1.01, 1 / 6]) == [0, 1, 2]
    assert plausible([0.0, 0.0, 5.0]) == [0, 1], "most say zero"
    assert plausible([0.0, 5.0, 5.0]) == [1, 2]


def test_how_many_may_lie_is_rounded_up_and_a_minority() -> None:
    assert [liars(3_000, n) for n in (1, 2, 3, 4, 5, 7, 10, 64)] == [0, 0, 1, 1, 2, 3, 3, 20]
    assert liars(4_999, 10) == 4


@pytest.mark.parametrize("rule", ["median", "trimmed-mean"])
def test_sorting_rules_weigh_each_coordinate(rule: str) -> None:
    """Against the same counts written out: a trainer of n samples is n trainers of one."""
    parts, samples = honest_parts(2, 5), [3, 1, 2, 2, 3]
    weighed_P = aggregate(rule, parts, samples, 1_000).numpy()
    many_MP = np.repeat(torch.stack(parts).double().numpy(), samples, axis=0)
    many_MP.sort(axis=0)
    trimmed = 3 if rule == "trimmed-mean" else 5  # one liar, at most 3 samples
    assert np.allclose(weighed_P, many_MP[trimmed : 11 - trimmed].mean(0), atol=1e-7)


def test_inner_products_are_those_of_fp64() -> None:
    drawn = torch.Generator().manual_seed(3)
    for values in (1, 2, 3, 1000, 4096, 4097, 9000):
        parts = [torch.randn(values, generator=drawn) for _ in range(3)]
        wanted = torch.stack(parts).double() @ torch.stack(parts).double().T
        assert np.allclose(arithmetic.gram(parts), wanted.numpy(), rtol=1e-12, atol=1e-12)
        assert np.allclose(arithmetic.squares(parts), wanted.diagonal().numpy(), rtol=1e-12)


def test_scalars_are_added_alike_by_every_python() -> None:
    """Compensated sums would give 1.0 here."""
    assert arithmetic.added([1.0, 1e100, 1.0, -1e100]) == 0.0
    for name in ("geometry", "gate"):
        source = Path(arithmetic.__file__).with_name(f"{name}.py").read_text()
        assert not re.search(r"\b(f?sum|sumprod|fma)\(", source), name


def test_the_geometric_median_is_where_the_pulls_balance() -> None:
    parts = honest_parts(4, 9)
    result_P = aggregate("geometric-median", parts)

    def distances(point_P: torch.Tensor) -> float:
        return sum(float((part_P - point_P).norm()) for part_P in parts)

    drawn = torch.Generator().manual_seed(0)
    for _ in range(100):
        step_P = torch.randn(VALUES, generator=drawn)
        assert distances(result_P) < distances(result_P + 0.02 * step_P / step_P.norm())


@pytest.mark.parametrize("codec", ["int8", "fp32"])
def test_a_history_is_carried_beside_the_residual(engine, make_spec, codec: str) -> None:
    """It is the last result as everybody got it, so whoever has that can check it."""
    drawn = torch.Generator().manual_seed(8)
    inputs = [(CODECS[codec].encode(torch.randn(804, generator=drawn)), 64) for _ in range(5)]
    spec = make_spec(
        codec=codec, result_codec=codec, aggregation=AggregationSpec("centered-clip", 2_000)
    )
    first = engine.aggregate(spec, 0, inputs, b"")
    residual = 4 * 804 if codec == "int8" else 0
    assert first.carried[residual:] == first.data
    second = engine.aggregate(spec, 0, inputs, first.carried)
    assert second.data != first.data
    forgetful = engine.aggregate(spec, 0, inputs, first.carried[:residual] + bytes(len(first.data)))
    assert forgetful.data != second.data, "the history is not read"
    for wrong in (first.carried[:-1], first.carried[:residual], first.carried + b"x"):
        if wrong:
            with pytest.raises(ResidualError):
                engine.aggregate(spec, 0, inputs, wrong)
    stateless = replace(spec, aggregation=AggregationSpec("median", 2_000))
    assert len(engine.aggregate(stateless, 0, inputs, b"").carried) == residual
    with pytest.raises(ResidualError):
        engine.aggregate(stateless, 0, inputs, first.carried)
