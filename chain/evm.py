"""The `Chain` port on any EVM chain, through JSON-RPC: reads, watched events, idempotent writes.

Knows our four contracts and their calls. How a transaction is made to land is the outbox's, how an
endpoint is reached the provider's.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Never, Self

from web3.providers.async_base import AsyncBaseProvider

from eigen.chain.account_calls import AccountCalls, models_index
from eigen.chain.bindings import (
    GOVERNOR,
    LEDGER,
    MEMBERSHIP,
    REVERTS,
    TOKEN,
    root_fields,
)
from eigen.chain.calls import (
    description_hash,
    proposal_id,
    proposed_calls,
)
from eigen.chain.events import INDEXED, EventWatch, indexed_contracts
from eigen.chain.evm_escrow import EvmEscrow
from eigen.chain.history import History
from eigen.chain.index import LogIndex
from eigen.chain.outbox import Outbox, OutboxSettings
from eigen.chain.port import (
    Ballot,
    Chain,
    ChainEvent,
    Contracts,
    Earning,
    Holders,
    Receipt,
    RoundRoot,
    Standing,
    TransactionReverted,
)
from eigen.chain.reader import DaoReader
from eigen.chain.rpc import Call, Rpc
from eigen.chain.watch import LogWatch
from eigen.crypto.hashing import keccak256
from eigen.protocol.limits import BALLOTS_PER_RELAY_MAX, CLAIMS_PER_RELAY_MAX, MERKLE_PROOF_MAX
from eigen.protocol.messages import Attestation, Proposal
from eigen.protocol.types import Address, Digest, RunId


class EvmChain(DaoReader, Chain):
    """One DAO on one EVM chain, as one account.

    Resource handling: use as `async with`, or call `open` and `aclose`. It owns the provider that
    it is given. Run `run` in a nursery, so that writes of earlier calls and earlier processes are
    finished without a new call.

    Before the first write the chain id and all contracts are checked: a transaction to an address
    without code would succeed, and do nothing.
    """

    def __init__(
        self,
        provider: AsyncBaseProvider,
        contracts: Contracts,
        *,
        chain_id: int,
        secret: bytes,
        outbox_path: Path | None,
        index_path: Path | None = None,
        settings: OutboxSettings | None = None,
        start_block: int = 0,
        label: str = "",
    ) -> None:
        """`secret` is the account's 32-byte scalar; where `outbox_path` is None, what was sent is
        forgotten on exit, where `index_path` is, what was read.

        `start_block` is the first block in which the contracts may have done anything. `label`
        replaces what the node calls itself in `info`.
        """
        rpc = Rpc(provider, REVERTS)
        self._settings = settings or OutboxSettings()
        self._outbox = Outbox(rpc, secret, outbox_path, chain_id=chain_id, settings=self._settings)
        super().__init__(
            rpc,
            contracts,
            self._outbox.address,
            chain_id=chain_id,
            start_block=start_block,
            label=label,
        )
        self._index = LogIndex(
            self._rpc,
            indexed_contracts(contracts),
            INDEXED,
            start_block,
            index_path,
            confirmations=self._settings.confirmations,
        )
        self.history = History(self._index, contracts)
        self._models = models_index(
            self._rpc,
            contracts,
            start_block,
            index_path,
            confirmations=self._settings.confirmations,
        )
        self.calls = AccountCalls(
            self._rpc,
            self.address,
            contracts,
            self._outbox,
            self._models,
            read=self._read,
            check=self.info,
            time_s=self.time_s,
        )
        self.escrow = EvmEscrow(
            rpc, self._outbox, contracts.escrow, contracts.ledger, checked=self.info
        )

    @property
    def address(self) -> Address:
        """The account that sends our transactions and needs gas money."""
        return self._outbox.address

    async def open(self) -> Self:
        """Open outbox and index. Asks nothing of the chain. Raises `OutboxInUse`."""
        await self._outbox.open()
        await self._index.open()
        if self._models:
            await self._models.open()
        return self

    async def aclose(self) -> None:
        """Close files and connections; unfinished writes stay in the outbox."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._index.aclose)
            if self._models:
                stack.push_async_callback(self._models.aclose)
            stack.push_async_callback(self._outbox.aclose)
            stack.push_async_callback(self._rpc.aclose)

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def run(self) -> Never:
        """Finish unfinished writes until cancelled. Raises `WrongChain` alone."""
        await self._outbox.run()

    async def unfinished_writes(self) -> int:
        """Transactions that are signed and have not all their confirmations."""
        return await self._outbox.unfinished()

    # Index --------------------------------------------------------------------------------------

    async def standings(self) -> Mapping[Address, Standing]:
        """Everybody's who ever asked or was admitted, as far as `watch` has read the chain."""
        return await self.history.standings()

    async def holders(self) -> Holders:
        """Who holds the DAO's tokens, as far as `watch` has read the chain."""
        found = await self.history.holders()
        return Holders(self.history.through_block, found)

    async def gas_money_wei(self) -> int:
        """What our account holds for gas."""
        return await self._rpc.balance_wei(self.address)

    # Writes -----------------------------------------------------------------------------------

    async def propose(self, proposal: Proposal) -> Receipt:
        """Put a proposal to the vote."""
        data = GOVERNOR.calldata("propose", *proposed_calls(proposal), proposal.description)
        return await self._write(f"propose {proposal_id(proposal)}", self._contracts.governor, data)

    async def relay_ballots(self, ballots: Sequence[Ballot]) -> Receipt:
        """Cast signed ballots of one proposal in one transaction; ballots that cannot count are
        skipped.

        Raises ValueError for none, for more than `BALLOTS_PER_RELAY_MAX`, or for ballots of several
        proposals, and `TransactionReverted` where not one of them would count.
        """
        if not 0 < len(ballots) <= BALLOTS_PER_RELAY_MAX:
            raise ValueError(f"ballots: give 1 to {BALLOTS_PER_RELAY_MAX}, not {len(ballots)}")
        proposals = {ballot.proposal for ballot in ballots}
        if len(proposals) > 1:
            raise ValueError("ballots: one transaction relays the ballots of one proposal")
        data = GOVERNOR.calldata(
            "castVotesBySig",
            proposals.pop(),
            [ballot.support.value for ballot in ballots],
            [ballot.voter for ballot in ballots],
            [ballot.signature for ballot in ballots],
        )
        key = f"ballots {keccak256(data).hex()}"
        if not await self._outbox.knows(self._key(key, self._contracts.governor)):
            await self._check_that_one_counts(data, len(ballots))
        return await self._write(key, self._contracts.governor, data)

    async def queue(self, proposal: Proposal) -> Receipt:
        """Queue a succeeded proposal in the timelock."""
        return await self._move_on("queue", proposal)

    async def execute(self, proposal: Proposal) -> Receipt:
        """Execute a queued proposal whose delay has passed."""
        return await self._move_on("execute", proposal)

    async def post_round(self, root: RoundRoot, signatures: Sequence[bytes]) -> Receipt:
        """Post a round root with its attestations, in ascending order of their signers."""
        data = LEDGER.calldata("postRound", root_fields(root), list(signatures))
        key = f"round {root.run.hex()} {root.round}"
        return await self._write(key, self._contracts.ledger, data)

    async def prove_equivocation(self, first: Attestation, second: Attestation) -> Receipt:
        """Show the ledger two statements of one validator on one round."""
        one, two = sorted((first, second), key=lambda said: said.signature)
        statements = [
            field
            for said in (one, two)
            for field in (root_fields(RoundRoot.attested(said)), said.signature)
        ]
        data = LEDGER.calldata("proveEquivocation", *statements)
        key = f"equivocation {one.signature.hex()} {two.signature.hex()}"
        return await self._write(key, self._contracts.ledger, data)

    async def claim(
        self, run: RunId, account: Address, cumulative: int, proof: Sequence[Digest]
    ) -> Receipt:
        """Claim for an account, by anyone; it is paid to the account's payout address."""
        if len(proof) > MERKLE_PROOF_MAX:
            raise ValueError(f"proof: at most {MERKLE_PROOF_MAX} hashes, not {len(proof)}")
        data = LEDGER.calldata("claim", run, account, cumulative, list(proof))
        key = f"claim {run.hex()} {account.hex()} {cumulative}"
        return await self._write(key, self._contracts.ledger, data)

    async def request_membership(self, statement: Digest) -> Receipt:
        """Ask to join; in an open DAO our account is a member then."""
        at, key = self._membership(), "request membership "
        key += str(await self._outbox.landed_count(self._key(key, at)))
        return await self._write(key, at, MEMBERSHIP.calldata("request", statement))

    async def admit(self, account: Address, approved: bool) -> Receipt:
        """Approve or refuse an account, as the owner."""
        at, function = self._membership(), "approve" if approved else "refuse"
        key = f"{function} {account.hex()} "
        key += str(await self._outbox.landed_count(self._key(key, at)))
        return await self._write(key, at, MEMBERSHIP.calldata(function, account))

    async def delegate(self, to: Address) -> Receipt | None:
        """Let another account vote for our tokens, also for those that claims brought since; zero
        bytes let nobody.

        None where it is so already. Intent key: the delegate, and how often it was chosen before,
        or how much counts then.
        """
        token = self._contracts.token
        (current,) = await self._read(token, TOKEN, "delegates", self.address)
        if current != to:
            key = f"delegate {to.hex()} "
            key += str(await self._outbox.landed_count(self._key(key, token)))
            return await self._write(key, token, TOKEN.calldata("delegate", to))
        (counted,) = await self._read(token, TOKEN, "counted", self.address)
        held = await self.balance(self.address)
        if counted == held:
            return None
        data = TOKEN.calldata("count", [self.address])
        return await self._write(f"count {self.address.hex()} {held}", token, data)

    async def claim_many(self, run: RunId, earnings: Sequence[Earning]) -> Receipt:
        """Claim for many accounts of one run in one transaction; those that cannot be paid are
        skipped.

        Raises ValueError for none or more than `CLAIMS_PER_RELAY_MAX`, and `TransactionReverted`
        where not one can be paid.
        """
        if not 0 < len(earnings) <= CLAIMS_PER_RELAY_MAX:
            raise ValueError(f"earnings: give 1 to {CLAIMS_PER_RELAY_MAX}, not {len(earnings)}")
        rows = [(e.account, e.cumulative, list(e.proof)) for e in earnings]
        data = LEDGER.calldata("multiClaim", run, rows)
        key = f"multi-claim {run.hex()} {keccak256(data).hex()}"
        return await self._write(key, self._contracts.ledger, data)

    async def set_payout(self, payee: Address) -> Receipt | None:
        """Send what our account earns to another address; zero bytes make it our own again.

        None where it is so already. Intent key: the payee and how often it was chosen before.
        """
        ledger = self._contracts.ledger
        if await self.payout_of(self.address) == (payee if any(payee) else self.address):
            return None
        key = f"payout {payee.hex()} "
        key += str(await self._outbox.landed_count(self._key(key, ledger)))
        return await self._write(key, ledger, LEDGER.calldata("setPayout", payee))

    # Events -----------------------------------------------------------------------------------

    def watch(self, from_block: int) -> AsyncIterator[ChainEvent]:
        """Events from a block on, in order, each after its confirmations; never ends.

        Raises `WrongChain` alone. Holds nothing to close; a cancelled `anext` loses no event.
        """
        logs = LogWatch(self._index, from_block, poll_s=self._settings.poll_s)
        return EventWatch(logs, self._contracts)

    # Internals --------------------------------------------------------------------------------

    def _key(self, key: str, to: Address) -> str:
        """One account may serve several DAOs: their intents differ by contract."""
        return f"{to.hex()} {key}"

    async def _write(self, key: str, to: Address, data: bytes) -> Receipt:
        await self.info()
        return await self._outbox.submit(self._key(key, to), to, data)

    async def _move_on(self, function: str, proposal: Proposal) -> Receipt:
        arguments = (*proposed_calls(proposal), description_hash(proposal))
        data = GOVERNOR.calldata(function, *arguments)
        key = f"{function} {proposal_id(proposal)}"
        return await self._write(key, self._contracts.governor, data)

    async def _check_that_one_counts(self, data: bytes, count: int) -> None:
        returned = await self._rpc.call(Call(self.address, self._contracts.governor, data))
        (counted,) = GOVERNOR.results("castVotesBySig", returned)
        if counted == 0:
            raise TransactionReverted(f"not one of the {count} ballots can be counted")
