"""The outbox against a real pool: whatever is interrupted, an intent lands once."""

import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from eth_account import Account
from eth_account.typed_transactions import TypedTransaction
from hexbytes import HexBytes
from web3.types import RPCResponse

from eigen.chain.fees import GWEI
from eigen.chain.outbox import Outbox, OutboxSettings
from eigen.chain.port import (
    ChainUnreachable,
    EndpointRefused,
    FeeTooHigh,
    InsufficientGasMoney,
    OutboxInUse,
    Receipt,
    TransactionReverted,
    WrongChain,
)
from eigen.crypto.hashing import keccak256
from eigen.crypto.identity import Identity
from eigen.protocol.types import Address

from . import outbox_child
from .conftest import CHAIN_ID, COIN, QUICK, Anvil, Between, Send

OpenOutbox = Callable[..., Outbox]
PAYEE = Address(b"\xaa" * 20)


async def balance(anvil: Anvil, account: Address = PAYEE) -> int:
    return int(await anvil.control("eth_getBalance", "0x" + account.hex(), "latest"), 16)


async def nonce(anvil: Anvil, account: Address) -> int:
    count = await anvil.control("eth_getTransactionCount", "0x" + account.hex(), "latest")
    return int(count, 16)


class Submission:
    """A submission in the background of a test, and how it ended."""

    def __init__(self, nursery: trio.Nursery, outbox: Outbox, key: str, **options: Any) -> None:
        self.receipt: Receipt | None = None
        self.error: BaseException | None = None
        self.ended = trio.Event()
        nursery.start_soon(self._run, outbox, key, options)

    async def _run(self, outbox: Outbox, key: str, options: dict[str, Any]) -> None:
        to, data = options.pop("to", PAYEE), options.pop("data", b"")
        try:
            self.receipt = await outbox.submit(key, to, data, **options)
        except Exception as error:
            self.error = error
        self.ended.set()


async def until(condition: Callable[[], Any]) -> None:
    """Wait for an awaitable condition to hold."""
    with trio.fail_after(20):
        while not await condition():  # noqa: ASYNC110 - it is a process that we wait for
            await trio.sleep(0.01)


async def test_the_same_key_lands_once(open_outbox: OpenOutbox, anvil: Anvil) -> None:
    async with open_outbox() as outbox:
        receipt = await outbox.submit("pay", PAYEE, b"", value_wei=5)
        assert await outbox.submit("pay", PAYEE, b"", value_wei=5) == receipt
        assert await outbox.knows("pay")
    async with open_outbox() as outbox:  # as after a restart
        assert await outbox.submit("pay", PAYEE, b"", value_wei=5) == receipt
        assert await outbox.submit("pay again", PAYEE, b"", value_wei=5) != receipt
        assert await outbox.landed_count("pay") == 2
    assert await balance(anvil) == 10


async def test_many_at_once_land_once_each(open_outbox: OpenOutbox, anvil: Anvil) -> None:
    async with open_outbox() as outbox:
        async with trio.open_nursery() as nursery:
            submissions = [
                Submission(nursery, outbox, f"pay {number % 10}", value_wei=1)
                for number in range(40)
            ]
        assert await nonce(anvil, outbox.address) == 10
    assert await balance(anvil) == 10
    assert len({submission.receipt for submission in submissions}) == 10


async def test_nothing_is_sent_that_is_not_stored(open_outbox: OpenOutbox, anvil: Anvil) -> None:
    between = Between(anvil)
    stored: list[int] = []

    async def lose(send: Send) -> RPCResponse:
        stored.append(await outbox.unfinished())
        raise ChainUnreachable("lost before it arrived")

    between.interfere["eth_sendRawTransaction"] = lose
    async with open_outbox(provider=between) as outbox:
        with pytest.raises(ChainUnreachable, match="lost before it arrived"):
            await outbox.submit("pay", PAYEE, b"", value_wei=5)
    assert stored == [1]
    assert await balance(anvil) == 0

    again = Between(anvil)
    async with open_outbox(provider=again) as outbox:
        await outbox.submit("pay", PAYEE, b"", value_wei=5)
    assert await balance(anvil) == 5
    assert set(again.sent) == set(between.sent)  # identical bytes


async def test_a_lost_reply_is_no_second_payment(open_outbox: OpenOutbox, anvil: Anvil) -> None:
    between = Between(anvil)
    lost = 0

    async def deliver_and_lose(send: Send) -> RPCResponse:
        nonlocal lost
        reply = await send()
        if lost < 2:
            lost += 1
            raise ChainUnreachable("the reply was lost")
        return reply

    between.interfere["eth_sendRawTransaction"] = deliver_and_lose
    await anvil.hold_mining()  # so that the second send finds the first in the pool
    async with open_outbox(provider=between) as outbox, trio.open_nursery() as nursery:
        for _ in range(2):
            with pytest.raises(ChainUnreachable):
                await outbox.submit("pay", PAYEE, b"", value_wei=5)
        submission = Submission(nursery, outbox, "pay", value_wei=5)
        await until(lambda: _at_least(between.sent, 3))
        assert await anvil.pooled() == 1
        await anvil.mine()
        await submission.ended.wait()
    assert submission.receipt is not None
    assert lost == 2
    assert len(set(between.sent)) == 1
    assert await balance(anvil) == 5


async def _at_least(things: list[str], count: int) -> bool:
    return len(things) >= count


async def test_the_background_task_finishes_what_was_left(
    open_outbox: OpenOutbox, anvil: Anvil
) -> None:
    between = Between(anvil)

    async def lose(send: Send) -> RPCResponse:
        raise ChainUnreachable("no line")

    between.interfere["eth_sendRawTransaction"] = lose
    async with open_outbox(provider=between) as outbox:
        with pytest.raises(ChainUnreachable):
            await outbox.submit("pay", PAYEE, b"", value_wei=5)

    async with open_outbox() as outbox, trio.open_nursery() as nursery:
        nursery.start_soon(outbox.run)
        await until(lambda: _is(balance(anvil), 5))
        await until(lambda: _is(outbox.unfinished(), 0))
        Submission(nursery, outbox, "later", value_wei=1)  # wakes the idle task
        await until(lambda: _is(balance(anvil), 6))
        nursery.cancel_scope.cancel()


async def _is(coroutine: Any, value: int) -> bool:
    return bool(await coroutine == value)


async def test_cancelled_anywhere_it_lands_once(open_outbox: OpenOutbox, anvil: Anvil) -> None:
    """Cancel at the first request, at the second, and so on until one submission is through."""
    for request_index in range(1, 60):
        between = Between(anvil)
        asked = 0
        with trio.CancelScope() as scope:

            async def count(send: Send) -> RPCResponse:
                nonlocal asked
                asked += 1
                if asked == request_index:  # noqa: B023
                    scope.cancel()
                return await send()

            methods = ("getBlockByNumber", "getTransactionCount", "estimateGas", "feeHistory",
                       "getBalance", "sendRawTransaction", "getTransactionReceipt",
                       "blockNumber")  # fmt: skip
            between.interfere = {f"eth_{method}": count for method in methods}
            async with open_outbox(provider=between) as outbox:
                await outbox.submit("pay", PAYEE, b"", value_wei=5)
        if not scope.cancelled_caught:
            break
    assert request_index > 8  # so often it was cancelled
    assert await balance(anvil) == 5


async def test_confirmations_are_waited_for(open_outbox: OpenOutbox, anvil: Anvil) -> None:
    settings = OutboxSettings(poll_s=0.02, confirmations=2)
    async with open_outbox(settings=settings) as outbox, trio.open_nursery() as nursery:
        submission = Submission(nursery, outbox, "pay", value_wei=5)
        await until(lambda: _is(balance(anvil), 5))
        await anvil.mine()
        await trio.sleep(0.1)
        assert not submission.ended.is_set()
        assert await outbox.unfinished() == 1
        await anvil.mine()
        await submission.ended.wait()
    assert submission.receipt is not None


async def test_a_transaction_that_waits_offers_more(open_outbox: OpenOutbox, anvil: Anvil) -> None:
    clock_s = 1_000_000.0
    between = Between(anvil)
    await anvil.hold_mining()
    async with (
        open_outbox(provider=between, now=lambda: clock_s) as outbox,
        trio.open_nursery() as nursery,
    ):
        submission = Submission(nursery, outbox, "pay", value_wei=5)
        await until(lambda: _at_least(between.sent, 2))
        assert len(set(between.sent)) == 1
        clock_s += QUICK.bump_after_s
        await until(lambda: _is(_distinct(between), 2))
        assert await anvil.pooled() == 1  # it replaced the first one
        await anvil.mine()
        await submission.ended.wait()
    first, second = (_transaction(raw) for raw in dict.fromkeys(between.sent))
    assert first["nonce"] == second["nonce"]
    for field in ("maxFeePerGas", "maxPriorityFeePerGas"):
        assert second[field] * 1000 >= first[field] * 1125
    assert submission.receipt is not None
    assert submission.receipt.tx == _hash(list(dict.fromkeys(between.sent))[1])
    assert await balance(anvil) == 5


async def _distinct(between: Between) -> int:
    return len(set(between.sent))


def _transaction(raw: str) -> dict[str, int]:
    return TypedTransaction.from_bytes(HexBytes(raw)).as_dict()


def _hash(raw: str) -> str:
    return "0x" + keccak256(bytes.fromhex(raw[2:])).hex()


async def test_the_fee_has_a_ceiling(open_outbox: OpenOutbox, anvil: Anvil) -> None:
    await anvil.control("anvil_setNextBlockBaseFeePerGas", hex(50 * GWEI))
    await anvil.mine()
    async with open_outbox(settings=OutboxSettings(fee_ceiling_wei=GWEI)) as outbox:
        with pytest.raises(FeeTooHigh, match=r"the ceiling is 1\.000"):
            await outbox.submit("pay", PAYEE, b"", value_wei=5)
        assert await outbox.unfinished() == 0


async def test_a_reorganised_transaction_is_sent_again(
    open_outbox: OpenOutbox, anvil: Anvil
) -> None:
    settings = OutboxSettings(poll_s=0.02, confirmations=3)
    async with open_outbox(settings=settings) as outbox, trio.open_nursery() as nursery:
        submission = Submission(nursery, outbox, "pay", value_wei=5)
        await until(lambda: _is(balance(anvil), 5))
        await trio.sleep(0.1)  # it is seen in its block
        await anvil.hold_mining()
        await anvil.control("anvil_reorg", 1, [])
        assert await balance(anvil) == 0
        await until(lambda: _is(anvil.pooled(), 1))
        await anvil.mine(4)
        await submission.ended.wait()
    assert submission.receipt is not None
    assert await balance(anvil) == 5


@pytest.mark.parametrize("restart", [False, True])
async def test_a_reorganisation_below_the_confirmations_is_made_good(
    open_outbox: OpenOutbox, anvil: Anvil, restart: bool
) -> None:
    """As after a development chain that lost its newest blocks."""
    outbox = await open_outbox().open()
    await outbox.submit("one", PAYEE, b"", value_wei=1)
    snapshot = await anvil.control("evm_snapshot")
    for key, wei in (("two", 2), ("three", 4)):
        await outbox.submit(key, PAYEE, b"", value_wei=wei)
    await anvil.control("evm_revert", snapshot)
    assert await balance(anvil) == 1
    if restart:
        await outbox.aclose()
        outbox = await open_outbox().open()
    await outbox.submit("four", PAYEE, b"", value_wei=8)
    await until(lambda: _is(balance(anvil), 15))
    assert await nonce(anvil, outbox.address) == 4
    await outbox.aclose()


async def test_a_gap_that_is_not_ours_is_filled(
    open_outbox: OpenOutbox, anvil: Anvil, account: Identity
) -> None:
    """Somebody's transaction took a nonce and was reorganised away for good."""
    snapshot = await anvil.control("evm_snapshot")
    await _foreign(anvil, account, nonce=0)
    await anvil.mine()
    await anvil.hold_mining()
    async with open_outbox() as outbox, trio.open_nursery() as nursery:
        submission = Submission(nursery, outbox, "pay", value_wei=5)
        await until(lambda: _is(anvil.pooled(), 1))
        await anvil.control("evm_revert", snapshot)
        await anvil.control("anvil_dropAllTransactions")
        await anvil.control("evm_setAutomine", True)
        await submission.ended.wait()
        assert submission.receipt is not None
        assert await nonce(anvil, outbox.address) == 2
        assert await balance(anvil) == 5
        await until(lambda: _settled(outbox))


async def _settled(outbox: Outbox) -> bool:
    await outbox.submit("one more look", PAYEE, b"")
    return await outbox.unfinished() == 0


async def _foreign(
    anvil: Anvil, account: Identity, *, nonce: int, to: Address = PAYEE, wei: int = 0, gwei: int = 5
) -> None:
    """A transaction that the same account signs elsewhere."""
    signed = Account.from_key(account.secret).sign_transaction(
        {
            "type": 2,
            "chainId": CHAIN_ID,
            "nonce": nonce,
            "to": to,
            "value": wei,
            "data": b"",
            "gas": 21_000,
            "maxFeePerGas": gwei * GWEI,
            "maxPriorityFeePerGas": gwei * GWEI,
        }
    )
    await anvil.control("eth_sendRawTransaction", "0x" + signed.raw_transaction.hex())


@pytest.mark.parametrize("confirmations", [0, 2])
async def test_a_nonce_that_was_used_elsewhere_is_replaced(
    open_outbox: OpenOutbox, anvil: Anvil, account: Identity, confirmations: int
) -> None:
    between = Between(anvil)
    settings = OutboxSettings(poll_s=0.02, confirmations=confirmations)
    await anvil.hold_mining()
    async with (
        open_outbox(provider=between, settings=settings) as outbox,
        trio.open_nursery() as nursery,
    ):
        submission = Submission(nursery, outbox, "pay", value_wei=5)
        await until(lambda: _is(anvil.pooled(), 1))
        await _foreign(anvil, account, nonce=0, gwei=100)
        await anvil.control("evm_setAutomine", True)
        while not submission.ended.is_set():
            await anvil.mine()
            await trio.sleep(0.02)
        assert submission.receipt is not None
        assert await nonce(anvil, outbox.address) == 2
    assert await balance(anvil) == 5
    assert [_transaction(raw)["nonce"] for raw in dict.fromkeys(between.sent)] == [0, 1]


async def _only_first(anvil: Anvil) -> Address:
    """A contract that accepts one call, and refuses the second with `Error("taken")`."""
    contract = Identity.generate().address
    reason = (
        bytes.fromhex("08c379a0") + (32).to_bytes(32) + (5).to_bytes(32) + b"taken".ljust(32, b"\0")
    )
    # if (slot0 != 0) { copy the reason after this code; revert } slot0 = 1
    code = bytes.fromhex("600054600c57600160005500") + bytes.fromhex("5b")
    code += bytes.fromhex(f"60{len(reason):02x}601960003960{len(reason):02x}6000fd")
    assert len(code) == 0x19
    await anvil.control("anvil_setCode", "0x" + contract.hex(), "0x" + (code + reason).hex())
    return contract


async def test_a_refusal_costs_nothing_where_the_dry_run_sees_it(
    open_outbox: OpenOutbox, anvil: Anvil
) -> None:
    contract = await _only_first(anvil)
    async with open_outbox() as outbox:
        await outbox.submit("first", contract, b"")
        with pytest.raises(TransactionReverted, match="taken") as refused:
            await outbox.submit("second", contract, b"")
        assert refused.value.tx is None
        assert await nonce(anvil, outbox.address) == 1
        assert not await outbox.knows("second")


async def test_a_revert_in_a_block_is_told_and_frees_the_key(
    open_outbox: OpenOutbox, anvil: Anvil
) -> None:
    contract = await _only_first(anvil)
    between = Between(anvil)
    await anvil.hold_mining()
    async with open_outbox(provider=between) as outbox:
        async with trio.open_nursery() as nursery:
            first = Submission(nursery, outbox, "first", to=contract)
            await until(lambda: _is(anvil.pooled(), 1))
            second = Submission(nursery, outbox, "second", to=contract)
            await until(lambda: _is(anvil.pooled(), 2))
            await anvil.mine()
        assert first.receipt is not None
        assert isinstance(second.error, TransactionReverted)
        assert second.error.error == "taken"
        assert second.error.tx == _hash(list(dict.fromkeys(between.sent))[1])
        assert not await outbox.knows("second")

        await anvil.control("anvil_setStorageAt", "0x" + contract.hex(), "0x0", "0x" + "00" * 32)
        await anvil.control("evm_setAutomine", True)
        assert (await outbox.submit("second", contract, b"")).tx != second.error.tx


async def test_a_node_without_history_still_tells_what_it_can(
    start_anvil: Callable[..., Anvil],
) -> None:
    node = start_anvil("--prune-history")
    rpc, account = node.rpc(), Identity.generate()
    await node.give(account.address)
    contract = await _only_first(node)
    await node.hold_mining()
    settings = OutboxSettings(poll_s=0.05, confirmations=2)
    outbox = Outbox(rpc, account.secret, None, chain_id=CHAIN_ID, settings=settings)
    async with outbox, trio.open_nursery() as nursery:
        Submission(nursery, outbox, "first", to=contract)
        await until(lambda: _is(node.pooled(), 1))
        second = Submission(nursery, outbox, "second", to=contract)
        await until(lambda: _is(node.pooled(), 2))
        await node.mine(3)
    assert isinstance(second.error, TransactionReverted)
    assert "the reason is not known any more" in second.error.error
    for opened in (rpc, node):
        await opened.aclose()


async def test_no_gas_money_says_how_much_and_where(open_outbox: OpenOutbox, anvil: Anvil) -> None:
    poor = Identity.generate()
    async with open_outbox(secret=poor.secret) as outbox:
        with pytest.raises(InsufficientGasMoney, match=r"holds 0: send 0\.\d+ of the coin") as told:
            await outbox.submit("call", PAYEE, b"")
        assert Account.from_key(poor.secret).address in str(told.value)
        with pytest.raises(InsufficientGasMoney, match="holds 0: send 3"):
            await outbox.submit("pay", PAYEE, b"", value_wei=3 * COIN)
        assert await outbox.unfinished() == 0
        await anvil.give(poor.address)
        await outbox.submit("pay", PAYEE, b"", value_wei=3 * COIN)
    assert await balance(anvil) == 3 * COIN


async def test_money_that_is_promised_is_not_promised_twice(
    open_outbox: OpenOutbox, anvil: Anvil, account: Identity
) -> None:
    await anvil.hold_mining()
    await anvil.give(account.address, 10 * COIN)
    async with open_outbox() as outbox, trio.open_nursery() as nursery:
        Submission(nursery, outbox, "pay", value_wei=6 * COIN)
        await until(lambda: _is(anvil.pooled(), 1))
        with pytest.raises(InsufficientGasMoney):
            await outbox.submit("pay more", PAYEE, b"", value_wei=6 * COIN)
        nursery.cancel_scope.cancel()


async def test_money_that_left_meanwhile_blocks_until_it_is_back(
    open_outbox: OpenOutbox, anvil: Anvil, account: Identity
) -> None:
    between = Between(anvil)

    async def robbed(send: Send) -> RPCResponse:
        await anvil.give(account.address, 1)
        del between.interfere["eth_sendRawTransaction"]
        return await send()

    between.interfere["eth_sendRawTransaction"] = robbed
    async with open_outbox(provider=between) as outbox:
        with pytest.raises(InsufficientGasMoney):
            await outbox.submit("pay", PAYEE, b"", value_wei=5)
        assert not between.interfere  # the robbery took place
        assert await outbox.unfinished() == 1
        await anvil.give(account.address)
        await outbox.submit("pay", PAYEE, b"", value_wei=5)
    assert await balance(anvil) == 5


async def test_a_refusal_that_we_do_not_know_is_passed_on(
    open_outbox: OpenOutbox, anvil: Anvil
) -> None:
    between = Between(anvil)

    async def refuse(send: Send) -> RPCResponse:
        error = {"code": -32000, "message": "blacklisted sender"}
        return {"jsonrpc": "2.0", "id": 1, "error": error}  # type: ignore[typeddict-item]

    between.interfere["eth_sendRawTransaction"] = refuse
    async with open_outbox(provider=between) as outbox:
        with pytest.raises(EndpointRefused, match="refuses pay: blacklisted sender"):
            await outbox.submit("pay", PAYEE, b"", value_wei=5)
        del between.interfere["eth_sendRawTransaction"]
        await outbox.submit("pay", PAYEE, b"", value_wei=5)
    assert await balance(anvil) == 5


async def test_too_much_gas_for_one_transaction_is_told(
    open_outbox: OpenOutbox, anvil: Anvil
) -> None:
    contract = Identity.generate().address
    spend = "5b5a63011000001060005700"  # loop: while gas left > 17,825,792
    await anvil.control("anvil_setCode", "0x" + contract.hex(), "0x" + spend)
    between = Between(anvil)

    async def huge(send: Send) -> RPCResponse:
        return {"jsonrpc": "2.0", "id": 1, "result": hex((1 << 24) + 1)}

    between.interfere["eth_estimateGas"] = huge
    async with open_outbox(provider=between) as outbox:
        with pytest.raises(TransactionReverted, match="EIP-7825"):
            await outbox.submit("big", contract, b"")


async def test_an_outbox_belongs_to_one_chain_and_one_account(
    open_outbox: OpenOutbox,
    start_anvil: Callable[..., Anvil],
    anvil: Anvil,
    account: Identity,
) -> None:
    async with open_outbox() as outbox:
        await outbox.submit("pay", PAYEE, b"", value_wei=5)
    other = start_anvil("--timestamp", "1700000000")
    async with other.provider() as provider, open_outbox(provider=provider) as outbox:
        with pytest.raises(WrongChain, match="genesis block"):
            await outbox.submit("pay", PAYEE, b"", value_wei=5)
    async with open_outbox(secret=Identity.generate().secret) as outbox:
        with pytest.raises(WrongChain, match="account"):
            await outbox.submit("pay", PAYEE, b"", value_wei=5)


async def test_an_outbox_is_open_in_one_process(
    open_outbox: OpenOutbox, anvil: Anvil, tmp_path: Path
) -> None:
    async with open_outbox() as outbox:
        await outbox.submit("pay", PAYEE, b"", value_wei=5)
        with pytest.raises(OutboxInUse, match=r"outbox\.sqlite"):
            await open_outbox().open()
        child = _child(anvil, tmp_path / "outbox.sqlite", Identity.generate(), 1)
        _, errors = await trio.to_thread.run_sync(child.communicate)
        assert child.returncode != 0
        assert b"OutboxInUse" in errors
    assert (tmp_path / "outbox.sqlite").stat().st_mode & 0o777 == 0o600


def _child(
    anvil: Anvil, path: Path, account: Identity, count: int, moment: str = ""
) -> subprocess.Popen[bytes]:
    command = [sys.executable, outbox_child.__file__, anvil.url, str(path), account.secret.hex()]
    return subprocess.Popen(
        [*command, str(count), moment], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


async def _paid(anvil: Anvil, count: int) -> list[int]:
    return [await balance(anvil, outbox_child.recipient(i)) for i in range(1, count + 1)]


@pytest.mark.parametrize(("moment", "pooled"), [("stored", 0), ("sent", 1)])
async def test_killed_around_the_broadcast(
    anvil: Anvil, account: Identity, tmp_path: Path, moment: str, pooled: int
) -> None:
    await anvil.hold_mining()
    path = tmp_path / "outbox.sqlite"
    child = _child(anvil, path, account, 1, moment)
    await trio.to_thread.run_sync(child.communicate)
    assert child.returncode == -signal.SIGKILL
    assert await anvil.pooled() == pooled
    await anvil.control("evm_setAutomine", True)

    child = _child(anvil, path, account, 1)
    output, errors = await trio.to_thread.run_sync(child.communicate)
    assert output == b"open\nall landed\n", errors
    assert await _paid(anvil, 1) == [1]
    assert await nonce(anvil, account.address) == 1


@pytest.mark.parametrize("rounds", [3, pytest.param(40, marks=pytest.mark.slow)])
async def test_killed_at_random_moments_every_intent_lands_once(
    anvil: Anvil, account: Identity, tmp_path: Path, rounds: int
) -> None:
    count, path, seed = 4 * rounds, tmp_path / "outbox.sqlite", random.randrange(1 << 30)
    print(f"seed {seed}")
    moments = random.Random(seed)
    kills = 0
    for _ in range(rounds):
        child = _child(anvil, path, account, count)
        assert child.stdout is not None
        assert await trio.to_thread.run_sync(child.stdout.readline) == b"open\n"
        await trio.sleep(moments.uniform(0, 0.4))
        if child.poll() is None:
            child.kill()
            kills += 1
        await trio.to_thread.run_sync(child.communicate)
    child = _child(anvil, path, account, count)
    output, errors = await trio.to_thread.run_sync(child.communicate)
    assert output == b"open\nall landed\n", errors
    assert await _paid(anvil, count) == list(range(1, count + 1))
    assert await nonce(anvil, account.address) == count
    assert kills > 0


async def test_a_node_that_dies_in_the_middle_costs_nothing(
    start_anvil: Callable[..., Anvil], tmp_path: Path
) -> None:
    """Its pool dies with it; the signed bytes are still ours."""
    account, state = Identity.generate(), str(tmp_path / "state.json")
    node = start_anvil("--state", state)
    await node.give(account.address)
    await node.hold_mining()
    rpc = node.rpc()
    outbox = Outbox(rpc, account.secret, tmp_path / "o", chain_id=CHAIN_ID, settings=QUICK)
    async with outbox, trio.open_nursery() as nursery:
        submission = Submission(nursery, outbox, "pay", value_wei=5)
        await until(lambda: _is(node.pooled(), 1))
        node.process.send_signal(signal.SIGINT)  # it writes its state, not its pool
        await trio.to_thread.run_sync(node.process.wait)
        await submission.ended.wait()
        assert isinstance(submission.error, ChainUnreachable)
        assert await outbox.unfinished() == 1

        again = start_anvil("--state", state, port=int(node.url.rsplit(":", 1)[1]))
        assert await balance(again) == 0
        await outbox.submit("pay", PAYEE, b"", value_wei=5)
        assert await balance(again) == 5
    for opened in (rpc, node, again):
        await opened.aclose()


async def test_settings_are_checked() -> None:
    for bad, field in (
        ({"confirmations": -1}, "confirmations"),
        ({"confirmations": 1001}, "confirmations"),
        ({"poll_s": 0}, "poll_s"),
        ({"bump_after_s": -1.0}, "bump_after_s"),
        ({"fee_ceiling_wei": 0}, "fee_ceiling_wei"),
    ):
        with pytest.raises(ValueError, match=field):
            OutboxSettings(**bad)  # type: ignore[arg-type]


async def test_an_outbox_that_is_not_open_says_so(open_outbox: OpenOutbox) -> None:
    with pytest.raises(RuntimeError, match="not open"):
        await open_outbox().knows("pay")
