"""Logs of the DAO's contracts as events of the port."""

from collections.abc import Callable
from typing import Final, Self

from eigen.chain.abi import AbiMismatch, Event
from eigen.chain.bindings import GOVERNOR, LEDGER, MEMBERSHIP, TIMELOCK, TOKEN
from eigen.chain.calls import decision_of
from eigen.chain.decisions import ChangeRun
from eigen.chain.port import (
    ChainEvent,
    Claimed,
    Contracts,
    Proposed,
    RoundPosted,
    RoundRoot,
    RunChanged,
    RunOpened,
    WrongChain,
)
from eigen.chain.rpc import Log
from eigen.chain.watch import LogWatch
from eigen.protocol.messages import Proposal, ProposedCall
from eigen.protocol.types import Address, Digest, RunId

INDEXED: Final = (
    *(LEDGER.topic(e) for e in ("RunOpened", "RoundPosted", "Claimed", "ValidatorsChanged")),
    *(GOVERNOR.topic(e) for e in ("ProposalCreated", "ProposalQueued", "ProposalExecuted")),
    *(GOVERNOR.topic(e) for e in ("ProposalCanceled", "VoteCast")),
    TIMELOCK.topic("CallExecuted"),
    *(TOKEN.topic(e) for e in ("Transfer", "DelegateChanged", "DelegateVotesChanged")),
    *(MEMBERSHIP.topic(e) for e in ("Requested", "Approved", "Refused", "Left")),
)
"""First topics of the logs that the index keeps."""


def indexed_contracts(contracts: Contracts) -> tuple[Address, ...]:
    """Whose logs the index keeps."""
    four = contracts.ledger, contracts.governor, contracts.timelock, contracts.token
    return (*four, contracts.membership) if contracts.membership else four


class EventWatch:
    """A `LogWatch` of the DAO's contracts, in the port's terms."""

    def __init__(self, logs: LogWatch, contracts: Contracts) -> None:
        self._logs = logs
        self._contracts = contracts

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ChainEvent:
        while True:
            log = await anext(self._logs)
            try:
                event = chain_event(self._contracts, log)
            except AbiMismatch as error:
                raise WrongChain(f"transaction 0x{log.tx.hex()}: {error}") from error
            if event is not None:
                return event


def chain_event(contracts: Contracts, log: Log) -> ChainEvent | None:
    """A log as an event of the port; None for one that the port has no event for.

    Raises `AbiMismatch` for a log in another form than its contract writes.
    """
    if log.account == contracts.ledger:
        event = LEDGER.event(log.topics, log.data)
    elif log.account == contracts.governor:
        event = GOVERNOR.event(log.topics, log.data)
    elif log.account == contracts.timelock:
        event = TIMELOCK.event(log.topics, log.data)
    else:
        return None
    read = _READERS.get(event.name)
    return read(contracts, event, log) if read else None


def _run_opened(_: Contracts, event: Event, log: Log) -> RunOpened:
    return RunOpened(
        run=RunId(event.args["run"]),
        spec=Digest(event.args["spec"]),
        rounds=event.args["rounds"],
        reward_per_round=event.args["rewardPerRound"],
        seed=Digest(event.args["seed"]),
        block=log.block,
    )


def _round_posted(_: Contracts, event: Event, log: Log) -> RoundPosted:
    root = RoundRoot(
        run=RunId(event.args["run"]),
        round=event.args["round"],
        checkpoint=Digest(event.args["checkpoint"]),
        record=Digest(event.args["record"]),
        payout_root=Digest(event.args["payoutRoot"]),
        payout_total=event.args["payoutTotal"],
    )
    return RoundPosted(root, tx=_hex(log.tx), block=log.block)


def _claimed(_: Contracts, event: Event, log: Log) -> Claimed:
    return Claimed(
        run=RunId(event.args["run"]),
        account=Address(event.args["account"]),
        payee=Address(event.args["payee"]),
        amount=event.args["amount"],
        tx=_hex(log.tx),
        block=log.block,
    )


def _proposed(_: Contracts, event: Event, log: Log) -> Proposed:
    args = event.args
    calls = tuple(
        ProposedCall(Address(target), value, data)
        for target, value, data in zip(
            args["targets"], args["values"], args["calldatas"], strict=True
        )
    )
    proposal = Proposal(calls, args["description"])
    return Proposed(args["proposalId"], Address(args["proposer"]), proposal, log.block)


def _executed(contracts: Contracts, event: Event, log: Log) -> RunChanged | None:
    args = event.args
    call = ProposedCall(Address(args["target"]), args["value"], args["data"])
    decided = decision_of(contracts, call)
    if not isinstance(decided, ChangeRun):
        return None
    return RunChanged(decided.run, decided.from_round, decided.spec, log.block)


_READERS: Final[dict[str, Callable[[Contracts, Event, Log], ChainEvent | None]]] = {
    "RunOpened": _run_opened,
    "RoundPosted": _round_posted,
    "Claimed": _claimed,
    "ProposalCreated": _proposed,
    "CallExecuted": _executed,
}


def _hex(value: bytes) -> str:
    return "0x" + value.hex()
