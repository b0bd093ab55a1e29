"""Private jobs of this node and of others: made, gone on with after a restart, trained, audited."""

from contextlib import suppress
from typing import TYPE_CHECKING

import structlog
import trio

from eigen.chain.port import ServedChain
from eigen.crypto.envelope import BadSignature
from eigen.crypto.errors import KeyFileError
from eigen.node.gossip import Said
from eigen.node.job_attest import JobAttestor
from eigen.node.job_audit import JobAuditor, is_sound
from eigen.node.job_evidence import FALSE
from eigen.node.job_file import JobFile
from eigen.node.job_making import OFFER, clear_unfinished, make_job, stored_job
from eigen.node.job_money import JobMoney
from eigen.node.job_owner import ENDED, Owned, OwnedJob
from eigen.node.job_ports import NOTED, JobPorts, key_files
from eigen.node.job_trainer import FAILURES, TrainedJob
from eigen.node.job_wages import JobWages
from eigen.node.ports import NetworkError, RequestRefused, Verdict
from eigen.protocol import limits
from eigen.protocol.job_effects import JobFailed, QuestionHeard, Signed, SumsHeard, TrainerFalse
from eigen.protocol.job_record import JobAttestation, JobRecord
from eigen.protocol.membership import VALIDATOR
from eigen.protocol.messages import Envelope, digest
from eigen.protocol.private_job import (
    JOB,
    JOB_COMPLAINT,
    JOB_ROUND,
    JOB_SUM,
    JobComplaint,
    JobEnded,
    JobQuery,
    JobQuestion,
    JobReply,
    JobRound,
    JobVerdict,
    PrivateJob,
    SumPush,
)
from eigen.protocol.types import Address
from eigen.protocol.wire import WireError, decode, encode
from eigen.training.errors import BadCiphertext, SecretPublished

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = structlog.get_logger()

QUERY_TIMEOUT_S = 15.0
"""A job's offer has some kilobytes."""
SUM_BYTES_MAX = 64 * 1024
"""32 signed sums of some 400 bytes."""

COMPLAINTS_EVERY_S = 10.0
"""Looking into one takes as long as parsing keys; peers may complain as often as they like."""
AUDIT_WAIT_S = 60.0
"""An audit of a round takes about a round; of the longest, the record does not wait for all."""
KEEP_S = 600.0
"""An audit takes about a round; then nobody asks for a job's blobs any more."""


class NoSuchJob(Exception):
    """No job of this node's has this id."""


class PrivateJobs:
    """Every private job that this node has to do with."""

    def __init__(
        self,
        ports: JobPorts,
        *,
        trains: bool,
        validates: bool,
        keep_s: float = KEEP_S,
        chain: ServedChain | None = None,
        poll_s: float = 2.0,
        turn_s: float = 10.0,
        audit_wait_s: float = AUDIT_WAIT_S,
    ) -> None:
        """`keep_s`: how long blobs of a job that has ended are kept, for audits of its end.

        `chain` is where jobs are paid, looked at every `poll_s`; `turn_s` is how long a validator
        leaves the next move to others, `audit_wait_s` how long a record waits for the last audits,
        a round at most. Without a chain, jobs are neither paid nor attested.
        """
        self._keep_s = keep_s
        self.owned: dict[bytes, OwnedJob] = {}
        self.ended: dict[bytes, JobEnded] = {}
        self.trained: dict[bytes, TrainedJob] = {}
        self._known: dict[bytes, PrivateJob] = {}
        self._ports = ports
        self._trains = trains
        self._validates = validates
        self.auditor = JobAuditor(ports, self._known_or_learnt)
        self.money: JobMoney | None = None
        self.wages: JobWages | None = None
        self._attestor: JobAttestor | None = None
        if chain is not None:
            self.money = JobMoney(ports, chain, poll_s=poll_s, audit_wait_s=audit_wait_s)
            self.wages = JobWages(ports, chain)
            self._attestor = JobAttestor(
                ports,
                chain,
                self.auditor,
                self.money,
                self.wages,
                self._known_or_learnt,
                validates=validates,
                turn_s=turn_s,
            )
        gossip, network = ports.gossip, ports.network
        gossip.on(PrivateJob, self._offered, self._check_offer)
        gossip.on(JobRound, self._stepped, self._check_author)
        gossip.on(JobVerdict, self._judged)
        gossip.on(JobEnded, self._ended, self._check_author)
        gossip.on(JobRecord, self._recorded, self._check_author)
        gossip.on(JobAttestation, self._attested)
        network.serve(JOB, self._serve_job, request_bytes_max=256)
        network.serve(JOB_ROUND, self._asked, request_bytes_max=limits.GOSSIP_MESSAGE_BYTES_MAX)
        network.serve(JOB_SUM, self._handed, request_bytes_max=SUM_BYTES_MAX)
        network.serve(JOB_COMPLAINT, self._complained, request_bytes_max=1024)

    async def run(self, *, task_status: "TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Go on with this node's own jobs, and serve others', until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await self._sweep()
            await clear_unfinished(self._ports)
            if self.money is not None:
                await self.money.load()
                nursery.start_soon(self.money.run)
            for key, data in await self._ports.records.scan(OFFER):
                await self._restore(bytes(key), decode(data, Envelope))
            task_status.started()
            await trio.sleep_forever()

    async def _sweep(self) -> None:
        """Delete blobs of jobs that this node trained before it was ended; they come again."""
        mine = {key for key, _ in await self._ports.records.scan(OFFER)}
        noted = {key[:32] for key, _ in await self._ports.records.scan(NOTED)}
        for job_id in noted - mine:
            await self._ports.drop(job_id, before=0, whole=True)

    async def _drop_later(self, job_id: bytes) -> None:
        await trio.sleep(self._keep_s)
        await self._ports.drop(job_id, before=0, whole=True)

    # owning ---------------------------------------------------------------------------------------
    async def create(self, file: JobFile) -> bytes:
        """Encode, encrypt and publish a job, and begin it. Returns its id; durable then.

        Raises `SpecError` or a `ChainError` before anything is encrypted, or the worker's errors.
        """
        job_id, envelope = await make_job(self._ports, file, self.money)
        await self._restore(job_id, envelope)
        return job_id

    async def _restore(self, job_id: bytes, envelope: Envelope) -> None:
        """Go on with a job of this node's as it is stored, where it has not ended."""
        owned, figures, ended = await stored_job(self._ports, job_id, envelope)
        self.owned[job_id] = running = OwnedJob(owned, self._ports, figures)
        self._known[job_id] = owned.job
        if ended is not None:
            self._over(owned, ended)
            return
        for content in (owned.job.keys, *(shard.cid for shard in owned.job.shards)):
            await self._ports.blocks.provide(content)
        self._nursery.start_soon(self._go_on, running)

    async def _go_on(self, running: OwnedJob) -> None:
        try:
            await running.run()
        except KeyFileError as error:
            log.error("a private job stopped", job=running.owned.id.hex()[:12], why=str(error))
            running.machine.waiting = f"stopped: {error}"
            return
        stored = await self._ports.records.get(ENDED, running.owned.id)
        if stored is not None:
            self._over(running.owned, decode(stored, JobEnded))

    def _over(self, owned: Owned, ended: JobEnded) -> None:
        self.ended[owned.id] = ended
        self._nursery.start_soon(self._drop_later, owned.id)
        if self.money is not None:
            self._nursery.start_soon(self.money.ended, owned, ended)

    def find(self, prefix: str) -> OwnedJob:
        """The one job of this node's whose id starts so. Raises `NoSuchJob`."""
        found = [job for job_id, job in self.owned.items() if job_id.hex().startswith(prefix)]
        if len(found) != 1 or (not prefix and len(self.owned) != 1):
            raise NoSuchJob(f"{len(found)} jobs match {prefix!r}; see: eigen job status")
        return found[0]

    def cancel(self, job: OwnedJob) -> None:
        """End a job; what was trained so far stays its owner's."""
        job.post(JobFailed("cancelled"))

    # what is heard --------------------------------------------------------------------------------
    def _check_offer(self, said: Said) -> Verdict:
        if said.author != said.message.owner:
            return Verdict.REJECT
        return Verdict.ACCEPT

    def _check_author(self, said: Said) -> Verdict:
        job = self._known.get(bytes(said.message.job))
        if job is None:
            return Verdict.ACCEPT  # it is the owner's alone to say; who knows the job checks
        return Verdict.ACCEPT if job.owner == said.author else Verdict.REJECT

    async def _offered(self, said: Said) -> None:
        self._remember(said.message)

    def _remember(self, job: PrivateJob) -> None:
        """Know a job of somebody's; the oldest of an owner's, and of all, make room."""
        job_id = bytes(digest(job))
        self._known.pop(job_id, None)
        others = [i for i in self._known if i not in self.owned]
        same = [i for i in others if self._known[i].owner == job.owner]
        if len(same) >= limits.JOBS_OF_OWNER_MAX:
            self._forget(same[0])
        elif len(others) >= limits.JOBS_KNOWN_MAX:
            self._forget(others[0])
        self._known[job_id] = job

    def _forget(self, job_id: bytes) -> None:
        self._known.pop(job_id, None)
        if job_id in self.trained:
            self._close(job_id)

    async def _ended(self, said: Said) -> None:
        job_id = bytes(said.message.job)
        job = self._known.get(job_id)
        if job is None or job.owner != said.author or job_id in self.owned:
            return
        self._close(job_id)

    async def _stepped(self, said: Said) -> None:
        if self._validates:
            if self._attestor is not None:
                self._attestor.heard(said.author, said.message)
            self._nursery.start_soon(self.auditor.audit, said.author, said.message)

    async def _recorded(self, said: Said) -> None:
        if self._attestor is not None:
            self._nursery.start_soon(self._attestor.recorded, said)

    async def _attested(self, said: Said) -> None:
        if self.money is not None:
            await self.money.attested(said)

    # requests -------------------------------------------------------------------------------------
    async def _serve_job(self, _peer: Address, payload: bytes) -> bytes:
        query = decode(payload, JobQuery)
        mine = self.owned.get(bytes(query.job))
        return encode(JobReply((mine.owned.envelope,) if mine else ()))

    async def _asked(self, _peer: Address, payload: bytes) -> bytes:
        """A question for this node as a trainer."""
        if not self._trains:
            raise RequestRefused("this node does not train")
        try:
            author, question = self._ports.question(decode(payload, Envelope))
        except BadSignature as error:
            raise RequestRefused(str(error)) from None
        job_id = bytes(question.job)
        job = await self._known_or_learnt(author, job_id)
        if job.owner != author or job_id in self.owned:
            raise RequestRefused("not the owner's question")
        if job_id not in self.trained and self.wages is not None:
            await self.wages.covers(job_id, job)
        trained = self.trained.get(job_id)
        if trained is None:
            self._make_room()
            trained = TrainedJob(job, job_id, self._ports, self._nursery)
            self.trained[job_id] = trained
        trained.post(QuestionHeard(question))
        return b"\x01"

    def _make_room(self) -> None:
        """For one more job to train. Raises `RequestRefused` where all that are here are alive."""
        if len(self.trained) < limits.JOBS_TRAINED_MAX:
            return
        idle = min(self.trained.values(), key=lambda trained: trained.asked_s)
        if trio.current_time() - idle.asked_s < limits.JOB_IDLE_S:
            raise RequestRefused(f"this node trains {len(self.trained)} private jobs already")
        self._close(idle.id)

    def _close(self, job_id: bytes) -> None:
        """Train a job no more; its blobs go once audits are over."""
        trained = self.trained.pop(job_id, None)
        if trained is not None:
            trained.close()
        self._nursery.start_soon(self._drop_later, job_id)

    async def _known_or_learnt(self, owner: Address, job_id: bytes) -> PrivateJob:
        """A job by its id, asked of its owner where it is new. Raises `RequestRefused`."""
        known = self._known.get(job_id)
        if known is not None:
            return known
        try:
            reply = await self._ports.network.request(
                owner,
                JOB,
                encode(JobQuery(job_id)),
                reply_bytes_max=limits.GOSSIP_MESSAGE_BYTES_MAX + 256,
                timeout_s=QUERY_TIMEOUT_S,
            )
            for envelope in decode(reply, JobReply).envelopes:
                said = self._ports.gossip.read_any(envelope)
                job: object = said.message
                if not isinstance(job, PrivateJob) or digest(job) != job_id:
                    continue
                if said.author == job.owner == owner:
                    self._remember(job)
                    return job
        except (NetworkError, WireError, BadSignature) as error:
            log.debug("a job is not to be had", why=str(error))
        raise RequestRefused("the job of this question is not to be had")

    async def _handed(self, peer: Address, payload: bytes) -> bytes:
        """A sum for this node, as the owner or as a trainer further up."""
        sums = self._ports.sums(decode(payload, SumPush, bytes_max=SUM_BYTES_MAX).sums)
        job_id, serial = bytes(sums[0].sum.job), sums[0].sum.serial
        event = SumsHeard(peer, sums)
        mine = self.owned.get(job_id)
        if mine is not None:
            mine.post(event)
            return b"\x01"
        trained = self.trained.get(job_id)
        if trained is None or not trained.machine.takes(serial):
            return b""
        trained.post(event)
        return b"\x01"

    async def _complained(self, peer: Address, payload: bytes) -> bytes:
        """A trainer cannot work on a job of ours. Where it is right, the job ends."""
        complaint = decode(payload, JobComplaint)
        mine = self.owned.get(bytes(complaint.job))
        if mine is None or mine.machine.ended is not None:
            return b""
        log.warning("a trainer complains", trainer=peer.hex(), why=complaint.why)
        if trio.current_time() - mine.checked_s < COMPLAINTS_EVERY_S:
            return b"\x01"
        mine.checked_s = trio.current_time()
        ports = self._ports
        try:
            keys = await key_files(ports, mine.job)
            await ports.evaluations.check(mine.job, keys, timeout_s=mine.job.round_s)
        except (SecretPublished, BadCiphertext) as error:
            mine.post(JobFailed(f"a trainer warns, and is right: {error}"))
        except FAILURES as error:
            log.warning("a complaint cannot be checked", why=str(error))
        return b"\x01"

    async def _judged(self, said: Said) -> None:
        """A validator says that a trainer of ours is false: look for ourselves."""
        verdict: JobVerdict = said.message
        mine = self.owned.get(bytes(verdict.job))
        if mine is None or verdict.sound:
            return
        if said.author in self._ports.members.with_role(VALIDATOR):
            made = mine.made.pop((verdict.serial, verdict.trainer), None)
            if made is not None:  # looked at once, however many say it
                self._nursery.start_soon(self._look_again, mine, said, *made)

    async def _look_again(
        self, mine: OwnedJob, said: Said, question: JobQuestion, signed: Signed
    ) -> None:
        with suppress(*FAILURES):
            if not await is_sound(self._ports, mine.job, question, signed):
                if mine.job.payment:
                    key = mine.owned.id + signed.author + said.author
                    await self._ports.records.commit([(FALSE, key, encode(said.envelope))])
                mine.post(TrainerFalse(signed.author))
