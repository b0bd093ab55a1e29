"""The chain port in memory: one ledger that all nodes of a simulation read and write.

A DAO of one mind: what is proposed is accepted at once, and opens its run. Round roots and claims
are checked as the contracts check them, signatures included; there are no blocks, gas or forks.
"""

import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Final, Never, Self

import trio

from eigen.chain.calls import call_of, decision_of, proposal_id
from eigen.chain.decisions import ChangeRun, Decision, OpenRun
from eigen.chain.port import (
    Ballot,
    ChainEvent,
    ChainInfo,
    Claimed,
    Contracts,
    Earning,
    Holder,
    Holders,
    MembershipRules,
    NoMembership,
    ProposalState,
    ProposalStatus,
    Receipt,
    RoundPosted,
    RoundRoot,
    RunChanged,
    RunOpened,
    Standing,
    Support,
    TransactionReverted,
    Treasury,
)
from eigen.crypto import statements
from eigen.crypto.identity import recover
from eigen.crypto.merkle import verify_payout
from eigen.protocol.messages import Attestation, Proposal, ProposedCall
from eigen.protocol.types import Address, Digest, RunId

CALL_S: Final = 0.05
"""An answer of an endpoint."""
LANDING_S: Final = 2.0
"""From a transaction to its confirmations."""
CHAIN_ID: Final = 31_337


class Ledger:
    """Who may attest, which runs are open, and what they owe."""

    def __init__(
        self,
        validators: Iterable[Address],
        quorum: int,
        seed: int,
        unix_s: Callable[[], float],
        contract: Address,
    ) -> None:
        self.validators = frozenset(validators)
        self.quorum = quorum
        self.unix_s = unix_s
        self.domain = statements.ledger_domain(CHAIN_ID, contract)
        self.governor = statements.governor_domain(CHAIN_ID, contract)
        self.heads: dict[RunId, RoundPosted] = {}
        self.claimed: dict[tuple[RunId, Address], int] = {}
        self.balances: dict[Address, int] = {}
        self.payees: dict[Address, Address] = {}
        self.events: list[ChainEvent] = []
        self.executed: set[int] = set()
        self.contracts = Contracts(contract, contract, contract, contract)
        self.news = trio.Event()
        self._seed = seed
        self._height = 0

    def _land(self) -> Receipt:
        self._height += 1
        self.news.set()
        self.news = trio.Event()
        return Receipt(f"0x{self._height:064x}", self._height, 0)

    def decide(self, proposal: Proposal) -> Receipt:
        """A proposal is accepted. Raises `TransactionReverted` the second time."""
        id_ = proposal_id(proposal)
        if id_ in self.executed:
            raise TransactionReverted("this is proposed already")
        self.executed.add(id_)
        block = self._height + 1
        for call in proposal.calls:
            match decision_of(self.contracts, call):
                case OpenRun(run, spec, rounds, reward_per_round):
                    drawn = hashlib.sha256(f"ledger/{self._seed}".encode() + run).digest()
                    seed = Digest(drawn)
                    opened = RunOpened(run, spec, rounds, reward_per_round, seed, block)
                    self.events.append(opened)
                case ChangeRun(run, from_round, spec):
                    self.events.append(RunChanged(run, from_round, spec, block))
        return self._land()

    def post(self, root: RoundRoot, signatures: Sequence[bytes]) -> Receipt:
        """A round root with its attestations. Raises `TransactionReverted`."""
        signed = statements.round_root_digest(
            self.domain,
            run=root.run,
            round_=root.round,
            checkpoint=root.checkpoint,
            record=root.record,
            payout_root=root.payout_root,
            payout_total=root.payout_total,
        )
        signers = [recover(signed, signature) for signature in signatures]
        if signers != sorted(set(signers)) or not self.validators.issuperset(signers):
            raise TransactionReverted("signers are validators, in ascending order, each once")
        if len(signers) < self.quorum:
            raise TransactionReverted(f"{len(signers)} attestations, {self.quorum} are needed")
        head = self.heads.get(root.run)
        if head is not None and head.root.round >= root.round:
            raise TransactionReverted("a root of this round or a later one is here")
        receipt = self._land()
        self.heads[root.run] = RoundPosted(root, receipt.tx, receipt.block)
        self.events.append(self.heads[root.run])
        return receipt

    def claim(
        self, run: RunId, account: Address, cumulative: int, proof: Sequence[Digest]
    ) -> Receipt:
        """Pay what an account has earned and not taken. Raises `TransactionReverted`."""
        head = self.heads.get(run)
        if head is None or not verify_payout(head.root.payout_root, account, cumulative, proof):
            raise TransactionReverted("the proof does not fit the last root", name="InvalidProof")
        amount = cumulative - self.claimed.get((run, account), 0)
        if amount <= 0:
            raise TransactionReverted("nothing is owed")
        self.claimed[run, account] = cumulative
        payee = self.payees.get(account, account)
        self.balances[payee] = self.balances.get(payee, 0) + amount
        receipt = self._land()
        self.events.append(Claimed(run, account, payee, amount, receipt.tx, receipt.block))
        return receipt


class LedgerAccount:
    """One account's view of the ledger; see `chain.port.Chain`."""

    escrow = None

    def __init__(self, ledger: Ledger, account: Address) -> None:
        self._ledger = ledger
        self._account = account

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def run(self) -> Never:
        """Nothing is ever unfinished."""
        await trio.sleep_forever()

    async def info(self) -> ChainInfo:
        """See `Chain.info`."""
        await trio.sleep(CALL_S)
        return ChainInfo(CHAIN_ID, "virtual")

    async def time_s(self) -> int:
        """See `Chain.time_s`."""
        await trio.sleep(CALL_S)
        return int(self._ledger.unix_s())

    async def validators(self) -> tuple[frozenset[Address], int]:
        """See `Chain.validators`."""
        await trio.sleep(CALL_S)
        return self._ledger.validators, self._ledger.quorum

    async def proposal(self, proposal: int) -> ProposalStatus:
        """See `Chain.proposal`."""
        await trio.sleep(CALL_S)
        if proposal not in self._ledger.executed:
            raise TransactionReverted("no such proposal")
        return ProposalStatus(ProposalState.EXECUTED, 0, 1, 0, 0, 0, 0)

    async def ballot_nonce(self, voter: Address) -> int:
        """See `Chain.ballot_nonce`."""
        await trio.sleep(CALL_S)
        return 0

    async def voting_power(self, voter: Address, timepoint_s: int) -> int:
        """See `Chain.voting_power`."""
        await trio.sleep(CALL_S)
        return 1

    async def has_voted(self, proposal: int, voter: Address) -> bool:
        """See `Chain.has_voted`."""
        await trio.sleep(CALL_S)
        return proposal in self._ledger.executed

    def proposal_id(self, proposal: Proposal) -> int:
        """See `Chain.proposal_id`."""
        return proposal_id(proposal)

    def call_of(self, decision: Decision) -> ProposedCall:
        """See `Chain.call_of`."""
        return call_of(self._ledger.contracts, decision)

    def decisions(self, proposal: Proposal) -> tuple[Decision, ...]:
        """See `Chain.decisions`."""
        return tuple(decision_of(self._ledger.contracts, call) for call in proposal.calls)

    async def treasury(self, token: Address | None) -> Treasury:
        """See `Chain.treasury`."""
        await trio.sleep(CALL_S)
        return Treasury(0, 18)

    async def holders(self) -> Holders:
        """See `Chain.holders`."""
        await trio.sleep(CALL_S)
        held = self._ledger.balances.items()
        return Holders(0, [Holder(account, tokens, tokens, account) for account, tokens in held])

    async def membership(self) -> MembershipRules:
        """See `Chain.membership`."""
        raise NoMembership("everybody takes part")

    async def standing(self, account: Address) -> Standing:
        """See `Chain.standing`."""
        raise NoMembership("everybody takes part")

    async def standings(self) -> Mapping[Address, Standing]:
        """See `Chain.standings`."""
        return {}

    async def request_membership(self, statement: Digest) -> Receipt:
        """See `Chain.request_membership`."""
        raise NoMembership("everybody takes part")

    async def admit(self, account: Address, approved: bool) -> Receipt:
        """See `Chain.admit`."""
        raise NoMembership("everybody takes part")

    async def delegate(self, to: Address) -> Receipt | None:
        """See `Chain.delegate`."""
        await trio.sleep(CALL_S)
        raise TransactionReverted("a DAO of one mind has no delegates")

    def ballot_digest(self, proposal: int, support: Support, voter: Address, nonce: int) -> Digest:
        """See `Chain.ballot_digest`."""
        return statements.ballot_digest(
            self._ledger.governor,
            proposal=proposal,
            support=support.value,
            voter=voter,
            nonce=nonce,
        )

    def round_digest(self, root: RoundRoot) -> Digest:
        """See `Chain.round_digest`."""
        return statements.round_root_digest(
            self._ledger.domain,
            run=root.run,
            round_=root.round,
            checkpoint=root.checkpoint,
            record=root.record,
            payout_root=root.payout_root,
            payout_total=root.payout_total,
        )

    async def propose(self, proposal: Proposal) -> Receipt:
        """See `Chain.propose`."""
        await trio.sleep(LANDING_S)
        return self._ledger.decide(proposal)

    async def relay_ballots(self, ballots: Sequence[Ballot]) -> Receipt:
        """See `Chain.relay_ballots`."""
        await trio.sleep(CALL_S)
        raise TransactionReverted("the vote is over")

    async def queue(self, proposal: Proposal) -> Receipt:
        """See `Chain.queue`."""
        await trio.sleep(CALL_S)
        raise TransactionReverted("the proposal is executed")

    async def execute(self, proposal: Proposal) -> Receipt:
        """See `Chain.execute`."""
        await trio.sleep(CALL_S)
        raise TransactionReverted("the proposal is executed")

    async def post_round(self, root: RoundRoot, signatures: Sequence[bytes]) -> Receipt:
        """See `Chain.post_round`."""
        await trio.sleep(LANDING_S)
        return self._ledger.post(root, signatures)

    async def prove_equivocation(self, first: Attestation, second: Attestation) -> Receipt:
        """Refused: validators have no bonds here."""
        await trio.sleep(CALL_S)
        raise TransactionReverted("nobody has a bond to lose")

    async def claim(
        self, run: RunId, account: Address, cumulative: int, proof: Sequence[Digest]
    ) -> Receipt:
        """See `Chain.claim`."""
        await trio.sleep(LANDING_S)
        return self._ledger.claim(run, account, cumulative, proof)

    async def claim_many(self, run: RunId, earnings: Sequence[Earning]) -> Receipt:
        """See `Chain.claim_many`."""
        await trio.sleep(LANDING_S)
        receipt: Receipt | None = None
        for earning in earnings:
            with contextlib.suppress(TransactionReverted):
                receipt = self._ledger.claim(
                    run, earning.account, earning.cumulative, earning.proof
                )
        if receipt is None:
            raise TransactionReverted("nothing is owed", name="NothingToClaim")
        return receipt

    async def paying(self, run: RunId) -> RoundRoot | None:
        """See `Chain.paying`: there is no challenge window."""
        head = await self.head(run)
        return head.root if head else None

    async def set_payout(self, payee: Address) -> Receipt | None:
        """See `Chain.set_payout`."""
        await trio.sleep(LANDING_S)
        if self._ledger.payees.get(self._account, self._account) == payee:
            return None
        self._ledger.payees[self._account] = payee
        return Receipt("0x0", 0, 0)

    async def payout_of(self, account: Address) -> Address:
        """See `Chain.payout_of`."""
        await trio.sleep(CALL_S)
        return self._ledger.payees.get(account, account)

    async def claimed(self, run: RunId, account: Address) -> int:
        """See `Chain.claimed`."""
        await trio.sleep(CALL_S)
        return self._ledger.claimed.get((run, account), 0)

    async def balance(self, account: Address) -> int:
        """See `Chain.balance`."""
        await trio.sleep(CALL_S)
        return self._ledger.balances.get(account, 0)

    async def head(self, run: RunId) -> RoundPosted | None:
        """See `Chain.head`."""
        await trio.sleep(CALL_S)
        return self._ledger.heads.get(run)

    async def watch(self, from_block: int) -> AsyncIterator[ChainEvent]:
        """See `Chain.watch`."""
        seen = 0
        while True:
            while seen < len(self._ledger.events):
                seen += 1
                yield self._ledger.events[seen - 1]
            await self._ledger.news.wait()
