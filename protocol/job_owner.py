"""The owner of a private job: asks, round by round, until its state says that training is done.

A round goes on with whoever answers. At a question's deadline the shards that are still missing
go to other trainers, in a question of their own for the same weights: sums are sums, whoever made
them. What was stepped is durable before the next question, so an owner that was killed goes on
from its last step.
"""

from eigen.protocol import limits
from eigen.protocol.job_effects import (
    AskWeights,
    Blame,
    EndJob,
    JobFailed,
    OpenSums,
    OwnerEffect,
    OwnerEvent,
    SendQuestion,
    Signed,
    Stepped,
    SumsHeard,
    SumsRefused,
    TrainerFalse,
    TrainerRefuses,
    TrainersPresent,
    Wake,
    WeightsReady,
    Woken,
)
from eigen.protocol.job_sums import BadSums, covered, seat_of
from eigen.protocol.private_job import JobProgress, JobQuestion, JobSeat, PrivateJob
from eigen.protocol.seat import draw
from eigen.protocol.types import Address, Cid

RESENDS = 4
"""So often in a deadline the question goes again to who has not answered: it may have restarted."""
GRACE = 1.25
"""The owner waits longer than trainers do, for their sums to arrive."""
STRIKES_MAX = 3
"""Questions in a row without an answer; then others come first."""
RETRY_S = 5.0
"""Until somebody can be asked at all."""


class JobOwner:
    """One job's rounds. `progress` is where it stood when the owner started."""

    def __init__(self, job: PrivateJob, progress: JobProgress) -> None:
        self.job = job
        self.round = progress.round
        self.serial = progress.serial
        self.contributions = {c.trainer: c.shard_rounds for c in progress.contributions}
        self.excluded = {c.trainer for c in progress.contributions if c.excluded}
        self.ended: EndJob | None = None
        self.waiting = ""
        self._id = progress.job
        self._trainers: tuple[Address, ...] = ()
        self._strikes: dict[Address, int] = {}
        self._held: dict[int, Address] = {}
        self._retries = 0
        self._weights: WeightsReady | None = None
        self._forget()

    def _forget(self) -> None:
        """Nothing of this round is there."""
        self._questions: dict[int, JobQuestion] = {}
        self._got: list[tuple[frozenset[int], tuple[Signed, ...]]] = []
        self._opening = False
        self._deadline_s = 0.0

    def start(self) -> list[OwnerEffect]:
        """Ask for the first weights; or end, where the owner was killed after its last step."""
        if self.round >= self.job.rounds:
            return self._end(True, f"trained in {self.round} rounds")
        return [AskWeights(self.round + 1)]

    def handle(self, event: OwnerEvent, now: float) -> list[OwnerEffect]:
        """What is to be done about an event."""
        if self.ended is not None:
            return []
        match event:
            case TrainersPresent():
                self._trainers = event.trainers
                return self._ask_missing(now) if self._weights and not self._questions else []
            case WeightsReady():
                if event.round != self.round + 1:
                    return []
                self._weights = event
                self.serial = max(self.serial, event.now_ms)
                return self._ask_missing(now)
            case SumsHeard():
                return self._handed(event)
            case Stepped():
                return self._stepped(event)
            case SumsRefused():
                return self._refused(event, now)
            case TrainerFalse():
                self.excluded.add(event.trainer)
            case TrainerRefuses():
                self._strikes[event.trainer] = STRIKES_MAX
            case JobFailed():
                return self._end(False, event.why)
            case Woken():
                return self._woken(event.serial, now)
        return []

    # asking ---------------------------------------------------------------------------------------
    def _missing(self) -> list[int]:
        there = frozenset[int]().union(*(shards for shards, _ in self._got))
        return [shard for shard in range(len(self.job.shards)) if shard not in there]

    def _ask_missing(self, now: float) -> list[OwnerEffect]:
        """A question for all shards that no sum here has."""
        assert self._weights is not None
        if len(self._questions) >= limits.JOB_QUESTIONS_MAX:
            self._forget()
        self.serial += 1
        seats = self._seats(self._missing())
        if not seats:
            self.waiting = "no trainer is connected"
            return [Wake(now + RETRY_S, self.serial)]
        self.waiting = ""
        question = JobQuestion(
            self._id,
            self.round + 1,
            self.serial,
            self._weights.weights,
            self._weights.k,
            tuple(JobSeat(trainer, tuple(shards)) for trainer, shards in seats.items()),
            self.job.round_s,
        )
        self._questions[self.serial] = question
        self._deadline_s = now + GRACE * self.job.round_s
        return [*self._sent(question), Wake(now + self.job.round_s / RESENDS, self.serial)]

    def _sent(self, question: JobQuestion) -> list[OwnerEffect]:
        missing = set(self._missing())
        return [
            SendQuestion(seat.trainer, question)
            for seat in question.seats
            if missing & set(seat.shards)
        ]

    def _seats(self, shards: list[int]) -> dict[Address, list[int]]:
        """Who does what: as in the round before where it can be, and else the least loaded."""
        able = [t for t in self._trainers if t not in self.excluded]
        good = [t for t in able if self._strikes.get(t, 0) < STRIKES_MAX] or able
        seats: dict[Address, list[int]] = {}
        if not good:
            return seats
        most = -(-len(self.job.shards) // len(good))
        unplaced = []
        for shard in shards:
            holder = self._held.get(shard)
            if (
                holder in good
                and not self._strikes.get(holder)
                and (len(seats.get(holder, ())) < most)
            ):
                seats.setdefault(holder, []).append(shard)
            else:
                unplaced.append(shard)
        for shard in unplaced:
            number = shard.to_bytes(2, "big")

            def order(trainer: Address, number: bytes = number) -> tuple[int, int, bytes]:
                load = len(seats.get(trainer, ()))
                mark = draw(b"eigen/job-seat/1", self._id, number, trainer)
                return self._strikes.get(trainer, 0), load, mark

            seats.setdefault(min(good, key=order), []).append(shard)
        self._held |= {shard: t for t, given in seats.items() for shard in given}
        return seats

    # answers --------------------------------------------------------------------------------------
    def _handed(self, event: SumsHeard) -> list[OwnerEffect]:
        first = event.sums[0]
        question = self._questions.get(first.sum.serial)
        if question is None or self._opening:
            return []
        if first.author != event.sender:
            return [Blame(event.sender, "a sum of somebody else")]
        try:
            shards = covered(question, event.sums)
        except BadSums as error:
            return [Blame(event.sender, str(error))]
        over = [held for held in self._got if held[0] & shards]
        if any(not held[0] < shards for held in over):
            return []  # what is here has at least as much of it
        self._got = [held for held in self._got if held not in over] + [(shards, event.sums)]
        for signed in event.sums:
            self._strikes.pop(signed.author, None)
        if self._missing():
            return []
        self._opening = True
        parts = tuple(sums for _, sums in self._got)
        serials = sorted({sums[0].sum.serial for sums in parts})
        asked = tuple(self._questions[serial] for serial in serials)
        return [OpenSums(self.round + 1, parts, asked, self._credits(parts))]

    def _credits(self, parts: tuple[tuple[Signed, ...], ...]) -> tuple[tuple[Address, int], ...]:
        done: dict[Address, int] = {}
        for signed in (signed for sums in parts for signed in sums):
            question = self._questions[signed.sum.serial]
            index = seat_of(question, signed.author)
            assert index is not None
            count = len(question.seats[index].shards)
            done[signed.author] = done.get(signed.author, 0) + count
        return tuple(sorted(done.items()))

    def _stepped(self, event: Stepped) -> list[OwnerEffect]:
        if event.round != self.round + 1:
            return []
        for trainer, count in self._credits(tuple(sums for _, sums in self._got)):
            self.contributions[trainer] = self.contributions.get(trainer, 0) + count
        self.round = event.round
        self._retries, self._weights = 0, None
        self._forget()
        if event.done:
            return self._end(True, f"trained in {self.round} rounds")
        return [AskWeights(self.round + 1)]

    def _refused(self, event: SumsRefused, now: float) -> list[OwnerEffect]:
        if event.round != self.round + 1 or self._weights is None:
            return []
        self.excluded |= set(event.culprits)
        if not event.culprits:
            for _, sums in self._got:
                for signed in sums:
                    self._strikes[signed.author] = self._strikes.get(signed.author, 0) + 1
        self._forget()
        return self._again(event.why, now)

    def _woken(self, serial: int, now: float) -> list[OwnerEffect]:
        if serial != self.serial or self._weights is None or self._opening:
            return []
        question = self._questions.get(serial)
        if question is None:
            return self._again("no trainer is connected", now)
        if now < self._deadline_s:
            later = min(self._deadline_s, now + self.job.round_s / RESENDS)
            return [*self._sent(question), Wake(later, serial)]
        missing = set(self._missing())
        for seat in question.seats:
            if missing & set(seat.shards):
                self._strikes[seat.trainer] = self._strikes.get(seat.trainer, 0) + 1
        return self._again(f"{len(missing)} shards are missing", now)

    def _again(self, why: str, now: float) -> list[OwnerEffect]:
        self._retries += 1
        if self._retries > limits.JOB_RETRIES_MAX:
            return self._end(False, f"round {self.round + 1}: {why}, asked {self._retries} times")
        return self._ask_missing(now)

    def _end(self, done: bool, why: str) -> list[OwnerEffect]:
        self.ended = EndJob(done, why)
        return [self.ended]


def weights_in_use(owner: JobOwner) -> Cid | None:
    """The blob of weights that trainers may still ask for."""
    return owner._weights.weights if owner._weights else None
