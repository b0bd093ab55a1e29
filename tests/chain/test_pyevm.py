"""The in-process EVM answers as a node does: the same code, the same gas, the same refusals."""

from collections.abc import Sequence
from typing import Any

import pytest
import trio
from eth_abi import encode
from web3 import AsyncWeb3
from web3.logs import DISCARD
from web3.types import RPCEndpoint

from eigen.chain.artifacts import load
from eigen.chain.devnet.pyevm import EthTesterTrioProvider
from eigen.crypto.hashing import keccak256

from .conftest import CHAIN_ID, Anvil

GAS = 8_000_000
ZERO = "0x" + "00" * 20


async def ask(provider: Any, method: str, *params: Any) -> Any:
    reply = await provider.make_request(RPCEndpoint(method), list(params))
    assert "error" not in reply, reply
    return reply["result"]


async def refusal(provider: Any, method: str, *params: Any) -> Any:
    reply = await provider.make_request(RPCEndpoint(method), list(params))
    return reply["error"]


def creation(name: str, types: Sequence[str], *values: Any) -> str:
    return "0x" + (load(name).bytecode + encode(types, values)).hex()


async def deploy(provider: Any, sender: str, name: str, types: Sequence[str], *values: Any) -> Any:
    """Deploys from an account that the node itself can sign for; returns the receipt."""
    transaction = {"from": sender, "gas": hex(GAS), "data": creation(name, types, *values)}
    tx = await ask(provider, "eth_sendTransaction", transaction)
    with trio.fail_after(10):  # Anvil answers before it has mined
        while (receipt := await ask(provider, "eth_getTransactionReceipt", tx)) is None:  # noqa: ASYNC110
            await trio.sleep(0.01)
    assert int(receipt["status"], 16) == 1
    return receipt


async def deploy_dao(provider: Any, sender: str) -> dict[str, Any]:
    token = await deploy(
        provider, sender, "DaoToken", ["string", "string", "address"], "Example", "EXM", sender
    )
    timelock = await deploy(
        provider,
        sender,
        "TimelockController",
        ["uint256", "address[]", "address[]", "address"],
        *(10, [], [ZERO], sender),
    )
    addresses = (token["contractAddress"], timelock["contractAddress"])
    governor = await deploy(
        provider,
        sender,
        "DaoGovernor",
        ["address", "address", "uint48", "uint32", "uint256", "uint256"],
        *(*addresses, 1, 100, 0, 4),
    )
    ledger = await deploy(
        provider,
        sender,
        "ContributionLedger",
        ["address", "address", "address[]", "uint256", "(uint32,uint32,uint128,address)"],
        *(*addresses, [sender], 1, (0, 0, 0, ZERO)),
    )
    return {"token": token, "timelock": timelock, "governor": governor, "ledger": ledger}


async def test_contracts_cost_the_same_as_on_anvil(anvil: Anvil) -> None:
    """Two independent EVMs agree on addresses, gas and code, so a unit test is worth something."""
    pyevm = EthTesterTrioProvider(chain_id=CHAIN_ID)  # EIP-712 separators hold the chain id
    sender = (await ask(pyevm, "eth_accounts"))[0]
    control = anvil.provider()
    await anvil.control("anvil_setBalance", sender, hex(10**21))
    await anvil.control("anvil_impersonateAccount", sender)
    async with control:
        theirs = await deploy_dao(control, sender)
        ours = await deploy_dao(pyevm, sender)
        for name, receipt in ours.items():
            address = receipt["contractAddress"]
            assert address.lower() == theirs[name]["contractAddress"].lower()
            assert receipt["gasUsed"] == theirs[name]["gasUsed"], name
            code = await ask(pyevm, "eth_getCode", address, "latest")
            assert code == await ask(control, "eth_getCode", address, "latest"), name


async def test_async_web3_works_on_it() -> None:
    provider = EthTesterTrioProvider(chain_id=99)
    w3 = AsyncWeb3(provider)
    assert await w3.is_connected()
    assert await w3.eth.chain_id == 99
    sender = (await w3.eth.accounts)[0]
    receipts = await deploy_dao(provider, sender)
    token = w3.eth.contract(
        address=w3.to_checksum_address(receipts["token"]["contractAddress"]),
        abi=load("DaoToken").abi,
    )
    ledger = w3.eth.contract(
        address=w3.to_checksum_address(receipts["ledger"]["contractAddress"]),
        abi=load("ContributionLedger").abi,
    )
    domain = await ledger.functions.eip712Domain().call()
    assert domain[1:4] == ["Eigen ContributionLedger", "1", 99], "the EVM sees the same chain id"

    role = await token.functions.MINTER_ROLE().call()
    await token.functions.grantRole(role, sender).transact({"from": sender})
    member = w3.to_checksum_address("0x" + "11" * 20)
    tx = await token.functions.mint(member, 5).transact({"from": sender})
    receipt = await w3.eth.get_transaction_receipt(tx)
    logs = token.events.Transfer().process_receipt(receipt, errors=DISCARD)
    assert logs[0]["args"]["value"] == 5
    assert await token.functions.getVotes(member).call() == 5


async def test_a_custom_error_arrives_as_data() -> None:
    provider = EthTesterTrioProvider()
    sender = (await ask(provider, "eth_accounts"))[0]
    ledger = (await deploy_dao(provider, sender))["ledger"]["contractAddress"]
    arguments = encode(["bytes32", "bytes32", "uint64", "uint128"], [b"r" * 32, b"s" * 32, 1, 1])
    call = {
        "from": sender,
        "to": ledger,
        "data": "0x"
        + (keccak256(b"openRun(bytes32,bytes32,uint64,uint128)")[:4] + arguments).hex(),
    }
    selector = "0x" + keccak256(b"OnlyDao(address,address)")[:4].hex()
    for method in ("eth_call", "eth_estimateGas"):
        error = await refusal(provider, method, call)
        assert error["code"] == 3
        assert error["data"].startswith(selector)
        assert sender[2:].lower() in error["data"]


async def test_a_reason_string_arrives_encoded() -> None:
    provider = EthTesterTrioProvider()
    sender = (await ask(provider, "eth_accounts"))[0]
    reason = bytes.fromhex("08c379a0") + encode(["string"], ["too late"])
    assert len(reason) == 0x64
    # PUSH1 100 PUSH1 10 PUSH0 CODECOPY PUSH1 100 PUSH0 REVERT, and the reason from byte 10 on
    init = bytes.fromhex("6064600a5f3960645ffd") + reason
    error = await refusal(
        provider, "eth_call", {"from": sender, "data": "0x" + init.hex(), "gas": hex(GAS)}
    )
    assert bytes.fromhex(error["data"][2:]) == reason


async def test_time_and_money_can_be_moved() -> None:
    provider = EthTesterTrioProvider()
    account = "0x" + "22" * 20
    await ask(provider, "anvil_setBalance", account, hex(10**18))
    assert int(await ask(provider, "eth_getBalance", account, "latest"), 16) == 10**18
    assert (
        "not lower it" in (await refusal(provider, "anvil_setBalance", account, "0x1"))["message"]
    )

    before = await ask(provider, "eth_getBlockByNumber", "latest", False)
    await ask(provider, "evm_increaseTime", 1000)
    await ask(provider, "evm_mine")
    after = await ask(provider, "eth_getBlockByNumber", "latest", False)
    assert int(after["timestamp"], 16) - int(before["timestamp"], 16) >= 1000


async def test_a_snapshot_can_be_gone_back_to() -> None:
    provider = EthTesterTrioProvider()
    account = "0x" + "22" * 20
    snapshot = await ask(provider, "evm_snapshot")
    await ask(provider, "anvil_setBalance", account, hex(5))
    await ask(provider, "evm_revert", snapshot)
    assert int(await ask(provider, "eth_getBalance", account, "latest"), 16) == 0


async def test_what_it_does_not_know_is_an_error_not_a_crash() -> None:
    provider = EthTesterTrioProvider()
    for method in ("eth_noSuchThing", "nonsense", "eth_getProof"):
        assert (await refusal(provider, method))["code"] == -32601
    assert (await refusal(provider, "eth_sendRawTransaction", "0x1234"))["code"] == -32000


async def test_chains_are_apart() -> None:
    one, two = EthTesterTrioProvider(chain_id=1), EthTesterTrioProvider(chain_id=2)
    await ask(one, "evm_mine")
    assert await ask(one, "eth_blockNumber") != await ask(two, "eth_blockNumber")
    assert [int(await ask(chain, "eth_chainId"), 16) for chain in (one, two)] == [1, 2]


@pytest.mark.parametrize("chain_id", [1, 2**40])
async def test_a_transaction_for_another_chain_is_refused(chain_id: int) -> None:
    from eth_account import Account

    provider = EthTesterTrioProvider(chain_id=chain_id)
    account = Account.create()
    await ask(provider, "anvil_setBalance", account.address, hex(10**18))
    fields = {"to": ZERO, "value": 1, "gas": 21_000, "nonce": 0}
    fields |= {"maxFeePerGas": 2 * 10**9, "maxPriorityFeePerGas": 10**9}
    foreign = account.sign_transaction(fields | {"chainId": chain_id + 1}).raw_transaction
    assert (await refusal(provider, "eth_sendRawTransaction", foreign.to_0x_hex()))[
        "code"
    ] == -32000
    native = account.sign_transaction(fields | {"chainId": chain_id}).raw_transaction
    tx = await ask(provider, "eth_sendRawTransaction", native.to_0x_hex())
    assert int((await ask(provider, "eth_getTransactionReceipt", tx))["status"], 16) == 1
