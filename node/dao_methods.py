"""What the control API offers of the DAO: proposals, votes, pay and membership, in JSON values."""

import hashlib
from typing import TYPE_CHECKING, Any

from eigen.chain.decisions import OpenRun
from eigen.chain.evm import EvmChain
from eigen.chain.port import (
    Chain,
    ChainError,
    Receipt,
    Standing,
    Support,
    TransactionReverted,
)
from eigen.config.addresses import format_address, parse_address
from eigen.node.control import ControlError, Method
from eigen.node.dao_view import dao_view
from eigen.node.exit_codes import ExitCode
from eigen.node.governance import CannotVote, GovernanceService, UnknownProposal
from eigen.node.members import Members
from eigen.node.proposal_view import proposal_view
from eigen.node.proposing import CannotPropose, Proposer
from eigen.node.registrations import Registrations
from eigen.node.rounds import Rounds
from eigen.node.settlement import NothingToClaim, Settlement
from eigen.protocol import limits
from eigen.protocol.governance import KnownProposal
from eigen.protocol.messages import Proposal
from eigen.protocol.run import RunSpec
from eigen.protocol.types import Address, Digest, RunId
from eigen.protocol.wire import encode, encode_bare

if TYPE_CHECKING:
    from eigen.node.app import Home
    from eigen.node.libp2p.network import Libp2pNetwork

PINS_AT_ONCE_MAX = 64
"""Contents that one call pins: each is read from disk first."""


class DaoMethods:
    """One coroutine a call; `table` names them."""

    def __init__(
        self,
        home: "Home",
        network: "Libp2pNetwork",
        members: Members,
        rounds: Rounds,
        governance: GovernanceService,
        settlement: Settlement,
        chain: Chain,
    ) -> None:
        self._home = home
        self._network = network
        self._members = members
        self._rounds = rounds
        self._governance = governance
        self._settlement = settlement
        self._chain = chain
        token = home.network.contracts.token
        # a simulated chain has no contracts that are called by hand
        registrations = Registrations(chain.calls) if isinstance(chain, EvmChain) else None
        self._proposer = Proposer(chain, governance, rounds, token, registrations)

    def table(self) -> dict[str, Method]:
        """Methods by name."""
        return {
            "proposals": self.proposals,
            "propose": self.propose,
            "run_spec": self.run_spec,
            "vote": self.vote,
            "delegate": self.delegate,
            "dao": self.dao,
            "join_dao": self.join_dao,
            "admit": self.admit,
            "claim": self.claim,
            "payout": self.payout,
        }

    async def proposals(self, _: dict[str, Any]) -> list[dict[str, Any]]:
        """Proposals that this node knows."""
        return [self._view(known) for known in self._governance.machine.proposals.values()]

    async def propose(self, params: dict[str, Any]) -> dict[str, Any]:
        """Put a run, a payment or what else a member wants to the vote; see `Proposer`."""
        try:
            known = await self._proposer.propose(params)
        except (KeyError, TypeError, ValueError) as error:  # `WireError` is one
            raise ControlError(f"no proposal: {error}", ExitCode.USAGE) from error
        except (CannotPropose, UnknownProposal) as error:
            raise ControlError(str(error), ExitCode.FAILED) from error
        except ChainError as error:
            raise _refused("the proposal was not taken", error) from error
        return self._view(known)

    def _view(self, known: KnownProposal) -> dict[str, Any]:
        token = self._home.network.contracts.token
        return proposal_view(known, self._governance, self._chain, token, self._spec_before)

    def _spec_before(self, run: RunId, from_round: int) -> RunSpec | None:
        driver = self._rounds.drivers.get(run)
        return driver.context.course.expected(from_round - 1).spec if driver else None

    async def run_spec(self, params: dict[str, Any]) -> dict[str, Any]:
        """By which spec a run's next rounds go: canonical, in hex."""
        prefix = str(params.get("run", ""))
        runs = [r for r in self._rounds.drivers if prefix and r.hex().startswith(prefix)]
        if len(runs) != 1:
            text = f"{len(runs)} open runs match {prefix!r}; see: eigen runs"
            raise ControlError(text, ExitCode.USAGE)
        driver = self._rounds.drivers[runs[0]]
        spec = driver.context.course.expected(limits.ROUNDS_MAX).spec
        return {"run": runs[0].hex(), "round": driver.head.round, "spec": encode_bare(spec).hex()}

    async def vote(self, params: dict[str, Any]) -> dict[str, Any]:
        """Sign a ballot for the proposal whose governor id or run starts with `proposal`."""
        id_ = self._find(str(params.get("proposal", "")))
        support = Support[str(params["support"]).upper()]
        try:
            ballot = await self._governance.vote(id_, support)
        except UnknownProposal as error:
            raise ControlError(str(error), ExitCode.USAGE) from error
        except CannotVote as error:
            raise ControlError(f"no ballot was signed: {error}", ExitCode.FAILED) from error
        except ChainError as error:
            raise _refused("the vote could not be signed", error) from error
        return {"proposal": str(id_), "voter": format_address(ballot.voter)}

    async def delegate(self, params: dict[str, Any]) -> dict[str, Any]:
        """Let another account vote for this node's tokens."""
        try:
            to = parse_address(str(params.get("to", "")))
            receipt = await self._chain.delegate(to)
        except ValueError as error:
            raise ControlError(f"to: {error}", ExitCode.USAGE) from error
        except ChainError as error:
            raise _refused("the delegate was not set", error) from error
        return {"delegate": format_address(to), "tx": receipt.tx if receipt else ""}

    async def dao(self, _: dict[str, Any]) -> dict[str, Any]:
        """The DAO on chain, and where this node stands in it."""
        return await dao_view(self._home.network, self._chain, self._network.local)

    async def join_dao(self, _: dict[str, Any]) -> dict[str, Any]:
        """Ask to be a member, with the digest of what this node offers."""
        me = self._network.local
        member = self._members.membership.member(me)
        offer = encode(member.heartbeat) if member else b""
        statement = Digest(hashlib.sha256(offer).digest())
        try:
            receipt = await self._chain.request_membership(statement)
            standing = await self._chain.standing(me)
        except ChainError as error:
            raise _refused("the request was not taken", error) from error
        return _standing(me, standing, receipt)

    async def admit(self, params: dict[str, Any]) -> dict[str, Any]:
        """Approve or refuse an account, as the owner of the DAO's membership."""
        try:
            account = parse_address(str(params.get("account", "")))
            receipt = await self._chain.admit(account, bool(params.get("approved")))
            standing = await self._chain.standing(account)
        except ValueError as error:
            raise ControlError(f"account: {error}", ExitCode.USAGE) from error
        except ChainError as error:
            raise _refused("the account's standing was not changed", error) from error
        return _standing(account, standing, receipt)

    async def claim(self, params: dict[str, Any]) -> dict[str, Any]:
        """Claim what is owed for one run, or for the only one; `all` claims for everybody."""
        prefix = str(params.get("run", ""))
        runs = [r for r in self._rounds.drivers if r.hex().startswith(prefix)]
        if len(runs) != 1:
            raise ControlError(f"{len(runs)} runs match {prefix!r}: name one", ExitCode.USAGE)
        try:
            if params.get("all"):
                count, receipts = await self._settlement.claim_for_all(runs[0])
                return {"accounts": count, "txs": [receipt.tx for receipt in receipts]}
            await self._bind_payout()
            amount, receipt = await self._settlement.claim(runs[0])
        except NothingToClaim as error:
            raise ControlError(str(error), ExitCode.FAILED) from error
        except ChainError as error:
            raise _refused("the claim was not taken", error) from error
        me = self._network.local
        return {
            "account": format_address(me),
            "amount": str(amount),
            "tx": receipt.tx,
            "balance": str(await self._chain.balance(self._payee())),
        }

    async def payout(self, params: dict[str, Any]) -> dict[str, Any]:
        """Where earnings go; with an `address`, have them go there from now on."""
        me, text, receipt = self._network.local, str(params.get("address", "")), None
        try:
            if text:
                payee = parse_address(text)
                named = self._home.config.payout.address
                if named is not None and named != payee:
                    told = f"the setting payout.address names {format_address(named)}"
                    raise ControlError(f"{told}: change it there", ExitCode.CONFIGURATION)
                receipt = await self._chain.set_payout(payee)
            payee = await self._chain.payout_of(me)
        except ValueError as error:
            raise ControlError(f"address: {error}", ExitCode.USAGE) from error
        except ChainError as error:
            raise _refused("the payout address was not set", error) from error
        return {"payout": format_address(payee), "tx": receipt.tx if receipt else ""}

    def _payee(self) -> Address:
        return self._home.config.payout.address or self._network.local

    async def _bind_payout(self) -> None:
        payee = self._home.config.payout.address
        if payee is not None:
            await self._chain.set_payout(payee)

    def _find(self, prefix: str) -> int:
        """By the beginning of a proposal's id, or of the id of the run that it opens."""
        wanted = prefix.removeprefix("0x").lower()

        def opens(proposal: Proposal) -> bool:
            decided = self._chain.decisions(proposal)
            return any(isinstance(d, OpenRun) and d.run.hex().startswith(wanted) for d in decided)

        known = self._governance.machine.proposals.values()
        found = [p.id for p in known if str(p.id).startswith(wanted) or opens(p.proposal)]
        if not wanted or len(found) != 1:
            text = f"{len(found)} proposals match {prefix!r}; see: eigen proposals"
            raise ControlError(text, ExitCode.USAGE)
        return found[0]


def _standing(account: Address, standing: Standing, receipt: Receipt) -> dict[str, Any]:
    name = standing.name.lower()
    return {"account": format_address(account), "standing": name, "tx": receipt.tx}


def _refused(what: str, error: ChainError) -> ControlError:
    reason = error.error if isinstance(error, TransactionReverted) else str(error)
    return ControlError(f"{what}: {reason}", ExitCode.FAILED)
