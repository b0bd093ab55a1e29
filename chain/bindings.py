"""The ABIs of our contracts, and what we compute of them without asking a chain."""

from typing import Final

from eigen.chain.abi import CODEC, Abi
from eigen.chain.artifacts import load
from eigen.chain.port import Contracts, RoundRoot, RunProposal
from eigen.chain.reverts import RevertReader
from eigen.crypto.hashing import keccak256
from eigen.protocol.types import Address, Digest

TOKEN: Final = Abi(load("DaoToken").abi)
GOVERNOR: Final = Abi(load("DaoGovernor").abi)
TIMELOCK: Final = Abi(load("TimelockController").abi)
LEDGER: Final = Abi(load("ContributionLedger").abi)
REGISTRY: Final = Abi(load("ModelRegistry").abi)
ESCROW: Final = Abi(load("JobEscrow").abi)
REVENUE: Final = Abi(load("RevenueShare").abi)
MEMBERSHIP: Final = Abi(load("Membership").abi)
CREATIONS: Final = Abi(load("CreationNFT").abi)
VAULT: Final = Abi(load("RoyaltyVault").abi)
MARKET: Final = Abi(load("ModelMarket").abi)
FACTORY: Final = Abi(load("DaoFactory").abi)
CODE_STORE: Final = Abi(load("CodeStore").abi)

REVERTS: Final = RevertReader(
    (
        LEDGER,
        GOVERNOR,
        TOKEN,
        TIMELOCK,
        REGISTRY,
        ESCROW,
        REVENUE,
        MEMBERSHIP,
        CREATIONS,
        VAULT,
        MARKET,
        FACTORY,
    )
)

ProposedCalls = tuple[list[Address], list[int], list[bytes]]
"""Targets, values in wei and calldata: a proposal as OpenZeppelin's Governor takes it."""


def proposed_calls(contracts: Contracts, proposal: RunProposal) -> ProposedCalls:
    """The single call of a run proposal."""
    data = LEDGER.calldata(
        "openRun", proposal.run, proposal.spec, proposal.rounds, proposal.reward_per_round
    )
    return [contracts.ledger], [0], [data]


def description_hash(proposal: RunProposal) -> Digest:
    """The governor stores no text, only its Keccak-256."""
    return keccak256(proposal.description.encode())


def proposal_id(contracts: Contracts, proposal: RunProposal) -> int:
    """`Governor.hashProposal`: Keccak-256 of the encoded calls and the description's hash."""
    encoded = CODEC.encode(
        ["address[]", "uint256[]", "bytes[]", "bytes32"],
        [*proposed_calls(contracts, proposal), description_hash(proposal)],
    )
    return int.from_bytes(keccak256(encoded))


def root_fields(root: RoundRoot) -> tuple[bytes, int, bytes, bytes, bytes, int]:
    """A round root as the ledger's struct, in field order."""
    return (
        root.run,
        root.round,
        root.checkpoint,
        root.record,
        root.payout_root,
        root.payout_total,
    )
