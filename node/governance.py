"""The DAO on this node: proposals and ballots by gossip, and their way to the chain and back."""

from collections.abc import Awaitable, Callable

import structlog
import trio

from eigen.chain.port import (
    Ballot,
    Chain,
    ChainError,
    ChainUnreachable,
    ProposalState,
    RunOpened,
    RunProposal,
    Support,
    TransactionReverted,
)
from eigen.crypto.errors import BadSignature
from eigen.crypto.identity import Identity, recover
from eigen.node.fetch import ContentUnavailable
from eigen.node.gossip import Gossip, Said
from eigen.node.members import Members
from eigen.node.ports import Network, NetworkError, RecordStore, Verdict
from eigen.node.worker import WorkerError
from eigen.protocol.governance import (
    Action,
    ExecuteProposal,
    Governance,
    KnownProposal,
    QueueProposal,
    RelayBallots,
    Stage,
)
from eigen.protocol.limits import DESCRIPTION_BYTES_MAX, GOSSIP_MESSAGE_BYTES_MAX
from eigen.protocol.membership import RELAYER
from eigen.protocol.messages import Envelope, Proposal, SignedBallot
from eigen.protocol.requests import PROPOSAL, ProposalQuery, ProposalReply
from eigen.protocol.run import RunSpec, run_id, spec_digest
from eigen.protocol.types import Address, RunId
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
ENDED = (Stage.EXECUTED, Stage.FAILED)

OnRun = Callable[[RunOpened, RunSpec], Awaitable[None]]


class UnknownProposal(Exception):
    """No proposal with this id or run is known here."""


def run_proposal(proposal: Proposal) -> RunProposal:
    """The governor's call for a proposal."""
    spec = proposal.spec
    return RunProposal(
        run_id(spec), spec_digest(spec), spec.rounds, spec.reward_per_round, proposal.description
    )


class GovernanceService:
    """Feeds `Governance`, performs its actions, and opens runs when the chain says so."""

    def __init__(
        self,
        identity: Identity,
        network: Network,
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
        self._identity = identity
        self._network = network
        self._gossip = gossip
        self._members = members
        self._records = records
        self._chain = chain
        self._poll_s = poll_s
        self._on_run = on_run
        self._on_passed = on_passed
        self._envelopes: dict[RunId, Envelope] = {}
        self._early_ballots: list[SignedBallot] = []
        gossip.on(Proposal, self._proposed)
        gossip.on(SignedBallot, self._voted, self._check_ballot)
        network.serve(PROPOSAL, self._serve_proposal, request_bytes_max=256)

    # what a member does ---------------------------------------------------------------------------
    async def propose(self, spec: RunSpec, description: str) -> KnownProposal:
        """Gossip a run spec and put it to the vote. Raises `ChainError`."""
        text = description.encode()[:DESCRIPTION_BYTES_MAX].decode(errors="ignore")
        proposal = Proposal(spec, text)
        envelope = await self._gossip.publish(proposal)
        await self._keep(proposal, self._identity.address, envelope)
        await self._chain.propose(run_proposal(proposal))
        known = self.machine.proposals.get(run_id(spec))
        if known is None:
            raise UnknownProposal("too many proposals are open; this one was not taken in")
        return known

    async def vote(self, chain_id: int, support: Support) -> SignedBallot:
        """Sign a ballot and gossip it; no gas. Raises `UnknownProposal` or `ChainError`."""
        if self.machine.by_chain_id(chain_id) is None:
            raise UnknownProposal(f"no proposal {chain_id} is known to this node")
        me = self._identity.address
        nonce = await self._chain.ballot_nonce(me)
        digest = self._chain.ballot_digest(chain_id, support, me, nonce)
        ballot = SignedBallot(
            chain_id.to_bytes(32, "big"), support.value, me, nonce, self._identity.sign(digest)
        )
        await self._gossip.publish(ballot)
        await self._take_ballot(ballot)
        return ballot

    # gossip ---------------------------------------------------------------------------------------
    async def _proposed(self, said: Said) -> None:
        await self._keep(said.message, said.author, said.envelope)

    async def _keep(self, proposal: Proposal, author: Address, envelope: Envelope) -> None:
        run = run_id(proposal.spec)
        chain_id = self._chain.proposal_id(run_proposal(proposal))
        if self.machine.add_proposal(proposal, author, chain_id):
            self._envelopes[run] = envelope
            await self._records.commit([("proposal", run, encode(envelope))])
            log.info("proposal", run=run.hex()[:8], name=proposal.spec.name, by=author.hex()[:8])
            early, self._early_ballots = self._early_ballots, []
            for ballot in early:
                await self._take_ballot(ballot)

    def _check_ballot(self, said: Said) -> Verdict:
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
        if self.machine.by_chain_id(int.from_bytes(ballot.proposal, "big")) is None:
            self._early_ballots = [*self._early_ballots[-255:], ballot]
        elif self.machine.add_ballot(ballot, trio.current_time()):
            await self._records.commit([("ballot", ballot.proposal + ballot.voter, encode(ballot))])

    async def _serve_proposal(self, _peer: Address, payload: bytes) -> bytes:
        query = decode(payload, ProposalQuery)
        envelope = self._envelopes.get(query.run)
        return encode(ProposalReply((envelope,) if envelope else ()))

    # the chain ------------------------------------------------------------------------------------
    async def restore(self) -> None:
        """Proposals and ballots that an earlier daemon of this home knew."""
        for _, row in await self._records.scan("proposal"):
            said = self._gossip.read_any(decode(row, Envelope))
            await self._keep(said.message, said.author, said.envelope)
        for _, row in await self._records.scan("ballot"):
            self.machine.add_ballot(decode(row, SignedBallot), trio.current_time())

    async def opened(self, event: RunOpened) -> None:
        """The ledger opened a run: find its spec, asking peers if need be, and start it."""
        while event.run not in self.machine.proposals:
            await self._ask_proposal(event.run)
            if event.run not in self.machine.proposals:
                await trio.sleep(self._poll_s)
        proposal = self.machine.proposals[event.run].proposal
        if spec_digest(proposal.spec) != event.spec:
            log.error("the ledger holds another spec for this run", run=event.run.hex())
            return
        pause_s = self._poll_s
        while True:
            try:
                await self._on_run(event, proposal.spec)
                return
            except TrainingError as error:
                log.error("this run cannot be trained here", run=event.run.hex(), why=str(error))
                return
            except (ChainError, ContentUnavailable, WireError, WorkerError) as error:
                log.warning("a run is not to be opened yet", run=event.run.hex(), why=str(error))
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, OPEN_RETRY_S_MAX)

    async def _ask_proposal(self, run: RunId) -> None:
        for peer in sorted(self._network.peers()):
            try:
                reply = await self._network.request(
                    peer,
                    PROPOSAL,
                    encode(ProposalQuery(run)),
                    reply_bytes_max=GOSSIP_MESSAGE_BYTES_MAX,
                    timeout_s=5.0,
                )
                for envelope in decode(reply, ProposalReply).envelopes:
                    said = self._gossip.read_any(envelope)
                    if isinstance(said.message, Proposal) and run_id(said.message.spec) == run:
                        await self._keep(said.message, said.author, envelope)
                        return
            except (NetworkError, WireError, BadSignature) as error:
                log.debug("no proposal from a peer", peer=peer.hex(), why=str(error))

    async def run(self) -> None:
        """Follow open proposals on chain and act when it is this node's turn, until cancelled."""
        while True:
            try:
                for run, known in list(self.machine.proposals.items()):
                    if known.stage not in ENDED:
                        await self._look(run, known)
                for action in self.machine.due(self._members.with_role(RELAYER), self._now()):
                    await self._act(action)
            except ChainError as error:  # unreachable, or it answers nonsense: try again
                log.warning("the chain does not answer", why=str(error))
            await trio.sleep(self._poll_s)

    def _now(self) -> float:
        return trio.current_time()

    async def _look(self, run: RunId, known: KnownProposal) -> None:
        try:
            status = await self._chain.proposal(known.chain_id)
        except TransactionReverted:
            return  # not on chain yet
        stage = STAGES[status.state]
        if stage is Stage.QUEUED and status.eta_s <= await self._chain.time_s():
            stage = Stage.READY
        if self.machine.saw_stage(run, stage, self._now()):
            log.info("proposal moved", run=run.hex()[:8], stage=stage.value)
            if stage is Stage.SUCCEEDED:
                self._on_passed(known.proposal.spec)
        if stage is Stage.ACTIVE:
            waiting = [voter for voter in known.ballots if voter not in known.counted]
            counted = [v for v in waiting if await self._chain.has_voted(known.chain_id, v)]
            self.machine.saw_counted(run, counted)

    async def _act(self, action: Action) -> None:
        known = self.machine.proposals.get(action.run)
        if known is None:
            return  # forgotten while an earlier action of this turn was on its way
        call = run_proposal(known.proposal)
        try:
            match action:
                case RelayBallots(ballots=ballots):
                    batch = [
                        Ballot(known.chain_id, Support(b.support), b.voter, b.nonce, b.signature)
                        for b in ballots
                    ]
                    receipt = await self._chain.relay_ballots(batch)
                    log.info("ballots relayed", count=len(batch), tx=receipt.tx)
                case QueueProposal():
                    await self._chain.queue(call)
                case ExecuteProposal():
                    await self._chain.execute(call)
        except ChainUnreachable:
            raise
        except ChainError as error:
            log.info("another relayer was first, or the chain refused", why=str(error))
