"""Models on record, in plain JSON values."""

from collections.abc import Callable
from typing import Any

from eigen.chain.account_calls import AccountCalls
from eigen.chain.models import Model, Models
from eigen.config.addresses import format_address
from eigen.node.amounts import whole
from eigen.node.control import Method
from eigen.protocol.cid import DAG_PB, RAW, cid_of, digest_of
from eigen.protocol.messages import RoundRecord
from eigen.protocol.types import Address, Digest, RunId


class ModelMethods:
    """One coroutine a call; `table` names them."""

    def __init__(
        self, calls: AccountCalls, history: Callable[[RunId], dict[int, RoundRecord]]
    ) -> None:
        self._calls = calls
        self._models = Models(calls)
        self._history = history

    def table(self) -> dict[str, Method]:
        """Methods by name."""
        return {
            "models": self.models,
            "model": self.model,
            "record_model": self.record_model,
        }

    async def models(self, _: dict[str, Any]) -> list[dict[str, Any]]:
        """All models of the DAO, oldest first."""
        return [self._view(await self._models.model(run)) for run in await self._models.ids()]

    async def model(self, params: dict[str, Any]) -> dict[str, Any]:
        """The one whose id begins with `id`, with what records say of its contributors."""
        model = await self._models.model(await self._models.find(str(params["id"])))
        paying = await self._models.paying_round(model.run)
        known = {run.hex(): self._contributors(run) for run in (model.run, *model.lineage)}
        return self._view(model) | {"paying_round": paying, "contributors": known}

    async def record_model(self, params: dict[str, Any]) -> dict[str, Any]:
        """Put the round that pays now on the model's record."""
        run = await self._models.find(str(params["id"]))
        round_, receipt = await self._models.record(run)
        return {"model": run.hex(), "round": round_, "tx": receipt.tx}

    def _view(self, model: Model) -> dict[str, Any]:
        history = self._history(model.run)
        return {
            "id": model.run.hex(),
            "spec": model.spec.hex(),
            "owner": format_address(model.owner),
            "owned_by": self._whose(model.owner),
            "royalty_percent": model.royalty_bps / 100,
            "royalties_to": format_address(model.vault),
            "uri": model.uri,
            "lineage": [ancestor.hex() for ancestor in model.lineage],
            "start": model.start.hex() if model.start else None,
            "rounds": [
                {
                    "round": known.round,
                    "checkpoint": known.checkpoint.hex(),
                    "cids": _cids(known.checkpoint, history.get(known.round)),
                    "record": known.record.hex(),
                    "payout_root": known.payout_root.hex(),
                }
                for known in model.rounds
            ],
        }

    def _whose(self, owner: Address) -> str:
        return {self._calls.contracts.timelock: "the DAO", self._calls.address: "this account"}.get(
            owner, ""
        )

    def _contributors(self, run: RunId) -> dict[str, Any] | None:
        """By the newest record that is here, whose sums are those of all rounds up to it."""
        history = self._history(run)
        if not history:
            return None
        newest = max(history)
        return {
            "through_round": newest,
            "earned": {
                format_address(payout.account): whole(payout.cumulative)
                for payout in history[newest].payouts
            },
        }


def _cids(checkpoint: Digest, record: RoundRecord | None) -> list[str]:
    """The content id of a checkpoint. The chain keeps its digest: without the record, it may be
    that of one block or of a tree of blocks."""
    if record is not None and digest_of(record.checkpoint) == checkpoint:
        return [record.checkpoint]
    return [cid_of(DAG_PB, checkpoint), cid_of(RAW, checkpoint)]
