"""ABI and bytecode of Eigen's contracts, compiled from chain/contracts and committed.

Knows no compiler and no chain. `chain/contracts/build.py` writes the JSON files beside this one and
compares them with a fresh build, so that nobody has to compile to use them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

WHOLE = ("DaoToken", "TimelockController", "DaoGovernor", "ContributionLedger")
"""Contracts that every DAO has of its own."""
CLONED = ("ModelRegistry", "JobEscrow", "RevenueShare", "Membership", "CreationNFT", "RoyaltyVault")
"""Contracts of which every DAO has clones."""
SHARED = ("CodeStore", "DaoFactory", "ModelMarket")
"""Contracts that a chain has once."""
NAMES = (*WHOLE, *CLONED, *SHARED)


class UnknownArtifact(LookupError):
    """No contract of that name is committed; the message lists those that are."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """One compiled contract.

    `abi` is the standard JSON ABI, errors and events included. `bytecode` is creation code without
    constructor arguments; `deployed_bytecode` is what lies on chain, with immutables as zero bytes.
    `source_sha256` is of the sources, the settings and the lock that it was built from.
    """

    name: str
    abi: Sequence[Mapping[str, Any]]
    bytecode: bytes
    deployed_bytecode: bytes
    compiler: Mapping[str, Any]
    source_sha256: str


@cache
def load(name: str) -> Artifact:
    """The artifact of a contract in `NAMES`; read once, so treat its `abi` as read-only.

    Raises `UnknownArtifact`.
    """
    if name not in NAMES:
        raise UnknownArtifact(f"no contract {name!r}; there are {', '.join(NAMES)}")
    text = (resources.files(__name__) / f"{name}.json").read_text(encoding="utf-8")
    fields = json.loads(text)
    return Artifact(
        name=fields["contractName"],
        abi=fields["abi"],
        bytecode=bytes.fromhex(fields["bytecode"].removeprefix("0x")),
        deployed_bytecode=bytes.fromhex(fields["deployedBytecode"].removeprefix("0x")),
        compiler=fields["compiler"],
        source_sha256=fields["sourceSha256"],
    )
