"""What private jobs need of a chain that holds their money: the port, as `JobEscrow.sol` has it.

A job's price lies in the escrow while the job runs. Its payouts (`eigen.protocol.job_record`) are
attested by validators as the only `RoundRoot` of the job's own stream of the ledger, which
`Chain.post_round` posts and `Chain.claim` pays from.

```
ChainError
└── EscrowError            the user's: told before any money moves
    ├── NoEscrow           the network file names no escrow
    ├── NotACoin           there is no ERC-20 at the address
    ├── NotEnoughCoin      the account must be funded; says how much is missing, and where
    └── TermsRefused       deadline, dispute window or price that no escrow takes
```
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

from eigen.chain.abi import CODEC
from eigen.chain.port import ChainError, Receipt
from eigen.crypto.hashing import keccak256
from eigen.protocol.types import Address, Digest, RunId

ROUNDS: Final = 1
"""A job's stream has one root: who is to be paid what is known once the job has ended."""
DELAY_S_MAX: Final = 365 * 86_400
"""`JobEscrow.DELAY_S_MAX`: longer ones are mistyped units."""
PRICE_MAX: Final = (1 << 112) - 1
"""`Streams.BUDGET_MAX`."""


class EscrowError(ChainError):
    """Base of what is wrong with a payment before any money has moved."""


class NoEscrow(EscrowError):
    """The network file names no escrow: jobs cannot be paid for in this DAO."""


class NotACoin(EscrowError):
    """There is no ERC-20 token at this address."""


class NotEnoughCoin(EscrowError):
    """The account does not hold the price; says how much is missing and where to send it."""


class TermsRefused(EscrowError):
    """No escrow takes this price, deadline or dispute window."""


class EscrowState(Enum):
    """Where a job's money stands (`JobEscrow.State`, same order)."""

    NONE = 0
    OPEN = 1
    DELIVERED = 2
    DISPUTED = 3
    CLOSED = 4


@dataclass(frozen=True, slots=True)
class JobTerms:
    """What a job is paid: base units of an ERC-20, times in unix seconds and seconds."""

    asset: Address
    price: int
    deadline_s: int
    dispute_s: int


@dataclass(frozen=True, slots=True)
class JobFunds:
    """A job as the escrow sees it; amounts in base units of `asset`, times in unix seconds.

    `owed` is what the delivered root attests, `decidable_s` when it may be released.
    """

    client: Address
    state: EscrowState
    asset: Address
    held: int
    owed: int
    deadline_s: int
    decidable_s: int
    rounds: int
    spec: Digest
    result: Digest


@dataclass(frozen=True, slots=True)
class Coin:
    """An ERC-20 token and what our account holds of it, base units."""

    asset: Address
    decimals: int
    held: int


def escrow_job(client: Address, name: Digest) -> Digest:
    """The escrow's id of what a client calls `name` (`JobEscrow.jobId`)."""
    return keccak256(CODEC.encode(["address", "bytes32"], [client, name]))


class Escrow(Protocol):
    """Funding, delivery and refund of private jobs. Every write is idempotent, as a `Chain`'s.

    Jobs are named by `escrow_job`. All raise `ChainError`; `NoEscrow` where there is none.
    """

    async def coin(self, asset: Address) -> Coin:
        """A token, and what our account holds. Raises `NotACoin`."""
        ...

    async def check(self, terms: JobTerms) -> None:
        """Whether `open_job` could go through now; changes nothing.

        Raises `NoEscrow`, `NotACoin`, `NotEnoughCoin`, `TermsRefused` or `InsufficientGasMoney`.
        """
        ...

    async def open_job(self, name: Digest, spec: Digest, terms: JobTerms) -> Digest:
        """Approve and lock the price of what is to be done. Returns the escrow's id of it.

        `spec` is the digest of what is to be done. Intent key: the name. Raises what `check` does.
        """
        ...

    async def deliver_job(self, job: Digest) -> Receipt:
        """Commit to the attested root's checkpoint as the result; anyone may, until the deadline,
        once the root pays. Intent key: the job, as in all that follows."""
        ...

    async def dispute_job(self, job: Digest) -> Receipt:
        """Ask the arbiter to decide, as the client, before the dispute window is over."""
        ...

    async def release_job(self, job: Digest) -> Receipt:
        """Move what is attested to the stream once the dispute window is over; anyone may."""
        ...

    async def refund_job(self, job: Digest) -> Receipt:
        """Send the client what is its own: all of it after a deadline without delivery; anyone
        may."""
        ...

    async def job_funds(self, job: Digest) -> JobFunds:
        """Where a job's money stands; state NONE for a job that was never opened."""
        ...

    async def challenge_window_s(self) -> int:
        """From a root's posting on the ledger until it pays: no delivery comes before that."""
        ...

    async def stream_of(self, job: Digest) -> RunId:
        """The ledger's stream on which a job is attested and claimed."""
        ...
