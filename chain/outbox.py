"""Durable, idempotent transactions of one account: an intent key never lands twice.

An intent's nonce and signed bytes are stored before anything is sent. What is sent again is the
same bytes, or a replacement of the same nonce, so that at most one of them can be mined. Everything
else is derived anew from the chain at each look, which is what makes reorganisations harmless.

Knows what a pool and a chain do to transactions, not what ours are for.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum, auto
from pathlib import Path
from typing import Final, Never, Self

import trio
from eth_account import Account
from eth_utils.address import to_checksum_address

from eigen.chain import fees
from eigen.chain.fees import Fee
from eigen.chain.journal import Attempt, Intent, Journal, State
from eigen.chain.port import (
    ChainError,
    ChainUnreachable,
    EndpointRefused,
    FeeTooHigh,
    InsufficientGasMoney,
    Receipt,
    TransactionReverted,
    WrongChain,
)
from eigen.chain.rpc import Call, Mined, Rpc
from eigen.protocol.types import Address, Digest

GAS_MARGIN: Final = 1.25
"""Over the estimate: between it and the block, others change storage that ours touches."""
GAS_MAX: Final = 1 << 24
"""EIP-7825 (Osaka): no transaction may ask for more."""
CONFIRMATIONS_MAX: Final = 1000
"""Mainnet is final after 64 blocks; chains of quick blocks want more, none wants thousands."""
STATE_DEPTH_MAX: Final = 64
"""Nodes that keep no archive answer for the state of the last 128 blocks."""
BUMP_AFTER_S: Final = 60.0
"""Five mainnet blocks without us: the fee is too low."""
BUMPS_MAX: Final = 20
"""1.125^20 is tenfold; a transaction that nobody takes at that has another trouble than its fee."""
LOOKS_BEFORE_SUPERSEDED: Final = 3
"""Looks at which a nonce is used and no receipt of ours is found. One endpoint may lag another."""
FIRST_PAUSE_S: Final = 0.05
"""Before a new transaction's second look; doubled up to `poll_s`. Local chains mine at once."""
UNREACHABLE_PAUSE_S: Final = 15.0
"""Of the background task, when no endpoint answered."""

log = logging.getLogger(__name__)


class _Answer(Enum):
    """What a pool's reply to signed bytes comes to."""

    PENDING = auto()
    NO_MONEY = auto()
    REFUSED = auto()


_PENDING_WORDS: Final = (
    "already known",  # geth, erigon, reth
    "already imported",  # anvil, openethereum
    "already in mempool",
    "known transaction",  # besu, older geth
    "alreadyknown",  # nethermind
    "nonce too low",  # mined meanwhile: the receipt will tell
    "nonce is too low",
    "oldnonce",  # nethermind
    "underpriced",  # the bump timer raises the fee
    "fee too low",
    "less than block base fee",
    "replacementnotallowed",
    "pool is full",
    "txpool is full",
)
_NO_MONEY_WORDS: Final = ("insufficient funds", "insufficient balance", "upfront cost exceeds")


def _classified(error: EndpointRefused) -> _Answer:
    words = str(error).lower()
    if any(known in words for known in _PENDING_WORDS):
        return _Answer.PENDING
    if any(known in words for known in _NO_MONEY_WORDS):
        return _Answer.NO_MONEY
    return _Answer.REFUSED


@dataclass(frozen=True, slots=True)
class OutboxSettings:
    """How patient, how generous. Times in seconds, fees in wei for one gas."""

    confirmations: int = 0  # blocks on top of the transaction's own
    poll_s: float = 2.0
    bump_after_s: float = BUMP_AFTER_S
    fee_ceiling_wei: int = fees.MAX_FEE_WEI

    def __post_init__(self) -> None:
        if not 0 <= self.confirmations <= CONFIRMATIONS_MAX:
            raise ValueError(
                f"confirmations: give 0 to {CONFIRMATIONS_MAX}, not {self.confirmations}"
            )
        if self.poll_s <= 0 or self.bump_after_s <= 0:
            raise ValueError("poll_s and bump_after_s must be positive")


class Outbox:
    """The transactions of one account on one chain. One account, one outbox, one process.

    Resource handling: `open` and `aclose`, or `async with`. `run` is optional; without it,
    unfinished intents move on during later calls only.

    Cancelling any method leaves the outbox consistent: an intent is stored whole or not at all,
    and a stored one is finished by `run`, by any later `submit`, or after the next start.
    """

    def __init__(
        self,
        rpc: Rpc,
        secret: bytes,
        path: Path | None,
        *,
        chain_id: int,
        settings: OutboxSettings | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`path` None keeps the journal in memory: idempotent, but not across a crash."""
        self._rpc = rpc
        self._account = Account.from_key(secret)
        self.address = Address(bytes.fromhex(self._account.address[2:]))
        self._path = path
        self._journal = Journal(path)
        self._chain_id = chain_id
        self._settings = settings or OutboxSettings()
        self._now = now
        self._lock = trio.Lock()
        self._bound = False
        self._looked_at_s = float("-inf")
        self._blocked: tuple[int, ChainError] | None = None  # the first nonce that a pool refuses
        self._missing_looks: dict[int, int] = {}
        self._stored = trio.Event()

    async def open(self) -> Self:
        """Open the journal. Raises `OutboxInUse`."""
        await self._journal.open()
        return self

    async def aclose(self) -> None:
        """Close the journal; unfinished intents stay in it."""
        await self._journal.aclose()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def unfinished(self) -> int:
        """How many intents are signed and have not all their confirmations."""
        return len(await self._journal.unfinished())

    async def knows(self, key: str) -> bool:
        """Whether an intent of this key is under way or has landed."""
        return await self._journal.find(key) is not None

    async def landed_count(self, prefix: str) -> int:
        """How many intents have landed whose key begins with `prefix`."""
        return await self._journal.landed_count(prefix)

    async def submit(
        self, key: str, to: Address | None, data: bytes, *, value_wei: int = 0
    ) -> Receipt:
        """Make a transaction happen once; returns when it has its confirmations.

        `to` None creates a contract. The same key returns the receipt of its first landing, also
        when it landed in an earlier process; a key whose transaction the contract refused may be
        used again. A dry run comes first, so that a refusal costs neither gas nor a nonce.

        Raises `TransactionReverted`, `InsufficientGasMoney`, `FeeTooHigh`, `WrongChain`, and
        `ChainUnreachable` or `EndpointRefused`: whether it was sent by then or not, the same call
        later goes on where this one stopped.
        """
        async with self._lock:
            await self._bind()
            intent = await self._journal.find(key)
            if intent is None:
                intent = await self._sign_new(key, Call(self.address, to, data, value_wei))
                self._looked_at_s = float("-inf")
        return await self._landed(intent)

    async def run(self) -> Never:
        """Finish whatever is unfinished, now and later. Runs until cancelled.

        Raises `WrongChain` alone: an unreachable endpoint is asked again.
        """
        while True:
            pause_s = self._settings.poll_s
            try:
                if await self._journal.unfinished():
                    async with self._lock:
                        await self._bind()
                        await self._look_if_due(pause_s)
                else:
                    await self._wait_for_work()
                    continue
            except WrongChain:
                raise
            except ChainError as error:
                log.warning("outbox: %s", error)
                pause_s = max(UNREACHABLE_PAUSE_S, pause_s)
            await trio.sleep(pause_s)

    async def _wait_for_work(self) -> None:
        self._stored = trio.Event()
        if not await self._journal.unfinished():
            await self._stored.wait()

    async def _landed(self, intent: Intent) -> Receipt:
        pause_s = min(FIRST_PAUSE_S, self._settings.poll_s)
        while True:
            if intent.state is State.LANDED:
                assert intent.tx is not None
                return Receipt("0x" + intent.tx.hex(), intent.block, intent.gas_used)
            if intent.state is State.REVERTED:
                tx = "0x" + intent.tx.hex() if intent.tx else None
                raise TransactionReverted(intent.error, tx, name=intent.error_name)
            async with self._lock:
                await self._look_if_due(pause_s)
                blocked = self._blocked
            intent = await self._journal.get(intent.id)
            if intent.state is State.OPEN and blocked and intent.nonce >= blocked[0]:
                raise blocked[1]
            if intent.state in (State.OPEN, State.MINED):
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, self._settings.poll_s)

    async def _bind(self) -> None:
        """Make sure that the journal is of this chain and account. Raises `WrongChain`."""
        if self._bound:
            return
        genesis = await self._rpc.block_hash(0)
        facts = {
            "chain id": str(self._chain_id),
            "genesis block": genesis.hex() if genesis else "unknown",
            "account": to_checksum_address(self.address),
        }
        known = await self._journal.bind(facts)
        for name, value in facts.items():
            if known[name] != value:
                raise WrongChain(
                    f"outbox {self._path}: its {name} is {known[name]}, this chain's is {value};"
                    " if the chain was started anew, move the outbox file away"
                )
        self._bound = True

    async def _sign_new(self, key: str, call: Call) -> Intent:
        gas = await self._dry_run(call)
        market = await self._market()
        await self._check_money(gas * market.max_wei + call.value_wei)
        pool_nonce = await self._rpc.transaction_count(self.address, "pending")
        nonce = max(pool_nonce, await self._journal.next_nonce())
        return await self._store(key, call, nonce, gas, market)

    async def _store(self, key: str, call: Call, nonce: int, gas: int, fee: Fee) -> Intent:
        attempt = self._signed(nonce, call, gas, fee)
        intent = await self._journal.add(
            key,
            nonce,
            to=call.to,
            data=call.data,
            value_wei=call.value_wei,
            gas=gas,
            attempt=attempt,
        )
        self._stored.set()
        return intent

    async def _dry_run(self, call: Call) -> int:
        """Gas limit of a call that would succeed now. Raises `TransactionReverted`."""
        try:
            estimate = await self._rpc.estimate_gas(call)
        except EndpointRefused as error:
            if _classified(error) is _Answer.NO_MONEY:
                await self._raise_no_money(call.value_wei)
            raise
        if estimate > GAS_MAX:
            raise TransactionReverted(
                f"needs {estimate} gas, a transaction may use {GAS_MAX} (EIP-7825): split it"
            )
        return min(int(estimate * GAS_MARGIN), GAS_MAX)

    async def _market(self) -> Fee:
        base_fee_wei, tips_wei = await self._rpc.fee_market()
        return fees.offer(base_fee_wei, tips_wei, self._settings.fee_ceiling_wei)

    async def _check_money(self, cost_wei: int) -> None:
        """Whether the account can pay this and all that is open, at the highest price of each."""
        promised_wei = 0
        for intent in await self._journal.unfinished():
            if intent.state is State.OPEN:
                newest = (await self._journal.attempts(intent))[0]
                promised_wei += intent.gas * newest.fee.max_wei + intent.value_wei
        if await self._rpc.balance_wei(self.address) < promised_wei + cost_wei:
            await self._raise_no_money(promised_wei + cost_wei)

    async def _raise_no_money(self, needed_wei: int) -> Never:
        held_wei = await self._rpc.balance_wei(self.address)
        missing = f"{_coins(max(needed_wei - held_wei, 1))} is missing: send it to "
        raise InsufficientGasMoney(
            f"{to_checksum_address(self.address)} holds {_coins(held_wei)} and needs up to"
            f" {_coins(needed_wei)} for gas; {missing}{to_checksum_address(self.address)}"
            f" on chain {self._chain_id}"
        )

    def _signed(self, nonce: int, call: Call, gas: int, fee: Fee) -> Attempt:
        fields: dict[str, object] = {
            "type": 2,
            "chainId": self._chain_id,
            "nonce": nonce,
            "value": call.value_wei,
            "data": call.data,
            "gas": gas,
            "maxFeePerGas": fee.max_wei,
            "maxPriorityFeePerGas": fee.priority_wei,
        }
        if call.to is not None:
            fields["to"] = call.to
        signed = self._account.sign_transaction(fields)
        return Attempt(Digest(bytes(signed.hash)), bytes(signed.raw_transaction), fee, self._now())

    async def _look_if_due(self, interval_s: float) -> None:
        """Waiters that look equally often share each look."""
        now_s = trio.current_time()
        if now_s - self._looked_at_s >= interval_s * 0.9:
            await self._look()
            self._looked_at_s = now_s

    async def _look(self) -> None:
        """Compare every unfinished intent with the chain, and do what is next for it."""
        self._blocked = None
        unfinished = await self._journal.unfinished()
        if not unfinished:
            return
        head = await self._rpc.block_number()
        used = await self._rpc.transaction_count(self.address, "latest")
        waiting = []
        for intent in unfinished:
            mined = await self._find_mined(intent)
            if mined is not None:
                self._missing_looks.pop(intent.id, None)
                await self._confirm(intent, mined, head)
                continue
            if intent.state is State.MINED:
                log.warning("outbox: %s was reorganised away, sending it again", intent.key)
                intent = await self._journal.mark(intent, State.OPEN)  # noqa: PLW2901
            if intent.nonce < used:
                await self._perhaps_superseded(intent, head)
            else:
                waiting.append(intent)
        if waiting:
            await self._fill_gap({i.nonce for i in waiting}, head)
        for intent in waiting:
            await self._push(intent, lowest=intent.nonce == used)

    async def _find_mined(self, intent: Intent) -> Mined | None:
        for attempt in await self._journal.attempts(intent):
            mined = await self._rpc.receipt(attempt.tx)
            if mined is not None:
                return mined
        return None

    async def _confirm(self, intent: Intent, mined: Mined, head: int) -> None:
        if head - mined.block < self._settings.confirmations:
            if (intent.state, intent.tx, intent.block) != (State.MINED, mined.tx, mined.block):
                await self._journal.mark(
                    intent,
                    State.MINED,
                    tx=mined.tx,
                    block=mined.block,
                    gas_used=mined.gas_used,
                )
            return
        error, name = "", ""
        if not mined.succeeded:
            error, name = await self._why_reverted(intent, mined)
        await self._journal.mark(
            intent,
            State.LANDED if mined.succeeded else State.REVERTED,
            tx=mined.tx,
            block=mined.block,
            gas_used=mined.gas_used,
            error=error,
            error_name=name,
        )

    async def _why_reverted(self, intent: Intent, mined: Mined) -> tuple[str, str]:
        """A receipt has no reason: replay the call before its block, then after it."""
        call = Call(self.address, intent.to, intent.data, intent.value_wei)
        for block in (mined.block - 1, mined.block):
            try:
                await self._rpc.call(call, block)
            except TransactionReverted as reverted:
                return reverted.error, reverted.name
            except EndpointRefused:
                break  # no state of that block any more
        spent = "out of gas" if mined.gas_used >= intent.gas else "the reason is not known any more"
        return f"reverted in block {mined.block}: {spent}", ""

    async def _perhaps_superseded(self, intent: Intent, head: int) -> None:
        """The nonce is used, but by no attempt of ours: somebody else signs with this account.

        Once that is as deep as our confirmations, and was seen several times, none of our attempts
        can land any more, and the intent gets another nonce.
        """
        deep = max(head - min(self._settings.confirmations, STATE_DEPTH_MAX), 0)
        if await self._rpc.transaction_count(self.address, deep) <= intent.nonce:
            return
        looks = self._missing_looks[intent.id] = self._missing_looks.get(intent.id, 0) + 1
        if looks < LOOKS_BEFORE_SUPERSEDED:
            return
        del self._missing_looks[intent.id]
        if _is_filler(intent):
            await self._journal.mark(intent, State.VOID)
            return
        log.warning("outbox: nonce %d was used elsewhere, %s moves", intent.nonce, intent.key)
        call = Call(self.address, intent.to, intent.data, intent.value_wei)
        try:
            gas = await self._dry_run(call)
        except TransactionReverted as reverted:
            await self._journal.mark(
                intent, State.REVERTED, error=reverted.error, error_name=reverted.name
            )
            return
        pool_nonce = await self._rpc.transaction_count(self.address, "pending")
        nonce = max(pool_nonce, await self._journal.next_nonce())
        attempt = self._signed(nonce, call, min(gas, intent.gas), await self._market())
        await self._journal.add_attempt(intent, attempt, nonce=nonce)

    async def _fill_gap(self, waiting: set[int], head: int) -> None:
        """Put something at the first nonce that no pool and no intent of ours has.

        A gap opens when a reorganisation takes back more than our confirmations: then what landed
        there is sent again. Where it was nothing of ours, an empty transfer to ourselves does.
        """
        gap = await self._rpc.transaction_count(self.address, "pending")
        if gap >= max(waiting) or gap in waiting:
            return
        landed = await self._journal.landed_at(gap)
        if landed is not None:
            log.warning("outbox: %s was reorganised away below block %d", landed.key, head)
            await self._journal.mark(landed, State.OPEN)
            await self._push(landed, lowest=False)
            return
        call = Call(self.address, self.address, b"")
        gas = await self._dry_run(call)
        filler = await self._store(f"{_FILLER}{gap}", call, gap, gas, await self._market())
        await self._push(filler, lowest=False)

    async def _push(self, intent: Intent, *, lowest: bool) -> None:
        """Send an intent's newest bytes again; first replace them where they wait for too long."""
        attempts = await self._journal.attempts(intent)
        newest = attempts[0]
        aged = self._now() - newest.signed_at_s >= self._settings.bump_after_s
        if lowest and aged and len(attempts) <= BUMPS_MAX:
            newest = await self._bumped(intent, newest)
        try:
            await self._rpc.send_raw(newest.raw)
        except EndpointRefused as error:
            answer = _classified(error)
            if answer is _Answer.PENDING:
                return
            if self._blocked is None:
                self._blocked = intent.nonce, await self._as_told(answer, intent, newest, error)

    async def _bumped(self, intent: Intent, newest: Attempt) -> Attempt:
        ceiling_wei = self._settings.fee_ceiling_wei
        try:
            fee = fees.replacement(newest.fee, await self._market(), ceiling_wei)
        except FeeTooHigh:
            fee = None
        if fee is None:
            return newest
        log.info("outbox: %s offers %d wei for a gas", intent.key, fee.max_wei)
        call = Call(self.address, intent.to, intent.data, intent.value_wei)
        attempt = self._signed(intent.nonce, call, intent.gas, fee)
        await self._journal.add_attempt(intent, attempt, nonce=intent.nonce)
        return attempt

    async def _as_told(
        self, answer: _Answer, intent: Intent, attempt: Attempt, error: EndpointRefused
    ) -> ChainError:
        if answer is _Answer.REFUSED:
            return EndpointRefused(f"the endpoint refuses {intent.key}: {error}", error.code)
        try:
            await self._raise_no_money(intent.gas * attempt.fee.max_wei + intent.value_wei)
        except InsufficientGasMoney as told:
            return told


_FILLER: Final = "gap filler "


def _is_filler(intent: Intent) -> bool:
    return intent.key.startswith(_FILLER)


def _coins(wei: int) -> str:
    return f"{Decimal(wei) / 10**18:f} of the chain's coin"


__all__ = ["ChainUnreachable", "Outbox", "OutboxSettings"]
