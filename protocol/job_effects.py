"""Events and effects of the two machines of a private job. The daemon performs effects on Trio."""

from dataclasses import dataclass

from eigen.protocol.messages import Envelope
from eigen.protocol.private_job import JobQuestion, PartialSum
from eigen.protocol.types import Address, Cid


@dataclass(frozen=True, slots=True)
class Signed:
    """A partial sum, who signed it, and the signed bytes."""

    author: Address
    sum: PartialSum
    envelope: Envelope


# both ---------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Wake:
    """Deliver `Woken` at `at_s`; a later `Wake` of the same serial moves it."""

    at_s: float
    serial: int


@dataclass(frozen=True, slots=True)
class Woken:
    """A time that was asked for has come."""

    serial: int


@dataclass(frozen=True, slots=True)
class SumsHeard:
    """A peer hands its sum over, its own first, then those below it. Signatures hold."""

    sender: Address
    sums: tuple[Signed, ...]


@dataclass(frozen=True, slots=True)
class Blame:
    """A peer did what no honest one does."""

    peer: Address
    why: str


# the owner's --------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class TrainersPresent:
    """Who could be asked now."""

    trainers: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class AskWeights:
    """Make the weights of the next step's gradient; answered by `WeightsReady` or `JobFailed`."""

    round: int


@dataclass(frozen=True, slots=True)
class WeightsReady:
    """The round's weights are a blob of this node's; `now_ms` of the calendar."""

    round: int
    weights: Cid
    k: float
    now_ms: int


@dataclass(frozen=True, slots=True)
class SendQuestion:
    """Send the round's question to one of its seats."""

    trainer: Address
    question: JobQuestion


@dataclass(frozen=True, slots=True)
class OpenSums:
    """Add up, decrypt, step and persist; answered by `Stepped` or `SumsRefused`.

    `credits` are the shards that each trainer has done.
    """

    round: int
    parts: tuple[tuple[Signed, ...], ...]
    questions: tuple[JobQuestion, ...]
    credits: tuple[tuple[Address, int], ...]


@dataclass(frozen=True, slots=True)
class Stepped:
    """A step was made and is durable. `done`: no other follows."""

    round: int
    done: bool


@dataclass(frozen=True, slots=True)
class SumsRefused:
    """The sum is not to be had, or not what the data allow. `culprits` are known to be false."""

    round: int
    why: str
    culprits: tuple[Address, ...] = ()


@dataclass(frozen=True, slots=True)
class TrainerFalse:
    """A trainer's sum was recomputed and is false."""

    trainer: Address


@dataclass(frozen=True, slots=True)
class TrainerRefuses:
    """A trainer does not take a question, as one without the software for it."""

    trainer: Address


@dataclass(frozen=True, slots=True)
class JobFailed:
    """The owner's side cannot go on, or a person has cancelled the job."""

    why: str


@dataclass(frozen=True, slots=True)
class EndJob:
    """Nothing more is asked for."""

    done: bool
    why: str


# the trainers' ------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class QuestionHeard:
    """The owner's question; its signature holds."""

    question: JobQuestion


@dataclass(frozen=True, slots=True)
class ComputeOwn:
    """The gradient of these shards, as a blob; answered by `OwnReady` or `WorkFailed`."""

    question: JobQuestion
    shards: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class OwnReady:
    """This trainer's gradient is a blob here."""

    serial: int
    own: Cid


@dataclass(frozen=True, slots=True)
class AddUp:
    """Add sums of others to one's own; answered by `TotalReady` or `WorkFailed`."""

    question: JobQuestion
    own: Cid
    inputs: tuple[tuple[Address, Cid], ...]


@dataclass(frozen=True, slots=True)
class TotalReady:
    """The sum is a blob here."""

    serial: int
    total: Cid


@dataclass(frozen=True, slots=True)
class WorkFailed:
    """Something could not be computed. `unusable` are the peers whose blobs were at fault."""

    serial: int
    why: str
    unusable: tuple[Address, ...] = ()


@dataclass(frozen=True, slots=True)
class PushSum:
    """Hand a sum and those below it to a peer; answered by `PushFailed` where it does not go."""

    to: Address
    sum: PartialSum
    below: tuple[Signed, ...]


@dataclass(frozen=True, slots=True)
class PushFailed:
    """A peer was not to be reached, or is past waiting for this sum."""

    serial: int
    to: Address


OwnerEvent = (
    TrainersPresent
    | WeightsReady
    | SumsHeard
    | Stepped
    | SumsRefused
    | TrainerFalse
    | TrainerRefuses
    | JobFailed
    | Woken
)
OwnerEffect = AskWeights | SendQuestion | OpenSums | EndJob | Wake | Blame
TrainerEvent = QuestionHeard | OwnReady | SumsHeard | TotalReady | WorkFailed | PushFailed | Woken
TrainerEffect = ComputeOwn | AddUp | PushSum | Wake | Blame
