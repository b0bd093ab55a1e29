"""The `Chain` port on any EVM chain, through JSON-RPC: reads, watched events, idempotent writes.

Knows our four contracts and their calls. How a transaction is made to land is the outbox's, how an
endpoint is reached the provider's.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, Never, Self

from eth_utils.address import to_checksum_address
from web3.providers.async_base import AsyncBaseProvider

from eigen.chain.abi import Abi, AbiMismatch
from eigen.chain.bindings import (
    GOVERNOR,
    LEDGER,
    MEMBERSHIP,
    REVERTS,
    TOKEN,
    root_fields,
)
from eigen.chain.calls import (
    call_of,
    decision_of,
    description_hash,
    proposal_id,
    proposed_calls,
)
from eigen.chain.decisions import Decision
from eigen.chain.events import INDEXED, EventWatch, indexed_contracts
from eigen.chain.history import History
from eigen.chain.index import LogIndex
from eigen.chain.outbox import Outbox, OutboxSettings
from eigen.chain.port import (
    Ballot,
    Chain,
    ChainEvent,
    ChainInfo,
    Contracts,
    Earning,
    EndpointRefused,
    Holders,
    MembershipRules,
    NoMembership,
    ProposalState,
    ProposalStatus,
    Receipt,
    RoundPosted,
    RoundRoot,
    Standing,
    Support,
    TransactionReverted,
    Treasury,
    WrongChain,
)
from eigen.chain.rpc import Call, Rpc
from eigen.chain.watch import LogWatch, last_log
from eigen.crypto import statements
from eigen.crypto.hashing import keccak256
from eigen.protocol.limits import BALLOTS_PER_RELAY_MAX, CLAIMS_PER_RELAY_MAX, MERKLE_PROOF_MAX
from eigen.protocol.messages import Proposal, ProposedCall
from eigen.protocol.types import Address, Digest, RunId

COIN_DECIMALS: Final = 18
"""A chain's coin counts in wei."""
LABEL_CHARS_MAX: Final = 40
"""Of what a node calls itself, before we show it."""


class EvmChain(Chain):
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
        self._rpc = Rpc(provider, REVERTS)
        self._contracts = contracts
        self._chain_id = chain_id
        self._settings = settings or OutboxSettings()
        self._outbox = Outbox(
            self._rpc, secret, outbox_path, chain_id=chain_id, settings=self._settings
        )
        self._start_block = start_block
        self._index = LogIndex(
            self._rpc,
            indexed_contracts(contracts),
            INDEXED,
            start_block,
            index_path,
            confirmations=self._settings.confirmations,
        )
        self.history = History(self._index, contracts)
        self._label = label
        self._info: ChainInfo | None = None
        self._governor_domain = statements.governor_domain(chain_id, contracts.governor)
        self._ledger_domain = statements.ledger_domain(chain_id, contracts.ledger)

    @property
    def address(self) -> Address:
        """The account that sends our transactions and needs gas money."""
        return self._outbox.address

    async def open(self) -> Self:
        """Open outbox and index. Asks nothing of the chain. Raises `OutboxInUse`."""
        await self._outbox.open()
        await self._index.open()
        return self

    async def aclose(self) -> None:
        """Close files and connections; unfinished writes stay in the outbox."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._index.aclose)
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

    # Reads ------------------------------------------------------------------------------------

    async def info(self) -> ChainInfo:
        """Chain id and label, once all contracts are found to belong together.

        Raises `WrongChain` naming what differs from the network file.
        """
        if self._info is None:
            found = await self._rpc.chain_id()
            if found != self._chain_id:
                raise WrongChain(f"the endpoint is chain {found}, not {self._chain_id}")
            await self._check_contracts()
            self._info = ChainInfo(self._chain_id, self._label or await self._node_label())
        return self._info

    async def validators(self) -> tuple[frozenset[Address], int]:
        """The ledger's validator set and its quorum k."""
        (members,) = await self._read(self._contracts.ledger, LEDGER, "validators")
        (quorum,) = await self._read(self._contracts.ledger, LEDGER, "quorum")
        return frozenset(Address(member) for member in members), quorum

    async def proposal(self, proposal: int) -> ProposalStatus:
        """A proposal as the governor sees it. Raises `TransactionReverted` for an unknown one."""
        (state,) = await self._governor("state", proposal)
        votes_against, votes_for, votes_abstain = await self._governor("proposalVotes", proposal)
        (vote_start_s,) = await self._governor("proposalSnapshot", proposal)
        (vote_end_s,) = await self._governor("proposalDeadline", proposal)
        (eta_s,) = await self._governor("proposalEta", proposal)
        quorum = 0
        if ProposalState(state) is not ProposalState.PENDING:
            (quorum,) = await self._governor("quorum", vote_start_s)
        return ProposalStatus(
            state=ProposalState(state),
            votes_against=votes_against,
            votes_for=votes_for,
            votes_abstain=votes_abstain,
            vote_start_s=vote_start_s,
            vote_end_s=vote_end_s,
            eta_s=eta_s,
            quorum=quorum,
        )

    async def ballot_nonce(self, voter: Address) -> int:
        """The nonce that the voter's next ballot must carry."""
        (nonce,) = await self._governor("nonces", voter)
        return int(nonce)

    async def voting_power(self, voter: Address, timepoint_s: int) -> int:
        """Delegated votes at a past time, base units. Raises `TransactionReverted` for a future."""
        (votes,) = await self._governor("getVotes", voter, timepoint_s)
        return int(votes)

    async def has_voted(self, proposal: int, voter: Address) -> bool:
        """Whether the governor has counted a ballot of this voter."""
        (voted,) = await self._governor("hasVoted", proposal, voter)
        return bool(voted)

    async def claimed(self, run: RunId, account: Address) -> int:
        """What the account has claimed of this run so far, base units."""
        (amount,) = await self._read(self._contracts.ledger, LEDGER, "claimed", run, account)
        return int(amount)

    async def payout_of(self, account: Address) -> Address:
        """Who receives what the account earns; itself, unless it chose another."""
        (payee,) = await self._read(self._contracts.ledger, LEDGER, "payoutOf", account)
        return Address(payee)

    async def balance(self, account: Address) -> int:
        """DAO tokens of an account, base units."""
        (amount,) = await self._read(self._contracts.token, TOKEN, "balanceOf", account)
        return int(amount)

    async def holders(self) -> Holders:
        """Who holds the DAO's tokens, as far as `watch` has read the chain."""
        found = await self.history.holders()
        return Holders(self.history.through_block, found)

    async def membership(self) -> MembershipRules:
        """Who admits members besides the DAO, and whether anyone has to. Raises `NoMembership`."""
        at = self._membership()
        (owner,) = await self._read(at, MEMBERSHIP, "owner")
        (is_open,) = await self._read(at, MEMBERSHIP, "isOpen")
        return MembershipRules(Address(owner) if any(owner) else None, bool(is_open))

    async def standing(self, account: Address) -> Standing:
        """Whether an account is a member, or wants to be. Raises `NoMembership`."""
        (status,) = await self._read(self._membership(), MEMBERSHIP, "statusOf", account)
        return Standing(status)

    def _membership(self) -> Address:
        if self._contracts.membership is None:
            raise NoMembership(
                "this DAO has no membership contract: whoever joins its network takes part"
            )
        return self._contracts.membership

    async def treasury(self, token: Address | None) -> Treasury:
        """What the DAO's timelock holds of a token, of the chain's coin where that is None."""
        if token is None:
            return Treasury(await self._rpc.balance_wei(self._contracts.timelock), COIN_DECIMALS)
        (amount,) = await self._read(token, TOKEN, "balanceOf", self._contracts.timelock)
        (decimals,) = await self._read(token, TOKEN, "decimals")
        return Treasury(int(amount), int(decimals))

    async def head(self, run: RunId) -> RoundPosted | None:
        """The last round root accepted for a run.

        `tx` is empty and `block` 0 where the endpoint does not look back as far as the posting.
        """
        root = await self._root("head", run)
        if root is None:
            return None
        number = root.round
        posted: list[list[bytes]] = [[LEDGER.topic("RoundPosted")], [run], [number.to_bytes(32)]]
        log = await last_log(self._rpc, self._contracts.ledger, posted, self._start_block)
        return (
            RoundPosted(root, "0x" + log.tx.hex(), log.block) if log else RoundPosted(root, "", 0)
        )

    async def paying(self, run: RunId) -> RoundRoot | None:
        """The root that claims are paid by: the latest that is out of its challenge window."""
        return await self._root("paying", run)

    async def _root(self, function: str, run: RunId) -> RoundRoot | None:
        number, checkpoint, record, payout_root, payout_total = await self._read(
            self._contracts.ledger, LEDGER, function, run
        )
        if number == 0:
            return None
        return RoundRoot(
            run=run,
            round=number,
            checkpoint=Digest(checkpoint),
            record=Digest(record),
            payout_root=Digest(payout_root),
            payout_total=payout_total,
        )

    async def gas_money_wei(self) -> int:
        """What our account holds for gas."""
        return await self._rpc.balance_wei(self.address)

    async def time_s(self) -> int:
        """Time of the newest block, unix seconds: the clock by which votes open and close."""
        return await self._rpc.timestamp_s()

    # Computed off chain -----------------------------------------------------------------------

    def proposal_id(self, proposal: Proposal) -> int:
        """The governor's id of a proposal."""
        return proposal_id(proposal)

    def call_of(self, decision: Decision) -> ProposedCall:
        """The call that carries a decision out."""
        return call_of(self._contracts, decision)

    def decisions(self, proposal: Proposal) -> tuple[Decision, ...]:
        """What a proposal's calls decide, in their order."""
        return tuple(decision_of(self._contracts, call) for call in proposal.calls)

    def ballot_digest(self, proposal: int, support: Support, voter: Address, nonce: int) -> Digest:
        """EIP-712 digest of an OpenZeppelin `Ballot` for this governor."""
        return statements.ballot_digest(
            self._governor_domain,
            proposal=proposal,
            support=support.value,
            voter=voter,
            nonce=nonce,
        )

    def round_digest(self, root: RoundRoot) -> Digest:
        """EIP-712 digest of a `RoundRoot` for this ledger."""
        return root.signed_digest(self._ledger_domain)

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

    async def _governor(self, function: str, *args: object) -> tuple[Any, ...]:
        return await self._read(self._contracts.governor, GOVERNOR, function, *args)

    async def _read(self, to: Address, abi: Abi, function: str, *args: object) -> tuple[Any, ...]:
        data = await self._rpc.call(Call(self.address, to, abi.calldata(function, *args)))
        try:
            return abi.results(function, data)
        except AbiMismatch as error:
            raise WrongChain(f"{to_checksum_address(to)} is not our contract: {error}") from error

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

    async def _node_label(self) -> str:
        try:
            return _readable(await self._rpc.client_version())
        except EndpointRefused:  # some public endpoints keep it to themselves
            return _readable("")

    async def _check_contracts(self) -> None:
        named = self._contracts
        for field, account in (
            ("token", named.token),
            ("governor", named.governor),
            ("timelock", named.timelock),
            ("ledger", named.ledger),
        ):
            if not await self._rpc.code(account):
                raise WrongChain(
                    f"contracts.{field}: there is no contract at {to_checksum_address(account)}"
                    f" on chain {self._chain_id}"
                )
        for holder, abi, function, expected in (
            (named.governor, GOVERNOR, "token", named.token),
            (named.governor, GOVERNOR, "timelock", named.timelock),
            (named.ledger, LEDGER, "token", named.token),
            (named.ledger, LEDGER, "dao", named.timelock),
        ):
            (found,) = await self._read(holder, abi, function)
            if found != expected:
                raise WrongChain(
                    f"{to_checksum_address(holder)}.{function}() is {to_checksum_address(found)},"
                    f" the network file names {to_checksum_address(expected)}"
                )


def _readable(version: str) -> str:
    """`anvil/v1.7.1` becomes `anvil 1.7.1`; a node may call itself anything."""
    name, _, rest = version.partition("/")
    number = rest.split("/")[0].split("-")[0].removeprefix("v")
    text = f"{name} {number}".strip()[:LABEL_CHARS_MAX]
    return "".join(c if c.isprintable() else "?" for c in text) or "evm"
