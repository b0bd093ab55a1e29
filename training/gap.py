"""The loss gap: whether an update was trained on the samples that it was to be trained on.

How much better it is than the round's average on some of them, less a share of how much better it
is on others. Who did the work knows its own samples better than the average does, and who did not
does not. It is a statistical test of a few forward passes, for every trainer in every round; it
says whom to replay, and a replay is the proof.

Comparing with the average, and not with where the round began, takes out what all updates share,
and how hard the drawn samples happen to be: half of the spread.

Shape legend: P parameters, N samples.
"""

import math
import statistics
from collections import deque
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from eigen.training.datasets import Samples
from eigen.training.errors import ShardError
from eigen.training.streams import batch_indices, permutation

if TYPE_CHECKING:
    from torch import Tensor

    from eigen.training.models import Model

Trainer = TypeVar("Trainer", bound=Hashable)

SAMPLES = 24
"""Assigned samples. With the fresh ones, two evaluations cost as much as 21 samples' training."""
FRESH_PART = 3
"""There is one fresh sample for so many assigned ones: they count for less."""
LOSS_MAX = 1000.0
"""Nats. No loss counts for more, nor one that is not finite."""
ROUNDS = 12
"""Gaps of one trainer that are averaged: half of the work shows within them."""
TOLERANCE = 2.33
"""Standard deviations that an average may be below the others': one honest in a hundred is more."""
TRAINERS_MIN = 3
"""Fewer have no majority to be compared with."""


def used_samples(order_seed: bytes, samples: int, steps: int, batch: int) -> NDArray[np.int64]:
    """Which of so many samples local steps use, ascending."""
    return np.unique(batch_indices(order_seed, samples, steps, batch))


def draw(samples: Samples, purpose: str, seed: bytes, count: int) -> Samples:
    """`count` samples that a seed draws, or all where there are fewer. `ShardError` for none."""
    if not len(samples):
        raise ShardError(f"there are no {purpose} samples to compare with")
    return samples.take(permutation(f"gap/{purpose}", seed, len(samples))[:count])


def losses(
    model: "Model", theta_P: "Tensor", samples: Samples, device: str = "cpu"
) -> NDArray[np.float64]:
    """Each sample's mean loss over its labels, in nats, within 0 to `LOSS_MAX`. [N]."""
    from eigen.training.inner import sample_losses

    loss_N = sample_losses(model, theta_P, samples, device=device)
    return np.nan_to_num(loss_N, nan=LOSS_MAX, posinf=LOSS_MAX).clip(0.0, LOSS_MAX)


class MovingGaps(Generic[Trainer]):
    """The last `rounds` gaps of each trainer, each less the median of the others' in its round.

    The spread of honest gaps is that of all of them, while most trainers are honest; so nothing
    needs to be known of the model.
    """

    def __init__(self, rounds: int = ROUNDS, tolerance: float = TOLERANCE) -> None:
        self._rounds = rounds
        self._tolerance = tolerance
        self._relative: dict[Trainer, deque[float]] = {}

    def add(self, gaps: Mapping[Trainer, float]) -> frozenset[Trainer]:
        """Takes a round's gaps (`Gap.value`); returns whose average is too low to be believed.

        With fewer than `TRAINERS_MIN` of them there is nothing to compare, and nothing is kept.
        """
        if len(gaps) < TRAINERS_MIN:
            return frozenset()
        for trainer, gap in gaps.items():
            others = statistics.median(g for other, g in gaps.items() if other != trainer)
            kept = self._relative.setdefault(trainer, deque(maxlen=self._rounds))
            kept.append(gap - others)
        spread = self.deviation
        return frozenset(
            trainer
            for trainer in gaps
            if self.average(trainer)
            < -self._tolerance * spread / math.sqrt(len(self._relative[trainer]))
        )

    @property
    def trainers(self) -> frozenset[Trainer]:
        """Those of whom there are gaps."""
        return frozenset(self._relative)

    def average(self, trainer: Trainer) -> float:
        """Of its relative gaps. Raises KeyError for one who never had any."""
        return statistics.fmean(self._relative[trainer])

    @property
    def deviation(self) -> float:
        """The standard deviation of relative gaps, from their median magnitude."""
        return 1.4826 * statistics.median(
            abs(gap) for relative in self._relative.values() for gap in relative
        )

    def forget(self, trainer: Trainer) -> None:
        """Drop what is known of one who left."""
        self._relative.pop(trainer, None)
