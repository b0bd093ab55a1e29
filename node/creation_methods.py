"""Generated works, in plain JSON values."""

from typing import Any

from eigen.chain.account_calls import AccountCalls, NotPossible
from eigen.chain.creations import Creation, Creations
from eigen.chain.models import Model, Models
from eigen.config.addresses import format_address, parse_address
from eigen.node.control import Method
from eigen.node.registrations import URI_BYTES_MAX
from eigen.protocol.cid import digest_of
from eigen.protocol.types import Digest

ID_HEX_DIGITS = 64


class CreationMethods:
    """One coroutine a call; `table` names them."""

    def __init__(self, calls: AccountCalls) -> None:
        self._calls = calls
        self._creations = Creations(calls)
        self._models = Models(calls)

    def table(self) -> dict[str, Method]:
        """Methods by name."""
        return {"mint_creation": self.mint, "creation": self.creation}

    async def mint(self, params: dict[str, Any]) -> dict[str, Any]:
        """Put a work on record. `checkpoint` is a content id, empty for the newest on record."""
        model = await self._models.model(await self._models.find(str(params["model"])))
        prompt, content = (Digest(bytes.fromhex(params[name])) for name in ("prompt", "content"))
        to, uri = str(params.get("to") or ""), str(params.get("uri") or "")
        if len(uri.encode()) > URI_BYTES_MAX:
            raise NotPossible(f"uri: at most {URI_BYTES_MAX} bytes")
        owner = parse_address(to) if to else self._calls.address
        round_ = _round(model, str(params.get("checkpoint") or ""))
        id_, receipt = await self._creations.mint(model.run, round_, prompt, content, owner, uri)
        return _view(await self._creations.creation(id_)) | {"tx": receipt.tx}

    async def creation(self, params: dict[str, Any]) -> dict[str, Any]:
        """One work, by its whole id."""
        wanted = str(params["id"]).removeprefix("0x")
        if len(wanted) != ID_HEX_DIGITS:
            raise NotPossible(f"a work's id has {ID_HEX_DIGITS} hexadecimal digits")
        return _view(await self._creations.creation(int(wanted, 16)))


def _round(model: Model, checkpoint: str) -> int:
    """The latest round on record, or the latest that came to this checkpoint."""
    wanted = digest_of(checkpoint) if checkpoint else None
    found = [r.round for r in model.rounds if wanted in (None, r.checkpoint)]
    if found:
        return found[-1]
    what = f"checkpoint {checkpoint}" if checkpoint else "no checkpoint"
    raise NotPossible(
        f"{what} is {'not ' if checkpoint else ''}on the record of model {model.run.hex()[:12]};"
        " see: eigen model record"
    )


def _view(work: Creation) -> dict[str, Any]:
    return {
        "id": work.id.to_bytes(32).hex(),
        "owner": format_address(work.owner),
        "creator": format_address(work.creator),
        "model": work.model.hex(),
        "round": work.round,
        "checkpoint": work.checkpoint.hex(),
        "prompt": work.prompt.hex(),
        "content": work.content.hex(),
        "uri": work.uri,
    }
