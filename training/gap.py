"""The loss gap: whether an update was trained on the samples that it was to be trained on.

By how much it lowers the loss of some of them, less by how much it lowers the loss of others: who
did the work has fitted its own samples a little better than any. It is a statistical test, cheap
enough for every trainer in every round; a replay is the proof.

Shape legend: P parameters, N samples.
"""

import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from eigen.training.datasets import Samples
from eigen.training.errors import Diverged, ShardError
from eigen.training.streams import batch_indices, permutation

if TYPE_CHECKING:
    from torch import Tensor

    from eigen.training.models import Model

SAMPLES = 16
"""Samples of either kind. Four evaluations of them cost as much as 21 samples' training."""
DROP_MAX = 1000.0
"""Nats. A loss drops by no more; where an update leads to a loss that is not finite, it rises by
so much."""
ROUNDS = 12
"""Gaps of one trainer that are averaged: half of the work shows within them."""


def used_samples(order_seed: bytes, samples: int, steps: int, batch: int) -> NDArray[np.int64]:
    """Which of so many samples local steps use, ascending."""
    return np.unique(batch_indices(order_seed, samples, steps, batch))


def draw(samples: Samples, purpose: str, seed: bytes, count: int) -> Samples:
    """`count` samples that a seed draws, or all where there are fewer. `ShardError` for none."""
    if not len(samples):
        raise ShardError(f"there are no {purpose} samples to compare with")
    return samples.take(permutation(f"gap/{purpose}", seed, len(samples))[:count])


def loss_drop(
    model: "Model", theta_P: "Tensor", delta_P: "Tensor", samples: Samples, device: str
) -> float:
    """Mean loss at `theta_P` less that at `theta_P` - `delta_P`, in nats, within ± `DROP_MAX`.

    Raises `Diverged` where the loss at `theta_P` is not finite.
    """
    from eigen.training.inner import evaluate

    before = evaluate(model, theta_P, samples, device=device).loss
    try:
        after = evaluate(model, theta_P - delta_P, samples, device=device).loss
    except Diverged:
        return -DROP_MAX
    return max(-DROP_MAX, min(before - after, DROP_MAX))


@dataclass(frozen=True, slots=True)
class GapScale:
    """What gaps of honest trainers are like in a run: their mean and standard deviation, in nats.

    `tolerance` is how many standard deviations below the mean an average may be; 2.33 stop one
    honest trainer in a hundred.
    """

    mean: float
    deviation: float
    tolerance: float = 2.33

    def least(self, rounds: int) -> float:
        """What the average of so many rounds' gaps must reach."""
        return self.mean - self.tolerance * self.deviation / math.sqrt(rounds)


class MovingGap:
    """The last gaps of one trainer, at most `rounds` of them, against what honest ones are like."""

    def __init__(self, scale: GapScale, rounds: int = ROUNDS) -> None:
        self._scale = scale
        self._gaps: deque[float] = deque(maxlen=rounds)

    def add(self, gap: float) -> bool:
        """Takes one round's gap, in nats; returns whether the trainer still passes for honest."""
        self._gaps.append(gap)
        return self.average >= self._scale.least(len(self._gaps))

    @property
    def average(self) -> float:
        """Of the gaps so far. There was one."""
        return math.fsum(self._gaps) / len(self._gaps)
