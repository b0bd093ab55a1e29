"""What virtual nodes compute: updates, averages, steps and audits, named by digests.

`Hashes` computes nothing, fast: every name is a hash of what it was made from, so a wrong input
gives a wrong name, as it would in truth. `learning.Learning` trains, behind the same methods.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from eigen.protocol.cid import raw_cid
from eigen.protocol.context import RunContext
from eigen.protocol.effects import Audit, Train
from eigen.protocol.exchange import makers, masked, seat_groups
from eigen.protocol.limits import SKETCH_BYTES
from eigen.protocol.messages import Commitment, PartResult, RoundRecord, digest
from eigen.protocol.types import Address, Cid, Digest

ROUNDS_KEPT = 16
"""A replay is begun once its round is over, and again where a node was away."""
Named = Sequence[tuple[Digest, int]]
"""Inputs of a part: the update's Merkle root, or the name of a group's part, and its weight."""


class Compute(Protocol):
    """The arithmetic of one run, as a function of names."""

    def train(self, trainer: Address, effect: Train) -> Commitment:
        """Local steps; what the trainer commits to."""
        ...

    def collect(self, part: int, inputs: Named) -> Digest:
        """One part of a group."""
        ...

    def combine(self, round_: int, part: int, groups: Named, carried: tuple[Cid, ...]) -> Digest:
        """One part from what groups come to."""
        ...

    def aggregate(self, round_: int, part: int, inputs: Named, carried: tuple[Cid, ...]) -> Digest:
        """One part from all trainers'."""
        ...

    def step(self, base: str, results: Sequence[PartResult]) -> Cid:
        """The next checkpoint."""
        ...

    def left(self, results: Sequence[PartResult]) -> tuple[Cid, ...]:
        """What results left out, by name."""
        ...

    def contributions(self, audit: Audit) -> tuple[tuple[Address, int], ...]:
        """Inner products of the committed updates with the average of the others."""
        ...

    def replay(self, record: RoundRecord, trainer: Address) -> float | None:
        """How far what a trainer committed to is from what its round comes to, relative.

        None where that is too long ago.
        """
        ...

    def adopted(self, record: RoundRecord) -> None:
        """A round is final."""
        ...


class Hashes:
    """Names alone."""

    def __init__(self) -> None:
        self._honest: dict[int, dict[Address, set[Commitment]]] = {}  # by round

    def train(self, trainer: Address, effect: Train) -> Commitment:
        """See `Compute`."""
        work = effect.work
        root = _hash("update", trainer, work.base, work.shards, work.order_seed)
        samples = 100 * len(work.shards)
        zero = Digest(bytes(32))
        sketch = bytes(SKETCH_BYTES)
        made = Commitment(effect.attempt, work.base, root, zero, sketch, samples, (1.0,))
        self._honest.setdefault(effect.attempt.round, {}).setdefault(trainer, set()).add(made)
        return made

    def collect(self, part: int, inputs: Named) -> Digest:
        """See `Compute`."""
        return _hash("collect", part, inputs)

    def combine(self, round_: int, part: int, groups: Named, carried: tuple[Cid, ...]) -> Digest:
        """See `Compute`."""
        return _hash("combine", round_, part, groups, carried)

    def aggregate(self, round_: int, part: int, inputs: Named, carried: tuple[Cid, ...]) -> Digest:
        """See `Compute`."""
        return _hash("aggregate", round_, part, inputs, carried)

    def step(self, base: str, results: Sequence[PartResult]) -> Cid:
        """See `Compute`."""
        return raw_cid(_hash("step", base, tuple(results)))

    def left(self, results: Sequence[PartResult]) -> tuple[Cid, ...]:
        """See `Compute`."""
        return (raw_cid(_hash("left", tuple(results))),)

    def contributions(self, audit: Audit) -> tuple[tuple[Address, int], ...]:
        """See `Compute`: all updates are alike."""
        return tuple((trainer, 1) for trainer, _ in audit.commitments)

    def replay(self, record: RoundRecord, trainer: Address) -> float | None:
        """See `Compute`: 0 or 1."""
        [named] = [c.commitment for c in record.trainers if c.account == trainer]
        if record.attempt.round not in self._honest:
            return None
        honest = self._honest[record.attempt.round].get(trainer, ())
        return float(named not in {digest(replace(h, attempt=record.attempt)) for h in honest})

    def adopted(self, record: RoundRecord) -> None:
        """See `Compute`."""
        self._honest.pop(record.attempt.round - ROUNDS_KEPT, None)


def fault(context: RunContext, compute: Compute, audit: Audit) -> tuple[str, tuple[Address, ...]]:
    """How results do not follow from the commitments, and who made them; empty where they do."""
    made = dict(audit.commitments)
    for part, result in enumerate(audit.results):
        authors = masked([m.trainer for m in audit.seat.members], result.included)
        if any(author not in made for author in authors):
            return f"part {part} includes somebody who did not commit", ()
        if _again(context, compute, audit, part, authors) != result.digest:
            reason = f"part {part} does not follow from its committed inputs"
            return reason, makers(context, audit.seat, part)
    return "", ()


def _again(
    context: RunContext, compute: Compute, audit: Audit, part: int, authors: Sequence[Address]
) -> Digest:
    made, round_ = dict(audit.commitments), audit.seat.attempt.round
    groups = seat_groups(context, audit.seat)
    collected = []
    for group in groups:
        inputs = [(made[a].parts_root, made[a].samples) for a in group if a in authors]
        if len(groups) == 1:
            return compute.aggregate(round_, part, inputs, audit.carried)
        if inputs:
            weight = sum(samples for _, samples in inputs)
            collected.append((compute.collect(part, inputs), weight))
    return compute.combine(round_, part, collected, audit.carried)


def _hash(*parts: object) -> Digest:
    return Digest(hashlib.sha256(repr(parts).encode()).digest())
