"""What a chain needs once before DAOs can be founded on it: the factory with its parts, the market.

Any account may deploy them, and any DAO may use them: they belong to nobody. Knows no DAO.
"""

from dataclasses import dataclass

from eth_utils.address import to_checksum_address

from eigen.chain.abi import AbiMismatch
from eigen.chain.artifacts import CLONED, WHOLE, load
from eigen.chain.bindings import CODE_STORE, FACTORY
from eigen.chain.outbox import Outbox
from eigen.chain.port import ChainError, TransactionReverted
from eigen.chain.rpc import Call, Rpc
from eigen.protocol.types import Address, Digest


class DeploymentUnsound(ChainError):
    """What was deployed is not as it must be; do not use it."""


@dataclass(frozen=True, slots=True)
class Foundry:
    """Addresses of the contracts that a chain has once."""

    factory: Address
    market: Address


async def deploy_foundry(rpc: Rpc, outbox: Outbox) -> Foundry:
    """Deploy parts, factory and market: twelve transactions, each an intent of the outbox.

    The same call with the same outbox goes on where an earlier one stopped. Raises
    `DeploymentUnsound`, and what `Outbox.submit` raises.
    """
    store = load("CodeStore").bytecode
    parts = [
        await create(
            rpc, outbox, f"code of {name}", CODE_STORE.creation(store, load(name).bytecode)
        )
        for name in WHOLE
    ]
    parts += [await create(rpc, outbox, name, load(name).bytecode) for name in CLONED]
    factory = await create(
        rpc, outbox, "DaoFactory", FACTORY.creation(load("DaoFactory").bytecode, parts)
    )
    market = await create(rpc, outbox, "ModelMarket", load("ModelMarket").bytecode)
    return Foundry(factory, market)


async def check_foundry(rpc: Rpc, foundry: Foundry, asker: Address) -> None:
    """Compare every byte of code with the artifacts: what another deployed could be anything.

    `asker` is the account in whose name to read; some endpoints want it to have gas money.
    Raises `DeploymentUnsound` naming the part.
    """
    try:
        data = await rpc.call(Call(asker, foundry.factory, FACTORY.calldata("parts")))
        parts = [Address(part) for part in FACTORY.results("parts", data)]
    except (AbiMismatch, TransactionReverted) as error:
        shown = to_checksum_address(foundry.factory)
        raise DeploymentUnsound(f"{shown} is not our DaoFactory") from error
    codes = {name: b"\0" + load(name).bytecode for name in WHOLE}
    codes |= {name: load(name).deployed_bytecode for name in (*CLONED, "DaoFactory", "ModelMarket")}
    at = [*parts, foundry.factory, foundry.market]
    for (name, code), account in zip(codes.items(), at, strict=True):
        if await rpc.code(account) != code:
            raise DeploymentUnsound(f"{to_checksum_address(account)} is not our {name}")


async def create(rpc: Rpc, outbox: Outbox, name: str, code: bytes) -> Address:
    """Deploy creation code once; the contract's address."""
    receipt = await outbox.submit(f"deploy {name}", None, code)
    mined = await rpc.receipt(Digest(bytes.fromhex(receipt.tx[2:])))
    if mined is None or mined.contract is None:
        raise DeploymentUnsound(f"{name}: its transaction {receipt.tx} is gone; deploy again")
    return mined.contract
