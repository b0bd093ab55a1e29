"""One look at the chain on behalf of every unfinished intent, and the next step for each.

Nothing is concluded from what was sent: states are derived anew from receipts and from the
account's nonce, which is what makes crashes and reorganisations harmless.
"""

import logging
from dataclasses import dataclass
from typing import Final

from eigen.chain.fees import Fee
from eigen.chain.journal import Attempt, Intent, Journal, State
from eigen.chain.pool import Answer, classified
from eigen.chain.port import ChainError, EndpointRefused, TransactionReverted
from eigen.chain.rpc import Call, Mined, Rpc
from eigen.chain.wallet import Wallet

BUMPS_MAX: Final = 20
"""1.125^20 is tenfold; a transaction that nobody takes at that has another trouble than its fee."""
LOOKS_BEFORE_SUPERSEDED: Final = 3
"""Looks at which a nonce is used and no receipt of ours is found. One endpoint may lag another."""

_FILLER: Final = "gap filler "

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Missing:
    """An intent whose nonce is used and that has no receipt: since which block, and how often."""

    head: int
    looks: int = 0


class Settlement:
    """Moves a journal's intents on. Calls of `look` must not overlap.

    Cancelling a look leaves the journal consistent; the next look does the rest.
    """

    def __init__(
        self, rpc: Rpc, journal: Journal, wallet: Wallet, *, confirmations: int, bump_after_s: float
    ) -> None:
        self._rpc = rpc
        self._journal = journal
        self._wallet = wallet
        self._confirmations = confirmations
        self._bump_after_s = bump_after_s
        self._missing: dict[int, _Missing] = {}
        self.blocked: tuple[int, ChainError] | None = None
        """The first nonce that a pool refused at the last look, and why."""

    async def look(self) -> None:
        """Compare every unfinished intent with the chain, and send what has to be sent."""
        self.blocked = None
        used = await self._rpc.transaction_count(self._wallet.address, "latest")
        for intent in await self._journal.reopen_landed(used):
            log.warning("outbox: %s was reorganised away after it had landed", intent.key)
        unfinished = await self._journal.unfinished()
        if not unfinished:
            return
        head = await self._rpc.block_number()
        waiting = []
        for intent in unfinished:
            mined = await self._find_mined(intent)
            if mined is not None:
                self._missing.pop(intent.id, None)
                await self._confirm(intent, mined, head)
                continue
            if intent.state is State.MINED:
                log.warning("outbox: %s was reorganised away, it is sent again", intent.key)
                await self._journal.mark(intent, State.OPEN)
            if intent.nonce < used:
                await self._perhaps_superseded(intent, head)
            else:
                self._missing.pop(intent.id, None)
                waiting.append(intent)
        if waiting:
            await self._fill_gap({intent.nonce for intent in waiting})
        for intent in waiting:
            await self._push(intent, is_next=intent.nonce == used)

    async def _find_mined(self, intent: Intent) -> Mined | None:
        for attempt in await self._journal.attempts(intent):
            mined = await self._rpc.receipt(attempt.tx)
            if mined is not None:
                return mined
        return None

    async def _confirm(self, intent: Intent, mined: Mined, head: int) -> None:
        error, name = "", ""
        if head - mined.block < self._confirmations:
            state = State.MINED
        elif mined.succeeded:
            state = State.LANDED
        else:
            state = State.REVERTED
            error, name = await self._why_reverted(intent, mined)
        if (intent.state, intent.tx, intent.block) == (state, mined.tx, mined.block):
            return
        await self._journal.mark(
            intent,
            state,
            tx=mined.tx,
            block=mined.block,
            gas_used=mined.gas_used,
            error=error,
            error_name=name,
        )

    async def _why_reverted(self, intent: Intent, mined: Mined) -> tuple[str, str]:
        """A receipt has no reason: replay the call before its block, then after it."""
        for block in (mined.block - 1, mined.block):
            try:
                await self._rpc.call(self._call(intent), block)
            except TransactionReverted as reverted:
                return reverted.error, reverted.name
            except EndpointRefused:
                continue  # it does not keep the state of that block
        spent = "out of gas" if mined.gas_used >= intent.gas else "the reason is not known any more"
        return f"reverted in block {mined.block}: {spent}", ""

    async def _perhaps_superseded(self, intent: Intent, head: int) -> None:
        """The nonce is used, but by no attempt of ours: somebody else signs with this account.

        Once that was seen several times, and over as many blocks as our confirmations, none of our
        attempts can land any more, and the intent gets another nonce.
        """
        since = self._missing.setdefault(intent.id, _Missing(head))
        since.looks += 1
        seen_for_long = head - since.head >= self._confirmations
        if since.looks < LOOKS_BEFORE_SUPERSEDED or not seen_for_long:
            return
        del self._missing[intent.id]
        if intent.key.startswith(_FILLER):
            await self._journal.mark(intent, State.VOID)
        else:
            log.warning("outbox: nonce %d was used elsewhere, %s moves", intent.nonce, intent.key)
            await self._renumber(intent)

    async def _renumber(self, intent: Intent) -> None:
        call = self._call(intent)
        try:
            gas = await self._wallet.gas_limit(call)
        except TransactionReverted as reverted:
            await self._journal.mark(
                intent, State.REVERTED, error=reverted.error, error_name=reverted.name
            )
            return
        nonce = await self.free_nonce()
        attempt = self._wallet.signed(nonce, call, gas, await self._wallet.market())
        await self._journal.add_attempt(intent, attempt, nonce=nonce, gas=gas)

    async def free_nonce(self) -> int:
        """A nonce that neither a pool nor any intent of ours has had."""
        in_pool = await self._rpc.transaction_count(self._wallet.address, "pending")
        return max(in_pool, await self._journal.next_nonce())

    async def _fill_gap(self, waiting: set[int]) -> None:
        """Send an empty transfer to ourselves where no pool and no intent has the next nonce.

        Such a gap opens when a reorganisation takes back a transaction that was not ours to send
        again; without it nothing of ours could be mined any more.
        """
        gap = await self._rpc.transaction_count(self._wallet.address, "pending")
        if gap >= max(waiting) or gap in waiting:
            return
        call = Call(self._wallet.address, self._wallet.address, b"")
        gas = await self._wallet.gas_limit(call)
        attempt = self._wallet.signed(gap, call, gas, await self._wallet.market())
        filler = await self._journal.add(
            f"{_FILLER}{gap}", gap, to=call.to, data=b"", value_wei=0, gas=gas, attempt=attempt
        )
        await self._push(filler, is_next=False)

    async def _push(self, intent: Intent, *, is_next: bool) -> None:
        """Send an intent's newest bytes again; first replace them where they waited for too long.

        Only the next nonce can be held up by its own fee; later ones wait for it.
        """
        attempts = await self._journal.attempts(intent)
        newest = attempts[0]
        waited_s = self._wallet.now() - newest.signed_at_s
        if is_next and waited_s >= self._bump_after_s and len(attempts) <= BUMPS_MAX:
            newest = await self._bumped(intent, newest)
        try:
            await self._rpc.send_raw(newest.raw)
        except EndpointRefused as error:
            answer = classified(error)
            if answer is not Answer.PENDING and self.blocked is None:
                self.blocked = intent.nonce, await self._told(answer, intent, newest.fee, error)

    async def _bumped(self, intent: Intent, newest: Attempt) -> Attempt:
        fee = await self._wallet.replacement(newest.fee)
        if fee is None:
            return newest
        log.info("outbox: %s now offers %d wei for a gas", intent.key, fee.max_wei)
        attempt = self._wallet.signed(intent.nonce, self._call(intent), intent.gas, fee)
        await self._journal.add_attempt(intent, attempt, nonce=intent.nonce, gas=intent.gas)
        return attempt

    async def _told(
        self, answer: Answer, intent: Intent, fee: Fee, error: EndpointRefused
    ) -> ChainError:
        if answer is Answer.NO_MONEY:
            return await self._wallet.no_money(intent.gas * fee.max_wei + intent.value_wei)
        return EndpointRefused(f"the endpoint refuses {intent.key}: {error}", error.code)

    def _call(self, intent: Intent) -> Call:
        return Call(self._wallet.address, intent.to, intent.data, intent.value_wei)
