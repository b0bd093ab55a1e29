"""The outbox against a real pool: keys, fees, refusals and gas money."""

from collections.abc import Callable

import pytest
import trio
from eth_account import Account
from web3.types import RPCResponse

from eigen.chain.fees import GWEI
from eigen.chain.outbox import Outbox, OutboxSettings
from eigen.chain.port import (
    EndpointRefused,
    FeeTooHigh,
    InsufficientGasMoney,
    TransactionReverted,
    WrongChain,
)
from eigen.crypto.identity import Identity

from .conftest import CHAIN_ID, COIN, QUICK, Anvil, Between, Send
from .outbox_driver import (
    PAYEE,
    OpenOutbox,
    Submission,
    at_least,
    balance,
    distinct,
    equals,
    nonce,
    only_first,
    transaction,
    tx_hash,
    until,
)


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


async def test_a_transaction_that_waits_offers_more(open_outbox: OpenOutbox, anvil: Anvil) -> None:
    clock_s = 1_000_000.0
    between = Between(anvil)
    await anvil.hold_mining()
    async with (
        open_outbox(provider=between, now=lambda: clock_s) as outbox,
        trio.open_nursery() as nursery,
    ):
        submission = Submission(nursery, outbox, "pay", value_wei=5)
        await until(lambda: at_least(between.sent, 2))
        assert len(set(between.sent)) == 1
        clock_s += QUICK.bump_after_s
        await until(lambda: equals(distinct(between), 2))
        assert await anvil.pooled() == 1  # it replaced the first one
        await anvil.mine()
        await submission.ended.wait()
    first, second = (transaction(raw) for raw in dict.fromkeys(between.sent))
    assert first["nonce"] == second["nonce"]
    for field in ("maxFeePerGas", "maxPriorityFeePerGas"):
        assert second[field] * 1000 >= first[field] * 1125
    assert submission.receipt is not None
    assert submission.receipt.tx == tx_hash(list(dict.fromkeys(between.sent))[1])
    assert await balance(anvil) == 5


async def test_the_fee_has_a_ceiling(open_outbox: OpenOutbox, anvil: Anvil) -> None:
    await anvil.control("anvil_setNextBlockBaseFeePerGas", hex(50 * GWEI))
    await anvil.mine()
    async with open_outbox(settings=OutboxSettings(fee_ceiling_wei=GWEI)) as outbox:
        with pytest.raises(FeeTooHigh, match=r"the ceiling is 1\.000"):
            await outbox.submit("pay", PAYEE, b"", value_wei=5)
        assert await outbox.unfinished() == 0


async def test_a_refusal_costs_nothing_where_the_dry_run_sees_it(
    open_outbox: OpenOutbox, anvil: Anvil
) -> None:
    contract = await only_first(anvil)
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
    contract = await only_first(anvil)
    between = Between(anvil)
    await anvil.hold_mining()
    async with open_outbox(provider=between) as outbox:
        async with trio.open_nursery() as nursery:
            first = Submission(nursery, outbox, "first", to=contract)
            await until(lambda: equals(anvil.pooled(), 1))
            second = Submission(nursery, outbox, "second", to=contract)
            await until(lambda: equals(anvil.pooled(), 2))
            await anvil.mine()
        assert first.receipt is not None
        assert isinstance(second.error, TransactionReverted)
        assert second.error.error == "taken"
        assert second.error.tx == tx_hash(list(dict.fromkeys(between.sent))[1])
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
    contract = await only_first(node)
    await node.hold_mining()
    settings = OutboxSettings(poll_s=0.05, confirmations=2)
    outbox = Outbox(rpc, account.secret, None, chain_id=CHAIN_ID, settings=settings)
    async with outbox, trio.open_nursery() as nursery:
        Submission(nursery, outbox, "first", to=contract)
        await until(lambda: equals(node.pooled(), 1))
        second = Submission(nursery, outbox, "second", to=contract)
        await until(lambda: equals(node.pooled(), 2))
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
        await until(lambda: equals(anvil.pooled(), 1))
        with trio.fail_after(10), pytest.raises(InsufficientGasMoney):
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
