"""Rules that sort each coordinate's values on its own.

Shape legend: P values of a part, N inputs.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from eigen.training.aggregation.arithmetic import ascending

if TYPE_CHECKING:
    from torch import Tensor


def median(parts_NP: Sequence["Tensor"], samples_N: Sequence[int], _liars: int) -> "Tensor":
    """The value with half of the samples on each side; the middle of two such values.

    Yin et al., "Byzantine-Robust Distributed Learning" (arXiv:1803.01498).
    """
    return _middle(parts_NP, samples_N, (sum(samples_N) - 1) // 2)


def trimmed_mean(parts_NP: Sequence["Tensor"], samples_N: Sequence[int], liars: int) -> "Tensor":
    """The weighted mean without as many samples at each end as liars can have.

    Yin et al., as above. At most so much is trimmed that the median is left.
    """
    most = sum(sorted(samples_N)[len(samples_N) - liars :])
    return _middle(parts_NP, samples_N, min(most, (sum(samples_N) - 1) // 2))


def _middle(parts_NP: Sequence["Tensor"], samples_N: Sequence[int], trimmed: int) -> "Tensor":
    """The mean of what is left of each coordinate without `trimmed` samples at each end.

    In fp64, whose rounding does not show in fp32 where all inputs are equal.
    """
    low, high = trimmed, sum(samples_N) - trimmed
    rows, counts = ascending(parts_NP, samples_N)
    total_P = rows[0].double() * 0.0
    before: Tensor | int = 0
    for row_P, count in zip(rows, counts, strict=True):
        after = before + count
        left = _clamp(after, low, high) - _clamp(before, low, high)
        if isinstance(left, int):
            if left:
                total_P += row_P.double() * float(left)
        else:
            total_P += row_P.double() * left.double()
        before = after
    return (total_P / float(high - low)).float()


def _clamp(count: "Tensor | int", low: int, high: int) -> "Tensor | int":
    return min(max(count, low), high) if isinstance(count, int) else count.clamp(low, high)
