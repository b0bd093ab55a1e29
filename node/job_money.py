"""The money of private jobs: funded by their owners, attested by validators, moved on, claimed.

Whoever has a part in a job's money follows it on chain and makes the next move that is due: posts
the attested root, delivers, releases, refunds. The owner goes first; validators take turns behind
it. All moves are idempotent, and what is owned is a row before money is spent: a killed node goes
on where it stopped.
"""

from dataclasses import dataclass, field

import structlog
import trio

from eigen.chain.escrow import Escrow, EscrowState, JobTerms, TermsRefused, escrow_job
from eigen.chain.port import (
    ChainError,
    Receipt,
    RoundRoot,
    ServedChain,
    TransactionReverted,
)
from eigen.crypto.errors import CryptoError
from eigen.crypto.identity import recover
from eigen.crypto.merkle import payout_root
from eigen.node.amounts import base_units
from eigen.node.gossip import Said
from eigen.node.job_evidence import make_record
from eigen.node.job_file import Payment
from eigen.node.job_owner import Owned
from eigen.node.job_ports import JobPorts
from eigen.node.job_wages import escrow_of
from eigen.protocol import limits
from eigen.protocol.job_record import BadRecord, JobAttestation, JobRecord, record_payouts
from eigen.protocol.messages import digest
from eigen.protocol.private_job import JobEnded, JobPayment, PrivateJob
from eigen.protocol.types import Address, Digest, RunId
from eigen.protocol.wire import decode, decode_bare, encode, encode_bare

log = structlog.get_logger()

FUNDED, RECORD = "job-money", "job-record"
"""Kinds of rows of the record store, by job of this node's: a `JobPayment` until all of it has
gone where it belongs, and the job's record."""
ROUND = 1
"""A job's stream has one root."""
TELL_EVERY_S = 15.0
"""How often a record, and what attests it, is told again until its root is on chain."""


@dataclass(slots=True)
class Followed:
    """A job whose money this node follows; `turn_s` is how long it leaves moves to others."""

    id: bytes
    payment: JobPayment
    mine: bool
    turn_s: float = 0.0
    job: PrivateJob | None = None
    record: JobRecord | None = None
    attested: JobAttestation | None = None
    signatures: dict[Address, bytes] = field(default_factory=dict)
    stream: RunId | None = None
    due: tuple[str, float] = ("", 0.0)
    told_s: float = float("-inf")


class JobMoney:
    """The money of every private job that this node has a part in."""

    def __init__(
        self, ports: JobPorts, chain: ServedChain, *, poll_s: float, audit_wait_s: float
    ) -> None:
        """`poll_s` is how often it looks at the chain, `audit_wait_s` how long the record of a job
        that has ended waits for the last audits."""
        self._ports = ports
        self._chain = chain
        self._poll_s = poll_s
        self._audit_wait_s = audit_wait_s
        self._followed: dict[bytes, Followed] = {}
        self._news = trio.Event()

    @property
    def _escrow(self) -> Escrow:
        return escrow_of(self._chain)

    def follows(self, job_id: bytes) -> bool:
        """Whether this node moves a job's money on."""
        return job_id in self._followed

    def follow(self, followed: Followed) -> None:
        """Move a job's money on; of too many that are not this node's, the oldest is left to
        others."""
        others = [one.id for one in self._followed.values() if not one.mine]
        if not followed.mine and len(others) >= limits.JOBS_SETTLED_MAX:
            del self._followed[others[0]]
        self._followed[followed.id] = followed
        self._news.set()

    # an owner's ----------------------------------------------------------------------------------
    async def terms(self, payment: Payment) -> JobTerms:
        """What a job file's payment comes to now. Raises `ChainError` where it cannot be funded."""
        coin = await self._escrow.coin(payment.token)
        try:
            price = base_units(payment.amount, coin.decimals)
        except ValueError as error:
            raise TermsRefused(f"payment.amount: {error}") from error
        deadline_s = await self._chain.time_s() + payment.deadline_s
        terms = JobTerms(payment.token, price, deadline_s, payment.dispute_s)
        await self._escrow.check(terms)
        return terms

    def payment(self, name: Digest, terms: JobTerms) -> JobPayment:
        """What the offer says of a job that is going to be funded as `name`."""
        job = escrow_job(self._ports.identity.address, name)
        return JobPayment(job, terms.asset, terms.price, terms.deadline_s)

    async def fund(self, name: Digest, job: PrivateJob, terms: JobTerms) -> None:
        """Lock a job's price. Raises `ChainError`; what was locked by then comes back after the
        deadline, however this ends."""
        job_id = bytes(digest(job))
        [payment] = job.payment
        await self._ports.records.commit([(FUNDED, job_id, encode_bare(payment))])
        self.follow(Followed(job_id, payment, True, job=job))
        await self._escrow.open_job(name, Digest(job_id), terms)

    async def dispute(self, payment: JobPayment) -> Receipt:
        """Have the arbiter decide about a delivery. Raises `ChainError`."""
        return await self._escrow.dispute_job(payment.escrow)

    async def ended(self, owned: Owned, ended: JobEnded) -> None:
        """A job of this node's has ended: tell its record, so that validators attest it."""
        followed = self._followed.get(owned.id)
        if followed is None:
            return
        followed.job = owned.job
        stored = await self._ports.records.get(RECORD, owned.id)
        if stored is None:
            if owned.job.audit_bps:
                await trio.sleep(min(self._audit_wait_s, owned.job.round_s))
            validators, _ = await self._validators()
            try:
                made = await make_record(self._ports, owned, ended, validators)
            except BadRecord as error:
                log.info("nobody is paid for a job", job=owned.id.hex()[:12], why=str(error))
                return
            stored = encode(made)
            await self._ports.records.commit([(RECORD, owned.id, stored)])
        await self._ports.blobs.put(stored)
        followed.record = decode(stored, JobRecord)

    async def _validators(self) -> tuple[frozenset[Address], int]:
        while True:
            try:
                return await self._chain.validators()
            except ChainError as error:
                log.warning("a job's record waits for the chain", why=str(error))
                await trio.sleep(self._poll_s)

    async def attested(self, said: Said) -> None:
        """A signature of a root. Whether it is a validator's is looked at when it is posted."""
        made: JobAttestation = said.message
        followed = self._followed.get(bytes(made.job))
        if followed is None or followed.record is None or digest(followed.record) != made.record:
            return
        try:
            digest_ = self._chain.round_digest(await self.root(followed))
            if recover(digest_, made.signature) != said.author:
                return
        except (ChainError, CryptoError) as error:
            log.info("an attestation is of no use", why=str(error))
            return
        if len(followed.signatures) < limits.MEMBERS_MAX:
            followed.signatures[said.author] = made.signature

    async def root(self, followed: Followed) -> RoundRoot:
        """What is attested of a job's record. Raises `ChainError`."""
        record, job = followed.record, followed.job
        assert record is not None
        assert job is not None
        if followed.stream is None:
            followed.stream = await self._escrow.stream_of(followed.payment.escrow)
        payouts = record_payouts(job, record, followed.payment.price)
        return RoundRoot(
            followed.stream,
            ROUND,
            record.result,
            digest(record),
            payout_root(payouts),
            sum(p.cumulative for p in payouts),
        )

    # moving on -----------------------------------------------------------------------------------
    async def load(self) -> None:
        """Follow what this node funded in an earlier process."""
        for key, row in await self._ports.records.scan(FUNDED):
            payment = decode_bare(row, JobPayment, bytes_max=len(row))
            self.follow(Followed(bytes(key), payment, True))

    async def run(self) -> None:
        """Make every move that is due, until cancelled."""
        while True:
            if not self._followed:
                self._news = trio.Event()
                await self._news.wait()
            for followed in list(self._followed.values()):
                try:
                    await self._tell(followed)
                    await self._move(followed)
                except TransactionReverted as error:
                    log.info("a job's money stays", job=followed.id.hex()[:12], why=str(error))
                except ChainError as error:
                    log.warning("a job's money waits", job=followed.id.hex()[:12], why=str(error))
            await trio.sleep(self._poll_s)

    async def _tell(self, followed: Followed) -> None:
        said = followed.record if followed.mine else followed.attested
        if said is not None and trio.current_time() - followed.told_s >= TELL_EVERY_S:
            followed.told_s = trio.current_time()
            await self._ports.gossip.publish(said)

    async def _move(self, followed: Followed) -> None:
        escrow, job = self._escrow, followed.payment.escrow
        funds, now_s = await escrow.job_funds(job), await self._chain.time_s()
        match funds.state:
            case EscrowState.NONE if now_s > followed.payment.deadline_s:
                await self._forget(followed)
            case EscrowState.OPEN if now_s > funds.deadline_s:
                if not followed.mine:
                    await self._forget(followed)
                elif self._turn(followed, "refund"):
                    self._done("refunded", followed, await escrow.refund_job(job))
            case EscrowState.OPEN if followed.record is not None:
                await self._attest_on_chain(followed)
            case EscrowState.DELIVERED | EscrowState.DISPUTED if now_s >= funds.decidable_s:
                if self._turn(followed, "release"):
                    self._done("released", followed, await escrow.release_job(job))
            case EscrowState.CLOSED if followed.mine and funds.held:
                self._done("refunded", followed, await escrow.refund_job(job))
            case EscrowState.CLOSED:
                await self._forget(followed)

    async def _attest_on_chain(self, followed: Followed) -> None:
        root = await self.root(followed)
        if await self._chain.paying(root.run) is not None:
            if self._turn(followed, "deliver"):
                move = await self._escrow.deliver_job(followed.payment.escrow)
                self._done("delivered", followed, move)
            return
        if await self._chain.head(root.run) is not None:
            return  # in its challenge window
        validators, quorum = await self._chain.validators()
        counted = sorted((a, s) for a, s in followed.signatures.items() if a in validators)
        if len(counted) >= quorum and self._turn(followed, "post"):
            move = await self._chain.post_round(root, [signature for _, signature in counted])
            self._done("attested", followed, move)

    def _turn(self, followed: Followed, move: str) -> bool:
        """Whether a move is this node's to make: others had their time for it."""
        if followed.due[0] != move:
            followed.due = (move, trio.current_time() + followed.turn_s)
        return trio.current_time() >= followed.due[1]

    def _done(self, what: str, followed: Followed, receipt: Receipt) -> None:
        log.info(f"a private job is {what}", job=followed.id.hex()[:12], tx=receipt.tx)

    async def _forget(self, followed: Followed) -> None:
        self._followed.pop(followed.id, None)
        if followed.mine:
            await self._ports.records.commit([(FUNDED, followed.id, None)])
