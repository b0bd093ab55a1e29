"""A trainer of one private job: computes its gradient, adds those below it, hands the sum on.

It keeps nothing that matters: an owner sends its question again to who has not answered, and a
trainer that was killed then computes anew.
"""

from eigen.protocol.job_effects import (
    AddUp,
    Blame,
    ComputeOwn,
    OwnReady,
    PushFailed,
    PushSum,
    QuestionHeard,
    Signed,
    SumsHeard,
    TotalReady,
    TrainerEffect,
    TrainerEvent,
    Wake,
    Woken,
    WorkFailed,
)
from eigen.protocol.job_sums import BadSums, covered, seat_of
from eigen.protocol.private_job import (
    JobQuestion,
    PartialSum,
    PrivateJob,
    children,
    height,
    parent,
)
from eigen.protocol.types import Address, Cid


class JobTrainer:
    """One trainer's part in one job."""

    def __init__(self, job: PrivateJob, me: Address) -> None:
        self.job = job
        self.me = me
        self.question: JobQuestion | None = None
        self._forget()

    def _forget(self) -> None:
        self._own: Cid | None = None
        self._inputs: dict[int, tuple[Signed, ...]] = {}
        self._waiting = True
        self._adding = False
        self._made: PartialSum | None = None
        self._below: tuple[Signed, ...] = ()
        self._to_owner = False
        self._gave_up = False

    def handle(self, event: TrainerEvent, now: float) -> list[TrainerEffect]:
        """What is to be done about an event."""
        match event:
            case QuestionHeard():
                return self._heard(event.question, now)
            case SumsHeard():
                return self._handed(event)
            case OwnReady():
                if self._current(event.serial) and self._own is None:
                    self._own = event.own
                    return self._go_on()
            case TotalReady():
                if self._current(event.serial) and self._adding:
                    return self._finished(event.total)
            case WorkFailed():
                return self._failed(event)
            case PushFailed():
                if self._current(event.serial) and event.to != self.job.owner and self._made:
                    self._to_owner = True
                    return [PushSum(self.job.owner, self._made, self._below)]
            case Woken():
                if self._current(event.serial):
                    self._waiting = False
                    return self._go_on()
        return []

    def takes(self, serial: int) -> bool:
        """Whether a sum for this question could still be added: it is not made yet."""
        return self._current(serial) and self._made is None and not self._adding

    def _current(self, serial: int) -> bool:
        return self.question is not None and self.question.serial == serial

    @property
    def _seat(self) -> int:
        assert self.question is not None
        index = seat_of(self.question, self.me)
        assert index is not None
        return index

    def _heard(self, question: JobQuestion, now: float) -> list[TrainerEffect]:
        if seat_of(question, self.me) is None:
            return []
        if self.question is not None and question.serial <= self.question.serial:
            return self._asked_again() if question == self.question else []
        self.question = question
        self._forget()
        seats = len(question.seats)
        share = (height(self._seat, seats) + 1) / (height(0, seats) + 2)
        return [
            ComputeOwn(question, question.seats[self._seat].shards),
            Wake(now + share * question.deadline_s, question.serial),
        ]

    def _asked_again(self) -> list[TrainerEffect]:
        """The owner has nothing from here yet: what was made goes out again, what failed begins."""
        assert self.question is not None
        if self._made is not None:
            return self._pushed()
        if not self._gave_up:
            return []
        self._gave_up = False
        return [ComputeOwn(self.question, self.question.seats[self._seat].shards)]

    def _handed(self, event: SumsHeard) -> list[TrainerEffect]:
        first = event.sums[0]
        if self.question is None or not self.takes(first.sum.serial):
            return []
        index = seat_of(self.question, first.author)
        if first.author != event.sender or index is None or parent(index) != self._seat:
            return [Blame(event.sender, "a sum that is not for this seat")]
        try:
            covered(self.question, event.sums)
        except BadSums as error:
            return [Blame(event.sender, str(error))]
        self._inputs[index] = event.sums
        return self._go_on()

    def _go_on(self) -> list[TrainerEffect]:
        """Add up once there is nothing to wait for."""
        if self._own is None or self._adding or self._made or self.question is None:
            return []
        missing = set(children(self._seat, len(self.question.seats))) - self._inputs.keys()
        if missing and self._waiting:
            return []
        if not self._inputs:
            return self._finished(self._own)
        self._adding = True
        inputs = tuple((sums[0].author, sums[0].sum.total) for sums in self._inputs.values())
        return [AddUp(self.question, self._own, inputs)]

    def _finished(self, total: Cid) -> list[TrainerEffect]:
        assert self.question is not None
        assert self._own is not None
        self._adding = False
        question, handed = self.question, list(self._inputs.values())
        inputs = tuple(sums[0].sum.total for sums in handed)
        self._made = PartialSum(
            question.job, question.round, question.serial, self._own, inputs, total
        )
        self._below = tuple(signed for sums in handed for signed in sums)
        return self._pushed()

    def _pushed(self) -> list[TrainerEffect]:
        assert self.question is not None
        assert self._made is not None
        above = parent(self._seat)
        to = self.job.owner
        if above is not None and not self._to_owner:
            to = self.question.seats[above].trainer
        return [PushSum(to, self._made, self._below)]

    def _failed(self, event: WorkFailed) -> list[TrainerEffect]:
        """Without what is at fault, or not at all: the owner's deadline sees to the rest."""
        if not self._current(event.serial):
            return []
        if not self._adding:
            self._gave_up = self._own is None
            return []
        self._adding = False
        kept = {
            index: sums
            for index, sums in self._inputs.items()
            if sums[0].author not in event.unusable
        }
        self._inputs = kept if len(kept) < len(self._inputs) else {}
        self._waiting = False
        return self._go_on()
