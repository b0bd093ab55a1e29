"""What an account reads of one DAO on any EVM chain, through JSON-RPC; and what needs no chain.

Knows our contracts and their calls, no key, no outbox and no index.
"""

from dataclasses import fields
from typing import Any, Final

from eth_utils.address import to_checksum_address

from eigen.chain.abi import Abi, AbiMismatch
from eigen.chain.bindings import (
    GOVERNOR,
    LEDGER,
    MEMBERSHIP,
    TOKEN,
)
from eigen.chain.calls import (
    call_of,
    decision_of,
    proposal_id,
)
from eigen.chain.decisions import Decision
from eigen.chain.port import (
    ChainInfo,
    Contracts,
    EndpointRefused,
    MembershipRules,
    NoMembership,
    ProposalState,
    ProposalStatus,
    RoundPosted,
    RoundRoot,
    Standing,
    Support,
    Treasury,
    WrongChain,
)
from eigen.chain.rpc import Call, Rpc
from eigen.chain.watch import last_log
from eigen.crypto import statements
from eigen.protocol.messages import Proposal, ProposedCall
from eigen.protocol.types import Address, Digest, RunId

LABEL_CHARS_MAX: Final = 40
"""Of what a node calls itself, before we show it."""
COIN_DECIMALS: Final = 18
"""A chain's coin counts in wei."""


class DaoReader:
    """Reads as the newest block has them, with `asker` as the account that asks."""

    def __init__(
        self,
        rpc: Rpc,
        contracts: Contracts,
        asker: Address,
        *,
        chain_id: int,
        start_block: int = 0,
        label: str = "",
    ) -> None:
        """`start_block` is the first block in which the contracts may have done anything."""
        self._rpc = rpc
        self._contracts = contracts
        self._asker = asker
        self._chain_id = chain_id
        self._start_block = start_block
        self._label = label
        self._info: ChainInfo | None = None
        self._governor_domain = statements.governor_domain(chain_id, contracts.governor)
        self._ledger_domain = statements.ledger_domain(chain_id, contracts.ledger)

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

    # Internals ----------------------------------------------------------------------------------

    async def _governor(self, function: str, *args: object) -> tuple[Any, ...]:
        return await self._read(self._contracts.governor, GOVERNOR, function, *args)

    async def _read(self, to: Address, abi: Abi, function: str, *args: object) -> tuple[Any, ...]:
        data = await self._rpc.call(Call(self._asker, to, abi.calldata(function, *args)))
        try:
            return abi.results(function, data)
        except AbiMismatch as error:
            raise WrongChain(f"{to_checksum_address(to)} is not our contract: {error}") from error

    async def _node_label(self) -> str:
        try:
            return _readable(await self._rpc.client_version())
        except EndpointRefused:  # some public endpoints keep it to themselves
            return _readable("")

    async def _check_contracts(self) -> None:
        named = self._contracts
        for field in fields(named):
            account = getattr(named, field.name)
            if account is not None and not await self._rpc.code(account):
                raise WrongChain(
                    f"contracts.{field.name}: there is no contract at"
                    f" {to_checksum_address(account)}"
                    f" on chain {self._chain_id}"
                )
        for holder, abi, function, expected in (
            (named.governor, GOVERNOR, "token", named.token),
            (named.governor, GOVERNOR, "timelock", named.timelock),
            (named.ledger, LEDGER, "token", named.token),
            (named.ledger, LEDGER, "dao", named.timelock),
            (named.membership, MEMBERSHIP, "dao", named.timelock),
        ):
            if holder is None:
                continue
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
