"""Founding a DAO through `DaoFactory`: one transaction, after which the founder has no power in it.

The factory itself is deployed once a chain, by whoever comes first: nobody owns it.
"""

from dataclasses import dataclass, fields
from typing import Final

from eth_utils.address import to_checksum_address

from eigen.chain.abi import AbiMismatch
from eigen.chain.artifacts import CLONED, WHOLE, load
from eigen.chain.bindings import CODE_STORE, FACTORY
from eigen.chain.deploy import DELAY_S_MAX, NOBODY, DaoSpec, DeploymentUnsound
from eigen.chain.outbox import Outbox
from eigen.chain.port import Contracts, WrongChain
from eigen.chain.rpc import Call, Rpc
from eigen.protocol.types import Address, Digest

PARTS: Final = (*WHOLE, *CLONED)
"""What a factory is made of, in the order of its constructor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What founders decide beside the `DaoSpec`."""

    owner: Address = NOBODY  # admits members besides the DAO; zero: nobody
    open_membership: bool = True  # whether asking is enough to be a member
    revenue_asset: Address = NOBODY  # ERC-20 that revenue is shared in; zero: the DAO's token
    unstake_delay_s: int = 7 * 86_400

    def __post_init__(self) -> None:
        """Raises ValueError naming the field and what it may be."""
        if not 0 <= self.unstake_delay_s <= DELAY_S_MAX:
            raise ValueError(f"unstake_delay_s: give 0 to {DELAY_S_MAX} seconds")


@dataclass(frozen=True, slots=True)
class Founded:
    """A new DAO: its contracts, and the block that they are in."""

    contracts: Contracts
    block: int


async def deploy_factory(rpc: Rpc, outbox: Outbox) -> Address:
    """Put a factory and its parts on the chain: eleven transactions, each an intent of the outbox.

    A call after a crash goes on where the first one stopped. Raises what `Outbox.submit` raises.
    """
    parts = []
    for name in PARTS:
        code = load(name).bytecode
        whole = name in WHOLE
        creation = CODE_STORE.creation(load("CodeStore").bytecode, code) if whole else code
        parts.append(await _created(rpc, outbox, f"factory part {name}", creation))
    return await _created(
        rpc, outbox, "factory", FACTORY.creation(load("DaoFactory").bytecode, tuple(parts))
    )


async def found(
    rpc: Rpc, outbox: Outbox, factory: Address, spec: DaoSpec, rules: Rules, *, key: str
) -> Founded:
    """Found a DAO in one transaction. `key` names this founding: the same one founds it once.

    Raises `WrongChain` where there is no factory, `DeploymentUnsound` where the transaction left no
    DAO, and what `Outbox.submit` raises.
    """
    await _check_factory(rpc, outbox.address, factory)
    plan = (
        spec.token_name,
        spec.token_symbol,
        list(spec.founders),
        list(spec.validators),
        spec.quorum,
        (spec.challenge_window_s, spec.unbonding_delay_s, spec.bond, spec.guardian),
        spec.voting_delay_s,
        spec.voting_period_s,
        spec.timelock_delay_s,
        spec.proposal_threshold,
        spec.quorum_percent,
        rules.owner,
        rules.open_membership,
        rules.revenue_asset,
        rules.unstake_delay_s,
    )
    receipt = await outbox.submit(f"found {key}", factory, FACTORY.calldata("createDao", plan))
    topic = FACTORY.topic("DaoCreated")
    for log in await rpc.logs([factory], [topic], receipt.block, receipt.block):
        if "0x" + log.tx.hex() == receipt.tx:
            dao = FACTORY.event(log.topics, log.data).args["dao"]
            names = [part["name"] for part in _dao_parts()]
            made = {name: Address(at) for name, at in zip(names, dao, strict=True)}
            return Founded(Contracts(**made), receipt.block)
    raise DeploymentUnsound(f"transaction {receipt.tx} founded no DAO")


def _dao_parts() -> list[dict[str, str]]:
    """Names of the contracts in the event, in its order: those of `Contracts`."""
    [event] = [item for item in load("DaoFactory").abi if item.get("name") == "DaoCreated"]
    [dao] = [field for field in event["inputs"] if field["name"] == "dao"]
    parts: list[dict[str, str]] = dao["components"]
    assert {part["name"] for part in parts} == {field.name for field in fields(Contracts)}
    return parts


async def _check_factory(rpc: Rpc, sender: Address, factory: Address) -> None:
    shown = to_checksum_address(factory)
    try:
        data = await rpc.call(Call(sender, factory, FACTORY.calldata("parts")))
        FACTORY.results("parts", data)
    except AbiMismatch as error:
        raise WrongChain(f"factory: there is no DaoFactory at {shown} on this chain") from error


async def _created(rpc: Rpc, outbox: Outbox, key: str, code: bytes) -> Address:
    receipt = await outbox.submit(key, None, code)
    mined = await rpc.receipt(Digest(bytes.fromhex(receipt.tx[2:])))
    if mined is None or mined.contract is None:
        raise DeploymentUnsound(f"{key}: its transaction {receipt.tx} is gone; run it again")
    return mined.contract
