"""A DAO's models as its registry has them: lineage, checkpoints on record, owner, royalty."""

from dataclasses import dataclass
from typing import Any, Final

from eigen.chain.abi import AbiMismatch
from eigen.chain.account_calls import AccountCalls, NotPossible
from eigen.chain.bindings import LEDGER, REGISTRY
from eigen.chain.port import Receipt, WrongChain
from eigen.protocol.types import Address, Digest, RunId

BPS: Final = 10_000
"""Hundredths of a percent in the whole."""
NAMED_IN_ERROR_MAX: Final = 5


@dataclass(frozen=True, slots=True)
class RecordedRound:
    """What a quorum attested of a round, as it stands in the registry."""

    round: int
    checkpoint: Digest
    record: Digest
    payout_root: Digest


@dataclass(frozen=True, slots=True)
class Model:
    """A registered model; its id is its run's.

    `spec` is SHA-256 of the canonical run spec. `lineage` are its ancestors, the nearest first;
    `start` is SHA-256 of the parent's checkpoint that it began from, None without a parent.
    `royalty_bps` of each sale go to `vault`. `rounds` are on record, oldest first.
    """

    run: RunId
    spec: Digest
    lineage: tuple[RunId, ...]
    start: Digest | None
    owner: Address
    vault: Address
    royalty_bps: int
    uri: str
    rounds: tuple[RecordedRound, ...]


class Models:
    """The registry, for one account. All methods raise `ChainError`."""

    def __init__(self, calls: AccountCalls) -> None:
        self._calls = calls

    async def ids(self) -> list[RunId]:
        """All models, oldest first."""
        topic = REGISTRY.topic("ModelRegistered")
        return [RunId(log.topics[1]) for log in await self._calls.model_logs(topic)]

    async def find(self, prefix: str) -> RunId:
        """The one model whose id begins so. Raises `NotPossible` for none or several."""
        wanted = prefix.removeprefix("0x").lower()
        found = [run for run in await self.ids() if wanted and run.hex().startswith(wanted)]
        if len(found) == 1:
            return found[0]
        names = ", ".join(run.hex()[:12] for run in found[:NAMED_IN_ERROR_MAX])
        told = f" ({names})" if names else ""
        raise NotPossible(f"{len(found)} models match {prefix[:64]!r}{told}; see: eigen model list")

    async def model(self, run: RunId) -> Model:
        """One model. Raises `TransactionReverted` where it is not registered."""
        number = int.from_bytes(run)
        spec, _, start, vault = await self._read("models", number)
        lineage = await self._read("lineage", number)
        _, royalty = await self._calls.read_all(
            self._calls.contract("registry"), REGISTRY, "royaltyInfo", number, BPS
        )
        return Model(
            run=run,
            spec=Digest(spec),
            lineage=tuple(RunId(ancestor.to_bytes(32)) for ancestor in lineage),
            start=Digest(start) if lineage else None,
            owner=Address(await self._read("ownerOf", number)),
            vault=Address(vault),
            royalty_bps=int(royalty),
            uri=str(await self._read("tokenURI", number)),
            rounds=tuple(await self._rounds(run)),
        )

    async def paying_round(self, run: RunId) -> int:
        """The latest round that is out of its challenge window; 0 for none."""
        ledger = self._calls.contracts.ledger
        return int((await self._calls.read_all(ledger, LEDGER, "paying", run))[0])

    async def record(self, run: RunId) -> tuple[int, Receipt]:
        """Put the round that pays now on record; anyone may. The round, and how it landed."""
        round_ = await self.paying_round(run)
        if round_ == 0:
            raise NotPossible("no round of this model is out of its challenge window yet")
        if any(known.round == round_ for known in await self._rounds(run)):
            raise NotPossible(f"round {round_}, the last that pays, is on record already")
        data = REGISTRY.calldata("recordRound", int.from_bytes(run))
        what = f"record {run.hex()} {round_}"
        return round_, await self._calls.write(what, self._calls.contract("registry"), data)

    async def _rounds(self, run: RunId) -> list[RecordedRound]:
        logs = await self._calls.model_logs(REGISTRY.topic("RoundRecorded"), run)
        try:
            rows = [REGISTRY.event(log.topics, log.data).args for log in logs]
        except AbiMismatch as error:
            raise WrongChain(f"the registry wrote a log that is not ours: {error}") from error
        return [
            RecordedRound(
                row["round"],
                Digest(row["checkpoint"]),
                Digest(row["record"]),
                Digest(row["payoutRoot"]),
            )
            for row in rows
        ]

    async def _read(self, function: str, *args: object) -> Any:
        at = self._calls.contract("registry")
        return await self._calls.read(at, REGISTRY, function, *args)
