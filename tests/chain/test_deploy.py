"""Founding a DAO: who has which power afterwards, and what a crash in the middle costs."""

from pathlib import Path
from typing import Any

import pytest
import trio
from web3.types import RPCResponse

from eigen.chain.abi import Abi
from eigen.chain.bindings import (
    CREATIONS,
    ESCROW,
    FACTORY,
    GOVERNOR,
    LEDGER,
    MEMBERSHIP,
    REGISTRY,
    REVENUE,
    REVERTS,
    TIMELOCK,
    TOKEN,
)
from eigen.chain.deploy import (
    DEFAULT_ADMIN_ROLE,
    DELAY_S_MAX,
    MINTER_ROLE,
    NOBODY,
    DeploymentUnsound,
    deploy_dao,
    fund,
)
from eigen.chain.foundry import check_foundry, deploy_foundry
from eigen.chain.outbox import Outbox
from eigen.chain.port import InsufficientGasMoney, TransactionReverted
from eigen.chain.rpc import Call, Rpc
from eigen.crypto.identity import Identity
from eigen.protocol.types import Address

from .conftest import CHAIN_ID, COIN, QUICK, Anvil, Between, Dao, OpenChain, Send, dao_spec

STEPS = 4 + 6 + 2 + 1  # code that is stored, code that is cloned, factory and market, the founding


async def nonce(anvil: Anvil, account: Address) -> int:
    count = await anvil.control("eth_getTransactionCount", "0x" + account.hex(), "latest")
    return int(count, 16)


async def read(anvil: Anvil, to: Address, abi: Abi, function: str, *args: object) -> Any:
    rpc = anvil.rpc()
    data = await rpc.call(Call(NOBODY, to, abi.calldata(function, *args)))
    await rpc.aclose()
    return abi.results(function, data)[0]


async def test_the_contracts_are_as_the_founders_decided(anvil: Anvil, dao: Dao) -> None:
    at = dao.contracts
    facts = [
        (at.token, TOKEN, "name", "Test DAO"),
        (at.token, TOKEN, "symbol", "TEST"),
        (at.token, TOKEN, "totalSupply", 400 * COIN),
        (at.governor, GOVERNOR, "token", at.token),
        (at.governor, GOVERNOR, "timelock", at.timelock),
        (at.governor, GOVERNOR, "votingDelay", 1),
        (at.governor, GOVERNOR, "votingPeriod", 100),
        (at.governor, GOVERNOR, "proposalThreshold", COIN),
        (at.timelock, TIMELOCK, "getMinDelay", 50),
        (at.ledger, LEDGER, "token", at.token),
        (at.ledger, LEDGER, "dao", at.timelock),
        (at.registry, REGISTRY, "ledger", at.ledger),
        (at.escrow, ESCROW, "arbiter", at.timelock),
        (at.revenue, REVENUE, "token", at.token),
        (at.membership, MEMBERSHIP, "dao", at.timelock),
        (at.creations, CREATIONS, "registry", at.registry),
        (at.ledger, LEDGER, "quorum", 2),
        (at.ledger, LEDGER, "validators", tuple(v.address for v in dao.validators)),
    ]
    for to, abi, function, expected in facts:
        assert await read(anvil, to, abi, function) == expected, function
    for founder in dao.founders:
        assert await read(anvil, at.token, TOKEN, "balanceOf", founder.address) == 100 * COIN
        assert await read(anvil, at.token, TOKEN, "getVotes", founder.address) == 100 * COIN


async def test_the_deployer_keeps_no_power(open_chain: OpenChain, dao: Dao) -> None:
    deployer, at = dao.founders[0].address, dao.contracts
    attempts = [
        (at.token, TOKEN.calldata("mint", deployer, 1)),
        (at.token, TOKEN.calldata("grantRole", MINTER_ROLE, deployer)),
        (at.timelock, TIMELOCK.calldata("grantRole", DEFAULT_ADMIN_ROLE, deployer)),
        (
            at.timelock,
            TIMELOCK.calldata("schedule", at.ledger, 0, b"", bytes(32), bytes(32), 50),
        ),
        (at.timelock, TIMELOCK.calldata("cancel", bytes(32))),
        (at.ledger, LEDGER.calldata("openRun", bytes(32), bytes(32), 1, 1)),
        (at.ledger, LEDGER.calldata("setValidators", [deployer], 1)),
    ]
    async with open_chain() as chain:
        for to, data in attempts:
            with pytest.raises(TransactionReverted) as refused:
                await chain._outbox.submit(data.hex(), to, data)
            assert refused.value.name in ("AccessControlUnauthorizedAccount", "OnlyDao")


@pytest.mark.parametrize("broadcast", [1, 5, STEPS - 1, STEPS])
async def test_a_founding_that_was_cancelled_goes_on(
    anvil: Anvil, account: Identity, tmp_path: Path, broadcast: int
) -> None:
    validators = [Identity.generate()]
    spec = dao_spec([account, Identity.generate()], validators, quorum=1)
    path = tmp_path / "founding.sqlite"
    between = Between(anvil)
    with trio.CancelScope() as scope:

        async def stop(send: Send) -> RPCResponse:
            if len(set(between.sent)) == broadcast:
                scope.cancel()
            return await send()

        between.interfere["eth_sendRawTransaction"] = stop
        await deploy_dao(between, account.secret, spec, outbox_path=path, settings=QUICK)
    assert scope.cancelled_caught
    await between.aclose()

    async with anvil.provider() as provider:
        contracts = await deploy_dao(
            provider, account.secret, spec, outbox_path=path, settings=QUICK
        )
        again = await deploy_dao(provider, account.secret, spec, outbox_path=path, settings=QUICK)
    assert again == contracts
    assert await nonce(anvil, account.address) == STEPS
    assert await read(anvil, contracts.token, TOKEN, "totalSupply") == 200 * COIN


async def test_roles_that_come_out_wrong_are_found(anvil: Anvil, account: Identity) -> None:
    """Somebody gives the deployer its power back just before the check."""
    between = Between(anvil)
    tampered = False
    asked = TOKEN.calldata("hasRole", MINTER_ROLE, NOBODY)[:4].hex()
    minting = TOKEN.calldata("grantRole", DEFAULT_ADMIN_ROLE, account.address)

    async def tamper(send: Send) -> RPCResponse:
        nonlocal tampered
        call = between.params["eth_call"][0]
        if not tampered and call["data"].startswith("0x" + asked):
            tampered = True
            token, timelock = call["to"], await _admin_of(anvil, call["to"])
            await anvil.give(timelock)
            await anvil.control("anvil_impersonateAccount", "0x" + timelock.hex())
            await anvil.control(
                "eth_sendTransaction",
                {"from": "0x" + timelock.hex(), "to": token, "data": "0x" + minting.hex()},
            )
        return await send()

    between.interfere["eth_call"] = tamper
    spec = dao_spec([account], [Identity.generate()], quorum=1)
    with pytest.raises(DeploymentUnsound, match="must not have role 0x00000"):
        await deploy_dao(between, account.secret, spec, settings=QUICK)
    assert tampered
    await between.aclose()


async def test_a_strangers_factory_is_not_trusted(anvil: Anvil, account: Identity) -> None:
    """Its parts look right, but the code at one of them is another."""
    async with anvil.provider() as provider:
        rpc = Rpc(provider, REVERTS)
        async with Outbox(rpc, account.secret, None, chain_id=CHAIN_ID, settings=QUICK) as outbox:
            foundry = await deploy_foundry(rpc, outbox)
        await check_foundry(rpc, foundry, account.address)
        parts = await read(anvil, foundry.factory, FACTORY, "parts")
        await anvil.control("anvil_setCode", "0x" + foundry.market.hex(), "0x00")
        spec = dao_spec([account], [Identity.generate()], quorum=1)
        with pytest.raises(DeploymentUnsound, match="is not our ModelMarket"):
            await deploy_dao(provider, account.secret, spec, settings=QUICK, foundry=foundry)
        await anvil.control("anvil_setCode", "0x" + bytes(parts).hex(), "0x00")
        with pytest.raises(DeploymentUnsound, match="is not our DaoToken"):
            await deploy_dao(provider, account.secret, spec, settings=QUICK, foundry=foundry)


async def _admin_of(anvil: Anvil, token: str) -> Address:
    """Who was last made the token's admin: the timelock."""
    topics = ["0x" + TOKEN.topic("RoleGranted").hex(), "0x" + DEFAULT_ADMIN_ROLE.hex()]
    logs = await anvil.control(
        "eth_getLogs", {"fromBlock": "0x0", "address": token, "topics": topics}
    )
    return Address(bytes.fromhex(logs[-1]["topics"][2][26:]))


async def test_a_deployer_without_money_is_told(anvil: Anvil) -> None:
    poor = Identity.generate()
    spec = dao_spec([poor], [Identity.generate()], quorum=1)
    async with anvil.provider() as provider:
        with pytest.raises(InsufficientGasMoney):
            await deploy_dao(provider, poor.secret, spec, settings=QUICK)


async def test_gas_money_is_handed_out(anvil: Anvil, account: Identity) -> None:
    accounts = {Identity.generate().address: wei for wei in (1, COIN, 2 * COIN)}
    async with anvil.provider() as provider:
        receipts = await fund(provider, account.secret, accounts, settings=QUICK)
    assert len({receipt.tx for receipt in receipts}) == 3
    for receiver, wei in accounts.items():
        held = await anvil.control("eth_getBalance", "0x" + receiver.hex(), "latest")
        assert int(held, 16) == wei


ONE, TWO = Address(b"\x01" * 20), Address(b"\x02" * 20)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"token_name": ""}, "token_name: give 1 to 64"),
        ({"token_symbol": "X" * 65}, "token_symbol: give 1 to 64"),
        ({"founders": []}, "founders: name 1 to 24"),
        ({"founders": [(ONE, 0)]}, "founders: every amount"),
        ({"founders": [(ONE, 1 << 208)]}, "founders: amounts sum"),
        ({"founders": [(ONE, 1), (ONE, 2)]}, "founders: an account is named twice"),
        ({"founders": [(NOBODY, 1)]}, "founders: an address is 20 bytes"),
        ({"founders": [(Address(b"\x01" * 19), 1)]}, "founders: an address is 20 bytes"),
        ({"validators": [ONE] * 65}, "validators: name 1 to 64"),
        ({"validators": [ONE, ONE]}, "validators: an account is named twice"),
        ({"validators": [ONE, TWO], "quorum": 1}, "quorum: 1 of 2 validators is not more"),
        ({"validators": [ONE, TWO], "quorum": 3}, "quorum: 3 of 2 validators is not more"),
        ({"voting_delay_s": -1}, "voting_delay_s: give 0 to"),
        ({"voting_period_s": 0}, "voting_period_s: give 1 to"),
        ({"timelock_delay_s": DELAY_S_MAX + 1}, "timelock_delay_s: give 0 to"),
        ({"challenge_window_s": 2, "unbonding_delay_s": 1}, "unbonding_delay_s: give challenge"),
        ({"unstake_delay_s": -1}, "unstake_delay_s: give 0 to"),
        ({"bond": -1}, "bond: give 0 to"),
        ({"proposal_threshold": 101 * COIN}, "proposal_threshold: nobody could propose"),
        ({"quorum_percent": 101}, "quorum_percent: give 0 to 100"),
    ],
)
def test_a_spec_that_makes_no_dao_is_refused(changes: dict[str, Any], told: str) -> None:
    sound = dao_spec([Identity.generate()], [Identity.generate()], quorum=1)
    assert sound.quorum == 1
    with pytest.raises(ValueError, match=told):
        dao_spec([Identity.generate()], [Identity.generate()], **{"quorum": 1} | changes)
