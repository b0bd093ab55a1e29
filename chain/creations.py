"""Generated works on record, with where they come from, for one account."""

from dataclasses import dataclass
from typing import Any, Final

from eigen.chain.account_calls import AccountCalls, NotPossible
from eigen.chain.bindings import CREATIONS, REGISTRY
from eigen.chain.port import Receipt, TransactionReverted
from eigen.protocol.types import Address, Digest, RunId

UNKNOWN: Final = ("ERC721NonexistentToken", "UnknownRound")
"""What the contracts call a work or a round that they do not have."""


@dataclass(frozen=True, slots=True)
class Creation:
    """A work. All digests are SHA-256: of the model's checkpoint, of the prompt with its sampling
    parameters, of the work itself. That the work came out of the model is its creator's word."""

    id: int
    owner: Address
    creator: Address
    model: RunId
    round: int
    checkpoint: Digest
    prompt: Digest
    content: Digest
    uri: str


class Creations:
    """All methods raise `ChainError`, of it `NotPossible` where nothing was signed."""

    def __init__(self, calls: AccountCalls) -> None:
        self._calls = calls

    async def checkpoint(self, model: RunId, round_: int) -> Digest:
        """Of a round on the model's record."""
        registry, number = self._calls.contract("registry"), int.from_bytes(model)
        try:
            found = await self._calls.read(registry, REGISTRY, "checkpointOf", number, round_)
        except TransactionReverted as error:
            if error.name not in UNKNOWN:
                raise
            raise NotPossible(
                f"round {round_} is not on the record of model {model.hex()[:12]}; see: eigen"
                " model show"
            ) from error
        return Digest(found)

    async def creation(self, id_: int) -> Creation:
        """One work. Raises `NotPossible` where there is none with this id."""
        try:
            owner = await self._read("ownerOf", id_)
        except TransactionReverted as error:
            if error.name not in UNKNOWN:
                raise
            raise NotPossible(f"no work has the id {id_.to_bytes(32).hex()}") from error
        model, round_, checkpoint, prompt, content, creator = await self._read("provenance", id_)
        return Creation(
            id=id_,
            owner=Address(owner),
            creator=Address(creator),
            model=RunId(model.to_bytes(32)),
            round=round_,
            checkpoint=Digest(checkpoint),
            prompt=Digest(prompt),
            content=Digest(content),
            uri=str(await self._read("tokenURI", id_)),
        )

    async def mint(
        self, model: RunId, round_: int, prompt: Digest, content: Digest, to: Address, uri: str
    ) -> tuple[int, Receipt]:
        """Put a work on record for `to`. Its id, which holds our address and all digests: a work is
        minted once, and nobody can be first with ours."""
        checkpoint, number = await self.checkpoint(model, round_), int.from_bytes(model)
        id_: int = await self._read(
            "creationId", self._calls.address, number, checkpoint, prompt, content
        )
        try:
            await self._read("ownerOf", id_)
        except TransactionReverted as error:
            if error.name not in UNKNOWN:
                raise
        else:
            raise NotPossible(f"this work is minted already: {id_.to_bytes(32).hex()}")
        data = CREATIONS.calldata("mint", to, number, round_, prompt, content, uri)
        at = self._calls.contract("creations")
        return id_, await self._calls.write(f"mint {id_.to_bytes(32).hex()}", at, data)

    async def _read(self, function: str, *args: object) -> Any:
        at = self._calls.contract("creations")
        return await self._calls.read(at, CREATIONS, function, *args)
