"""What happened in a DAO, answered from the index: no block is read twice for it."""

from dataclasses import dataclass

from eigen.chain.bindings import GOVERNOR, LEDGER, MEMBERSHIP, TOKEN
from eigen.chain.events import chain_event
from eigen.chain.index import LogIndex
from eigen.chain.port import Claimed, Contracts, Holder, Proposed, RoundPosted, Standing
from eigen.protocol.types import Address, RunId

NOBODY = Address(bytes(20))
_STANDINGS = {
    "Requested": Standing.REQUESTED,
    "Approved": Standing.MEMBER,
    "Refused": Standing.REFUSED,
    "Left": Standing.NONE,
}


@dataclass(frozen=True, slots=True)
class VoteCast:
    """A ballot that the governor counted; `support` as in OpenZeppelin, `weight` in base units."""

    voter: Address
    support: int
    weight: int
    reason: str


class History:
    """Questions to one DAO's index, as far as it has read: confirmed blocks alone."""

    def __init__(self, index: LogIndex, contracts: Contracts) -> None:
        self._index = index
        self._contracts = contracts

    @property
    def through_block(self) -> int:
        """The last block that the answers know of."""
        return self._index.next_block - 1

    async def proposals(self) -> list[Proposed]:
        """All proposals, oldest first, with the calls that they make."""
        logs = await self._index.find(GOVERNOR.topic("ProposalCreated"))
        events = [chain_event(self._contracts, log) for log in logs]
        return [event for event in events if isinstance(event, Proposed)]

    async def votes(self, proposal: int) -> list[VoteCast]:
        """The ballots that were counted on a proposal, in the chain's order."""
        logs = await self._index.find(GOVERNOR.topic("VoteCast"))
        events = [GOVERNOR.event(log.topics, log.data).args for log in logs]
        return [
            VoteCast(Address(e["voter"]), e["support"], e["weight"], e["reason"])
            for e in events
            if e["proposalId"] == proposal
        ]

    async def roots(self, run: RunId) -> list[RoundPosted]:
        """The roots of a run that the ledger took, by round."""
        logs = await self._index.find(LEDGER.topic("RoundPosted"), run)
        events = [chain_event(self._contracts, log) for log in logs]
        return [event for event in events if isinstance(event, RoundPosted)]

    async def claims(self, run: RunId) -> list[Claimed]:
        """What was claimed of a run, in the chain's order."""
        logs = await self._index.find(LEDGER.topic("Claimed"), run)
        events = [chain_event(self._contracts, log) for log in logs]
        return [event for event in events if isinstance(event, Claimed)]

    async def standings(self) -> dict[Address, Standing]:
        """Everybody who asked to be a member, or was made one, with what came of it."""
        logs = [
            (
                log.block,
                log.index,
                Address(MEMBERSHIP.event(log.topics, log.data).args["account"]),
                to,
            )
            for name, to in _STANDINGS.items()
            for log in await self._index.find(MEMBERSHIP.topic(name))
        ]
        return {account: to for _, _, account, to in sorted(logs, key=lambda row: row[:2])}

    async def holders(self) -> list[Holder]:
        """Who holds tokens or votes now, most tokens first."""
        tokens: dict[Address, int] = {}
        votes: dict[Address, int] = {}
        delegates: dict[Address, Address] = {}
        for log in await self._index.find(TOKEN.topic("Transfer")):
            moved = TOKEN.event(log.topics, log.data).args
            for account, change in (
                (moved["from"], -moved["value"]),
                (moved["to"], moved["value"]),
            ):
                tokens[Address(account)] = tokens.get(Address(account), 0) + change
        for log in await self._index.find(TOKEN.topic("DelegateVotesChanged")):
            changed = TOKEN.event(log.topics, log.data).args
            votes[Address(changed["delegate"])] = changed["newVotes"]
        for log in await self._index.find(TOKEN.topic("DelegateChanged")):
            chosen = TOKEN.event(log.topics, log.data).args
            delegates[Address(chosen["delegator"])] = Address(chosen["toDelegate"])
        found = [
            Holder(
                account,
                tokens.get(account, 0),
                votes.get(account, 0),
                delegates.get(account, NOBODY),
            )
            for account in {*tokens, *votes}
            if account != NOBODY and (tokens.get(account) or votes.get(account))
        ]
        return sorted(found, key=lambda holder: (-holder.tokens, holder.account))
