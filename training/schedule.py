"""The learning rate of every inner step, over a whole run.

A pure function of the run spec and of how many rounds were made: so a late joiner and a validator
have it without being told. Knows no torch.
"""

import math
from collections.abc import Callable

from eigen.protocol.run import RunSpec

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda _: 1.0,
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 + 0.5 * math.cos(math.pi * progress),
}
"""The share of `inner.lr` by the progress, from 0 to below 1, between warm-up and the run's end."""


def rates(spec: RunSpec, rounds_before: int) -> list[float]:
    """The learning rate of each inner step in the round after `rounds_before`; all are above 0.

    Over `inner.warmup` steps of the run the rate rises in equal steps to `inner.lr`, then follows
    the schedule, which nears 0 at the run's last step (`cosine`: Loshchilov and Hutter,
    arXiv:1608.03983). Raises ValueError for a round that the run does not have.
    """
    if not 0 <= rounds_before < spec.rounds:
        raise ValueError(f"{rounds_before} rounds before this one, the run has {spec.rounds}")
    first = rounds_before * spec.inner.steps
    return [_rate(spec, step) for step in range(first, first + spec.inner.steps)]


def _rate(spec: RunSpec, step: int) -> float:
    inner = spec.inner
    if step < inner.warmup:
        return inner.lr * (step + 1) / inner.warmup
    progress = (step - inner.warmup) / (spec.rounds * inner.steps - inner.warmup)
    return inner.lr * SCHEDULES[inner.schedule](progress)
