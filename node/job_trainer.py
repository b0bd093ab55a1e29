"""A trainer's part in somebody's private job: performs what its machine asks for."""

from collections.abc import Awaitable, Callable
from functools import partial

import structlog
import trio

from eigen.node.fetch import ContentUnavailable
from eigen.node.job_ports import (
    KEPT_ROUNDS,
    JobPorts,
    key_files,
    shard_files,
    sum_bytes_max,
)
from eigen.node.ports import NetworkError
from eigen.node.worker_process import WorkerError
from eigen.protocol import limits
from eigen.protocol.job_effects import (
    AddUp,
    Blame,
    ComputeOwn,
    OwnReady,
    PushFailed,
    PushSum,
    TotalReady,
    TrainerEffect,
    TrainerEvent,
    Wake,
    Woken,
    WorkFailed,
)
from eigen.protocol.job_trainer import JobTrainer
from eigen.protocol.private_job import JOB_COMPLAINT, JOB_SUM, JobComplaint, PrivateJob, SumPush
from eigen.protocol.wire import encode
from eigen.training.errors import TrainingError

log = structlog.get_logger()

PUSH_TIMEOUT_S = 15.0
"""A sum's names are some kilobytes; its blob is fetched by who adds it."""

FAILURES = (ContentUnavailable, TrainingError, WorkerError, NetworkError, OSError)
"""Why work on ciphertexts comes to nothing: a peer's, a process's or the disk's fault."""


class TrainedJob:
    """One job that this node trains for its owner. Tasks live in the nursery that is given."""

    def __init__(
        self, job: PrivateJob, job_id: bytes, ports: JobPorts, nursery: trio.Nursery
    ) -> None:
        self.job = job
        self.id = job_id
        self.machine = JobTrainer(job, ports.identity.address)
        self.rounds = 0
        self.why = ""
        self.asked_s = trio.current_time()
        self._ports = ports
        self._nursery = nursery
        self._scopes: set[trio.CancelScope] = set()

    def post(self, event: TrainerEvent) -> None:
        """Tell the machine; what it asks for begins."""
        before = self.machine.question
        effects = self.machine.handle(event, trio.current_time())
        if self.machine.question is not before:
            self.asked_s = trio.current_time()
            self.close()  # nobody waits for the old question's answer
        for effect in effects:
            self._begin(effect)

    def close(self) -> None:
        """Give up what is being computed."""
        for scope in self._scopes:
            scope.cancel()
        self._scopes.clear()

    def _begin(self, effect: TrainerEffect) -> None:
        match effect:
            case ComputeOwn():
                self._start(partial(self._compute, effect))
            case AddUp():
                self._start(partial(self._add, effect))
            case PushSum():
                self._start(partial(self._push, effect))
            case Wake():
                self._start(partial(self._wake, effect))
            case Blame():
                self._ports.network.penalize(effect.peer, limits.PENALTY_BAD_DATA, effect.why)

    def _start(self, work: Callable[[], Awaitable[None]]) -> None:
        scope = trio.CancelScope()
        self._scopes.add(scope)

        async def run() -> None:
            with scope:
                try:
                    await work()
                except FAILURES as error:
                    self.why = str(error)
                    log.warning("a private job", job=self.id.hex()[:12], why=self.why)
            self._scopes.discard(scope)

        self._nursery.start_soon(run)

    async def _wake(self, effect: Wake) -> None:
        await trio.sleep_until(effect.at_s)
        self.post(Woken(effect.serial))

    async def _compute(self, effect: ComputeOwn) -> None:
        asked = effect.question
        ports, job = self._ports, self.job
        try:
            with trio.fail_after(asked.deadline_s):
                await ports.note(self.id, 0, job.keys, *(shard.cid for shard in job.shards))
                await ports.note(self.id, asked.round, asked.weights)
                keys = await key_files(ports, job)
                shards = await shard_files(ports, job, effect.shards)
                weights = await ports.files(asked.weights, (job.owner,), sum_bytes_max(job))
                with ports.blobs.draft() as draft:
                    given = (job, keys, shards, weights, asked.k, draft)
                    await ports.evaluations.gradient(*given, timeout_s=asked.deadline_s)
                    own = await ports.blobs.put_file(draft)
        except (*FAILURES, trio.TooSlowError) as error:
            await self._complain(error)
            self.post(WorkFailed(asked.serial, str(error)))
            return
        await ports.note(self.id, asked.round, own)
        self.rounds, self.why = self.rounds + 1, ""
        self.post(OwnReady(asked.serial, own))
        await ports.drop(self.id, before=asked.round - KEPT_ROUNDS + 1)

    async def _complain(self, error: Exception) -> None:
        """The owner has to know; above all where it published its secret key."""
        self.why = str(error) or type(error).__name__
        log.warning("a private job's round failed", job=self.id.hex()[:12], why=self.why)
        if not isinstance(error, TrainingError):
            return
        text = f"{type(error).__name__}: {self.why}".encode()[: limits.TEXT_BYTES_MAX]
        try:
            await self._ports.network.request(
                self.job.owner,
                JOB_COMPLAINT,
                encode(JobComplaint(self.id, text.decode(errors="ignore"))),
                reply_bytes_max=16,
                timeout_s=PUSH_TIMEOUT_S,
            )
        except NetworkError as failed:
            log.debug("the owner does not hear", why=str(failed))

    async def _add(self, effect: AddUp) -> None:
        asked, ports, job = effect.question, self._ports, self.job
        parts, unusable = [], []
        keys = await key_files(ports, job)
        for author, cid in effect.inputs:
            try:
                await ports.note(self.id, asked.round, cid)
                part = await ports.files(cid, (author,), sum_bytes_max(job))
                with ports.blobs.draft() as draft:  # parsed alone first: whose fault is it?
                    await ports.evaluations.add(
                        job, keys, [part], draft, timeout_s=asked.deadline_s
                    )
                parts.append(part)
            except FAILURES as error:
                log.warning("a peer's sum is of no use", peer=author.hex(), why=str(error))
                unusable.append(author)
        if unusable:
            self.post(WorkFailed(asked.serial, "sums of peers cannot be added", tuple(unusable)))
            return
        try:
            own = await ports.files(effect.own, (), sum_bytes_max(job))
            with ports.blobs.draft() as draft:
                await ports.evaluations.add(
                    job, keys, [own, *parts], draft, timeout_s=asked.deadline_s
                )
                total = await ports.blobs.put_file(draft)
        except FAILURES as error:
            self.post(WorkFailed(asked.serial, str(error)))
            return
        await ports.note(self.id, asked.round, total)
        self.post(TotalReady(asked.serial, total))

    async def _push(self, effect: PushSum) -> None:
        below = tuple(signed.envelope for signed in effect.below)
        message = encode(SumPush((self._ports.signed(effect.sum), *below)))
        try:
            taken = await self._ports.network.request(
                effect.to, JOB_SUM, message, reply_bytes_max=16, timeout_s=PUSH_TIMEOUT_S
            )
        except NetworkError as error:
            log.debug("a sum was not taken", to=effect.to.hex(), why=str(error))
            taken = b""
        if not taken:
            self.post(PushFailed(effect.sum.serial, effect.to))
