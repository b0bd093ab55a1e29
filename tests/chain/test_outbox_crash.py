"""Interrupted, cancelled and killed: whatever happens to the process, an intent lands once."""

import json
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from web3.types import RPCResponse

from eigen.chain.outbox import Outbox
from eigen.chain.port import (
    ChainUnreachable,
    OutboxInUse,
)
from eigen.crypto.identity import Identity

from . import outbox_child
from .conftest import CHAIN_ID, QUICK, Anvil, Between, Send
from .outbox_driver import (
    PAYEE,
    OpenOutbox,
    Submission,
    at_least,
    balance,
    equals,
    nonce,
    until,
)


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
        await until(lambda: at_least(between.sent, 3))
        assert await anvil.pooled() == 1
        await anvil.mine()
        await submission.ended.wait()
    assert submission.receipt is not None
    assert lost == 2
    assert len(set(between.sent)) == 1
    assert await balance(anvil) == 5


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
        await until(lambda: equals(balance(anvil), 5))
        await until(lambda: equals(outbox.unfinished(), 0))
        Submission(nursery, outbox, "later", value_wei=1)  # wakes the idle task
        await until(lambda: equals(balance(anvil), 6))
        nursery.cancel_scope.cancel()


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
        await until(lambda: equals(node.pooled(), 1))
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
    for number in range(rounds):
        child = _child(anvil, path, account, count)
        assert child.stdout is not None
        assert await trio.to_thread.run_sync(child.stdout.readline) == b"open\n"
        await trio.sleep(moments.uniform(0, 0.4) if number else 0)  # the first is in time
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


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_thousand_intents_survive_outages_reorganisations_and_kills() -> None:
    """The bench of the relayer, whole: what it prints is in docs/chain.md."""
    script = Path(__file__).parents[1] / "bench" / "relayer.py"
    done = subprocess.run(
        [sys.executable, script, "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    print(figures)
    assert figures["chaos_count"] == 1000
    assert figures["chaos_wrong"] == figures["chaos_paid_twice"] == 0
    assert figures["chaos_kills"] > 0
    assert sum(figures["chaos_reorgs"].values()) > 0
    assert {"429", "hung up", "outage", "reply lost"} <= figures["chaos_faults"].keys()
