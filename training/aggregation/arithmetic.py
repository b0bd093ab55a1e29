"""Sums, inner products and sorting whose bits do not depend on the machine. Knows no rule.

Separate elementwise operations in a fixed order: a library's reductions, matrix products and fused
multiply-adds round differently from one thread count or instruction set to the next. Scalars are
Python floats; +, -, ·, / and square root are exactly rounded there (IEEE 754).

Shape legend: P values of a part, N inputs, W columns of a block.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

Gram = list[list[float]]
"""Inner products of vectors with each other: symmetric, squared lengths on the diagonal."""


BLOCK_VALUES = 4_096
"""Columns multiplied at a time: what ten inputs need of them fits a processor's second cache."""


def combine(parts_NP: Sequence["Tensor"], weights_N: Sequence[float]) -> "Tensor":
    """The sum of the parts, each times its weight rounded to fp32.

    For one input after another: one multiplication, one addition. A part of weight 0 is left out.
    """
    total_P = None
    for part_P, weight in zip(parts_NP, weights_N, strict=True):
        if weight == 0.0:
            continue
        scaled_P = part_P * float(np.float32(weight))
        total_P = scaled_P if total_P is None else total_P.add_(scaled_P)
    return parts_NP[0] * 0.0 if total_P is None else total_P


def added(terms: Iterable[float]) -> float:
    """The terms added up from the left; `sum` compensates its rounding from Python 3.12 on."""
    total = 0.0
    for term in terms:
        total += term
    return total


def squares(parts_NP: Sequence["Tensor"]) -> list[float]:
    """The inner product of each fp32 part with itself."""
    sums_NW: Tensor | None = None
    for block_NW in _blocks(parts_NP):
        sums_NW = _add(sums_NW, block_NW * block_NW)
    return _halved(sums_NW)


def products(parts_NP: Sequence["Tensor"], other_P: "Tensor") -> list[float]:
    """The inner product of each fp32 part with another."""
    sums_NW: Tensor | None = None
    for block_NW in _blocks([*parts_NP, other_P]):
        sums_NW = _add(sums_NW, block_NW[:-1] * block_NW[-1])
    return _halved(sums_NW)


def gram(parts_NP: Sequence["Tensor"]) -> Gram:
    """The inner products of fp32 parts with each other."""
    count = len(parts_NP)
    sums: list[Tensor | None] = [None] * count
    for block_NW in _blocks(parts_NP):
        for i in range(count):
            sums[i] = _add(sums[i], block_NW[: i + 1] * block_NW[i])
    lower = [_halved(sums_IW) for sums_IW in sums]
    return [[lower[max(i, j)][min(i, j)] for j in range(count)] for i in range(count)]


def _blocks(parts_NP: Sequence["Tensor"]) -> Iterator["Tensor"]:
    """fp64 columns of all parts, side by side: products of fp32 are exact there, and finite.

    (2^63)^2 · 2^17 is far below the largest fp64.
    """
    import torch

    for start in range(0, parts_NP[0].numel(), BLOCK_VALUES):
        yield torch.stack([part_P[start : start + BLOCK_VALUES] for part_P in parts_NP]).double()


def _add(sums_NW: "Tensor | None", terms_NW: "Tensor") -> "Tensor":
    """Sums so far, plus one block, column by column; the last block may be narrower."""
    if sums_NW is None:
        return terms_NW
    sums_NW[:, : terms_NW.shape[1]] += terms_NW
    return sums_NW


def _halved(sums_NW: "Tensor | None") -> list[float]:
    """Each row's sum: its second half is added to the first until one column is left."""
    assert sums_NW is not None, "a part has at least one value"
    width = sums_NW.shape[1]
    while width > 1:
        half = (width + 1) // 2
        sums_NW[:, : width - half] += sums_NW[:, half:width]
        width = half
    return [float(total) for total in sums_NW[:, 0]]


def ascending(
    parts_NP: Sequence["Tensor"], samples_N: Sequence[int]
) -> tuple[list["Tensor"], list["Tensor | int"]]:
    """Each coordinate's values in ascending order, and how many samples stand behind each value.

    Rows are sorted by neighbours' comparisons, N rounds of them (odd-even transposition): exact,
    and for the few rows there are ten times as fast as torch's sort along N. Where all counts are
    equal they stay plain numbers.
    """
    import torch

    rows = list(parts_NP)
    equal = len(set(samples_N)) == 1
    counts: list[Tensor | int] = list(samples_N)
    for turn in range(len(rows)):
        for i in range(turn % 2, len(rows) - 1, 2):
            low_P, high_P = rows[i], rows[i + 1]
            if not equal:
                swap_P, low, high = low_P > high_P, counts[i], counts[i + 1]
                counts[i] = torch.where(swap_P, high, low)
                counts[i + 1] = torch.where(swap_P, low, high)
            rows[i], rows[i + 1] = torch.minimum(low_P, high_P), torch.maximum(low_P, high_P)
    return rows, counts
