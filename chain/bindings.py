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

REVERTS: Final = RevertReader((LEDGER, GOVERNOR, TOKEN, TIMELOCK))


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
