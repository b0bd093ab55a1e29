"""The ABIs of our four contracts, and what we compute of them without asking a chain."""

from typing import Final

from eigen.chain.abi import CODEC, Abi, Event
from eigen.chain.artifacts import load
from eigen.chain.port import ChainEvent, Claimed, Contracts, RoundPosted, RoundRoot, RunOpened
from eigen.chain.port import RunProposal as Proposal
from eigen.chain.reverts import RevertReader
from eigen.chain.rpc import Log
from eigen.crypto.hashing import keccak256
from eigen.protocol.types import Address, Digest, RunId

TOKEN: Final = Abi(load("DaoToken").abi)
GOVERNOR: Final = Abi(load("DaoGovernor").abi)
TIMELOCK: Final = Abi(load("TimelockController").abi)
LEDGER: Final = Abi(load("ContributionLedger").abi)

REVERTS: Final = RevertReader((LEDGER, GOVERNOR, TOKEN, TIMELOCK))

ProposedCalls = tuple[list[Address], list[int], list[bytes]]
"""Targets, values in wei and calldata: a proposal as OpenZeppelin's Governor takes it."""


def proposed_calls(contracts: Contracts, proposal: Proposal) -> ProposedCalls:
    """The single call of a run proposal."""
    data = LEDGER.calldata(
        "openRun", proposal.run, proposal.spec, proposal.rounds, proposal.reward_per_round
    )
    return [contracts.ledger], [0], [data]


def description_hash(proposal: Proposal) -> Digest:
    """The governor stores no text, only its Keccak-256."""
    return keccak256(proposal.description.encode())


def proposal_id(contracts: Contracts, proposal: Proposal) -> int:
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


EVENT_TOPICS: Final = tuple(LEDGER.topic(name) for name in ("RunOpened", "RoundPosted", "Claimed"))
"""What `watch` reports; the ledger's other events change nothing that a daemon follows."""


def chain_event(log: Log) -> ChainEvent:
    """A ledger log as an event of the port. Raises `AbiMismatch` for another contract's log."""
    event = LEDGER.event(log.topics, log.data)
    match event.name:
        case "RunOpened":
            return RunOpened(
                run=RunId(event.args["run"]),
                spec=Digest(event.args["spec"]),
                rounds=event.args["rounds"],
                reward_per_round=event.args["rewardPerRound"],
                seed=Digest(event.args["seed"]),
                block=log.block,
            )
        case "RoundPosted":
            return RoundPosted(_root(event), tx=_hex(log.tx), block=log.block)
        case "Claimed":
            return Claimed(
                run=RunId(event.args["run"]),
                account=Address(event.args["account"]),
                payee=Address(event.args["payee"]),
                amount=event.args["amount"],
                tx=_hex(log.tx),
                block=log.block,
            )
    raise AssertionError(f"no port event for {event.name}")


def _root(event: Event) -> RoundRoot:
    return RoundRoot(
        run=RunId(event.args["run"]),
        round=event.args["round"],
        checkpoint=Digest(event.args["checkpoint"]),
        record=Digest(event.args["record"]),
        payout_root=Digest(event.args["payoutRoot"]),
        payout_total=event.args["payoutTotal"],
    )


def _hex(value: bytes) -> str:
    return "0x" + value.hex()
