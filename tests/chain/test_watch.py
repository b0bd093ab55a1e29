"""Watching a real chain that is slow, broken, reorganised, or has its history replaced."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from web3.types import RPCResponse

from eigen.chain.bindings import LEDGER, REVERTS
from eigen.chain.index import LOGS_WANTED, LogIndex
from eigen.chain.port import ChainUnreachable, WrongChain
from eigen.chain.rpc import Log, Rpc
from eigen.chain.watch import LogWatch, last_log
from eigen.crypto.identity import Identity
from eigen.protocol.types import Address

from .conftest import Anvil, Between, OpenChain, Send

SPAN = 40  # blocks
TOPIC = b"\x70" * 32


class Emitter:
    """A contract that emits one log for each call, its data being what it was called with."""

    def __init__(self, anvil: Anvil) -> None:
        self.anvil = anvil
        self.address = Identity.generate().address
        self.sender = Identity.generate().address

    async def install(self) -> None:
        # Copies the calldata to memory and logs it under TOPIC.
        code = bytes.fromhex("365f5f377f") + TOPIC + bytes.fromhex("365fa1")
        await self.anvil.control("anvil_setCode", "0x" + self.address.hex(), "0x" + code.hex())
        await self.anvil.give(self.sender)
        await self.anvil.control("anvil_impersonateAccount", "0x" + self.sender.hex())

    async def emit(self, text: str, *, mined: bool = True) -> None:
        """Anvil answers before it mines: unless told otherwise, wait for the block."""
        call = {
            "from": "0x" + self.sender.hex(),
            "to": "0x" + self.address.hex(),
            "data": "0x" + text.encode().hex(),
            "gas": hex(500_000),
        }
        tx = await self.anvil.control("eth_sendTransaction", call)
        while mined and not await self.anvil.control(  # noqa: ASYNC110 - another process mines
            "eth_getTransactionReceipt", tx
        ):
            await trio.sleep(0.001)


@pytest.fixture
async def emitter(anvil: Anvil) -> Emitter:
    made = Emitter(anvil)
    await made.install()
    return made


OpenWatch = Callable[..., LogWatch]


@pytest.fixture
async def open_watch(anvil: Anvil, emitter: Emitter) -> AsyncIterator[OpenWatch]:
    between: list[Between] = []

    indices: list[LogIndex] = []

    def make(
        source: Between | None = None,
        *,
        confirmations: int = 0,
        start: int = 0,
        path: Path | None = None,
    ) -> LogWatch:
        between.append(source or Between(anvil))
        index = LogIndex(
            Rpc(between[-1], REVERTS),
            [emitter.address],
            [TOPIC],
            start,
            path,
            confirmations=confirmations,
            span_max=SPAN,
        )
        index._database._connect()  # at once: this is no coroutine
        indices.append(index)
        return LogWatch(index, start, poll_s=0.01)

    yield make
    for source in between:
        await source.aclose()
    for index in indices:
        await index.aclose()


async def texts(watch: LogWatch, count: int) -> list[str]:
    with trio.fail_after(20):
        return [(await anext(watch)).data.decode() for _ in range(count)]


async def nothing(watch: LogWatch) -> None:
    """Several looks that report nothing; a cancelled `anext` loses no log."""
    with trio.move_on_after(0.1) as scope:
        log: Log = await anext(watch)
        raise AssertionError(log)
    assert scope.cancelled_caught


async def test_logs_come_in_order_from_a_block_on(emitter: Emitter, open_watch: OpenWatch) -> None:
    for text in "abc":
        await emitter.emit(text)
    assert await texts(open_watch(), 3) == ["a", "b", "c"]
    assert await texts(open_watch(start=2), 2) == ["b", "c"]
    watch = open_watch()
    assert await texts(watch, 3) == ["a", "b", "c"]
    await nothing(watch)
    await emitter.emit("d")
    assert await texts(watch, 1) == ["d"]


async def test_several_logs_of_a_block_come_in_order(
    emitter: Emitter, open_watch: OpenWatch, anvil: Anvil
) -> None:
    await anvil.hold_mining()
    for number in range(20):
        await emitter.emit(f"{number:02}", mined=False)
    await anvil.mine()
    assert await texts(open_watch(), 20) == [f"{number:02}" for number in range(20)]


async def test_a_log_waits_for_its_confirmations(
    emitter: Emitter, open_watch: OpenWatch, anvil: Anvil
) -> None:
    watch = open_watch(confirmations=2)
    await emitter.emit("a")
    await anvil.mine()
    await nothing(watch)
    await anvil.mine()
    assert await texts(watch, 1) == ["a"]


async def test_a_reorganisation_above_the_confirmations_is_not_seen(
    emitter: Emitter, open_watch: OpenWatch, anvil: Anvil
) -> None:
    watch = open_watch(confirmations=2)
    await emitter.emit("kept")
    await anvil.mine(2)
    await emitter.emit("lost")
    assert await texts(watch, 1) == ["kept"]
    await anvil.control("anvil_reorg", 1, [])
    await emitter.emit("after")
    await anvil.mine(3)
    assert await texts(watch, 1) == ["after"]
    await nothing(watch)


async def test_a_deeper_reorganisation_reports_the_new_history_once(
    emitter: Emitter, open_watch: OpenWatch, anvil: Anvil
) -> None:
    watch = open_watch()
    await emitter.emit("before")
    assert await texts(watch, 1) == ["before"]
    snapshot = await anvil.control("evm_snapshot")
    for text in ("taken back", "taken back too"):
        await emitter.emit(text)
        assert await texts(watch, 1) == [text]
    await anvil.control("evm_revert", snapshot)
    await nothing(watch)
    await emitter.emit("instead")
    await emitter.emit("and more")
    assert await texts(watch, 2) == ["instead", "and more"]
    await nothing(watch)


async def test_a_log_that_survives_a_reorganisation_comes_once(
    emitter: Emitter, open_watch: OpenWatch, anvil: Anvil
) -> None:
    watch = open_watch()
    await emitter.emit("kept")
    snapshot = await anvil.control("evm_snapshot")
    await emitter.emit("lost")
    assert await texts(watch, 2) == ["kept", "lost"]  # read as one span, so both are read again
    await anvil.control("evm_revert", snapshot)
    await emitter.emit("new")
    assert await texts(watch, 1) == ["new"]
    await nothing(watch)


async def test_a_shorter_chain_is_followed_in_the_end(
    emitter: Emitter, open_watch: OpenWatch, anvil: Anvil
) -> None:
    """A development chain that came back without its newest blocks, and grows slowly."""
    watch = open_watch()
    snapshot = await anvil.control("evm_snapshot")
    await anvil.mine(50)
    await emitter.emit("lost")
    assert await texts(watch, 1) == ["lost"]
    await anvil.control("evm_revert", snapshot)
    await emitter.emit("new")
    assert await texts(watch, 1) == ["new"]


async def test_an_endpoint_that_lags_for_a_while_costs_nothing(
    emitter: Emitter, open_watch: OpenWatch, anvil: Anvil
) -> None:
    source = Between(anvil)
    watch = open_watch(source)
    for text in "ab":
        await emitter.emit(text)
    assert await texts(watch, 2) == ["a", "b"]
    lagged = 0

    async def lag(send: Send) -> RPCResponse:
        nonlocal lagged
        lagged += 1
        return {"jsonrpc": "2.0", "id": 1, "result": None}

    source.interfere["eth_getBlockByNumber"] = lag
    with trio.fail_after(10):
        while lagged < 5:
            with trio.move_on_after(0.02):
                await anext(watch)
    del source.interfere["eth_getBlockByNumber"]
    await emitter.emit("c")
    assert await texts(watch, 1) == ["c"]
    await nothing(watch)


async def test_an_outage_is_waited_out(
    emitter: Emitter, open_watch: OpenWatch, anvil: Anvil
) -> None:
    source = Between(anvil)
    failures = 0

    async def fail(send: Send) -> RPCResponse:
        nonlocal failures
        failures += 1
        if failures <= 3:
            raise ChainUnreachable("no line")
        return await send()

    source.interfere["eth_getLogs"] = fail
    await emitter.emit("a")
    assert await texts(open_watch(source), 1) == ["a"]
    assert failures == 4


async def test_a_refused_span_is_halved_until_it_is_answered(
    emitter: Emitter, open_watch: OpenWatch, anvil: Anvil
) -> None:
    for text in "ab":
        await emitter.emit(text)
        await anvil.mine(SPAN // 2)
    source = Between(anvil)
    spans: list[int] = []
    refusals = 0

    async def limited(send: Send) -> RPCResponse:
        nonlocal refusals
        asked = source.params["eth_getLogs"][0]
        spans.append(int(asked["toBlock"], 16) - int(asked["fromBlock"], 16) + 1)
        if spans[-1] > 10:
            refusals += 1
            error = {"code": -32602, "message": "block range too large, at most 10"}
            return {"jsonrpc": "2.0", "id": 1, "error": error}  # type: ignore[typeddict-item]
        return await send()

    source.interfere["eth_getLogs"] = limited
    assert await texts(open_watch(source), 2) == ["a", "b"]
    assert refusals >= 2
    assert min(spans) >= 5


async def test_crowded_spans_are_halved(
    emitter: Emitter, open_watch: OpenWatch, anvil: Anvil
) -> None:
    await anvil.hold_mining()
    for number in range(LOGS_WANTED + 50):
        await emitter.emit(str(number), mined=False)
    await anvil.mine()
    watch = open_watch()
    assert len(await texts(watch, LOGS_WANTED + 50)) == LOGS_WANTED + 50
    assert watch.index.span_blocks == SPAN // 2


async def test_another_chain_ends_the_watch(anvil: Anvil, open_watch: OpenWatch) -> None:
    source = Between(anvil)

    async def stranger(send: Send) -> RPCResponse:
        raise WrongChain("another chain")

    source.interfere["eth_blockNumber"] = stranger
    with pytest.raises(WrongChain):
        await anext(open_watch(source))


async def test_a_log_that_the_ledger_does_not_have_is_another_contract(
    open_chain: OpenChain, anvil: Anvil, dao: Any
) -> None:
    topic = LEDGER.topic("RoundPosted")
    code = bytes.fromhex("7f") + topic + bytes.fromhex("5f5fa1")  # log1 without data
    address = "0x" + dao.contracts.ledger.hex()
    await anvil.control("anvil_setCode", address, "0x" + code.hex())
    sender = "0x" + dao.founders[0].address.hex()
    await anvil.control("anvil_impersonateAccount", sender)
    await anvil.control("eth_sendTransaction", {"from": sender, "to": address, "gas": "0xfffff"})
    async with open_chain() as chain:
        with pytest.raises(WrongChain, match="a log of RoundPosted in another form"):
            await anext(chain.watch(0))


async def test_a_chain_is_watched_from_the_contracts_first_block(
    open_chain: OpenChain,
) -> None:
    async with open_chain(start_block=7) as chain:
        assert chain.watch(0)._logs.index._start == 7  # type: ignore[attr-defined]
        assert chain.watch(9)._logs.from_block == 9  # type: ignore[attr-defined]


@pytest.mark.parametrize("wide", [True, False])
async def test_the_last_log_is_found_where_wide_queries_are_refused(
    emitter: Emitter, open_watch: OpenWatch, anvil: Anvil, wide: bool
) -> None:
    source = Between(anvil)
    rpc = open_watch(source).index._rpc

    async def limited(send: Send) -> RPCResponse:
        asked = source.params["eth_getLogs"][0]
        if not wide and int(asked["toBlock"], 16) - int(asked["fromBlock"], 16) >= SPAN:
            error = {"code": -32602, "message": "block range too large"}
            return {"jsonrpc": "2.0", "id": 1, "error": error}  # type: ignore[typeddict-item]
        return await send()

    source.interfere["eth_getLogs"] = limited
    address = Address(emitter.address)
    assert await last_log(rpc, address, [[TOPIC]], 0, span_max=SPAN) is None
    for text in "ab":
        await emitter.emit(text)
    await anvil.mine(2 * SPAN)
    found = await last_log(rpc, address, [[TOPIC]], 0, span_max=SPAN)
    assert found is not None
    assert found.data == b"b"
    assert source.asked["eth_getLogs"] == (2 if wide else 5)
    assert await last_log(rpc, address, [[TOPIC]], found.block + 1, span_max=SPAN) is None


async def test_a_restart_reads_no_block_twice(
    emitter: Emitter, open_watch: OpenWatch, anvil: Anvil, tmp_path: Path
) -> None:
    path = tmp_path / "index.sqlite"
    await emitter.emit("a")
    await anvil.mine(3 * SPAN)
    first = open_watch(path=path)
    assert await texts(first, 1) == ["a"]
    with trio.fail_after(10):
        while await first.index.advance():
            pass
    await first.index.aclose()

    source = Between(anvil)
    again = open_watch(source, path=path)
    assert await texts(again, 1) == ["a"]
    assert source.asked["eth_getLogs"] == 0
    await emitter.emit("b")
    assert await texts(again, 1) == ["b"]
    asked = source.params["eth_getLogs"][0]
    assert int(asked["fromBlock"], 16) > 3 * SPAN


async def test_what_a_reorganisation_took_back_while_nobody_looked_leaves_the_index(
    emitter: Emitter, open_watch: OpenWatch, anvil: Anvil, tmp_path: Path
) -> None:
    path = tmp_path / "index.sqlite"
    first = open_watch(path=path)
    for text in "abc":  # a mark after each
        await emitter.emit(text)
        assert await texts(first, 1) == [text]
    await first.index.aclose()

    await anvil.control("anvil_reorg", 1, [])  # the last block is another one now
    again = open_watch(path=path)
    with trio.fail_after(10):
        while await again.index.advance():
            pass
    assert [found.data for found in await again.index.find(TOPIC)] == [b"a", b"b"]
    await emitter.emit("d")
    assert await texts(again, 3) == ["a", "b", "d"]


async def test_an_index_of_another_chain_is_started_anew(
    emitter: Emitter, open_watch: OpenWatch, start_anvil: Callable[..., Anvil], tmp_path: Path
) -> None:
    path = tmp_path / "index.sqlite"
    await emitter.emit("a")
    first = open_watch(path=path)
    assert await texts(first, 1) == ["a"]
    await first.index.aclose()
    other = start_anvil("--timestamp", "1700000000")
    again = open_watch(Between(other), path=path)
    await nothing(again)
    assert await again.index.find(TOPIC) == []
