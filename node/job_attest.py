"""A validator's part in a private job's money: it works the record out, and signs its root."""

from collections.abc import Awaitable, Callable

import structlog
import trio

from eigen.chain.escrow import EscrowState
from eigen.chain.port import ChainError, ServedChain
from eigen.node.fetch import ContentUnavailable
from eigen.node.gossip import Said
from eigen.node.job_audit import JobAuditor
from eigen.node.job_evidence import check_record
from eigen.node.job_money import Followed, JobMoney
from eigen.node.job_ports import JobPorts
from eigen.node.job_wages import JobWages, escrow_of, is_covered
from eigen.node.ports import RequestRefused
from eigen.protocol import limits
from eigen.protocol.job_record import BadRecord, JobAttestation, JobRecord
from eigen.protocol.messages import digest
from eigen.protocol.private_job import JobRound, PrivateJob
from eigen.protocol.seat import ranked
from eigen.protocol.types import Address, Digest, RunId
from eigen.protocol.wire import WireError, encode

log = structlog.get_logger()

SIGNED = "job-signed"
"""Rows of the record store, by job: the record that this node attested. Never another one: two
signatures of one round are equivocation, and cost the bond."""


class JobAttestor:
    """What this node hears of paid jobs' ends: what it earned, and what it attests."""

    def __init__(
        self,
        ports: JobPorts,
        chain: ServedChain,
        auditor: JobAuditor,
        money: JobMoney,
        wages: JobWages,
        learn: Callable[[Address, bytes], Awaitable[PrivateJob]],
        *,
        validates: bool,
        turn_s: float,
    ) -> None:
        """`turn_s` is how long validators leave moves to the owner, and to each other."""
        self._ports = ports
        self._chain = chain
        self._auditor = auditor
        self._money = money
        self._wages = wages
        self._learn = learn
        self._validates = validates
        self._turn_s = turn_s
        self._heard: dict[tuple[Address, bytes], dict[int, Digest]] = {}
        self._one = trio.Lock()

    def heard(self, owner: Address, told: JobRound) -> None:
        """Remember how a round was told, so that a record cannot tell it another way."""
        key = (owner, bytes(told.job))
        if key not in self._heard and len(self._heard) >= limits.JOBS_KNOWN_MAX:
            del self._heard[next(iter(self._heard))]
        rounds = self._heard.setdefault(key, {})
        if len(rounds) < limits.JOB_PAID_ROUNDS_MAX:
            rounds.setdefault(told.round, digest(told))

    async def recorded(self, said: Said) -> None:
        """An owner says what its job came to."""
        record: JobRecord = said.message
        job_id, me = bytes(record.job), self._ports.identity.address
        if said.author == me:
            return
        try:
            job = await self._learn(said.author, job_id)
        except RequestRefused as error:
            log.debug("a record of an unknown job", why=str(error))
            return
        if job.owner != said.author or not job.payment:
            return
        if any(c.trainer == me for c in record.contributions):
            try:
                await self._wages.remember(job_id, job, record)
            except ChainError as error:  # it is told again
                log.info("a record waits for the chain", job=job_id.hex()[:12], why=str(error))
        if self._validates and not self._one.locked():
            async with self._one:
                try:
                    await self._attest(job, record)
                except (BadRecord, ContentUnavailable, WireError, ChainError) as error:
                    log.warning("a record is not attested", job=job_id.hex()[:12], why=str(error))

    async def _attest(self, job: PrivateJob, record: JobRecord) -> None:
        """Work a record out again and sign its root; once signed, no other one ever is."""
        ports, me, job_id = self._ports, self._ports.identity.address, bytes(record.job)
        [payment], name = job.payment, digest(record)
        if self._money.follows(job_id):
            return
        validators, _ = await self._chain.validators()
        if me not in validators:
            return
        signed = await ports.records.get(SIGNED, job_id)
        if signed is None:
            funds = await escrow_of(self._chain).job_funds(payment.escrow)
            if funds.state is not EscrowState.OPEN or not is_covered(job_id, job, payment, funds):
                raise BadRecord("the escrow does not hold what the job pays")
            await self._auditor.settled()
            found = frozenset(t for of, t in self._auditor.found if of == job_id)
            heard = self._heard.get((job.owner, job_id), {})
            await check_record(ports, job, record, validators, heard, found)
            await ports.records.commit([(SIGNED, job_id, name)])
        elif signed != name:
            raise BadRecord("another record of this job was attested")
        await ports.blobs.put(encode(record))
        order = ranked(RunId(job_id), b"job-money", validators)
        turn_s = self._turn_s * (1 + order.index(me))
        made = Followed(job_id, payment, False, turn_s, job, record)
        signature = ports.identity.sign(self._chain.round_digest(await self._money.root(made)))
        made.attested = JobAttestation(job_id, name, signature)
        made.signatures[me] = signature
        self._money.follow(made)
