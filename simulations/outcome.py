"""What a run came to: what is recorded of it, and whether what was expected held. Knows no tier."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from eigen.protocol.effects import (
    Adopt,
    Attest,
    Audit,
    Effect,
    Event,
    Note,
    Penalize,
    Publish,
    Step,
    Train,
)
from eigen.protocol.messages import Attempt, Commitment, ResultVote, RoundRecord, SeatProposal
from eigen.protocol.types import Address
from eigen.simulations.scenario import Expectation, Scenario


class Record(Protocol):
    """Where events and metrics go."""

    def event(
        self, time_s: float, node: str, kind: str, round_: int, attempt: int, detail: str = ""
    ) -> None:
        """Something that a node did, or that happened to it."""
        ...

    def metric(
        self, time_s: float, name: str, value: float, node: str = "", round_: int = 0
    ) -> None:
        """Something that was measured."""
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    """What a run came to. `held` has each expectation in words, whether it held, and its figure."""

    held: tuple[tuple[str, bool, str], ...]
    rounds: int
    virtual_s: float
    events: int
    trace: str


@dataclass(slots=True)
class Outcome:
    """Rounds as they ended, and who holds what, as far as expectations ask."""

    scenario: Scenario
    group_of: Callable[[Address], str]
    ended_s: dict[int, float] = field(default_factory=lambda: {0: 0.0})
    records: dict[int, RoundRecord] = field(default_factory=dict)
    accuracy: dict[int, float] = field(default_factory=dict)
    held: tuple[tuple[str, int], ...] = ()
    """Group and round of each honest node that is up at the end."""

    def judge(self, wanted: Expectation) -> tuple[str, bool, str]:
        """An expectation in words, whether it held, and its figure."""
        figure = self._figure(wanted)
        bounds = [f"at least {wanted.least:g}"] if wanted.least > 0 else []
        bounds += [f"at most {wanted.most:g}"] if wanted.most < 1e9 else []
        of = f" of {wanted.nodes}" if wanted.nodes else ""
        round_ = f" in round {wanted.round}" if wanted.round else ""
        what = f"{wanted.what}{of}{round_}: {' and '.join(bounds)}"
        return what, wanted.least <= figure <= wanted.most, f"{figure:.4g}"

    def _figure(self, wanted: Expectation) -> float:
        last = wanted.round or self.scenario.run.rounds
        took = [(self.ended_s[r] - self.ended_s.get(r - 1, 0.0)) for r in self.ended_s if r]
        match wanted.what:
            case "committed":
                among = [r for group, r in self.held if wanted.nodes in ("", group)]
                return sum(r >= last for r in among) / max(1, len(among))
            case "attempts":
                counts = [r.attempt.number + 1 for r in self.records.values()]
                return sum(counts) / max(1, len(counts))
            case "round-seconds":
                return sum(took) / len(took) if took else float("inf")
            case "accuracy":
                known = max((r for r in self.accuracy if r <= last), default=0)
                return self.accuracy.get(known, 0.0)
            case _:
                return self._paid(wanted.nodes)

    def _paid(self, group: str) -> float:
        """Of all that trainers were paid, the share that went to a group."""
        paid = [c for record in self.records.values() for c in record.trainers]
        whole = sum(c.amount for c in paid)
        ours = sum(c.amount for c in paid if self.group_of(c.account) == group)
        return ours / whole if whole else 0.0


_KINDS: Final[Mapping[type, str]] = {
    Train: "train",
    Step: "step",
    Adopt: "adopt",
    Attest: "attest",
    Audit: "audit",
    Penalize: "penalize",
}
_SAID: Final[Mapping[type, str]] = {
    SeatProposal: "seat",
    Commitment: "commit",
    ResultVote: "vote",
}


def kind_of(effect: Event | Effect) -> str:
    """What an effect is called in a record; empty for what is not recorded."""
    if isinstance(effect, Publish):
        return _SAID.get(type(effect.message), "")
    if isinstance(effect, Note):
        return "exchange" if effect.event == "exchange" else "note"
    return _KINDS.get(type(effect), "")


def attempt_of(effect: object) -> Attempt | None:
    """The attempt that an effect, or the message in it, belongs to."""
    said = effect
    for name in ("message", "record", "seat"):
        inner = getattr(said, name, None)
        said = said if inner is None or isinstance(inner, bytes) else inner
    at = getattr(said, "attempt", None)
    return at if isinstance(at, Attempt) else None
