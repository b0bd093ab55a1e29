"""What a private job is, and what owner, trainers and validators say to each other about it.

An owner has data that nobody else may see. It encrypts them (CKKS), names ciphertexts and public
keys by their hashes in a `PrivateJob`, and asks trainers round by round for the gradient of a
linear head at weights that it sends. Trainers add their gradients up along a tree and never see a
number; the owner decrypts the sum alone. All blobs are content: fetched, and verified, by CID.
"""

from dataclasses import dataclass
from typing import Annotated, NewType

from eigen.protocol import limits
from eigen.protocol.messages import Envelope, Round, ShardInfo
from eigen.protocol.types import Address, Cid, Digest
from eigen.protocol.wire import U64, Amount, Length, Range, Text, exactly, message

JOB = "/eigen/job/1"
JOB_ROUND = "/eigen/job-round/1"
JOB_SUM = "/eigen/job-sum/1"
JOB_COMPLAINT = "/eigen/job-complaint/1"

JobId = NewType("JobId", bytes)
"""SHA-256 of a `PrivateJob`."""

JobDigest = Annotated[bytes, exactly(32)]
Shard = Annotated[int, Range(limits.JOB_SHARDS_MAX - 1)]
JobShards = Annotated[tuple[Shard, ...], Length(limits.JOB_SHARDS_MAX, 1)]

HEADS = ("logistic", "softmax", "linear")


@dataclass(frozen=True, slots=True)
class JobPayment:
    """What a job pays: base units of an ERC-20, that lie in the DAO's escrow as its job `escrow`.

    The escrow's own record is what counts: it names the digest of the job that it was funded for.
    """

    escrow: Digest
    asset: Address
    price: Amount
    deadline_s: U64


@message(100)
@dataclass(frozen=True, slots=True)
class PrivateJob:
    """A job as its owner offers it: ciphertexts and public keys by content, and the shapes.

    `head` is an index of `HEADS`, `rows` are the largest shard's, `features` a row's, `outputs` the
    head's. `audit_bps` is the chance that a validator recomputes a trainer's round. `payment` has
    one entry, or none where nobody is paid.
    """

    owner: Address
    name: Text
    head: Annotated[int, Range(len(HEADS) - 1)]
    rows: Annotated[int, Range(limits.JOB_ROWS_MAX, 1)]
    features: Annotated[int, Range(limits.JOB_FEATURES_MAX, 1)]
    outputs: Annotated[int, Range(limits.JOB_OUTPUTS_MAX, 1)]
    encrypted_weights: bool
    keys: Cid
    shards: Annotated[tuple[ShardInfo, ...], Length(limits.JOB_SHARDS_MAX, 1)]
    rounds: Annotated[int, Range(limits.JOB_ROUNDS_MAX, 1)]
    round_s: Annotated[int, Range(limits.JOB_ROUND_S_MAX, 1)]
    audit_bps: Annotated[int, Range(10_000)]
    created_ms: U64
    payment: Annotated[tuple[JobPayment, ...], Length(1)] = ()

    @property
    def linear(self) -> bool:
        """Whether the head is a linear regression, which has no polynomial."""
        return HEADS[self.head] == "linear"


@dataclass(frozen=True, slots=True)
class JobSeat:
    """A trainer and the shards whose gradient it computes."""

    trainer: Address
    shards: JobShards


@message(101)
@dataclass(frozen=True, slots=True)
class JobQuestion:
    """The owner asks for a round's gradient at weights that are a blob, with the polynomial's k.

    `serial` only ever grows: a later question takes an earlier one's place. `deadline_s` counts
    from when a trainer hears it. Seats form a binary tree: seat i hands its sum to seat (i - 1) / 2
    and the first one to the owner.
    """

    job: JobDigest
    round: Round
    serial: U64
    weights: Cid
    k: float
    seats: Annotated[tuple[JobSeat, ...], Length(limits.JOB_SHARDS_MAX, 1)]
    deadline_s: Annotated[int, Range(limits.JOB_ROUND_S_MAX, 1)]


@message(102)
@dataclass(frozen=True, slots=True)
class PartialSum:
    """A trainer's own gradient, the sums that it was handed, and what they add up to, by content.

    Evaluation is deterministic, so these names prove the work: whoever repeats it gets the same.
    """

    job: JobDigest
    round: Round
    serial: U64
    own: Cid
    inputs: Annotated[tuple[Cid, ...], Length(limits.JOB_INPUTS_MAX)]
    total: Cid


Sums = Annotated[tuple[Envelope, ...], Length(limits.JOB_SHARDS_MAX, 1)]


@message(103)
@dataclass(frozen=True, slots=True)
class SumPush:
    """A trainer hands its sum to whom it belongs to: signed, the sums below it behind it."""

    sums: Sums


@message(104)
@dataclass(frozen=True, slots=True)
class JobRound:
    """The owner has made a step: the questions that it asked for it, and the sums that went in."""

    job: JobDigest
    round: Round
    questions: Annotated[tuple[Envelope, ...], Length(limits.JOB_QUESTIONS_MAX, 1)]
    sums: Sums


@message(105)
@dataclass(frozen=True, slots=True)
class JobVerdict:
    """A validator has recomputed a trainer's sum: `sound` where it has the same bytes."""

    job: JobDigest
    round: Round
    serial: U64
    trainer: Address
    sound: bool


@message(106)
@dataclass(frozen=True, slots=True)
class JobEnded:
    """The owner asks for nothing more; trainers may drop the job's blobs."""

    job: JobDigest
    done: bool
    why: Text


@message(107)
@dataclass(frozen=True, slots=True)
class JobQuery:
    """Asks an owner for its job, of which only the id is known; the reply is a `JobReply`."""

    job: JobDigest


@message(108)
@dataclass(frozen=True, slots=True)
class JobReply:
    """The job's envelope, if the peer has it."""

    envelopes: Annotated[tuple[Envelope, ...], Length(1)]


@message(109)
@dataclass(frozen=True, slots=True)
class JobContribution:
    """What the owner keeps of one trainer: shard-rounds that went into steps; never sent."""

    trainer: Address
    shard_rounds: U64
    excluded: bool


@message(110)
@dataclass(frozen=True, slots=True)
class JobProgress:
    """Where an owner's job stands after a step; never sent, only stored."""

    job: JobDigest
    round: Annotated[int, Range(limits.JOB_ROUNDS_MAX)]
    serial: U64
    contributions: Annotated[tuple[JobContribution, ...], Length(limits.MEMBERS_MAX)]


@message(111)
@dataclass(frozen=True, slots=True)
class JobComplaint:
    """A trainer tells the owner that its job cannot be worked on, and why."""

    job: JobDigest
    why: Text


@message(112)
@dataclass(frozen=True, slots=True)
class JobFigures:
    """What one round came to; never sent, only stored."""

    round: Round
    seconds: float
    loss: float
    score: float
    sent_bytes: U64
    received_bytes: U64


def parent(index: int) -> int | None:
    """The seat that a seat hands its sum to; None for the first one, whose sum is the owner's."""
    return (index - 1) // limits.JOB_INPUTS_MAX if index else None


def children(index: int, seats: int) -> range:
    """The seats that hand their sums to a seat."""
    first = limits.JOB_INPUTS_MAX * index + 1
    return range(min(first, seats), min(first + limits.JOB_INPUTS_MAX, seats))


def height(index: int, seats: int) -> int:
    """Seats on the longest way down from a seat, itself not counted."""
    below = children(index, seats)
    return 1 + height(below[0], seats) if below else 0
