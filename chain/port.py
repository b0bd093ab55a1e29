"""What the daemon needs of any chain. Implementations: EVM over RPC, embedded Anvil, py-evm.

Every write takes an *intent key*: the same key never lands twice, whatever crashes in between, and
calling again with it returns the receipt of the first landing. Every coroutine is cancel-safe: a
cancelled write stays in the outbox and is finished by a later call or by the next daemon.

```
ChainError
├── ChainUnreachable       nobody's, or the endpoint's: try again later
├── EndpointRefused        the endpoint's: it answered, but with an error or with nonsense
├── WrongChain             the user's: network file, RPC URL or outbox do not belong together
├── TransactionReverted    ours: we asked for what the contract does not allow
├── InsufficientGasMoney   the user's: the account must be funded
├── NoMembership           the user's: this DAO has no such contract
├── EscrowError            the user's: money of a private job (`eigen.chain.escrow`)
├── FeeTooHigh             nobody's, or the endpoint's: the market is above what we agree to pay
└── OutboxInUse            the user's: another daemon has the same outbox open
```
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Never, Protocol, Self

from eigen.chain.decisions import Decision
from eigen.crypto.eip712 import Domain
from eigen.crypto.statements import round_root_digest
from eigen.protocol.cid import digest_of
from eigen.protocol.context import PayoutRoot
from eigen.protocol.messages import Attestation, Proposal, ProposedCall, RoundRecord, digest
from eigen.protocol.types import Address, Digest, RunId

if TYPE_CHECKING:
    from eigen.chain.escrow import Escrow


class ChainError(Exception):
    """Base of what a `Chain` raises."""


class ChainUnreachable(ChainError):
    """No endpoint answered; try again later. Nothing was lost: writes stay in the outbox."""


class WrongChain(ChainError):
    """The endpoint is another chain than the network file names, or a contract is not there."""


class EndpointRefused(ChainError):
    """The endpoint answered with an error that is no revert, or with what makes no sense.

    `code` is JSON-RPC's, 0 where there was none.
    """

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class TransactionReverted(ChainError):
    """The contract refused. `error` is the decoded custom error in words.

    `name` is the Solidity name of that error, empty where it is not known; `tx` is None in dry
    runs, where nothing was sent.
    """

    def __init__(self, error: str, tx: str | None = None, *, name: str = "") -> None:
        super().__init__(error)
        self.error = error
        self.tx = tx
        self.name = name


class InsufficientGasMoney(ChainError):
    """The sending account cannot pay for gas; says how much is missing and where to send it."""


class NoMembership(ChainError):
    """The network file names no membership contract: whoever joins the network takes part."""


class FeeTooHigh(ChainError):
    """The fee market is above the ceiling that the configuration sets; nothing was signed."""


class OutboxInUse(ChainError):
    """Another process has the outbox open: one account, one outbox, one daemon."""


class ProposalState(Enum):
    """OpenZeppelin `IGovernor.ProposalState`, same order."""

    PENDING = 0
    ACTIVE = 1
    CANCELED = 2
    DEFEATED = 3
    SUCCEEDED = 4
    QUEUED = 5
    EXPIRED = 6
    EXECUTED = 7


class Support(Enum):
    """How a ballot counts (`GovernorCountingSimple`)."""

    AGAINST = 0
    FOR = 1
    ABSTAIN = 2


@dataclass(frozen=True, slots=True)
class ChainInfo:
    """Which chain this is. `label` is for people: `anvil 1.7.1 (embedded)`, `evm`, `py-evm`."""

    chain_id: int
    label: str


@dataclass(frozen=True, slots=True)
class Contracts:
    """Addresses of one DAO's contracts, as the network file names them.

    A DAO that no factory founded has the first four alone.
    """

    token: Address
    governor: Address
    timelock: Address
    ledger: Address
    registry: Address | None = None
    escrow: Address | None = None
    revenue: Address | None = None
    membership: Address | None = None
    creations: Address | None = None
    market: Address | None = None  # the chain's, for all DAOs


@dataclass(frozen=True, slots=True)
class Holder:
    """An account that holds tokens or votes, base units. `delegate` votes for its tokens."""

    account: Address
    tokens: int
    votes: int
    delegate: Address


@dataclass(frozen=True, slots=True)
class Holders:
    """Who holds tokens or votes as of a block, most tokens first."""

    through_block: int
    holders: Sequence[Holder]


class Standing(Enum):
    """Where an account stands in a DAO (`Membership.Status`), same order."""

    NONE = 0
    REQUESTED = 1
    MEMBER = 2
    REFUSED = 3


@dataclass(frozen=True, slots=True)
class MembershipRules:
    """Who admits members besides the DAO (None: nobody), and whether anyone has to."""

    owner: Address | None
    is_open: bool


@dataclass(frozen=True, slots=True)
class Treasury:
    """What the DAO's timelock holds of one token: base units, and how many make a whole one."""

    amount: int
    decimals: int


@dataclass(frozen=True, slots=True)
class DaoContracts(Contracts):
    """All contracts of a DAO that the factory founded. The timelock is its treasury."""

    registry: Address
    escrow: Address
    revenue: Address
    membership: Address
    creations: Address


@dataclass(frozen=True, slots=True)
class ProposalStatus:
    """A proposal as the governor sees it. Votes in token base units, times in unix seconds."""

    state: ProposalState
    votes_against: int
    votes_for: int
    votes_abstain: int
    vote_start_s: int
    vote_end_s: int
    eta_s: int  # when the timelock lets it execute; 0 before it is queued
    quorum: int = 0  # votes for and abstentions that it needs; 0 before the vote opens


@dataclass(frozen=True, slots=True)
class Ballot:
    """A signed OpenZeppelin ballot. `signature` is r‖s‖v, 65 bytes, v in {27, 28}."""

    proposal: int
    support: Support
    voter: Address
    nonce: int
    signature: bytes


@dataclass(frozen=True, slots=True)
class RoundRoot:
    """What validators attest of one round (EIP-712 `RoundRoot`)."""

    run: RunId
    round: int
    checkpoint: Digest  # SHA-256 inside the checkpoint's CID
    record: Digest  # SHA-256 inside the round record's CID
    payout_root: Digest  # keccak Merkle root over (account, cumulative amount)
    payout_total: int  # sum of all cumulative amounts, base units

    @classmethod
    def of(cls, record: RoundRecord, payout_root: PayoutRoot) -> Self:
        """What validators attest of a record."""
        return cls(
            record.attempt.run,
            record.attempt.round,
            digest_of(record.checkpoint),
            digest(record),
            payout_root(record.payouts),
            sum(p.cumulative for p in record.payouts),
        )

    @classmethod
    def attested(cls, attestation: Attestation) -> Self:
        """What an attestation says."""
        return cls(
            attestation.run,
            attestation.round,
            attestation.checkpoint,
            attestation.record,
            attestation.payout_root,
            attestation.payout_total,
        )

    def signed_digest(self, ledger: Domain) -> Digest:
        """What an attestation of it signs (EIP-712), for the ledger of this domain."""
        return round_root_digest(
            ledger,
            run=self.run,
            round_=self.round,
            checkpoint=self.checkpoint,
            record=self.record,
            payout_root=self.payout_root,
            payout_total=self.payout_total,
        )


@dataclass(frozen=True, slots=True)
class Earning:
    """What an account earned of a run so far, base units, and its proof from the leaf up."""

    account: Address
    cumulative: int
    proof: Sequence[Digest]


@dataclass(frozen=True, slots=True)
class Receipt:
    """A transaction with its confirmations. `tx` is `0x…`."""

    tx: str
    block: int
    gas_used: int


@dataclass(frozen=True, slots=True)
class RunOpened:
    """A run proposal executed: training may start. `seed` is what the ledger drew at opening."""

    run: RunId
    spec: Digest
    rounds: int
    reward_per_round: int
    seed: Digest
    block: int


@dataclass(frozen=True, slots=True)
class RoundPosted:
    """A round root was accepted by the ledger.

    From `head`, `tx` is empty and `block` 0 where the endpoint does not look back so far.
    """

    root: RoundRoot
    tx: str
    block: int


@dataclass(frozen=True, slots=True)
class Claimed:
    """An account took what it had earned; `amount` is this claim's, in base units."""

    run: RunId
    account: Address
    payee: Address
    amount: int
    tx: str
    block: int


@dataclass(frozen=True, slots=True)
class RunChanged:
    """The DAO changed an open run: from a round on it goes by another spec."""

    run: RunId
    from_round: int
    spec: Digest
    block: int


@dataclass(frozen=True, slots=True)
class Proposed:
    """A proposal is on chain, whoever put it there. Its run specs are not: they come by gossip."""

    id: int
    proposer: Address
    proposal: Proposal
    block: int


ChainEvent = RunOpened | RoundPosted | Claimed | RunChanged | Proposed


class Chain(Protocol):
    """Reads, watched events and idempotent writes of one DAO on one chain."""

    async def info(self) -> ChainInfo:
        """Raises `WrongChain` where chain id or contracts differ from the network file."""
        ...

    async def time_s(self) -> int:
        """The chain's own clock: the latest block's unix time."""
        ...

    async def validators(self) -> tuple[frozenset[Address], int]:
        """The ledger's validator set and its quorum k."""
        ...

    async def proposal(self, proposal: int) -> ProposalStatus:
        """Raises `TransactionReverted` for an unknown proposal."""
        ...

    async def ballot_nonce(self, voter: Address) -> int:
        """The nonce that the voter's next ballot must carry."""
        ...

    async def voting_power(self, voter: Address, timepoint_s: int) -> int:
        """Delegated votes at a past time, base units."""
        ...

    async def treasury(self, token: Address | None) -> Treasury:
        """What the DAO holds of an ERC-20 token, of the chain's coin where that is None.

        Raises `WrongChain` where there is no such token.
        """
        ...

    async def holders(self) -> Holders:
        """Who holds the DAO's tokens, as far as `watch` has read the chain."""
        ...

    async def membership(self) -> MembershipRules:
        """Raises `NoMembership`, as all that follows does, for a DAO without that contract."""
        ...

    async def standing(self, account: Address) -> Standing:
        """Whether an account is a member, or wants to be."""
        ...

    async def standings(self) -> Mapping[Address, Standing]:
        """Everybody's who ever asked or was admitted, as far as `watch` has read the chain."""
        ...

    async def request_membership(self, statement: Digest) -> Receipt:
        """Ask to join; in an open DAO our account is a member then.

        `statement` is the digest of what it says of itself. Intent key: how often it asked before.
        """
        ...

    async def admit(self, account: Address, approved: bool) -> Receipt:
        """Approve or refuse an account, as the owner. Intent key: that, and how often before."""
        ...

    async def delegate(self, to: Address) -> Receipt | None:
        """Let another account vote for our tokens, also for those that claims brought since.

        None where it does already.

        Intent key: the delegate and how often it was chosen before.
        """
        ...

    async def has_voted(self, proposal: int, voter: Address) -> bool:
        """Whether the governor has counted a ballot of this voter."""
        ...

    def proposal_id(self, proposal: Proposal) -> int:
        """The governor's id of a proposal, computed off chain."""
        ...

    def call_of(self, decision: Decision) -> ProposedCall:
        """The call that carries a decision out."""
        ...

    def decisions(self, proposal: Proposal) -> tuple[Decision, ...]:
        """What a proposal's calls decide, in their order."""
        ...

    def ballot_digest(self, proposal: int, support: Support, voter: Address, nonce: int) -> Digest:
        """EIP-712 digest of an OpenZeppelin `Ballot` for this governor."""
        ...

    def round_digest(self, root: RoundRoot) -> Digest:
        """EIP-712 digest of a `RoundRoot` for this ledger."""
        ...

    async def propose(self, proposal: Proposal) -> Receipt:
        """Put a proposal to the vote. Intent key: the proposal id."""
        ...

    async def relay_ballots(self, ballots: Sequence[Ballot]) -> Receipt:
        """Cast signed ballots of one proposal in one transaction. Intent key: their digest.

        Ballots that cannot count are skipped. Raises ValueError for none, too many, or several
        proposals, and `TransactionReverted` where not one ballot would count.
        """
        ...

    async def queue(self, proposal: Proposal) -> Receipt:
        """Queue a succeeded proposal in the timelock."""
        ...

    async def execute(self, proposal: Proposal) -> Receipt:
        """Execute a queued proposal whose delay has passed."""
        ...

    async def post_round(self, root: RoundRoot, signatures: Sequence[bytes]) -> Receipt:
        """Post a round root with its attestations, in ascending order of their signers.

        Intent key: (run, round).
        """
        ...

    async def prove_equivocation(self, first: Attestation, second: Attestation) -> Receipt:
        """Show the ledger two statements of one validator on one round: it loses bond and seat.

        Intent key: the validator's signatures. Raises `TransactionReverted` where they are no
        proof, or the validator has lost both already.
        """
        ...

    async def claim(
        self, run: RunId, account: Address, cumulative: int, proof: Sequence[Digest]
    ) -> Receipt:
        """Claim for an account, by anyone. Intent key: (run, account, cumulative)."""
        ...

    async def claim_many(self, run: RunId, earnings: Sequence[Earning]) -> Receipt:
        """Claim for many accounts of one run in one transaction, by anyone.

        Accounts that cannot be paid are skipped. Intent key: the earnings' digest. Raises
        ValueError for none or too many, and `TransactionReverted` where not one can be paid.
        """
        ...

    async def paying(self, run: RunId) -> RoundRoot | None:
        """The root that claims are paid by: the latest that is out of its challenge window."""
        ...

    async def set_payout(self, payee: Address) -> Receipt | None:
        """Have this account's claims paid to `payee`; None where they are already."""
        ...

    async def payout_of(self, account: Address) -> Address:
        """Who receives what the account earns."""
        ...

    async def claimed(self, run: RunId, account: Address) -> int:
        """What the account has claimed of this run so far, base units."""
        ...

    async def balance(self, account: Address) -> int:
        """DAO tokens of an account, base units."""
        ...

    async def head(self, run: RunId) -> RoundPosted | None:
        """The last round root accepted for a run."""
        ...

    def watch(self, from_block: int) -> AsyncIterator[ChainEvent]:
        """Events from a block on, in order, each after its confirmations; never ends.

        Retries an unreachable endpoint with backoff, so it raises only `WrongChain`.
        """
        ...


class ServedChain(Chain, Protocol):
    """A chain with work of its own to do."""

    @property
    def escrow(self) -> "Escrow | None":
        """The money of private jobs; None where no such thing is modelled."""
        ...

    async def run(self) -> Never:
        """Finish unfinished writes until cancelled. Raises `WrongChain` alone."""
        ...
