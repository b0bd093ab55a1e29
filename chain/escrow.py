"""What private jobs need of a chain that holds their money: the port, as `JobEscrow.sol` has it.

No implementation is wired to the daemon yet. A job's price lies in the escrow while the job runs.
Its payouts (`eigen.protocol.job_pay`) are attested by validators as a `RoundRoot` of the job's own
stream of the ledger, which `Chain.post_round` posts and `Chain.claim` pays from.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from eigen.chain.port import Receipt
from eigen.protocol.types import Address, Digest, RunId


class EscrowState(Enum):
    """Where a job's money stands (`JobEscrow.State`, same order)."""

    NONE = 0
    OPEN = 1
    DELIVERED = 2
    DISPUTED = 3
    CLOSED = 4


@dataclass(frozen=True, slots=True)
class JobFunds:
    """A job as the escrow sees it; amounts in base units of `asset`, times in unix seconds."""

    client: Address
    state: EscrowState
    asset: Address
    held: int
    deadline_s: int
    spec: Digest


class Escrow(Protocol):
    """Funding, delivery and refund of private jobs. Every write is idempotent, as a `Chain`'s.

    All raise `ChainError`.
    """

    async def open_job(
        self, job: Digest, asset: Address, price: int, deadline_s: int, dispute_s: int
    ) -> RunId:
        """Approve and lock the price of the job with this digest. Returns its ledger stream."""
        ...

    async def deliver_job(self, job: Digest) -> Receipt:
        """Say that the attested root is the result; anyone may, until the deadline."""
        ...

    async def release_job(self, job: Digest) -> Receipt:
        """Move what is attested to the stream once the dispute window is over; anyone may."""
        ...

    async def refund_job(self, job: Digest) -> Receipt:
        """Fetch what is the client's: all of it after a deadline without delivery."""
        ...

    async def job_funds(self, job: Digest) -> JobFunds:
        """Where a job's money stands."""
        ...
