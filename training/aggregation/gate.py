"""What no rule should see: inputs whose length says that they are no honest update.

Lengths are those of one part. A gate looks at nothing else, so an attacker of ordinary length
passes; the rules are for that one.
"""

import math
from collections.abc import Sequence

LENGTH_RATIO_MAX = 5.0
"""An input more than so many times as long as the median input, or as short, is no honest update.
Trainers start from one checkpoint and make equally many Adam steps, whose size does not depend on
the gradient's: docs/aggregation.md has the spread that was measured."""
MAJORITY_MIN = 3
"""Inputs among which a majority can outvote one. Fewer are averaged."""


def liars(tolerated_bps: int, inputs: int) -> int:
    """How many of so many inputs may be lies: the tolerated share, rounded up, and a minority."""
    return min(-(-inputs * tolerated_bps // 10_000), (inputs - 1) // 2)


def plausible(lengths_N: Sequence[float]) -> list[int]:
    """The places of inputs whose length is near the lower median length.

    While liars are a minority, the lower median lies between two honest lengths. Where most inputs
    are zero, the zeros remain.
    """
    median = sorted(lengths_N)[(len(lengths_N) - 1) // 2]
    return [
        i
        for i, length in enumerate(lengths_N)
        if median <= LENGTH_RATIO_MAX * length and length <= LENGTH_RATIO_MAX * median
    ]


def length(squared: float) -> float:
    """The length of a vector from its inner product with itself, or from a difference of such.

    Rounding may put a squared distance below 0.
    """
    return math.sqrt(max(squared, 0.0))
