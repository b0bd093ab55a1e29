"""What a machine asks of the world. The daemon performs effects on Trio, the simulator on a heap.

Effects are performed in order; a `Persist` is durable before the next effect starts, so nothing is
said that a crash could unsay.
"""

from dataclasses import dataclass

from eigen.protocol.changes import SpecChange
from eigen.protocol.messages import (
    Attempt,
    Check,
    Commitment,
    Finding,
    LocalWork,
    PartResult,
    RoundRecord,
    SeatProposal,
    Topic,
)
from eigen.protocol.types import Address, Cid, Digest, RunId


@dataclass(frozen=True, slots=True)
class Publish:
    """Sign and gossip a message."""

    topic: Topic
    message: object


@dataclass(frozen=True, slots=True)
class Persist:
    """Make a small record durable; None deletes it."""

    kind: str
    key: bytes
    value: bytes | None


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Deliver `TimerFired` at `at_s`; setting the same (name, attempt, part) again moves it."""

    name: str
    attempt: Attempt
    at_s: float
    part: int = 0


@dataclass(frozen=True, slots=True)
class Penalize:
    """Score a peer down: it did something that no honest node does."""

    peer: Address
    points: float
    reason: str


@dataclass(frozen=True, slots=True)
class Train:
    """An update for this attempt: H inner steps; answered by `Trained` or `TrainFailed`.

    What was left out of the last credited update goes in now: also where the steps were made ahead.
    """

    attempt: Attempt
    work: LocalWork


@dataclass(frozen=True, slots=True)
class TrainAhead:
    """Begin the inner steps of an update that a later `Train` of that round may ask for.

    Not answered. One at a time: what an earlier one began and nobody asked for is forgotten.
    """

    attempt: Attempt
    work: LocalWork


@dataclass(frozen=True, slots=True)
class SendPart:
    """Hand this node's encoded part to its owner; `reserve` goes to who would own it next."""

    attempt: Attempt
    part: int
    owner: Address
    reserve: bool = False


@dataclass(frozen=True, slots=True)
class Collect:
    """Aggregate a group's inputs of one part for its owner; answered by `Collected`."""

    attempt: Attempt
    part: int
    inputs: tuple[tuple[Address, int], ...]


@dataclass(frozen=True, slots=True)
class SendGroup:
    """Hand a group's aggregate of a part, held here, to the part's owner."""

    attempt: Attempt
    part: int
    group: PartResult
    owner: Address


@dataclass(frozen=True, slots=True)
class Combine:
    """Aggregate one part from groups' aggregates held here: who brought it, its name, its weight.

    Answered by `Aggregated`. `carried` as in `Aggregate`.
    """

    attempt: Attempt
    part: int
    groups: tuple[tuple[Address, PartResult, int], ...]
    carried: tuple[Cid, ...]


@dataclass(frozen=True, slots=True)
class Aggregate:
    """Aggregate one part from inputs held here (address, weight); answered by `Aggregated`.

    `carried` names what the results of the round before left out, if that goes in.
    """

    attempt: Attempt
    part: int
    inputs: tuple[tuple[Address, int], ...]
    carried: tuple[Cid, ...]


@dataclass(frozen=True, slots=True)
class SendResult:
    """Hand an aggregated part to the other members."""

    attempt: Attempt
    part: int
    result: PartResult
    members: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """Make the outer step from these results, fetching what is not here from `sources`.

    Answered by `Stepped`, or `StepFailed`.
    """

    attempt: Attempt
    base: Cid
    results: tuple[PartResult, ...]
    sources: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class Audit:
    """Check results against commitments and make the outer step; answered by `Audited`."""

    seat: SeatProposal
    commitments: tuple[tuple[Address, Commitment], ...]
    results: tuple[PartResult, ...]
    sources: tuple[Address, ...]
    carried: tuple[Cid, ...]


@dataclass(frozen=True, slots=True)
class Replay:
    """Train a credited trainer's round once more; answered by `Replayed` once that was possible."""

    check: Check


@dataclass(frozen=True, slots=True)
class Attest:
    """Sign the round root of this record and gossip the attestation."""

    record: RoundRecord


@dataclass(frozen=True, slots=True)
class Adopt:
    """A quorum attested this root: fetch record and checkpoint if missing, make them the head.

    Answered by `Adopted`. `attestations` are the validators' EIP-712 signatures by signer.
    """

    run: RunId
    round: int
    checkpoint: Digest
    record: Digest
    attestations: tuple[tuple[Address, bytes], ...]


@dataclass(frozen=True, slots=True)
class Repair:
    """The round has not moved for a while: ask a peer for its head and its evidence of the round.

    Answered by `Adopted` where the peer is ahead, and by `Received` for each message it had.
    """

    run: RunId


@dataclass(frozen=True, slots=True)
class SeatOpened:
    """Tell the rest of the node that an attempt is open (grants, progress)."""

    seat: SeatProposal


@dataclass(frozen=True, slots=True)
class Note:
    """Progress or a refusal, in words, for people and for tests."""

    event: str
    attempt: Attempt
    detail: str = ""


Effect = (
    Publish
    | Persist
    | SetTimer
    | Penalize
    | Train
    | TrainAhead
    | SendPart
    | Collect
    | SendGroup
    | Combine
    | Aggregate
    | SendResult
    | Step
    | Audit
    | Replay
    | Attest
    | Adopt
    | Repair
    | SeatOpened
    | Note
)

# What the world answers -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SpecChanged:
    """The DAO changed by what the run goes, from a round on; in the order of the chain."""

    change: SpecChange


@dataclass(frozen=True, slots=True)
class Started:
    """The node runs; first event of every machine."""


@dataclass(frozen=True, slots=True)
class Received:
    """A gossiped message whose envelope signature was verified as its author's."""

    sender: Address
    message: object


@dataclass(frozen=True, slots=True)
class TimerFired:
    """A timer that this machine set is due."""

    name: str
    attempt: Attempt
    part: int = 0


@dataclass(frozen=True, slots=True)
class PeerDown:
    """A peer has been unreachable for the grace period."""

    peer: Address


@dataclass(frozen=True, slots=True)
class PeerUp:
    """A peer is reachable (again)."""

    peer: Address


@dataclass(frozen=True, slots=True)
class Trained:
    """Local steps are done and the update's parts are stored here."""

    attempt: Attempt
    commitment: Commitment


@dataclass(frozen=True, slots=True)
class TrainFailed:
    """This node cannot contribute to this round (no key, no data, worker died); says why."""

    attempt: Attempt
    reason: str


@dataclass(frozen=True, slots=True)
class PartArrived:
    """A trainer's encoded part is stored here; `root` is what its proof hashes up to."""

    sender: Address
    attempt: Attempt
    part: int
    root: Digest


@dataclass(frozen=True, slots=True)
class Collected:
    """The group's aggregate is stored here. `refused` inputs did not decode and are not in it."""

    attempt: Attempt
    part: int
    digest: Digest
    refused: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class GroupArrived:
    """A collector's aggregate of its group is stored here."""

    sender: Address
    attempt: Attempt
    part: int
    group: PartResult


@dataclass(frozen=True, slots=True)
class Aggregated:
    """The aggregated part is stored here. `refused` inputs did not decode and are not in it."""

    attempt: Attempt
    part: int
    digest: Digest
    refused: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class ResultArrived:
    """An aggregated part from a peer is stored here."""

    sender: Address
    attempt: Attempt
    part: int
    result: PartResult


@dataclass(frozen=True, slots=True)
class Stepped:
    """The next checkpoint is stored durably here."""

    attempt: Attempt
    checkpoint: Cid


@dataclass(frozen=True, slots=True)
class StepFailed:
    """Results could not be had or applied; the node waits for the attested checkpoint instead."""

    attempt: Attempt
    reason: str


@dataclass(frozen=True, slots=True)
class Audited:
    """Results follow from the commitments, or `reason` says how they do not.

    `suspects` made a result that does not follow, unless they were passed over. `contributions` are
    inner products of the updates with the average of the others, where pay goes by them.
    """

    attempt: Attempt
    checkpoint: Cid
    left: tuple[Cid, ...] = ()
    reason: str = ""
    suspects: tuple[Address, ...] = ()
    contributions: tuple[tuple[Address, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Suspected:
    """Trainers whose updates of late do not show, by the loss gap, what they were to learn."""

    trainers: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class Replayed:
    """A trainer's round was trained once more: what that showed, see `Verdict`."""

    check: Check
    finding: Finding
    deviation: float


@dataclass(frozen=True, slots=True)
class Adopted:
    """The head moved: this record is attested, its checkpoint is here."""

    record: RoundRecord


@dataclass(frozen=True, slots=True)
class MembershipChanged:
    """Trainers that may be seated now, and what each says of its line (`Heartbeat.upload`)."""

    trainers: tuple[Address, ...]
    uploads: tuple[int, ...]


Event = (
    Started
    | Received
    | TimerFired
    | PeerDown
    | PeerUp
    | Trained
    | TrainFailed
    | PartArrived
    | Collected
    | GroupArrived
    | Aggregated
    | ResultArrived
    | Stepped
    | StepFailed
    | Audited
    | Replayed
    | Suspected
    | Adopted
    | MembershipChanged
    | SpecChanged
)
