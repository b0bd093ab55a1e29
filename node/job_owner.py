"""The owner's part in its private job: performs what its machine asks for, and keeps its state.

The state after a step, the contributions and the figures are one transaction: an owner that is
killed at any moment goes on from the last step, with the key in its folder.
"""

import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import structlog
import trio

from eigen.node.job_audit import culprits
from eigen.node.job_folder import JobFolder
from eigen.node.job_opening import FalseSum, add_up
from eigen.node.job_ports import KEPT_ROUNDS, JobPorts
from eigen.node.job_trainer import FAILURES
from eigen.node.ports import NetworkError, RequestRefused
from eigen.node.worker_process import WorkerError
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
    SumsRefused,
    TrainerRefuses,
    TrainersPresent,
    Wake,
    WeightsReady,
    Woken,
)
from eigen.protocol.job_owner import JobOwner
from eigen.protocol.membership import TRAINER
from eigen.protocol.messages import Envelope
from eigen.protocol.private_job import (
    JOB_ROUND,
    JobContribution,
    JobEnded,
    JobFigures,
    JobProgress,
    JobQuestion,
    JobRound,
    PrivateJob,
)
from eigen.protocol.types import Address
from eigen.protocol.wire import encode
from eigen.training.errors import BadCiphertext, TrainingError
from eigen.training.frames import Files
from eigen.training.homomorphic.plan import Plan

log = structlog.get_logger()

STATE, PROGRESS, FIGURES, ENDED = "job-state", "job-progress", "job-figures", "job-ended"
"""Kinds of rows of the record store, by job."""
TOLD = "job-round"
"""The same, of a job that pays: each round as validators were told it."""
ASK_TIMEOUT_S = 15.0
"""A question has some kilobytes; the answer is that it was heard."""
OFFER_EVERY_S = 30.0
"""How often the job is told again, to who came since, and who is there is counted."""
OWN_PATIENCE_S = 120.0
"""The owner's own work gets this long at least: rounds may be short, and the machine busy."""
WORKER_TRIES = 3
"""A process that was killed is started again so often before the job fails."""
WORKER_RETRY_S = 5.0
"""Between two tries."""
LOOK_EVERY_S = 1.0
"""How often the owner looks who could train."""


@dataclass(slots=True)
class Owned:
    """A job of this node's as it was stored."""

    job: PrivateJob
    id: bytes
    envelope: Envelope
    plan: Plan
    folder: JobFolder
    state: bytes
    progress: JobProgress


class OwnedJob:
    """One job that this node has others train."""

    def __init__(self, owned: Owned, ports: JobPorts, figures: list[JobFigures]) -> None:
        self.owned = owned
        self.job = owned.job
        self.machine = JobOwner(owned.job, owned.progress)
        self.figures = figures
        self._ports = ports
        self._began_s = 0.0
        self._sent_bytes = 0
        self._envelopes: dict[int, Envelope] = {}
        self._secret = b""
        self.checked_s = -math.inf
        """When a complaint about its keys was last looked into."""
        self.made: dict[tuple[int, Address], tuple[JobQuestion, Signed]] = {}
        """Sums of the last rounds by their question's serial and maker, as validators name them."""
        self._events_in, self._events_out = trio.open_memory_channel[OwnerEvent](1024)

    @property
    def _patience_s(self) -> float:
        return max(OWN_PATIENCE_S, float(self.job.round_s))

    def post(self, event: OwnerEvent) -> None:
        """Tell the machine; dropped where a thousand events wait, as from a peer gone mad."""
        try:
            self._events_in.send_nowait(event)
        except trio.WouldBlock:
            log.warning("an event of a private job is dropped", job=self.owned.id.hex()[:12])

    async def run(self) -> None:
        """Ask, open and step until the job has ended. A cancel leaves what was stepped.

        Raises a `KeyFileError` where the job's secret key cannot be read.
        """
        self._secret = self.owned.folder.secret(self._ports.identity)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._look)
            nursery.start_soon(self._offer)
            effects = self.machine.start()
            while not (effects and isinstance(effects[-1], EndJob)):
                for effect in effects:
                    self._begin(effect)
                event = await self._events_out.receive()
                effects = self.machine.handle(event, trio.current_time())
            await self._end(effects[-1])
            nursery.cancel_scope.cancel()

    def _begin(self, effect: OwnerEffect) -> None:
        match effect:
            case AskWeights():
                self._start(partial(self._weights, effect.round))
            case SendQuestion():
                self._start(partial(self._ask, effect))
            case OpenSums():
                self._start(partial(self._open, effect))
            case Wake():
                self._start(partial(self._wake, effect))
            case Blame():
                self._ports.network.penalize(effect.peer, limits.PENALTY_BAD_DATA, effect.why)

    def _start(self, work: Callable[[], Awaitable[None]]) -> None:
        async def run() -> None:
            try:
                await work()
            except FAILURES as error:
                self.post(JobFailed(str(error)))

        self._nursery.start_soon(run)

    async def _look(self) -> None:
        """Who could train, whenever that changes."""
        known: tuple[object, ...] | None = None
        while True:
            me, peers = self._ports.identity.address, self._ports.network.peers()
            there = [t for t in self._ports.members.with_role(TRAINER) if t in peers and t != me]
            now = tuple(sorted(there))
            if now != known:
                known = now
                self.post(TrainersPresent(now))
            await trio.sleep(LOOK_EVERY_S)

    async def _offer(self) -> None:
        while True:
            await self._ports.gossip.publish(self.job)
            await trio.sleep(OFFER_EVERY_S)

    async def _wake(self, effect: Wake) -> None:
        await trio.sleep_until(effect.at_s)
        self.post(Woken(effect.serial))

    async def _weights(self, round_: int) -> None:
        ports, owned = self._ports, self.owned
        self._began_s = trio.current_time()
        self._envelopes.clear()
        given = (owned.plan, owned.folder.path, self._secret, owned.state)
        for left in reversed(range(WORKER_TRIES)):
            try:
                with ports.blobs.draft() as draft:
                    k = await ports.enterprise.weights(*given, draft, timeout_s=self._patience_s)
                    self._sent_bytes = draft.stat().st_size
                    weights = await ports.blobs.put_file(draft)
                break
            except (TrainingError, WorkerError, OSError) as error:
                log.warning("no weights", job=owned.id.hex()[:12], why=str(error))
                if isinstance(error, TrainingError) or not left:
                    self.post(JobFailed(f"round {round_}: {error}"))
                    return
                await trio.sleep(WORKER_RETRY_S)
        await ports.note(owned.id, round_, weights)
        self.post(WeightsReady(round_, weights, k, int(time.time() * 1000)))

    async def _ask(self, effect: SendQuestion) -> None:
        question = effect.question
        envelope = self._envelopes.get(question.serial)
        if envelope is None:
            envelope = self._envelopes[question.serial] = self._ports.signed(question)
        try:
            await self._ports.network.request(
                effect.trainer,
                JOB_ROUND,
                encode(envelope),
                reply_bytes_max=16,
                timeout_s=ASK_TIMEOUT_S,
            )
        except RequestRefused as error:
            log.info("a trainer refuses", trainer=effect.trainer.hex(), why=str(error))
            self.post(TrainerRefuses(effect.trainer))
        except NetworkError as error:
            log.debug("a trainer was not asked", trainer=effect.trainer.hex(), why=str(error))

    # a sum ----------------------------------------------------------------------------------------
    async def _open(self, effect: OpenSums) -> None:
        ports, owned = self._ports, self.owned
        try:
            with ports.blobs.draft() as total:
                patience_s = self._patience_s
                await add_up(ports, self.job, effect.round, effect.parts, total, patience_s)
                received = total.stat().st_size * len(effect.parts)
                step = await ports.enterprise.step(
                    owned.plan,
                    owned.folder.path,
                    self._secret,
                    owned.state,
                    Files((str(total),)),
                    timeout_s=self._patience_s,
                )
        except FalseSum as error:
            self.post(SumsRefused(effect.round, str(error), error.culprits))
            return
        except BadCiphertext as error:
            self.post(SumsRefused(effect.round, str(error), await self._culprits(effect)))
            return
        except FAILURES as error:
            self.post(SumsRefused(effect.round, str(error)))
            return
        owned.state, owned.progress = step.state, self._progress(effect)
        seats = sum(len(question.seats) for question in effect.questions)
        seconds = trio.current_time() - self._began_s
        sent = self._sent_bytes * seats
        made = JobFigures(effect.round, seconds, step.loss, step.score, sent, received)
        told = self._told(effect)
        key = owned.id + effect.round.to_bytes(8, "big")
        rows = [
            (STATE, owned.id, step.state),
            (PROGRESS, owned.id, encode(owned.progress)),
            (FIGURES, key, encode(made)),
        ]
        if self.job.payment:
            rows.append((TOLD, key, encode(ports.gossip.sign(told))))
        await ports.records.commit(list(rows))
        self.figures.append(made)
        log.info(
            "private job stepped", job=owned.id.hex()[:12], round=effect.round, score=step.score
        )
        await ports.gossip.publish(told)
        self.post(Stepped(effect.round, step.done))
        await ports.drop(owned.id, before=effect.round - KEPT_ROUNDS + 1)

    async def _culprits(self, effect: OpenSums) -> tuple[Address, ...]:
        """Whose sum is false, computed again; nobody where that cannot be found out now."""
        sums = [signed for part in effect.parts for signed in part]
        try:
            return await culprits(self._ports, self.job, effect.questions, sums)
        except FAILURES as error:
            log.warning("a false sum cannot be traced", why=str(error))
            return ()

    def _told(self, effect: OpenSums) -> JobRound:
        """What validators are told of what went into the step."""
        asked = tuple(self._envelopes[question.serial] for question in effect.questions)
        signed = [one for part in effect.parts for one in part]
        sums = tuple(one.envelope for one in signed)
        by_serial = {question.serial: question for question in effect.questions}
        kept = [
            (key, value) for key, value in self.made.items() if value[0].round >= effect.round - 1
        ]
        new = [((s.sum.serial, s.author), (by_serial[s.sum.serial], s)) for s in signed]
        self.made = dict(kept + new)
        return JobRound(self.owned.id, effect.round, asked, sums)

    def _progress(self, effect: OpenSums) -> JobProgress:
        """Where the job stands once this step is made."""
        done = dict(self.machine.contributions)
        for trainer, count in effect.credits:
            done[trainer] = done.get(trainer, 0) + count
        excluded = self.machine.excluded
        contributions = tuple(
            JobContribution(trainer, done.get(trainer, 0), trainer in excluded)
            for trainer in sorted(done.keys() | excluded)
        )
        return JobProgress(self.owned.id, effect.round, self.machine.serial, contributions)

    async def _end(self, effect: EndJob) -> None:
        """Write the result where there is one, tell trainers, and let the blobs go."""
        ports, owned = self._ports, self.owned
        if owned.progress.round:
            given = (owned.plan, owned.folder.path, owned.state, owned.folder.result)
            try:
                await ports.enterprise.result(*given)
            except FAILURES as error:
                log.error("no result is written", job=owned.id.hex()[:12], why=str(error))
        why = effect.why.encode()[: limits.TEXT_BYTES_MAX].decode(errors="ignore")
        ended = JobEnded(owned.id, effect.done, why)
        await ports.records.commit([(ENDED, owned.id, encode(ended))])
        await ports.gossip.publish(ended)
        log.info("private job ended", job=owned.id.hex()[:12], done=effect.done, why=why)
