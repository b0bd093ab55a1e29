"""What a validator has promised in a round, as it grows, and how it survives a restart."""

from dataclasses import dataclass, field
from typing import Annotated

from eigen.protocol import limits
from eigen.protocol.effects import Effect, Persist, Publish
from eigen.protocol.messages import Attempt, Outcome, SeatProposal, Topic
from eigen.protocol.wire import U64, Length, encode, message


@message(90)
@dataclass(frozen=True, slots=True)
class Promises:
    """What a validator has said in a round and must not unsay; never sent, only stored."""

    round: U64 = 0
    attempt: U64 = 0
    given_up: U64 = 0  # attempts below this one are given up
    seat_votes: Annotated[tuple[U64, ...], Length(limits.ATTEMPTS_MAX)] = ()
    outcome_votes: Annotated[tuple[U64, ...], Length(limits.ATTEMPTS_MAX)] = ()
    prepared: Annotated[tuple[Outcome, ...], Length(1)] = ()
    checked: Annotated[tuple[Outcome, ...], Length(1)] = ()  # voted for, where none is prepared


@dataclass(slots=True)
class Promised:
    """The promises of the round in progress."""

    given_up: int = 0
    seat_votes: set[int] = field(default_factory=set)  # by attempt
    outcome_votes: set[int] = field(default_factory=set)  # by attempt
    prepared: Outcome | None = None
    checked: Outcome | None = None

    @classmethod
    def restored(cls, stored: Promises) -> "Promised":
        """The promises that were stored before a restart."""
        return cls(
            stored.given_up,
            set(stored.seat_votes),
            set(stored.outcome_votes),
            stored.prepared[0] if stored.prepared else None,
            stored.checked[0] if stored.checked else None,
        )

    @property
    def told(self) -> Outcome | None:
        """What a time-out tells the others: the prepared outcome, else the one voted for."""
        return self.prepared or self.checked

    def persist(self, attempt: Attempt) -> Persist:
        """Store them; `attempt` is the one in progress. Votes in attempts given up are left out."""
        promises = Promises(
            attempt.round,
            attempt.number,
            self.given_up,
            tuple(sorted(n for n in self.seat_votes if n >= self.given_up)),
            tuple(sorted(n for n in self.outcome_votes if n >= self.given_up)),
            (self.prepared,) if self.prepared else (),
            (self.checked,) if self.checked and not self.prepared else (),
        )
        return Persist("promises", attempt.run, encode(promises))


def publish_promised(proposal: SeatProposal | Outcome, effects: list[Effect]) -> list[Effect]:
    """Propose once our own vote for it is durable: a restart must not propose something else."""
    promised = 1 if effects and isinstance(effects[0], Persist) else 0
    return [*effects[:promised], Publish(Topic.ROUNDS, proposal), *effects[promised:]]
