"""The ABIs of our contracts."""

from typing import Final

from eigen.chain.abi import Abi
from eigen.chain.artifacts import load
from eigen.chain.port import RoundRoot
from eigen.chain.reverts import RevertReader

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
