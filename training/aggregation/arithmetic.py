"""Sums, inner products and sorting whose bits do not depend on the machine. Knows no rule.

Separate elementwise operations in a fixed order: a library's reductions, matrix products and fused
multiply-adds round differently from one thread count or instruction set to the next. Scalars are
Python floats; +, -, ·, / and square root are exactly rounded there (IEEE 754).

Shape legend: P values of a part, N inputs.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

Gram = list[list[float]]
"""Inner products of vectors with each other: symmetric, squared lengths on the diagonal."""


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


def inner(a_P: "Tensor", b_P: "Tensor") -> float:
    """The inner product of two fp64 vectors, added up by halves.

    Products of fp32 numbers are exact in fp64, and 2^17 of the largest ones do not overflow.
    """
    terms_P = a_P * b_P
    left = terms_P.numel()
    while left > 1:
        half = (left + 1) // 2
        terms_P[: left - half] += terms_P[half:left]
        left = half
    return float(terms_P[0])


def gram(parts_NP: Sequence["Tensor"]) -> Gram:
    """The inner products of fp32 parts."""
    wide_NP = [part_P.double() for part_P in parts_NP]
    products = [[inner(a_P, b_P) for b_P in wide_NP[: i + 1]] for i, a_P in enumerate(wide_NP)]
    return [
        [products[max(i, j)][min(i, j)] for j in range(len(wide_NP))] for i in range(len(wide_NP))
    ]


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
