"""A DAO's decisions as calls of its timelock, and calls read back as decisions.

Reading is by calldata alone: whoever wrote a proposal cannot call it what it is not.
"""

from typing import Any, Final

from eigen.chain.abi import CODEC, Abi, AbiMismatch
from eigen.chain.bindings import LEDGER, MEMBERSHIP, REGISTRY, TOKEN
from eigen.chain.decisions import (
    Admit,
    ChangeRun,
    Decision,
    OpenRun,
    OtherCall,
    Payment,
    RegisterModel,
    ReplaceValidators,
)
from eigen.chain.port import ChainError, Contracts, NoMembership
from eigen.crypto.hashing import keccak256
from eigen.protocol.messages import Proposal, ProposedCall
from eigen.protocol.types import Address, Digest, RunId

STATEMENT: Final = Address(bytes(19) + b"\x04")
"""Where the DAO says what no contract needs to keep: the identity precompile, at which a call does
nothing, and which leaves the timelock's `CallExecuted` event."""

STATEMENTS: Final = Abi(
    [
        {
            "type": "function",
            "name": "changeRun",
            "inputs": [
                {"name": "run", "type": "bytes32"},
                {"name": "fromRound", "type": "uint64"},
                {"name": "spec", "type": "bytes32"},
            ],
            "outputs": [],
        }
    ]
)
"""What it may say there."""

ProposedCalls = tuple[list[Address], list[int], list[bytes]]
"""Targets, values in wei and calldata: a proposal as OpenZeppelin's Governor takes it."""


def call_of(contracts: Contracts, decision: Decision) -> ProposedCall:
    """The call that carries a decision out. Raises `NoMembership`, and
    `ChainError` where the DAO has no registry."""
    match decision:
        case OpenRun(run, spec, rounds, reward_per_round):
            data = LEDGER.calldata("openRun", run, spec, rounds, reward_per_round)
            return ProposedCall(contracts.ledger, 0, data)
        case ChangeRun(run, from_round, spec):
            return ProposedCall(
                STATEMENT, 0, STATEMENTS.calldata("changeRun", run, from_round, spec)
            )
        case Payment(None, payee, amount):
            return ProposedCall(payee, amount, b"")
        case Payment(token, payee, amount):
            assert token is not None
            return ProposedCall(token, 0, TOKEN.calldata("transfer", payee, amount))
        case ReplaceValidators(validators, quorum):
            data = LEDGER.calldata("setValidators", list(validators), quorum)
            return ProposedCall(contracts.ledger, 0, data)
        case Admit(account, approved):
            if contracts.membership is None:
                raise NoMembership("this DAO has no membership contract")
            data = MEMBERSHIP.calldata("approve" if approved else "refuse", account)
            return ProposedCall(contracts.membership, 0, data)
        case RegisterModel(run, owner, parent, parent_round, royalty_bps, uri):
            if contracts.registry is None:
                raise ChainError("this DAO has no model registry")
            number = int.from_bytes(parent) if parent else 0
            data = REGISTRY.calldata("register", run, owner, number, parent_round, royalty_bps, uri)
            return ProposedCall(contracts.registry, 0, data)
        case OtherCall(target, value, data):
            return ProposedCall(target, value, data)


def decision_of(contracts: Contracts, call: ProposedCall) -> Decision:
    """What a call decides; `OtherCall` where it is none that this version knows."""
    other = OtherCall(call.target, call.value, call.data)
    if not call.data:
        return Payment(None, call.target, call.value) if call.value else other
    if call.value:
        return other
    if call.target == contracts.ledger:
        if (args := _arguments(LEDGER, "openRun", call.data)) is not None:
            run, spec, rounds, reward_per_round = args
            return OpenRun(RunId(run), Digest(spec), rounds, reward_per_round)
        if (args := _arguments(LEDGER, "setValidators", call.data)) is not None:
            return ReplaceValidators(tuple(Address(v) for v in args[0]), args[1])
        return other
    if call.target == contracts.membership:
        for function, approved in (("approve", True), ("refuse", False)):
            if (args := _arguments(MEMBERSHIP, function, call.data)) is not None:
                return Admit(Address(args[0]), approved)
        return other
    if call.target == contracts.registry:
        if (args := _arguments(REGISTRY, "register", call.data)) is not None:
            run, owner, number, parent_round, royalty_bps, uri = args
            parent = RunId(number.to_bytes(32)) if number else None
            return RegisterModel(RunId(run), Address(owner), parent, parent_round, royalty_bps, uri)
        return other
    if call.target == STATEMENT:
        if (args := _arguments(STATEMENTS, "changeRun", call.data)) is not None:
            return ChangeRun(RunId(args[0]), args[1], Digest(args[2]))
        return other
    if (args := _arguments(TOKEN, "transfer", call.data)) is not None:
        return Payment(call.target, Address(args[0]), args[1])
    return other


def proposed_calls(proposal: Proposal) -> ProposedCalls:
    """A proposal's calls as the governor takes them."""
    calls = proposal.calls
    return [c.target for c in calls], [c.value for c in calls], [c.data for c in calls]


def description_hash(proposal: Proposal) -> Digest:
    """The governor stores no text, only its Keccak-256."""
    return keccak256(proposal.description.encode())


def proposal_id(proposal: Proposal) -> int:
    """`Governor.hashProposal`: Keccak-256 of the encoded calls and the description's hash."""
    encoded = CODEC.encode(
        ["address[]", "uint256[]", "bytes[]", "bytes32"],
        [*proposed_calls(proposal), description_hash(proposal)],
    )
    return int.from_bytes(keccak256(encoded))


def _arguments(abi: Abi, function: str, data: bytes) -> tuple[Any, ...] | None:
    try:
        return abi.arguments(function, data)
    except AbiMismatch:
        return None
