"""Settlement: attested round roots to the ledger, and rewards from it.

Training does not wait for it: an unreachable chain leaves roots in line, nothing is lost.
"""

import math
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
import trio

from eigen.chain.port import (
    Chain,
    ChainError,
    ChainUnreachable,
    Earning,
    Receipt,
    TransactionReverted,
)
from eigen.crypto.identity import recover
from eigen.crypto.merkle import PayoutTree
from eigen.node.driver import RunDriver
from eigen.node.fetch import BlockExchange, ContentUnavailable
from eigen.node.ports import RecordStore
from eigen.protocol.cid import RAW, cid_of
from eigen.protocol.limits import CLAIMS_PER_RELAY_MAX
from eigen.protocol.messages import Attestation, RoundRecord
from eigen.protocol.requests import HEAD_REPLY_BYTES_MAX, HeadReply
from eigen.protocol.seat import ranked
from eigen.protocol.types import Address, RunId
from eigen.protocol.wire import decode

log = structlog.get_logger()

T = TypeVar("T")

CLAIM_PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Pauses between tries of one claim, a minute in all: rounds that follow each other block by block
come to an end within that on a devnet, and do not happen on a chain where gas costs money."""
ACCUSATIONS_MAX = 64
"""Waiting for the chain; one is enough to lose bond and seat."""
ACCUSERS_WAIT_S = 10.0
"""Nodes that hear an equivocation spread over this, so that one of them pays for the proof."""
RETRY_S_MAX = 30.0
"""Longest pause between two tries to reach the chain."""


class NothingToClaim(Exception):
    """The ledger's last root of this run owes the account nothing that it has not taken."""


class Settlement:
    """Posts round roots in their order; validators take turns, the first of them in each run."""

    def __init__(
        self,
        me: Address,
        chain: Chain,
        records: RecordStore,
        blocks: BlockExchange,
        turn_s: float,
        poll_s: float,
    ) -> None:
        self._me = me
        self._chain = chain
        self._records = records
        self._blocks = blocks
        self._turn_s = turn_s
        self._poll_s = poll_s
        self._news = trio.Event()
        self._waiting: dict[tuple[RunId, int], tuple[RunDriver, HeadReply, float]] = {}
        self.posted: dict[tuple[RunId, int], str] = {}  # transaction of each root posted by us
        self._accused: dict[tuple[Attestation, Attestation], float] = {}  # and when it is our turn

    def adopted(self, driver: RunDriver, record: RoundRecord, reply: HeadReply) -> None:
        """A round was attested; if this node is a validator, its root is now in line."""
        order = ranked(driver.context.run, b"post", driver.context.validators)
        if self._me not in order:
            return
        due_s = trio.current_time() + order.index(self._me) * self._turn_s
        self._waiting[driver.context.run, record.attempt.round] = (driver, reply, due_s)
        self._news.set()

    def accuse(self, first: Attestation, second: Attestation) -> None:
        """One validator signed both: the ledger is to know, from any node that heard it.

        Nodes take turns; who comes later finds that the validator has nothing to lose any more.
        """
        if len(self._accused) < ACCUSATIONS_MAX:
            wait_s = int.from_bytes(self._me[:2], "big") / 2**16 * ACCUSERS_WAIT_S
            self._accused[first, second] = trio.current_time() + wait_s
            self._news.set()

    async def resume(self, driver: RunDriver) -> None:
        """After a restart: put rounds in line that the ledger may not have yet."""
        for number in sorted(driver.history):
            key = driver.context.run + number.to_bytes(8, "big")
            row = await self._records.get("round", key)
            if row is not None:
                reply = decode(row, HeadReply, bytes_max=HEAD_REPLY_BYTES_MAX)
                self.adopted(driver, reply.records[0], reply)

    async def run(self) -> None:
        """Post what is due, oldest round first, until cancelled."""
        pause_s = self._poll_s
        while True:
            self._news = trio.Event()
            try:
                await self._accuse()
                for key in sorted(self._waiting):
                    if self._waiting[key][2] <= trio.current_time():
                        await self._post(key)
                pause_s = self._poll_s
            except ChainError as error:
                pause_s = min(pause_s * 2, RETRY_S_MAX)
                log.warning("round roots wait", count=len(self._waiting), why=str(error))
            with trio.move_on_after(pause_s if self._waiting or self._accused else math.inf):
                await self._news.wait()

    async def _accuse(self) -> None:
        for pair, due_s in list(self._accused.items()):
            if due_s > trio.current_time():
                continue
            try:
                receipt = await self._chain.prove_equivocation(*pair)
                log.info("an equivocation is on chain", round=pair[0].round, tx=receipt.tx)
            except ChainUnreachable:
                raise
            except ChainError as error:  # another node was first, or is richer
                log.info("an equivocation was not taken", round=pair[0].round, why=str(error))
            del self._accused[pair]

    async def _post(self, key: tuple[RunId, int]) -> None:
        driver, reply, _ = self._waiting[key]
        run, number = key
        head = await self._chain.head(run)
        if head is not None and head.root.round >= number:
            del self._waiting[key]
            return
        if (
            number > 1
            and (head is None or head.root.round < number - 1)
            and ((run, number - 1) in self._waiting)
        ):
            return  # its predecessor goes first
        root = driver.sync.root_of(reply.records[0])
        digest = self._chain.round_digest(root)
        signatures = sorted(reply.attestations, key=lambda s: recover(digest, s))
        try:
            receipt = await self._chain.post_round(root, signatures)
        except ChainUnreachable:
            raise
        except ChainError as error:
            log.info("a round root was not taken", round=number, why=str(error))
            head = await self._chain.head(run)
            if head is not None and head.root.round >= number:
                del self._waiting[key]
            return
        self.posted[key] = receipt.tx
        del self._waiting[key]
        log.info("round root on chain", run=run.hex()[:8], round=number, tx=receipt.tx)

    async def claim(self, run: RunId) -> tuple[int, Receipt]:
        """Claim what the ledger owes this node for a run. Returns base units and the receipt.

        Raises `NothingToClaim` or `ChainError`.
        """
        return await self._while_current(lambda: self._claim(run))

    async def claim_for_all(self, run: RunId) -> tuple[int, list[Receipt]]:
        """Claim for every account that the run owes, many in one transaction; this node pays gas.

        Returns how many accounts were paid. Raises `NothingToClaim` or `ChainError`.
        """
        return await self._while_current(lambda: self._claim_for_all(run))

    async def _while_current(self, work: Callable[[], Awaitable[T]]) -> T:
        """The ledger takes proofs of one root alone: another one that overtakes the claim makes a
        new proof necessary, so it is tried again, later and later, until none lands meanwhile."""
        for pause_s in CLAIM_PAUSES_S:
            try:
                return await work()
            except TransactionReverted as error:
                if error.name not in ("InvalidProof", "NothingToClaim"):
                    raise
                log.info("a new root overtook the claim", in_s=pause_s)
                await trio.sleep(pause_s)
        return await work()

    async def _table(self, run: RunId) -> dict[Address, int]:
        """Who has earned how much, by the root that pays now."""
        root = await self._chain.paying(run)
        if root is None:
            head = await self._chain.head(run)
            raise NothingToClaim(
                f"round {head.root.round} is in its challenge window: it pays when that is over"
                if head
                else "no round of this run is on chain yet"
            )
        cid = cid_of(RAW, root.record)
        try:
            record = decode(await self._blocks.fetch(cid), RoundRecord)
        except ContentUnavailable as error:
            raise NothingToClaim(f"nobody has the record of round {root.round}") from error
        return {p.account: p.cumulative for p in record.payouts}

    async def _claim(self, run: RunId) -> tuple[int, Receipt]:
        table = await self._table(run)
        owed = table.get(self._me, 0)
        taken = await self._chain.claimed(run, self._me)
        if owed <= taken:
            raise NothingToClaim("all that was earned so far is claimed")
        receipt = await self._chain.claim(run, self._me, owed, PayoutTree(table).proof(self._me))
        return owed - taken, receipt

    async def _claim_for_all(self, run: RunId) -> tuple[int, list[Receipt]]:
        table = await self._table(run)
        tree = PayoutTree(table)
        owed = [
            Earning(account, cumulative, tree.proof(account))
            for account, cumulative in sorted(table.items())
            if cumulative > await self._chain.claimed(run, account)
        ]
        if not owed:
            raise NothingToClaim("nobody is owed anything of this run")
        receipts = []
        for start in range(0, len(owed), CLAIMS_PER_RELAY_MAX):
            batch = owed[start : start + CLAIMS_PER_RELAY_MAX]
            receipts.append(await self._chain.claim_many(run, batch))
        return len(owed), receipts
