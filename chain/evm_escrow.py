"""The `Escrow` port on any EVM chain: a DAO's `JobEscrow`, and the ERC-20 that jobs are paid in."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio
from eth_utils.address import to_checksum_address

from eigen.chain.abi import Abi, AbiMismatch
from eigen.chain.bindings import ESCROW, LEDGER, TOKEN
from eigen.chain.escrow import (
    DELAY_S_MAX,
    PRICE_MAX,
    ROUNDS,
    Coin,
    Escrow,
    EscrowState,
    JobFunds,
    JobTerms,
    NoEscrow,
    NotACoin,
    NotEnoughCoin,
    TermsRefused,
    escrow_job,
)
from eigen.chain.outbox import Outbox
from eigen.chain.port import Receipt, TransactionReverted, WrongChain
from eigen.chain.rpc import Call, Rpc
from eigen.protocol.types import Address, Digest, RunId

OPEN_GAS: Final = 450_000
"""To approve and to open, with a margin for coins that count more than OpenZeppelin's do."""
DECIMALS_MAX: Final = 36
"""A coin's contract may say anything."""


class EvmEscrow(Escrow):
    """The jobs of one account in one escrow; its transactions are its outbox's."""

    def __init__(
        self,
        rpc: Rpc,
        outbox: Outbox,
        escrow: Address | None,
        ledger: Address,
        *,
        checked: Callable[[], Awaitable[object]],
    ) -> None:
        """`checked` raises where the chain is not the network's; it is asked before any write."""
        self._rpc = rpc
        self._outbox = outbox
        self._escrow = escrow
        self._ledger = ledger
        self._checked = checked
        self._turn = trio.Lock()  # an allowance is one job's at a time

    # Reads ----------------------------------------------------------------------------------------

    async def coin(self, asset: Address) -> Coin:
        """A token, and what our account holds."""
        try:
            (decimals,) = await self._read(asset, TOKEN, "decimals")
            (held,) = await self._read(asset, TOKEN, "balanceOf", self._outbox.address)
        except (AbiMismatch, TransactionReverted) as error:
            raise NotACoin(f"there is no ERC-20 token at {to_checksum_address(asset)}") from error
        if decimals > DECIMALS_MAX:
            raise NotACoin(f"{to_checksum_address(asset)} counts {decimals} decimals")
        return Coin(asset, int(decimals), int(held))

    async def check(self, terms: JobTerms) -> None:
        """Whether a job could be opened on these terms."""
        await self._checked()
        (ledger,) = await self._ask("ledger")
        if ledger != self._ledger:
            raise WrongChain(
                f"contracts.escrow: {to_checksum_address(self._at())} pays by another ledger,"
                f" {to_checksum_address(ledger)}"
            )
        if not 0 < terms.price <= PRICE_MAX:
            raise TermsRefused(f"the price is {terms.price} base units, give 1 to {PRICE_MAX}")
        if not 0 <= terms.dispute_s <= DELAY_S_MAX:
            raise TermsRefused(f"the dispute window is {terms.dispute_s} s, at most {DELAY_S_MAX}")
        ahead_s = terms.deadline_s - await self._rpc.timestamp_s()
        if ahead_s <= 0:
            raise TermsRefused(f"the deadline passed {-ahead_s} s ago by the chain's clock")
        if ahead_s > DELAY_S_MAX:
            raise TermsRefused(f"the deadline is {ahead_s} s away, at most {DELAY_S_MAX}")
        if ahead_s <= (window_s := await self.challenge_window_s()):
            raise TermsRefused(
                f"the deadline is {ahead_s} s away, but what is attested pays {window_s} s later in"
                " this DAO: leave time for that, and for the training"
            )
        coin = await self.coin(terms.asset)
        if coin.held < terms.price:
            missing = terms.price - coin.held
            raise NotEnoughCoin(
                f"this node's account holds {coin.held} base units of"
                f" {to_checksum_address(terms.asset)} and the job costs {terms.price}:"
                f" send {missing} ({missing / 10**coin.decimals:g} whole ones) to"
                f" {to_checksum_address(self._outbox.address)}"
            )
        await self._outbox.require_gas(OPEN_GAS)

    async def challenge_window_s(self) -> int:
        """From a root's posting until it pays."""
        ((window_s, *_),) = await self._read(self._ledger, LEDGER, "terms")
        return int(window_s)

    async def job_funds(self, job: Digest) -> JobFunds:
        """Where a job's money stands."""
        (
            (client, state, deadline, _, rounds, asset, decidable, held, owed, spec, result),
        ) = await self._ask("jobs", job)
        return JobFunds(
            client=Address(client),
            state=EscrowState(state),
            asset=Address(asset),
            held=held,
            owed=owed,
            deadline_s=deadline,
            decidable_s=decidable,
            rounds=rounds,
            spec=Digest(spec),
            result=Digest(result),
        )

    async def stream_of(self, job: Digest) -> RunId:
        """The ledger's stream on which a job is attested and claimed."""
        (stream,) = await self._ask("streamOf", job)
        return RunId(stream)

    # Writes ---------------------------------------------------------------------------------------

    async def open_job(self, name: Digest, spec: Digest, terms: JobTerms) -> Digest:
        """Approve and lock the price of what is to be done."""
        at, job = self._at(), escrow_job(self._outbox.address, name)
        key = self._key("open", job)
        async with self._turn:
            if not await self._outbox.knows(key):
                if (await self.job_funds(job)).state is not EscrowState.NONE:
                    return job  # by an outbox that was lost
                await self.check(terms)
                await self._approve(terms.asset, terms.price)
            data = ESCROW.calldata(
                "open",
                name,
                spec,
                terms.asset,
                terms.price,
                terms.deadline_s,
                terms.dispute_s,
                ROUNDS,
            )
            await self._outbox.submit(key, at, data)
        return job

    async def deliver_job(self, job: Digest) -> Receipt:
        """Commit to the attested root's checkpoint as the result."""
        return await self._move("deliver", job)

    async def dispute_job(self, job: Digest) -> Receipt:
        """Ask the arbiter to decide, as the client."""
        return await self._move("dispute", job)

    async def release_job(self, job: Digest) -> Receipt:
        """Move what is attested to the stream."""
        return await self._move("release", job)

    async def refund_job(self, job: Digest) -> Receipt:
        """Send the client what is its own."""
        return await self._move("refund", job)

    # Internals ------------------------------------------------------------------------------------

    def _at(self) -> Address:
        if self._escrow is None:
            raise NoEscrow(
                "this DAO has no escrow: its network file names none (contracts.escrow), so jobs"
                " cannot be paid for; leave [payment] out, or found the DAO with one"
            )
        return self._escrow

    def _key(self, function: str, job: Digest) -> str:
        return f"{self._at().hex()} {function} job {job.hex()}"

    async def _move(self, function: str, job: Digest) -> Receipt:
        key = self._key(function, job)
        await self._checked()
        return await self._outbox.submit(key, self._at(), ESCROW.calldata(function, job))

    async def _approve(self, asset: Address, price: int) -> None:
        """Allow the escrow to take the price. Some coins refuse to change an allowance that is not
        zero. Intent key: the amount, and how often it was allowed before."""
        at = self._at()
        (allowed,) = await self._read(asset, TOKEN, "allowance", self._outbox.address, at)
        amounts = () if allowed >= price else (price,) if allowed == 0 else (0, price)
        for amount in amounts:
            key = f"{asset.hex()} approve {at.hex()} {amount} "
            key += str(await self._outbox.landed_count(key))
            await self._outbox.submit(key, asset, TOKEN.calldata("approve", at, amount))

    async def _ask(self, function: str, *args: object) -> tuple[Any, ...]:
        at = self._at()
        try:
            return await self._read(at, ESCROW, function, *args)
        except AbiMismatch as error:
            raise WrongChain(f"{to_checksum_address(at)} is no escrow of ours: {error}") from error

    async def _read(self, to: Address, abi: Abi, function: str, *args: object) -> tuple[Any, ...]:
        data = await self._rpc.call(Call(self._outbox.address, to, abi.calldata(function, *args)))
        return abi.results(function, data)
