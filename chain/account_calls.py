"""One account's reads and writes of a DAO's contracts, and its approvals; for what members do by
hand.

Knows how an intent is keyed, no contract but ERC-20 tokens.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from decimal import Context, Decimal
from pathlib import Path
from typing import Any, Final

from eigen.chain.abi import Abi, AbiMismatch
from eigen.chain.bindings import REGISTRY, TOKEN
from eigen.chain.index import LogIndex
from eigen.chain.outbox import Outbox
from eigen.chain.port import (
    ChainError,
    Contracts,
    EndpointRefused,
    Receipt,
    TransactionReverted,
    WrongChain,
)
from eigen.chain.rpc import Log, Rpc
from eigen.protocol.types import Address

SYMBOL_CHARS_MAX: Final = 12
"""Of what a token calls itself: anybody writes tokens."""
DECIMALS_MAX: Final = 36
"""Of a token whose amounts we show; the largest in use is 24."""

EXACT: Final = Context(prec=160)
"""A uint256 has 78 digits, decimals shift it by some more."""


class NotPossible(ChainError):
    """What a member asked for cannot be done, and why; nothing was signed."""


@dataclass(frozen=True, slots=True)
class Asset:
    """An ERC-20 token as people know it."""

    at: Address
    symbol: str
    decimals: int

    def shown(self, units: int) -> str:
        """Base units, not negative, as whole tokens, exactly."""
        text = f"{Decimal(units).scaleb(-self.decimals, EXACT):f}"
        return text.rstrip("0").rstrip(".") if "." in text else text


class AccountCalls:
    """What `EvmChain.calls` gives. All methods raise `ChainError`."""

    def __init__(
        self,
        rpc: Rpc,
        address: Address,
        contracts: Contracts,
        outbox: Outbox,
        models: LogIndex | None,
        *,
        read: Callable[..., Awaitable[tuple[Any, ...]]],
        check: Callable[[], Awaitable[object]],
        time_s: Callable[[], Awaitable[int]],
    ) -> None:
        """`models` has the logs of the registry; `check` raises `WrongChain` before writes."""
        self.address = address
        self._rpc = rpc
        self.contracts = contracts
        self.time_s = time_s
        self._outbox = outbox
        self._models = models
        self._read = read
        self._check = check

    def contract(self, name: str) -> Address:
        """A contract that not every DAO has. Raises `NotPossible` where this one has none."""
        at: Address | None = getattr(self.contracts, name)
        if at is None:
            raise NotPossible(f"the network file names no {name} contract (contracts.{name})")
        return at

    async def read(self, to: Address, abi: Abi, function: str, *args: object) -> Any:
        """The first result of a call that changes nothing."""
        return (await self.read_all(to, abi, function, *args))[0]

    async def read_all(
        self, to: Address, abi: Abi, function: str, *args: object
    ) -> tuple[Any, ...]:
        """All results."""
        return await self._read(to, abi, function, *args)

    async def write(self, what: str, to: Address, data: bytes) -> Receipt:
        """Make a call once more. Where the same call is under way, this finishes that one instead.

        Intent key: `what`, which must say all that the call does, and how often it landed before.
        """
        await self._check()
        key = f"{to.hex()} {what} "
        return await self._outbox.submit(key + str(await self._outbox.landed_count(key)), to, data)

    async def asset(self, at: Address) -> Asset:
        """How a token counts. Raises `NotPossible` for what is no ERC-20 token."""
        try:
            decimals = await self.read(at, TOKEN, "decimals")
        except (TransactionReverted, WrongChain) as error:
            raise NotPossible(f"0x{at.hex()} is no token (ERC-20)") from error
        if decimals > DECIMALS_MAX:
            raise NotPossible(f"0x{at.hex()} counts {decimals} decimals, more than any token")
        try:
            symbol = await self.read(at, TOKEN, "symbol")
        except (TransactionReverted, WrongChain, EndpointRefused):
            symbol = ""  # optional in ERC-20
        shown = "".join(c for c in symbol if c.isascii() and c.isalnum())[:SYMBOL_CHARS_MAX]
        return Asset(at, shown or "tokens", int(decimals))

    async def balance(self, asset: Address) -> int:
        """What our account holds of a token, base units."""
        return int(await self.read(asset, TOKEN, "balanceOf", self.address))

    async def require(self, asset: Asset, amount: int) -> None:
        """Raises `NotPossible` where our account holds less, telling how much is missing."""
        held = await self.balance(asset.at)
        if held < amount:
            raise NotPossible(
                f"not enough {asset.symbol}: {asset.shown(amount)} are needed,"
                f" {asset.shown(held)} are there, {asset.shown(amount - held)} are missing"
            )

    async def check_due(self, amount: int, available_at_s: int, what: str) -> None:
        """Raises `NotPossible` where there is nothing to fetch, or not yet."""
        if not amount:
            raise NotPossible(f"nothing was {what} that could be withdrawn")
        left_s = available_at_s - await self.time_s()
        if left_s > 0:
            raise NotPossible(f"what was {what} can be withdrawn in {left_s} s, not before")

    async def code(self, at: Address) -> bytes:
        """A contract's code, empty where there is none."""
        return await self._rpc.code(at)

    async def event(self, receipt: Receipt, at: Address, abi: Abi, name: str) -> Mapping[str, Any]:
        """What a contract told of a transaction of ours."""
        topics = [abi.topic(name)]
        for log in await self._rpc.logs([at], topics, receipt.block, receipt.block):
            if log.tx.hex() == receipt.tx.removeprefix("0x"):
                try:
                    return abi.event(log.topics, log.data).args
                except AbiMismatch as error:
                    raise WrongChain(f"transaction {receipt.tx}: {error}") from error
        raise EndpointRefused(f"the endpoint keeps no {name} log of {receipt.tx}")

    async def allow(self, asset: Address, spender: Address, amount: int) -> Receipt | None:
        """Let a contract take this much and no more; None where it may already.

        Some tokens refuse to change an allowance that is not zero: it is taken back first.
        """
        allowed = await self.read(asset, TOKEN, "allowance", self.address, spender)
        if allowed >= amount:
            return None
        for units in (0, amount) if allowed else (amount,):
            what = f"allow {spender.hex()} {units}"
            done = await self.write(what, asset, TOKEN.calldata("approve", spender, units))
        return done

    async def model_logs(self, topic: bytes, model: bytes | None = None) -> list[Log]:
        """The registry's logs of one event, oldest first, of one model where it is named."""
        self.contract("registry")
        assert self._models is not None
        more = True
        while more:
            try:
                more = await self._models.advance()
            except EndpointRefused:  # the range or the reply may be too large
                if self._models.span_blocks == 1:
                    raise
                self._models.narrow()
        return await self._models.find(topic, model)


def models_index(
    rpc: Rpc, contracts: Contracts, start_block: int, beside: Path | None, *, confirmations: int
) -> LogIndex | None:
    """The registry's logs, in a file beside the one given; None where there is no registry."""
    if contracts.registry is None:
        return None
    return LogIndex(
        rpc,
        [contracts.registry],
        [REGISTRY.topic(event) for event in ("ModelRegistered", "RoundRecorded")],
        start_block,
        beside and beside.with_name("models.sqlite3"),
        confirmations=confirmations,
    )
