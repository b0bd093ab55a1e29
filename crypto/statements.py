"""The digests of the two statements that our contracts check: round roots and ballots.

The type strings are the contracts' own; a change here is a change of the contracts.
"""

from typing import Final

from eigen.crypto.eip712 import Domain, typed_digest
from eigen.protocol.types import Address, Digest, RunId

ROUND_ROOT_TYPE: Final = (
    "RoundRoot(bytes32 run,uint64 round,bytes32 checkpoint,bytes32 record,"
    "bytes32 payoutRoot,uint256 payoutTotal)"
)
BALLOT_TYPE: Final = "Ballot(uint256 proposalId,uint8 support,address voter,uint256 nonce)"
"""OpenZeppelin `Governor.BALLOT_TYPEHASH` (5.x)."""


def ledger_domain(chain_id: int, ledger: Address) -> Domain:
    """Where round roots count."""
    return Domain("Eigen ContributionLedger", "1", chain_id, ledger)


def governor_domain(chain_id: int, governor: Address) -> Domain:
    """Where ballots count: OpenZeppelin takes the governor's name, and version "1"."""
    return Domain("DaoGovernor", "1", chain_id, governor)


def round_root_digest(
    domain: Domain,
    *,
    run: RunId,
    round_: int,
    checkpoint: Digest,
    record: Digest,
    payout_root: Digest,
    payout_total: int,
) -> Digest:
    """What a validator signs of one round; `payout_total` in the token's base units.

    Raises `TypedDataError` where a value does not fit its type.
    """
    return typed_digest(
        domain,
        ROUND_ROOT_TYPE,
        {
            "run": run,
            "round": round_,
            "checkpoint": checkpoint,
            "record": record,
            "payoutRoot": payout_root,
            "payoutTotal": payout_total,
        },
    )


def ballot_digest(
    domain: Domain, *, proposal: int, support: int, voter: Address, nonce: int
) -> Digest:
    """What a member signs to vote: `support` is 0 against, 1 for, 2 abstain.

    Raises `TypedDataError` where a value does not fit its type.
    """
    return typed_digest(
        domain,
        BALLOT_TYPE,
        {"proposalId": proposal, "support": support, "voter": voter, "nonce": nonce},
    )
