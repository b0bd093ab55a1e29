"""The outbox while the chain changes its mind, or somebody else uses the account."""

import pytest
import trio

from eigen.chain.outbox import Outbox, OutboxSettings
from eigen.crypto.identity import Identity

from .conftest import Anvil, Between
from .outbox_driver import (
    PAYEE,
    OpenOutbox,
    Submission,
    balance,
    equals,
    nonce,
    send_elsewhere,
    transaction,
    until,
)


async def test_confirmations_are_waited_for(open_outbox: OpenOutbox, anvil: Anvil) -> None:
    settings = OutboxSettings(poll_s=0.02, confirmations=2)
    async with open_outbox(settings=settings) as outbox, trio.open_nursery() as nursery:
        submission = Submission(nursery, outbox, "pay", value_wei=5)
        await until(lambda: equals(balance(anvil), 5))
        await anvil.mine()
        await trio.sleep(0.1)
        assert not submission.ended.is_set()
        assert await outbox.unfinished() == 1
        await anvil.mine()
        await submission.ended.wait()
    assert submission.receipt is not None


async def test_a_reorganised_transaction_is_sent_again(
    open_outbox: OpenOutbox, anvil: Anvil
) -> None:
    settings = OutboxSettings(poll_s=0.02, confirmations=3)
    async with open_outbox(settings=settings) as outbox, trio.open_nursery() as nursery:
        submission = Submission(nursery, outbox, "pay", value_wei=5)
        await until(lambda: equals(balance(anvil), 5))
        await trio.sleep(0.1)  # it is seen in its block
        await anvil.hold_mining()
        await anvil.control("anvil_reorg", 1, [])
        assert await balance(anvil) == 0
        await until(lambda: equals(anvil.pooled(), 1))
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
    await until(lambda: equals(balance(anvil), 15))
    assert await nonce(anvil, outbox.address) == 4
    await outbox.aclose()


async def test_a_gap_that_is_not_ours_is_filled(
    open_outbox: OpenOutbox, anvil: Anvil, account: Identity
) -> None:
    """Somebody's transaction took a nonce and was reorganised away for good."""
    snapshot = await anvil.control("evm_snapshot")
    await send_elsewhere(anvil, account, nonce=0)
    await anvil.mine()
    await anvil.hold_mining()
    async with open_outbox() as outbox, trio.open_nursery() as nursery:
        submission = Submission(nursery, outbox, "pay", value_wei=5)
        await until(lambda: equals(anvil.pooled(), 1))
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
        await until(lambda: equals(anvil.pooled(), 1))
        await send_elsewhere(anvil, account, nonce=0, gwei=100)
        await anvil.control("evm_setAutomine", True)
        while not submission.ended.is_set():
            await anvil.mine()
            await trio.sleep(0.02)
        assert submission.receipt is not None
        assert await nonce(anvil, outbox.address) == 2
    assert await balance(anvil) == 5
    assert [transaction(raw)["nonce"] for raw in dict.fromkeys(between.sent)] == [0, 1]
