"""How many trainers' parts become one. Knows no codec, and no torch but its tensors' methods.

A rule sees one part of every trainer and gives one part. It must be bit-identical on every machine
and thread count: separate fp32 elementwise operations in the order of the inputs, and no fused
multiply-add, matrix product or reduction whose order a library may choose.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


class AggregationRule(Protocol):
    """Combines one part of each trainer."""

    def __call__(self, parts_NP: Sequence["Tensor"], samples_N: Sequence[int]) -> "Tensor":
        """One part from N equally long fp32 parts and how many samples stand behind each.

        There is at least one input, and every count is at least 1.
        """
        ...


def mean(parts_NP: Sequence["Tensor"], samples_N: Sequence[int]) -> "Tensor":
    """The mean weighted by samples (McMahan et al., arXiv:1602.05629).

    Each weight is rounded to fp32 once; then for one input after another: one multiplication, one
    addition.
    """
    total = sum(samples_N)
    weights = [float(np.float32(count / total)) for count in samples_N]
    mean_P = parts_NP[0] * weights[0]
    for part_P, weight in zip(parts_NP[1:], weights[1:], strict=True):
        mean_P += part_P * weight
    return mean_P


RULES: dict[str, AggregationRule] = {"mean": mean}
"""Rules that a run spec may name."""
