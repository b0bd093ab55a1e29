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


class Chronicle:
    """Writes down how rounds end, and judges at last: what tiers 2 and 3 share."""

    def __init__(
        self, outcome: Outcome, name_of: Callable[[Address], str], record: Record | None
    ) -> None:
        self.outcome = outcome
        self.adopted = 0
        self.models: dict[int, dict[str, str]] = {}
        """By round: which checkpoint each node made its own."""
        self._name_of = name_of
        self._record = record

    def event(
        self, time_s: float, node: str, kind: str, round_: int, attempt: int = 0, detail: str = ""
    ) -> None:
        """See `Record.event`."""
        if self._record is not None:
            self._record.event(time_s, node, kind, round_, attempt, detail)

    def end_round(
        self, now_s: float, record: RoundRecord, alive: int, bytes_of: Mapping[str, dict[str, int]]
    ) -> None:
        """A round is attested: what it took and who was paid. `bytes_of` is emptied."""
        last, outcome = record.attempt.round, self.outcome
        before = max(outcome.ended_s)
        outcome.ended_s[last] = now_s
        outcome.records[last] = record
        self.adopted = last
        if self._record is None:
            return
        out = self._record.metric
        out(now_s, "round_s", now_s - outcome.ended_s[before], "", last)
        out(now_s, "attempts", record.attempt.number + 1.0, "", last)
        out(now_s, "alive", float(alive), "", last)
        whole = sum(credit.amount for credit in record.trainers) or 1
        for credit in record.trainers:
            out(now_s, "credited", credit.amount / whole, self._name_of(credit.account), last)
        for figure, counts in bytes_of.items():
            for name, size in counts.items():
                out(now_s, figure, float(size), name, last)
            counts.clear()

    def adopt(self, node: str, round_: int, checkpoint: str) -> None:
        """A node made a round's checkpoint its own."""
        self.models.setdefault(round_, {})[node] = checkpoint

    def _replicas(self) -> tuple[str, bool, str]:
        """Whether nodes that hold a round hold the same bytes: expected of every run."""
        apart = sorted(r for r, held in self.models.items() if len(set(held.values())) > 1)
        seen = f"differ in rounds {apart}" if apart else f"{len(self.models)} rounds"
        return "replicas: identical", not apart, seen

    def seated(self, round_: int, count: int) -> None:
        """How many trainers had a seat in a round that has ended."""
        if self._record is not None:
            self._record.metric(self.outcome.ended_s[round_], "seated", float(count), "", round_)

    def judged(self, round_: int, loss: float, accuracy: float) -> None:
        """What a round's checkpoint is worth; told once for each round."""
        at_s = self.outcome.ended_s.get(round_)
        if at_s is None or round_ in self.outcome.accuracy:
            return
        self.outcome.accuracy[round_] = accuracy
        if self._record is not None and round_:
            self._record.metric(at_s, "loss", loss, "", round_)
            self._record.metric(at_s, "accuracy", accuracy, "", round_)

    def answer(self, now_s: float, events: int, trace: str) -> Answer:
        """What it came to; each expectation is written down."""
        outcome = self.outcome
        judged = (outcome.judge(wanted) for wanted in outcome.scenario.expect)
        held = (*judged, self._replicas())
        for what, true, detail in held:
            self.event(now_s, "", "assert", 0, 0, f"{what}: {detail}; {true}")
        return Answer(held, self.adopted, now_s, events, trace)
