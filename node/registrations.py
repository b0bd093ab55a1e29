"""What a proposal to register a model must meet, so that no vote is held on what would revert."""

from typing import Any

from eigen.chain.account_calls import AccountCalls, NotPossible
from eigen.chain.bindings import LEDGER, REGISTRY
from eigen.chain.decisions import RegisterModel
from eigen.chain.models import BPS, Models
from eigen.config.addresses import parse_address
from eigen.protocol.types import RunId

URI_BYTES_MAX = 2048
"""It is stored on chain, a word at a time; browsers and gateways take no more."""
ANCESTORS_MAX = 64
"""`ModelRegistry.ANCESTORS_MAX`."""
RUN_HEX_DIGITS = 64


class Registrations:
    """Only the DAO registers models: its registry takes them from the timelock alone."""

    def __init__(self, calls: AccountCalls) -> None:
        self._calls = calls
        self._models = Models(calls)

    async def decision(self, params: dict[str, Any]) -> RegisterModel:
        """`run` is a whole id. `owner` is an address or `dao`, `parent` the beginning of a model's
        id, empty for none.

        Raises `NotPossible` for what the registry would refuse, KeyError, TypeError and ValueError
        for params that no command sends, and `ChainError`.
        """
        self._calls.contract("registry")
        run = await self._run(str(params["run"]))
        owner = str(params["owner"])
        to = self._calls.contracts.timelock if owner == "dao" else parse_address(owner)
        bps, uri = int(params["royalty_bps"]), str(params["uri"])
        if not 0 <= bps <= BPS:
            raise NotPossible("royalty_percent: 0 to 100")
        if len(uri.encode()) > URI_BYTES_MAX:
            raise NotPossible(f"uri: at most {URI_BYTES_MAX} bytes")
        parent, parent_round = None, int(params["parent_round"])
        if params["parent"]:
            parent = await self._models.find(str(params["parent"]))
            await self._check_parent(parent, parent_round)
        return RegisterModel(run, to, parent, parent_round if parent else 0, bps, uri)

    async def _run(self, text: str) -> RunId:
        wanted = text.removeprefix("0x").lower()
        if len(wanted) != RUN_HEX_DIGITS:
            raise NotPossible(f"run: none open here begins with {text[:64]!r}; give its whole id")
        run = RunId(bytes.fromhex(wanted))
        rounds = (await self._calls.read_all(self._calls.contracts.ledger, LEDGER, "runs", run))[1]
        if not rounds:
            raise NotPossible(f"run: the ledger knows none with the id {wanted}")
        if run in await self._models.ids():
            raise NotPossible(f"the model of run {wanted[:12]} is registered already")
        return run

    async def _check_parent(self, parent: RunId, round_: int) -> None:
        model = await self._models.model(parent)
        known = [recorded.round for recorded in model.rounds]
        if round_ not in known:
            on_record = ", ".join(map(str, known)) or "none"
            raise NotPossible(
                f"parent_round: {round_} is not on the record of model {parent.hex()[:12]}"
                f" (there: {on_record}); put one there with: eigen model record"
            )
        registry = self._calls.contract("registry")
        ancestors = await self._calls.read(registry, REGISTRY, "ancestors", int.from_bytes(parent))
        if ancestors >= ANCESTORS_MAX:
            raise NotPossible(f"parent: it has {ancestors} ancestors, and {ANCESTORS_MAX} are most")
