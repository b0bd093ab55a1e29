"""How many trainers' parts become one, in spite of some who lie. Knows no codec.

A rule sees one part of every trainer and gives one part. It sees nothing of the vector's other
parts, which other owners aggregate: lengths and angles are a part's own. `arithmetic` keeps it
bit-identical on every machine and thread count. docs/aggregation.md says which rule holds against
what.

Shape legend: P values of a part, N inputs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from eigen.protocol.run import AggregationSpec
from eigen.training.aggregation import geometry, order
from eigen.training.aggregation.arithmetic import Gram, combine, gram, squares
from eigen.training.aggregation.gate import MAJORITY_MIN, length, liars, plausible

if TYPE_CHECKING:
    from torch import Tensor


class AggregationRule(Protocol):
    """Combines one part of each trainer."""

    @property
    def robust(self) -> bool:
        """Whether it holds against liars, so that a spec must say how many there may be."""
        ...

    @property
    def keeps_history(self) -> bool:
        """Whether it starts from the same part's result of the round before."""
        ...

    def __call__(
        self,
        parts_NP: Sequence["Tensor"],
        samples_N: Sequence[int],
        spec: AggregationSpec,
        history_P: "Tensor | None",
    ) -> "Tensor":
        """One part from N equally long fp32 parts and how many samples stand behind each.

        There is at least one input, all are finite, and every count is at least 1. `history_P` is
        the last result where the rule keeps a history and there is one.
        """
        ...


@dataclass(frozen=True, slots=True)
class Mean:
    """The mean weighted by samples (McMahan et al., arXiv:1602.05629). It believes everybody."""

    robust = False
    keeps_history = False

    def __call__(
        self,
        parts_NP: Sequence["Tensor"],
        samples_N: Sequence[int],
        spec: AggregationSpec,  # noqa: ARG002
        history_P: "Tensor | None",  # noqa: ARG002
    ) -> "Tensor":
        """See `AggregationRule`. Nothing is gated."""
        return _mean(parts_NP, samples_N)


@dataclass(frozen=True, slots=True)
class Sorting:
    """A rule of `order`, behind the gate."""

    middle: Callable[[Sequence["Tensor"], Sequence[int], int], "Tensor"]
    robust = True
    keeps_history = False

    def __call__(
        self,
        parts_NP: Sequence["Tensor"],
        samples_N: Sequence[int],
        spec: AggregationSpec,
        history_P: "Tensor | None",  # noqa: ARG002
    ) -> "Tensor":
        """See `AggregationRule`."""
        if len(parts_NP) < MAJORITY_MIN:
            return _mean(parts_NP, samples_N)
        kept = plausible([length(squared) for squared in squares(parts_NP)])
        return self.middle(
            [parts_NP[i] for i in kept],
            [samples_N[i] for i in kept],
            _liars_left(spec, len(parts_NP), len(kept)),
        )


@dataclass(frozen=True, slots=True)
class Weighing:
    """A rule of `geometry`, behind the gate."""

    weigh: Callable[[Gram, Sequence[float], int], list[float]]
    keeps_history: bool = False
    robust = True

    def __call__(
        self,
        parts_NP: Sequence["Tensor"],
        samples_N: Sequence[int],
        spec: AggregationSpec,
        history_P: "Tensor | None",
    ) -> "Tensor":
        """See `AggregationRule`."""
        if len(parts_NP) < MAJORITY_MIN:
            return _mean(parts_NP, samples_N)
        vectors = list(parts_NP)
        if self.keeps_history:
            vectors.append(parts_NP[0] * 0.0 if history_P is None else history_P)
        products = gram(vectors)
        kept = plausible([length(products[i][i]) for i in range(len(parts_NP))])
        total = sum(samples_N[i] for i in kept)
        rows = [*kept, *range(len(parts_NP), len(vectors))]
        weights = self.weigh(
            [[products[i][j] for j in rows] for i in rows],
            [samples_N[i] / total for i in kept],
            _liars_left(spec, len(parts_NP), len(kept)),
        )
        return combine([vectors[i] for i in rows], weights)


def _liars_left(spec: AggregationSpec, inputs: int, kept: int) -> int:
    """How many of the kept inputs may be lies: whom the gate stopped is counted among the liars."""
    expected = liars(spec.tolerated_bps, inputs) - (inputs - kept)
    return min(max(expected, 0), (kept - 1) // 2)


def _mean(parts_NP: Sequence["Tensor"], samples_N: Sequence[int]) -> "Tensor":
    total = sum(samples_N)
    return combine(parts_NP, [count / total for count in samples_N])


RULES: dict[str, AggregationRule] = {
    "mean": Mean(),
    "median": Sorting(order.median),
    "trimmed-mean": Sorting(order.trimmed_mean),
    "centered-clip": Weighing(geometry.centered_clip, keeps_history=True),
    "krum": Weighing(geometry.krum),
    "multi-krum": Weighing(geometry.multi_krum),
    "geometric-median": Weighing(geometry.geometric_median),
    "cosine-filter": Weighing(geometry.cosine_filter),
}
"""Rules that a run spec may name."""
