"""When a replay is near enough: tolerances, what they are by default, and how measures give them.

An honest replay differs by rounding where another processor or another number of threads did the
work; a cheat differs by the work that it left out. In between a second validator decides. Knows no
torch, file or process.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from eigen.protocol.run import RunSpec
from eigen.protocol.wire import encode_bare
from eigen.training.results import Replay

ENCODING_MAX = 1e-2
"""The encoding of an honest update is off by chance roundings only, some 1e-5, on every machine."""
HONEST_MARGIN = 4.0
"""Processors that were not measured may differ by so much more than those that were."""
ACCEPT_MIN = 1e-4
"""No tolerance is less, however alike the processors at hand are."""


class Verdict(StrEnum):
    """What a replay says of an update."""

    ACCEPT = "accept"
    UNSURE = "unsure"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Distances up to `accept` are rounding, those above `reject` are not."""

    accept: float
    reject: float

    def __post_init__(self) -> None:
        """Raises ValueError where that makes no sense."""
        if not 0.0 < self.accept <= self.reject < 1.0:
            raise ValueError(
                f"accept = {self.accept:g}, reject = {self.reject:g}: accept must be above 0 and "
                "at most reject, and reject below 1"
            )

    def verdict(self, replay: Replay, samples: int) -> Verdict:
        """What a replay says of an update whose commitment claims so many samples.

        Where it is unsure, a validator with another machine decides.
        """
        if samples != replay.samples or replay.encoding_deviation > ENCODING_MAX:
            return Verdict.REJECT
        if replay.furthest <= self.accept:
            return Verdict.ACCEPT
        return Verdict.REJECT if replay.furthest > self.reject else Verdict.UNSURE


DEFAULTS = {"fp32": Tolerance(5e-3, 2e-2), "bf16": Tolerance(0.1, 0.2)}
"""By `inner.precision`, where nobody has measured."""


class Inseparable(Exception):
    """Honest replays differ by as much as cheats: no tolerance tells them apart."""


def proposed(honest: Sequence[float], cheats: Sequence[float]) -> Tolerance:
    """The tolerance that follows from distances of honest replays and of the slightest cheats.

    `accept` lies a third of the way from the largest honest distance to the smallest cheat's, in
    factors, and `reject` two thirds; the third is at least `HONEST_MARGIN`. Raises `Inseparable`
    where there is no room for that.
    """
    most, least = max(*honest, ACCEPT_MIN / HONEST_MARGIN), min(cheats)
    third = max(HONEST_MARGIN, (least / most) ** (1.0 / 3.0))
    if most * third > least / third:
        raise Inseparable(
            f"honest replays differ by up to {most:.1e}, and the slightest cheat by {least:.1e}"
        )
    return Tolerance(most * third, least / third)


def work_id(spec: RunSpec) -> str:
    """Names what tolerances hold for: the model and how it is trained, whatever the run."""
    return hashlib.sha256(encode_bare(spec.model) + encode_bare(spec.inner)).hexdigest()[:16]
