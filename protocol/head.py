"""The head machine: which round is the last one attested. Every node runs it for every run.

Attestations are gathered for the rounds after the head; with a quorum for one root the node is told
to adopt it, whatever its own attempt made of the round. It does not know how rounds are trained.
"""

from collections.abc import Callable
from typing import Any

from eigen.protocol import limits
from eigen.protocol.context import RunContext
from eigen.protocol.effects import (
    Adopt,
    Adopted,
    Effect,
    Event,
    Note,
    Penalize,
    Received,
    SetTimer,
    SpecChanged,
    Started,
    TimerFired,
)
from eigen.protocol.messages import Attempt, Attestation, RoundRecord, digest
from eigen.protocol.tally import Tally
from eigen.protocol.types import Address, Cid, Digest

ROUNDS_AHEAD_MAX = 64
"""How far ahead of the head attestations are gathered, so that a late node can jump."""

Root = tuple[Digest, Digest]


class HeadMachine:
    """Events `Received(Attestation)` and `Adopted`; effect `Adopt`."""

    __slots__ = (
        "_adopting",
        "_round_at_repair",
        "_signatures",
        "_tally",
        "context",
        "finished",
        "head",
        "round",
    )

    def __init__(self, context: RunContext, head: RoundRecord | None = None) -> None:
        self.context = context
        self.head = head
        self.round = head.attempt.round if head else 0
        """The last attested round; 0 before the first."""
        self.finished = self.round >= context.spec.rounds
        """Whether all rounds of the run are attested."""
        self._tally: Tally[int, Root] = Tally()
        self._signatures: dict[tuple[int, Address], bytes] = {}
        self._adopting = 0
        self._round_at_repair = -1

    TRANSITIONS: dict[type, Callable[["HeadMachine", Any, float], list[Effect]]]

    @property
    def previous(self) -> Digest:
        """Digest of the last record; zero before the first."""
        return digest(self.head) if self.head else Digest(bytes(32))

    @property
    def checkpoint(self) -> str:
        """CID of the checkpoint from which the next round starts."""
        return self.head.checkpoint if self.head else self.context.genesis

    def carried_into(self, attempt: Attempt) -> tuple[Cid, ...]:
        """What the last round's results left out, if it goes into an attempt at the next one.

        After `ATTEMPTS_OF_ALL` it does not: it might be what nobody can fetch any more.
        """
        wanted = self.head is not None and attempt.number < limits.ATTEMPTS_OF_ALL
        return self.head.left if self.head is not None and wanted else ()

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Events that the head does not know change nothing."""
        transition = self.TRANSITIONS.get(type(event))
        return transition(self, event, now) if transition else []

    def _started(self, _event: Started, now: float) -> list[Effect]:
        return [] if self.finished else [self.context.repair, self._repair_timer(now)]

    def _repair_timer(self, now: float) -> SetTimer:
        return SetTimer("repair", self.context.first, now + self.context.deadlines.resend_s)

    def _on_timer(self, event: TimerFired, now: float) -> list[Effect]:
        """Anti-entropy: gossip may lose a message, a restart loses all of them."""
        if event.name != "repair" or self.finished:
            return []
        stalled = self._round_at_repair == self.round
        self._round_at_repair = self.round
        again = self._repair_timer(now)
        return [self.context.repair, again] if stalled else [again]

    def _received(self, event: Received, _now: float) -> list[Effect]:
        attestation = event.message
        if not isinstance(attestation, Attestation) or event.sender not in self.context.validators:
            return []
        ahead = attestation.round - self.round
        if not 0 < ahead <= ROUNDS_AHEAD_MAX or attestation.run != self.context.run:
            return []
        root: Root = (attestation.record, attestation.checkpoint)
        if not self._tally.add(attestation.round, event.sender, root):
            return [
                Penalize(event.sender, limits.PENALTY_BAD_DATA, "attested two roots for one round"),
                Note(
                    "equivocation",
                    Attempt(self.context.run, attestation.round, 0),
                    f"validator {event.sender.hex()} attested two roots",
                ),
            ]
        self._signatures[attestation.round, event.sender] = attestation.signature
        if attestation.round <= self._adopting:
            return []
        if self._tally.leading(attestation.round, self.context.quorum) != root:
            return []
        self._adopting = attestation.round  # once; `Repair` finds it again if adopting fails
        voters = self._tally.voters(attestation.round, root)
        signatures = tuple((v, self._signatures[attestation.round, v]) for v in sorted(voters))
        return [
            Adopt(
                self.context.run,
                attestation.round,
                attestation.checkpoint,
                attestation.record,
                signatures,
            )
        ]

    def _on_change(self, event: SpecChanged, _now: float) -> list[Effect]:
        self.context.course.learn(event.change)
        return []

    def _adopted(self, event: Adopted, _now: float) -> list[Effect]:
        if event.record.attempt.round <= self.round:
            return []
        self.head = event.record
        self.round = event.record.attempt.round
        self.finished = self.round >= self.context.spec.rounds
        self._tally.forget(range(self.round + 1, self.round + ROUNDS_AHEAD_MAX + 1))
        self._signatures = {k: v for k, v in self._signatures.items() if k[0] > self.round}
        return []


HeadMachine.TRANSITIONS = {
    Started: HeadMachine._started,
    TimerFired: HeadMachine._on_timer,
    Received: HeadMachine._received,
    Adopted: HeadMachine._adopted,
    SpecChanged: HeadMachine._on_change,
}
