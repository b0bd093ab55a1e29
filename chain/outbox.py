"""Durable, idempotent transactions of one account: an intent key never lands twice.

An intent's nonce and signed bytes are stored before anything is sent. What is sent again is the
same bytes, or a replacement of the same nonce, so that at most one of them can be mined.

Knows what a pool and a chain do to transactions, not what ours are for.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Never, Self

import trio
from eth_utils.address import to_checksum_address

from eigen.chain import fees
from eigen.chain.journal import Intent, Journal, State
from eigen.chain.port import ChainError, Receipt, TransactionReverted, WrongChain
from eigen.chain.rpc import Call, Rpc
from eigen.chain.settle import Settlement
from eigen.chain.wallet import Wallet
from eigen.protocol.types import Address

CONFIRMATIONS_MAX: Final = 1000
"""Mainnet is final after 64 blocks; chains of quick blocks want more, none wants thousands."""
BUMP_AFTER_S: Final = 60.0
"""Five mainnet blocks without us: the fee is too low."""
FIRST_PAUSE_S: Final = 0.05
"""Before a new transaction's second look; doubled up to `poll_s`. Local chains mine at once."""
UNREACHABLE_PAUSE_S: Final = 15.0
"""Of the background task, after a look that failed."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OutboxSettings:
    """How patient, how generous. Times in seconds, fees in wei for one gas."""

    confirmations: int = 0  # blocks on top of the transaction's own
    poll_s: float = 2.0
    bump_after_s: float = BUMP_AFTER_S
    fee_ceiling_wei: int = fees.MAX_FEE_WEI

    def __post_init__(self) -> None:
        """Raises ValueError naming the field and what it may be."""
        if not 0 <= self.confirmations <= CONFIRMATIONS_MAX:
            raise ValueError(
                f"confirmations: give 0 to {CONFIRMATIONS_MAX}, not {self.confirmations}"
            )
        for name in ("poll_s", "bump_after_s", "fee_ceiling_wei"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: must be positive")


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
        self._settings = settings or OutboxSettings()
        self._rpc = rpc
        self._path = path
        self._chain_id = chain_id
        self._journal = Journal(path)
        self._wallet = Wallet(
            rpc,
            secret,
            chain_id=chain_id,
            fee_ceiling_wei=self._settings.fee_ceiling_wei,
            now=now,
        )
        self._settlement = Settlement(
            rpc,
            self._journal,
            self._wallet,
            confirmations=self._settings.confirmations,
            bump_after_s=self._settings.bump_after_s,
        )
        self._lock = trio.Lock()  # one step of signing or settling at a time
        self._looked_at_s = float("-inf")
        self._bound = False
        self._stored = trio.Event()

    @property
    def address(self) -> Address:
        """The account that sends."""
        return self._wallet.address

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

    async def require_gas(self, gas: int) -> None:
        """Raises `InsufficientGasMoney` where so much gas cannot be paid for at today's prices,
        beside what is under way."""
        fee = await self._wallet.market()
        await self._wallet.require(await self._journal.promised_wei() + gas * fee.max_wei)

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
                intent = await self._sign(key, Call(self.address, to, data, value_wei))
                self._stored.set()
            self._looked_at_s = float("-inf")  # what blocked an earlier look may be mended
        return await self._landed(intent)

    async def run(self) -> Never:
        """Finish whatever is unfinished, now and later. Runs until cancelled, one at a time.

        Raises `WrongChain` alone: an endpoint that does not answer is asked again.
        """
        while True:
            pause_s = self._settings.poll_s
            try:
                async with self._lock:
                    await self._bind()
                    await self._look_if_due(pause_s)
            except WrongChain:
                raise
            except ChainError as error:
                log.warning("outbox: %s", error)
                pause_s = max(UNREACHABLE_PAUSE_S, pause_s)
            await trio.sleep(pause_s)
            await self._wait_for_unfinished()

    async def _wait_for_unfinished(self) -> None:
        while not await self._journal.unfinished():
            await self._stored.wait()
            self._stored = trio.Event()

    async def _landed(self, intent: Intent) -> Receipt:
        pause_s = min(FIRST_PAUSE_S, self._settings.poll_s)
        while True:
            if intent.state is State.LANDED:
                assert intent.tx is not None
                return Receipt(_hex(intent.tx), intent.block, intent.gas_used)
            if intent.state is State.REVERTED:
                tx = _hex(intent.tx) if intent.tx else None
                raise TransactionReverted(intent.error, tx, name=intent.error_name)
            async with self._lock:
                await self._look_if_due(pause_s)
                blocked = self._settlement.blocked
            intent = await self._journal.get(intent.id)
            if intent.state is State.OPEN and blocked and intent.nonce >= blocked[0]:
                raise blocked[1]
            if intent.state in (State.OPEN, State.MINED):
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, self._settings.poll_s)

    async def _look_if_due(self, interval_s: float) -> None:
        """Waiters that look equally often share each look."""
        now_s = trio.current_time()
        if now_s - self._looked_at_s >= interval_s * 0.9:
            await self._settlement.look()
            self._looked_at_s = now_s

    async def _bind(self) -> None:
        """Once a process: is the journal of this chain and account? Raises `WrongChain`."""
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
        await self._settlement.look()
        self._bound = True

    async def _sign(self, key: str, call: Call) -> Intent:
        gas = await self._wallet.gas_limit(call)
        fee = await self._wallet.market()
        promised_wei = await self._journal.promised_wei()
        await self._wallet.require(promised_wei + gas * fee.max_wei + call.value_wei)
        nonce = await self._settlement.free_nonce()
        return await self._journal.add(
            key,
            nonce,
            to=call.to,
            data=call.data,
            value_wei=call.value_wei,
            gas=gas,
            attempt=self._wallet.signed(nonce, call, gas, fee),
        )


def _hex(value: bytes) -> str:
    return "0x" + value.hex()
