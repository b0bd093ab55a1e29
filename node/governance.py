"""The DAO on this node: proposals and ballots by gossip, and their way to the chain and back."""

from collections.abc import Awaitable, Callable, Sequence

import structlog
import trio

from eigen.chain.decisions import ChangeRun, Decision, OpenRun
from eigen.chain.port import (
    Ballot,
    Chain,
    ChainError,
    ChainUnreachable,
    ProposalState,
    ProposalStatus,
    Proposed,
    RunOpened,
    Support,
    TransactionReverted,
)
from eigen.crypto.errors import BadSignature
from eigen.crypto.identity import Identity, recover
from eigen.node.fetch import ContentUnavailable
from eigen.node.gossip import Gossip, Said
from eigen.node.members import Members
from eigen.node.ports import RecordStore, Verdict
from eigen.node.spec_book import SpecBook
from eigen.node.worker import WorkerError
from eigen.protocol.governance import (
    ENDED,
    Action,
    ExecuteProposal,
    Governance,
    KnownProposal,
    QueueProposal,
    RelayBallots,
    Stage,
)
from eigen.protocol.limits import DESCRIPTION_BYTES_MAX
from eigen.protocol.membership import RELAYER
from eigen.protocol.messages import Envelope, Proposal, SignedBallot
from eigen.protocol.run import RunSpec, run_id, spec_digest
from eigen.protocol.types import Address, Digest
from eigen.protocol.wire import WireError, decode, encode
from eigen.training.errors import TrainingError

log = structlog.get_logger()

STAGES = {
    ProposalState.PENDING: Stage.PENDING,
    ProposalState.ACTIVE: Stage.ACTIVE,
    ProposalState.SUCCEEDED: Stage.SUCCEEDED,
    ProposalState.QUEUED: Stage.QUEUED,
    ProposalState.EXECUTED: Stage.EXECUTED,
    ProposalState.CANCELED: Stage.FAILED,
    ProposalState.DEFEATED: Stage.FAILED,
    ProposalState.EXPIRED: Stage.FAILED,
}
OPEN_RETRY_S_MAX = 60.0
"""Longest pause between two tries to open a run whose manifest nobody has at the moment."""
EARLY_BALLOTS_MAX = 256
"""Ballots held for proposals that gossip has not brought yet."""

OnRun = Callable[[RunOpened, RunSpec], Awaitable[None]]


class UnknownProposal(Exception):
    """No proposal with this id or run is known here."""


class CannotVote(Exception):
    """A ballot would not count; says why."""


def open_run(spec: RunSpec) -> OpenRun:
    """The decision to train what a spec says."""
    return OpenRun(run_id(spec), spec_digest(spec), spec.rounds, spec.reward_per_round)


class GovernanceService:
    """Feeds `Governance`, performs its actions, and opens runs when the chain says so."""

    def __init__(
        self,
        identity: Identity,
        specs: SpecBook,
        gossip: Gossip,
        members: Members,
        records: RecordStore,
        chain: Chain,
        machine: Governance,
        poll_s: float,
        on_run: OnRun,
        on_passed: Callable[[RunSpec], None],
    ) -> None:
        self.machine = machine
        self.specs = specs
        self.statuses: dict[int, ProposalStatus] = {}
        self.time_s = 0  # the chain's clock at the last look
        self._me = identity.address
        self._identity = identity
        self._gossip = gossip
        self._members = members
        self._records = records
        self._chain = chain
        self._poll_s = poll_s
        self._on_run = on_run
        self._on_passed = on_passed
        self._early_ballots: list[SignedBallot] = []
        self._unsaid: dict[int, Proposal] = {}  # ours, on their way to the chain
        gossip.on(Proposal, self._proposed, self._check_proposal)
        gossip.on(SignedBallot, self._voted, self._check_ballot)

    # what a member does ---------------------------------------------------------------------------
    async def propose(
        self, decisions: Sequence[Decision], description: str, specs: tuple[RunSpec, ...] = ()
    ) -> KnownProposal:
        """Put decisions to the vote together, then gossip them. `specs` are those that they name.

        Stored first, so that a spec survives a crash at any moment. Raises `ChainError`, or
        `UnknownProposal` where too many are open.
        """
        text = description.encode()[:DESCRIPTION_BYTES_MAX].decode(errors="ignore")
        proposal = Proposal(tuple(map(self._chain.call_of, decisions)), text, specs)
        id_ = self._chain.proposal_id(proposal)
        await self._keep(proposal, self._me, self._gossip.sign(proposal))
        try:
            await self._chain.propose(proposal)
        except TransactionReverted:
            self.machine.forget(id_)
            await self._records.commit([("proposal", _key(id_), None)])
            raise
        except ChainError:
            self._unsaid[id_] = proposal  # the outbox may bring it to the chain later
            raise
        await self._gossip.publish(proposal)
        known = self.machine.proposals.get(id_)
        if known is None:
            raise UnknownProposal("too many proposals are open; this one was not taken in")
        return known

    async def vote(self, id_: int, support: Support) -> SignedBallot:
        """Sign a ballot and gossip it; no gas.

        Raises `UnknownProposal`, `CannotVote` where it would not count, or `ChainError`.
        """
        known = self.machine.proposals.get(id_)
        if known is None:
            raise UnknownProposal(f"no proposal {id_} is known to this node")
        await self._check_vote(known, support)
        return await self._cast(id_, support)

    async def _check_vote(self, known: KnownProposal, support: Support) -> None:
        try:
            status = await self._chain.proposal(known.id)
        except TransactionReverted as error:
            raise CannotVote("it is not on chain yet: try again in a moment") from error
        if status.state not in (ProposalState.PENDING, ProposalState.ACTIVE):
            raise CannotVote(f"the vote on it is over: it is {status.state.name.lower()}")
        if await self._chain.has_voted(known.id, self._me):
            raise CannotVote("a ballot of this account is counted already")
        held = known.ballots.get(self._me)
        if held is not None and held.support != support.value:
            told = Support(held.support).name.lower()
            raise CannotVote(f"a ballot {told} it is signed and on its way; it cannot be recalled")
        pending = status.state is ProposalState.PENDING
        at_s = await self._chain.time_s() - 1 if pending else status.vote_start_s
        if await self._chain.voting_power(self._me, at_s) == 0:
            raise CannotVote(
                "this account has no votes in it: no tokens were delegated to it when the vote"
                " opened"
            )

    async def _cast(self, id_: int, support: Support) -> SignedBallot:
        nonce = await self._chain.ballot_nonce(self._me)
        digest = self._chain.ballot_digest(id_, support, self._me, nonce)
        signature = self._identity.sign(digest)
        ballot = SignedBallot(_key(id_), support.value, self._me, nonce, signature)
        await self._gossip.publish(ballot)
        await self._take_ballot(ballot)
        return ballot

    # gossip ---------------------------------------------------------------------------------------
    def _named_specs(self, proposal: Proposal) -> set[Digest]:
        decisions = self._chain.decisions(proposal)
        return {d.spec for d in decisions if isinstance(d, OpenRun | ChangeRun)}

    def _check_proposal(self, said: Said) -> Verdict:
        """A proposal brings the spec that its calls name, and no other."""
        brought = {spec_digest(spec) for spec in said.message.specs}
        whole = brought == self._named_specs(said.message)
        return Verdict.ACCEPT if whole else Verdict.REJECT

    async def _proposed(self, said: Said) -> None:
        await self._keep(said.message, said.author, said.envelope)

    async def _keep(self, proposal: Proposal, author: Address, envelope: Envelope) -> None:
        id_ = self._chain.proposal_id(proposal)
        added = self.machine.add_proposal(proposal, author, id_)
        if id_ not in self.machine.proposals:
            return
        if self.specs.keep(proposal, envelope) or added:
            await self._records.commit([("proposal", _key(id_), encode(envelope))])
        if added:
            await self._added(id_, proposal, author)

    async def _added(self, id_: int, proposal: Proposal, author: Address) -> None:
        text = proposal.description[:60]
        log.info("proposal", id=str(id_)[:12], about=text, by=author.hex()[:8])
        early, self._early_ballots = self._early_ballots, []
        for ballot in early:
            await self._take_ballot(ballot)

    def _check_ballot(self, said: Said) -> Verdict:
        """A ballot for another DAO is signed over another domain: it has another signer."""
        ballot: SignedBallot = said.message
        digest = self._chain.ballot_digest(
            int.from_bytes(ballot.proposal, "big"),
            Support(ballot.support),
            ballot.voter,
            ballot.nonce,
        )
        try:
            signer = recover(digest, ballot.signature)
        except BadSignature:
            return Verdict.REJECT
        return Verdict.ACCEPT if signer == ballot.voter else Verdict.REJECT

    async def _voted(self, said: Said) -> None:
        await self._take_ballot(said.message)

    async def _take_ballot(self, ballot: SignedBallot) -> None:
        if int.from_bytes(ballot.proposal, "big") not in self.machine.proposals:
            self._early_ballots = [*self._early_ballots[1 - EARLY_BALLOTS_MAX :], ballot]
        elif self.machine.add_ballot(ballot, trio.current_time()):
            await self._records.commit([("ballot", ballot.proposal + ballot.voter, encode(ballot))])

    # the chain ------------------------------------------------------------------------------------
    async def restore(self) -> None:
        """Proposals and ballots that an earlier daemon of this home knew."""
        for _, row in await self._records.scan("proposal"):
            said = self._gossip.read_any(decode(row, Envelope))
            await self._keep(said.message, said.author, said.envelope)
        for _, row in await self._records.scan("ballot"):
            self.machine.add_ballot(decode(row, SignedBallot), trio.current_time())

    async def on_chain(self, event: Proposed) -> None:
        """A proposal is on chain; it may have been made elsewhere, and never gossiped."""
        if (own := self._unsaid.pop(event.id, None)) is not None:
            await self._gossip.publish(own)
        if self.machine.add_proposal(event.proposal, event.proposer, event.id):
            await self._added(event.id, event.proposal, event.proposer)

    async def opened(self, event: RunOpened) -> None:
        """The ledger opened a run: find its spec, asking peers if need be, and start it."""
        spec = await self.specs.find(event.spec)
        if run_id(spec) != event.run:
            log.error("the ledger holds another spec for this run", run=event.run.hex())
            return
        pause_s = self._poll_s
        while True:
            try:
                await self._on_run(event, spec)
                return
            except TrainingError as error:
                log.error("this run cannot be trained here", run=event.run.hex(), why=str(error))
                return
            except (ChainError, ContentUnavailable, WireError, WorkerError) as error:
                log.warning("a run is not to be opened yet", run=event.run.hex(), why=str(error))
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, OPEN_RETRY_S_MAX)

    async def run(self) -> None:
        """Follow open proposals on chain and act when it is this node's turn, until cancelled."""
        while True:
            try:
                self.time_s = await self._chain.time_s()
                for gone in self.statuses.keys() - self.machine.proposals.keys():
                    del self.statuses[gone]
                for id_, known in list(self.machine.proposals.items()):
                    if known.stage not in ENDED:
                        await self._look(id_, known)
                for action in self.machine.due(self._members.with_role(RELAYER), self._now()):
                    await self._act(action)
            except ChainError as error:  # unreachable, or it answers nonsense: try again
                log.warning("the chain does not answer", why=str(error))
            await trio.sleep(self._poll_s)

    def _now(self) -> float:
        return trio.current_time()

    async def _look(self, id_: int, known: KnownProposal) -> None:
        try:
            status = await self._chain.proposal(id_)
        except TransactionReverted:
            return  # not on chain yet
        self.statuses[id_] = status
        stage = STAGES[status.state]
        if stage is Stage.QUEUED and status.eta_s <= self.time_s:
            stage = Stage.READY
        if self.machine.saw_stage(id_, stage, self._now()):
            log.info("proposal moved", id=str(id_)[:12], stage=stage.value)
            if stage is Stage.SUCCEEDED:
                self._passed(known.proposal)
        if stage is Stage.ACTIVE:
            waiting = [voter for voter in known.ballots if voter not in known.counted]
            counted = [v for v in waiting if await self._chain.has_voted(id_, v)]
            self.machine.saw_counted(id_, counted)
            for voter in self.machine.unweighed(id_):
                votes = await self._chain.voting_power(voter, status.vote_start_s)
                self.machine.weigh(id_, voter, votes)
            await self._sign_again(known)

    def _passed(self, proposal: Proposal) -> None:
        for decision in self._chain.decisions(proposal):
            if isinstance(decision, OpenRun | ChangeRun) and (
                spec := self.specs.get(decision.spec)
            ):
                self._on_passed(spec)

    async def _sign_again(self, known: KnownProposal) -> None:
        """The governor counts an account's ballots by nonce: one on another proposal may have come
        first, and then ours on this one needs the next nonce."""
        held = known.ballots.get(self._me)
        if held is None or self._me in known.counted:
            return
        if await self._chain.ballot_nonce(self._me) > held.nonce:
            await self._cast(known.id, Support(held.support))

    async def _act(self, action: Action) -> None:
        known = self.machine.proposals.get(action.proposal)
        if known is None:
            return  # forgotten while an earlier action of this turn was on its way
        try:
            match action:
                case RelayBallots(ballots=ballots):
                    batch = [
                        Ballot(known.id, Support(b.support), b.voter, b.nonce, b.signature)
                        for b in ballots
                    ]
                    receipt = await self._chain.relay_ballots(batch)
                    log.info("ballots relayed", count=len(batch), tx=receipt.tx)
                case QueueProposal():
                    await self._chain.queue(known.proposal)
                case ExecuteProposal():
                    await self._chain.execute(known.proposal)
        except ChainUnreachable:
            raise
        except ChainError as error:
            log.info("another relayer was first, or the chain refused", why=str(error))


def _key(id_: int) -> bytes:
    return id_.to_bytes(32, "big")
