"""Computing a trainer's sum again: evaluation is deterministic, so the names must be the same."""

from collections.abc import Awaitable, Callable, Iterable, Sequence

import structlog
import trio

from eigen.crypto.envelope import BadSignature
from eigen.node.fetch import ContentUnavailable
from eigen.node.job_ports import JobPorts, key_files, shard_files, sum_bytes_max
from eigen.node.ports import NetworkError
from eigen.node.worker_process import WorkerError
from eigen.protocol.job_effects import Signed
from eigen.protocol.job_sums import seat_of
from eigen.protocol.messages import digest
from eigen.protocol.private_job import JobQuestion, JobRound, JobVerdict, PrivateJob
from eigen.protocol.seat import draw
from eigen.protocol.types import Address
from eigen.protocol.wire import WireError
from eigen.training.errors import BadCiphertext, TrainingError

log = structlog.get_logger()

IMPOSSIBLE = (
    ContentUnavailable,
    TrainingError,
    WorkerError,
    NetworkError,
    WireError,
    BadSignature,
)
"""Why an audit comes to nothing; that says nothing of the trainer."""


async def is_sound(ports: JobPorts, job: PrivateJob, question: JobQuestion, signed: Signed) -> bool:
    """Whether a trainer's gradient and total are what its shards and inputs give, bit for bit.

    Raises what fetching and the worker raise: that says nothing of the trainer.
    """
    index = seat_of(question, signed.author)
    if index is None:
        return False
    prefer = (signed.author, job.owner)
    held = (job.keys, *(shard.cid for shard in job.shards))
    await ports.note(question.job, 0, *held)
    await ports.note(question.job, question.round, question.weights, *signed.sum.inputs)
    keys = await key_files(ports, job)
    shards = await shard_files(ports, job, question.seats[index].shards)
    weights = await ports.files(question.weights, prefer, sum_bytes_max(job))
    with ports.blobs.draft() as draft:
        given = (job, keys, shards, weights, question.k, draft)
        await ports.evaluations.gradient(*given, timeout_s=question.deadline_s)
        own = await ports.blobs.put_file(draft)
    await ports.note(question.job, question.round, own)
    if own != signed.sum.own:
        return False
    if not signed.sum.inputs:
        return own == signed.sum.total
    parts = [await ports.files(own, (), sum_bytes_max(job))]
    parts += [await ports.files(cid, prefer, sum_bytes_max(job)) for cid in signed.sum.inputs]
    try:
        with ports.blobs.draft() as draft:
            await ports.evaluations.add(job, keys, parts, draft, timeout_s=question.deadline_s)
            total = await ports.blobs.put_file(draft)
        await ports.note(question.job, question.round, total)
    except BadCiphertext:
        return False  # it says that it added what cannot be added
    return total == signed.sum.total


async def culprits(
    ports: JobPorts,
    job: PrivateJob,
    questions: Sequence[JobQuestion],
    sums: Iterable[Signed],
) -> tuple[Address, ...]:
    """Trainers whose sums are false."""
    asked = {question.serial: question for question in questions}
    found = []
    for signed in sums:
        if not await is_sound(ports, job, asked[signed.sum.serial], signed):
            log.warning("a trainer's sum is false", trainer=signed.author.hex())
            found.append(signed.author)
    return tuple(found)


FOUND_MAX = 4096
"""False trainers that a validator remembers; each of them cost it a gradient."""


class JobAuditor:
    """One validator's audits. One at a time: what comes meanwhile is not looked at."""

    def __init__(
        self, ports: JobPorts, learn: Callable[[Address, bytes], Awaitable[PrivateJob]]
    ) -> None:
        self.sound = 0
        self.false = 0
        self.found: set[tuple[bytes, Address]] = set()
        """Trainers of jobs whose sums were false."""
        self._ports = ports
        self._learn = learn
        self._turn = trio.Lock()

    async def audit(self, owner: Address, record: JobRound) -> None:
        """Compute again what this validator draws of a round, and say what it came to."""
        if self._turn.locked():
            return
        async with self._turn:
            try:
                await self._audit(owner, record)
            except IMPOSSIBLE as error:
                log.info("a private job's round cannot be audited", why=str(error))

    async def settled(self) -> None:
        """Return once no audit is under way."""
        async with self._turn:
            pass

    async def _audit(self, owner: Address, record: JobRound) -> None:
        job_id, ports = bytes(record.job), self._ports
        job = await self._learn(owner, job_id)
        if job.owner != owner:
            return
        asked: dict[int, JobQuestion] = {}
        for envelope in record.questions:
            author, question = ports.question(envelope)
            if author == owner and question.job == record.job:
                asked[question.serial] = question
        beacon = digest(record)
        for signed in ports.sums(record.sums):
            question_of = asked.get(signed.sum.serial)
            if question_of is None or not self._drawn(job, beacon, signed.author):
                continue
            sound = await is_sound(ports, job, question_of, signed)
            self.sound, self.false = self.sound + sound, self.false + (not sound)
            if not sound and len(self.found) < FOUND_MAX:
                self.found.add((job_id, signed.author))
            serial = question_of.serial
            await ports.drop(job_id, before=record.round)
            await ports.gossip.publish(
                JobVerdict(job_id, record.round, serial, signed.author, sound)
            )

    def _drawn(self, job: PrivateJob, beacon: bytes, trainer: Address) -> bool:
        mark = draw(b"eigen/job-audit/1", beacon, trainer, self._ports.identity.address)
        return int.from_bytes(mark[:8], "big") * 10_000 < job.audit_bps << 64
