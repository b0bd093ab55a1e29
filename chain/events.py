"""The ledger's logs as events of the port."""

from typing import Final, Self

from eigen.chain.abi import AbiMismatch, Event
from eigen.chain.bindings import LEDGER
from eigen.chain.port import ChainEvent, Claimed, RoundPosted, RoundRoot, RunOpened, WrongChain
from eigen.chain.rpc import Log
from eigen.chain.watch import LogWatch
from eigen.protocol.types import Address, Digest, RunId

EVENT_TOPICS: Final = tuple(LEDGER.topic(name) for name in ("RunOpened", "RoundPosted", "Claimed"))
"""What `watch` reports; the ledger's other events change nothing that a daemon follows."""


class EventWatch:
    """A `LogWatch` of the ledger, in the port's terms."""

    def __init__(self, logs: LogWatch) -> None:
        self._logs = logs

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ChainEvent:
        log = await anext(self._logs)
        try:
            return chain_event(log)
        except AbiMismatch as error:
            raise WrongChain(f"transaction 0x{log.tx.hex()}: {error}") from error


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
