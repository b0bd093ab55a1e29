"""What every machine of one run shares: the spec, the committee, and its deadlines."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from eigen.protocol.changes import Course
from eigen.protocol.effects import Repair
from eigen.protocol.messages import Attempt, Payout, RoundRecord
from eigen.protocol.run import RunSpec
from eigen.protocol.types import Address, Digest, RunId

PayoutRoot = Callable[[tuple[Payout, ...]], Digest]
"""keccak Merkle root over a payout table, as the ledger checks it (pure)."""


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long each phase may take, seconds. All of a network's nodes use the same."""

    commit_s: float  # from the open seat to the last commitment
    inputs_s: float  # an owner waits so long for the inputs of a part
    owner_s: float  # members wait so long for a part's result before they try its next owner
    notices_s: float  # validators wait so long after the audit for step notices
    attempt_s: float  # a validator gives an attempt up after this
    resend_s: float  # messages that others still need are gossiped again so often


@dataclass(frozen=True)
class RunContext:
    """One run, as the chain and the dataset manifest define it."""

    run: RunId
    spec: RunSpec
    seed: Digest  # drawn by the ledger when the run opened
    validators: frozenset[Address]
    quorum: int
    genesis: str  # CID of the first checkpoint, a function of the spec alone
    part_count: int
    shard_count: int
    sealed: bool
    deadlines: Deadlines
    payout_root: PayoutRoot

    @cached_property
    def course(self) -> Course:
        """By which specs the rounds go: `spec` is the one that the run opened with."""
        return Course(self.spec, self.shard_count, self.sealed)

    def bases(self, head: RoundRecord | None) -> tuple[str, ...]:
        """The checkpoints from which updates of the round after `head` may come.

        That round's own, and where rounds overlap also the one before it.
        """
        if head is None:
            return (self.genesis,)
        return (head.checkpoint, head.base) if self.spec.overlap else (head.checkpoint,)

    @cached_property
    def first(self) -> Attempt:
        """The first attempt at the first round: of timers that belong to no round."""
        return Attempt(self.run, 1, 0)

    @cached_property
    def repair(self) -> Repair:
        """What every node asks that sees the round stand still."""
        return Repair(self.run)

    @property
    def tolerated(self) -> int:
        """Validators that may lie or be silent while the others stay safe and still get on."""
        count = len(self.validators)
        return max(0, min(count - self.quorum, 2 * self.quorum - count - 1))
