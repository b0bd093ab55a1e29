"""Changes to a run that goes on: what may change, and from which round. It does not know who votes.

A run's name and its budget are what the ledger opened; the model, its parts and what is kept from
round to round are what its checkpoints are made of. All of that stays. Which spec a round goes by
is said in its seat: validators vote for a seat only if it is the one that they expect, so that
nobody has to learn of a change at the same moment.
"""

from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, Final

from eigen.protocol import limits
from eigen.protocol.messages import NO_DIGEST, Attempt, Round
from eigen.protocol.run import RunSpec, spec_digest
from eigen.protocol.types import Digest
from eigen.protocol.wire import U64, Range, message

CHANGEABLE: Final = frozenset(
    {
        "dataset",
        "inner.steps",
        "inner.batch",
        "inner.lr",
        "inner.weight_decay",
        "inner.micro_batches",
        "inner.schedule",
        "inner.warmup",
        "outer.lr",
        "aggregation.rule",
        "aggregation.tolerated_bps",
    }
)
"""Fields that a vote may change while a run goes on."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a round goes by. `name` is the spec's digest, zero for the one the run opened with."""

    name: Digest
    spec: RunSpec
    shard_count: int
    sealed: bool


@message(92)
@dataclass(frozen=True, slots=True)
class SpecChange:
    """From a round on a run goes by another spec, as the DAO decided; kept, never sent.

    `shard_count` and `sealed` are the dataset's, `block` is the decision's on chain.
    """

    from_round: Round
    spec: RunSpec
    shard_count: Annotated[int, Range(limits.SHARDS_MAX, 1)]
    sealed: bool
    block: U64

    @property
    def terms(self) -> Terms:
        """What rounds go by from then on."""
        return Terms(spec_digest(self.spec), self.spec, self.shard_count, self.sealed)


class Course:
    """By which specs one run goes: what it opened with, and what the DAO changed since.

    Shared by a node's machines of the run.
    """

    __slots__ = ("_changes", "_seated", "opened")

    def __init__(self, spec: RunSpec, shard_count: int, sealed: bool) -> None:
        self.opened = Terms(NO_DIGEST, spec, shard_count, sealed)
        self._changes: list[tuple[SpecChange, Terms]] = []
        self._seated: dict[Attempt, Terms] = {}

    def learn(self, change: SpecChange) -> bool:
        """Take in a change, in the order of the chain. False where it was known."""
        if any(known == change for known, _ in self._changes):
            return False
        self._changes.append((change, change.terms))
        return True

    def expected(self, round_: int) -> Terms:
        """What a round should go by, as far as this node knows: the last change up to it."""
        for change, terms in reversed(self._changes):
            if change.from_round <= round_:
                return terms
        return self.opened

    def named(self, name: Digest) -> Terms | None:
        """The terms with this name, None where this node has not heard of them."""
        if name == NO_DIGEST:
            return self.opened
        return next((terms for _, terms in self._changes if terms.name == name), None)

    def seat(self, attempt: Attempt, terms: Terms) -> None:
        """An attempt is open, and goes by these."""
        self._seated[attempt] = terms
        if len(self._seated) > SEATED_MAX:
            del self._seated[next(iter(self._seated))]

    def of(self, attempt: Attempt) -> Terms:
        """What an attempt goes by."""
        return self._seated.get(attempt) or self.expected(attempt.round)

    @property
    def ever_sealed(self) -> bool:
        """Whether any of its datasets is private."""
        return self.opened.sealed or any(change.sealed for change, _ in self._changes)

    @property
    def changes(self) -> tuple[SpecChange, ...]:
        """In the order of the chain."""
        return tuple(change for change, _ in self._changes)


SEATED_MAX: Final = 4 * limits.ATTEMPTS_REMEMBERED
"""Attempts of which is remembered what they went by."""


def _values(spec: Any, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in fields(spec):
        value = getattr(spec, field.name)
        if is_dataclass(value):
            found |= _values(value, f"{prefix}{field.name}.")
        else:
            found[prefix + field.name] = value
    return found


def changed_fields(before: RunSpec, after: RunSpec) -> list[str]:
    """Names of the fields that differ, `inner.lr` and the like, in the spec's order."""
    old, new = _values(before), _values(after)
    return [name for name in old if old[name] != new[name]]


def differences(before: RunSpec, after: RunSpec) -> list[str]:
    """`inner.lr 0.002 → 0.001` and the like."""
    old, new = _values(before), _values(after)
    return [f"{name} {old[name]} → {new[name]}" for name in changed_fields(before, after)]


def check_change(opened: RunSpec, after: RunSpec) -> None:
    """Raises ValueError where a spec changes what stays while a run goes on; names the field.

    Every node comes to the same answer, whatever changed before.
    """
    for name in changed_fields(opened, after):
        if name not in CHANGEABLE:
            raise ValueError(f"{name} stays while a run goes on; propose another run")
    if opened.overlap:
        raise ValueError("overlap: where rounds overlap, a run keeps the settings it began with")
