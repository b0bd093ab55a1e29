"""What trainers see of a private job's money, and how they take what they earned of it."""

from typing import Any

import structlog

from eigen.chain.escrow import Escrow, EscrowState, JobFunds, NoEscrow
from eigen.chain.port import ChainError, ServedChain
from eigen.config.addresses import format_address
from eigen.crypto.merkle import PayoutTree
from eigen.node.amounts import whole
from eigen.node.fetch import ContentUnavailable
from eigen.node.job_ports import JobPorts
from eigen.node.ports import RequestRefused
from eigen.protocol.cid import RAW, cid_of
from eigen.protocol.job_record import JobRecord, record_payouts
from eigen.protocol.private_job import JobPayment, PrivateJob
from eigen.protocol.wire import WireError, decode, encode

log = structlog.get_logger()

EARNED = "job-earned"
"""Rows of the record store, by job: the job, whose record names this node as a trainer."""


class NothingEarned(Exception):
    """No job that this node trained owes it anything that can be claimed now."""


class JobWages:
    """What jobs of others owe this node."""

    def __init__(self, ports: JobPorts, chain: ServedChain) -> None:
        self._ports = ports
        self._chain = chain

    async def remember(self, job_id: bytes, job: PrivateJob, record: JobRecord) -> None:
        """A job's owner says that this node trained it. The record is kept: it proves claims.

        Nothing is kept of a job without money, or the disk would fill with what strangers say.
        Raises `ChainError`.
        """
        [payment] = job.payment
        funds = await escrow_of(self._chain).job_funds(payment.escrow)
        if not is_covered(job_id, job, payment, funds):
            return
        await self._ports.blobs.put(encode(record))
        await self._ports.records.commit([(EARNED, job_id, encode(job))])

    async def covers(self, job_id: bytes, job: PrivateJob) -> None:
        """Whether to train a job: raises `RequestRefused` unless the escrow holds what it says that
        it pays, and can still pay it."""
        for payment in job.payment:
            try:
                funds = await escrow_of(self._chain).job_funds(payment.escrow)
                window_s = await escrow_of(self._chain).challenge_window_s()
                left_s = payment.deadline_s - await self._chain.time_s()
            except ChainError as error:
                log.info("a job's money cannot be seen", job=job_id.hex()[:12], why=str(error))
                return
            held = funds.state is EscrowState.OPEN
            if not held or not is_covered(job_id, job, payment, funds):
                raise RequestRefused("the escrow does not hold what this job says that it pays")
            if left_s <= window_s:
                raise RequestRefused("nothing could be paid before this job's deadline")

    async def claim(self, prefix: str) -> list[dict[str, Any]]:
        """Take what jobs whose ids start so owe this node. Raises `NothingEarned`, `ChainError`."""
        claimed, why = [], "no such job: this node has a part in no job's record"
        for job_id, row in await self._ports.records.scan(EARNED):
            if not bytes(job_id).hex().startswith(prefix):
                continue
            try:
                claimed.append(await self._claim(bytes(job_id), decode(row, PrivateJob)))
            except NothingEarned as error:
                why = str(error)
        if not claimed:
            raise NothingEarned(why)
        return claimed

    async def _claim(self, job_id: bytes, job: PrivateJob) -> dict[str, Any]:
        me, short, [payment] = self._ports.identity.address, job_id.hex()[:12], job.payment
        funds = await escrow_of(self._chain).job_funds(payment.escrow)
        if funds.state is not EscrowState.CLOSED:
            state = funds.state.name.lower()
            raise NothingEarned(f"{short}: its money is not released yet, it is {state}")
        stream = await escrow_of(self._chain).stream_of(payment.escrow)
        root = await self._chain.paying(stream)
        if root is None:
            raise NothingEarned(f"{short}: it was refunded, no record of it was attested")
        try:
            data = await self._ports.blocks.fetch(cid_of(RAW, root.record), (funds.client,))
            record = decode(data, JobRecord)
        except (ContentUnavailable, WireError) as error:
            raise NothingEarned(f"{short}: nobody has its record now") from error
        payouts = record_payouts(job, record, payment.price)
        tree = PayoutTree({p.account: p.cumulative for p in payouts})
        owed = tree.cumulative.get(me, 0) - await self._chain.claimed(stream, me)
        if owed <= 0:
            raise NothingEarned(f"{short}: all that was earned is claimed")
        receipt = await self._chain.claim(stream, me, tree.cumulative[me], tree.proof(me))
        coin = await escrow_of(self._chain).coin(payment.asset)
        return {
            "job": job_id.hex(),
            "amount": whole(owed, coin.decimals),
            "token": format_address(payment.asset),
            "tx": receipt.tx,
        }

    async def shown(self, job: PrivateJob) -> dict[str, Any] | None:
        """A job's money for people; None where nobody is paid."""
        for payment in job.payment:
            told = {"token": format_address(payment.asset), "escrow": payment.escrow.hex()}
            try:
                funds = await escrow_of(self._chain).job_funds(payment.escrow)
                coin = await escrow_of(self._chain).coin(payment.asset)
            except ChainError as error:
                return told | {"price": str(payment.price), "state": "unknown", "why": str(error)}
            return told | {
                "price": whole(payment.price, coin.decimals),
                "held": whole(funds.held, coin.decimals),
                "state": funds.state.name.lower(),
                "deadline_s": funds.deadline_s,
                "decidable_s": funds.decidable_s,
            }
        return None


def escrow_of(chain: ServedChain) -> Escrow:
    """Where jobs are paid. Raises `NoEscrow`."""
    if chain.escrow is None:
        raise NoEscrow("this chain has no escrow: leave [payment] out")
    return chain.escrow


def is_covered(job_id: bytes, job: PrivateJob, payment: JobPayment, funds: JobFunds) -> bool:
    """Whether the escrow was funded by a job's owner, for it, with what it says."""
    return (
        funds.state is not EscrowState.NONE
        and (funds.client, funds.spec) == (job.owner, job_id)
        and (funds.asset, funds.deadline_s) == (payment.asset, payment.deadline_s)
        and (funds.state is not EscrowState.OPEN or funds.held == payment.price)
    )
