"""The provider against a real Anvil, and against endpoints that misbehave on a real socket."""

import gc
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
from web3 import AsyncWeb3
from web3.types import RPCEndpoint

from eigen.chain.port import ChainUnreachable, WrongChain
from eigen.chain.provider import ROUNDS_OF_TRIES, TrioHTTPProvider

from .conftest import CHAIN_ID, Anvil

BLOCK_NUMBER = RPCEndpoint("eth_blockNumber")
SEND = RPCEndpoint("eth_sendRawTransaction")
CONTROL = RPCEndpoint("anvil_mine")

Answer = Callable[[dict[str, Any]], bytes]


def http(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def result(value: Any) -> bytes:
    return http(json.dumps({"jsonrpc": "2.0", "id": 1, "result": value}).encode())


class Endpoint:
    """An HTTP server that says what a test tells it to, and remembers what it was asked."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[str] = []
        self.answers: dict[str, Answer] = {"eth_chainId": lambda _: result(hex(CHAIN_ID))}
        self.answer: Answer = lambda _: result("0x2a")
        self.silent = False
        self.broken_off = trio.Event()

    async def serve(self, stream: trio.SocketStream) -> None:
        try:
            while request := await self._request(stream):
                self.asked.append(request["method"])
                answer = self.answers.get(request["method"], self.answer)
                if self.silent and request["method"] != "eth_chainId":
                    await stream.receive_some()  # returns when the other side hangs up
                    self.broken_off.set()
                    return
                data = answer(request)
                await stream.send_all(data)
                if b"Connection: close" in data:
                    return
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.broken_off.set()

    async def _request(self, stream: trio.SocketStream) -> Any:
        data = b""
        while b"\r\n\r\n" not in data:
            more = await stream.receive_some()
            if not more:
                return None
            data += more
        head, body = data.split(b"\r\n\r\n", 1)
        wanted = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        while len(body) < wanted:
            body += await stream.receive_some()
        return json.loads(body)


async def listening(
    nursery: trio.Nursery, serve: Callable[[trio.SocketStream], Awaitable[None]]
) -> int:
    """Serve on a free loopback port, and return it."""
    on_loopback = partial(trio.serve_tcp, serve, 0, host="127.0.0.1")
    listeners: list[trio.SocketListener] = await nursery.start(on_loopback)
    return int(listeners[0].socket.getsockname()[1])


@asynccontextmanager
async def endpoints(count: int) -> AsyncIterator[list[Endpoint]]:
    async with trio.open_nursery() as nursery:
        started = [Endpoint() for _ in range(count)]
        for endpoint in started:
            port = await listening(nursery, endpoint.serve)
            endpoint.url = f"http://127.0.0.1:{port}/v3/secret-key"
        yield started
        nursery.cancel_scope.cancel()


def provider(*served: Endpoint, **options: Any) -> TrioHTTPProvider:
    settings: dict[str, Any] = {"chain_id": CHAIN_ID, "backoff_s": 0.001, "timeout_s": 5.0}
    return TrioHTTPProvider([endpoint.url for endpoint in served], **settings | options)


async def asked(source: TrioHTTPProvider, method: RPCEndpoint = BLOCK_NUMBER) -> Any:
    return (await source.make_request(method, []))["result"]


async def test_web3_speaks_through_it_to_a_real_node(anvil: Anvil) -> None:
    async with anvil.provider() as source:
        web3 = AsyncWeb3(source)
        assert await web3.eth.chain_id == CHAIN_ID
        before = await web3.eth.block_number
        await anvil.mine(3)
        assert await web3.eth.block_number == before + 3
        assert (await web3.eth.get_block("latest"))["number"] == before + 3


async def test_endpoints_are_asked_in_order_and_failed_ones_last() -> None:
    async with endpoints(2) as (first, second), provider(first, second) as source:
        assert await asked(source) == "0x2a"
        assert second.asked == []
        first.answer = lambda _: http(b"", "503 Service Unavailable")
        for _ in range(5):
            assert await asked(source) == "0x2a"
        assert first.asked.count("eth_blockNumber") == 2  # once well, once refused
        assert second.asked.count("eth_blockNumber") == 5


async def test_a_failed_endpoint_is_asked_again_when_no_other_answers() -> None:
    async with endpoints(2) as (first, second), provider(first, second) as source:
        first.answer = second.answer = lambda _: http(b"", "503 Service Unavailable")
        with pytest.raises(ChainUnreachable):
            await asked(source)
        first.answer = lambda _: result("0x1")
        assert await asked(source) == "0x1"


BAD_ANSWERS: list[tuple[bytes, str]] = [
    (http(b"<html>"), "HTTP 200, and the reply is not JSON"),
    (http(b"[" * 9000), "not JSON"),
    (http(b"[]"), "no JSON-RPC object"),
    (http(b'{"jsonrpc": "2.0", "id": 1}'), "no JSON-RPC object"),
    (http(b"x", "429 Too Many Requests"), "HTTP 429"),
    (http(b'{"jsonrpc":"2.0","id":1,"result":"0x1"}', "500 Oops"), "HTTP 500"),
    (
        http(b'{"jsonrpc":"2.0","id":1,"error":{"code":-32005,"message":"limit"}}'),
        "over its request quota",
    ),
    (http(b" " * 200_000), "reply longer than 10000 bytes"),
    (
        http(gzip.compress(b" " * 1_000_000), "200 OK", "Content-Encoding: gzip"),
        "compressed reply",
    ),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\nConnection: close\r\n\r\n{", "peer closed"),
    (b"SSH-2.0-OpenSSH\r\nConnection: close\r\n\r\n", "illegal"),
]


@pytest.mark.parametrize(("answer", "told"), BAD_ANSWERS)
async def test_a_broken_endpoint_is_left_for_the_next(answer: bytes, told: str) -> None:
    async with (
        endpoints(2) as (broken, good),
        provider(broken, good, reply_bytes_max=10_000) as source,
        provider(broken, reply_bytes_max=10_000) as alone,
    ):
        broken.answer = lambda _: answer
        assert await asked(source) == "0x2a"
        assert "eth_blockNumber" in broken.asked
        with pytest.raises(ChainUnreachable, match=told):
            await asked(alone)


async def test_an_error_that_is_an_answer_is_passed_on() -> None:
    async with endpoints(2) as (first, second), provider(first, second) as source:
        error = {"code": 3, "message": "execution reverted", "data": "0x"}
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "error": error}).encode()
        for status in ("200 OK", "400 Bad Request"):
            first.answer = lambda _, status=status: http(body, status)
            assert (await source.make_request(BLOCK_NUMBER, []))["error"] == error
        assert second.asked == []


async def test_who_was_tried_is_told_without_keys(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with endpoints(2) as (first, second), provider(first, second) as source:
        first.answer = lambda _: http(b"", "503 Busy")
        second.answer = lambda _: http(b"", "404 Gone")
        with pytest.raises(ChainUnreachable) as failed:
            await asked(source)
        told = str(failed.value)
        for endpoint, why in ((first, "HTTP 503"), (second, "HTTP 404")):
            assert f"{endpoint.url.removesuffix('/v3/secret-key')}: {why}" in told
        assert "secret" not in told + repr(source) + caplog.text


async def test_reads_are_tried_again_and_signed_bytes_are_not() -> None:
    async with endpoints(2) as (first, second), provider(first, second) as source:
        first.answer = second.answer = lambda _: http(b"", "503 Busy")
        for method, times in ((BLOCK_NUMBER, ROUNDS_OF_TRIES), (SEND, 1)):
            with pytest.raises(ChainUnreachable):
                await asked(source, method)
            assert first.asked.count(method) == second.asked.count(method) == times
        with pytest.raises(ChainUnreachable):
            await asked(source, CONTROL)
        assert first.asked.count(CONTROL) == 1
        assert second.asked.count(CONTROL) == 0


async def test_a_read_outlives_a_short_fault() -> None:
    async with endpoints(1) as (only,), provider(only) as source:
        faults = 0

        def flaky(_: dict[str, Any]) -> bytes:
            nonlocal faults
            faults += 1
            return http(b"", "503 Busy") if faults < ROUNDS_OF_TRIES else result("0x7")

        only.answer = flaky
        assert await asked(source) == "0x7"
        assert faults == ROUNDS_OF_TRIES


async def test_an_endpoint_of_another_chain_is_not_used() -> None:
    async with endpoints(2) as (stranger, good), provider(stranger, good) as source:
        stranger.answers["eth_chainId"] = lambda _: result("0x1")
        stranger.answer = lambda _: result("0xbad")
        assert await asked(source) == "0x2a"
        assert stranger.asked == ["eth_chainId"]
        good.answers["eth_chainId"] = lambda _: result("0x5")
        assert await asked(source) == "0x2a"  # it was checked once
        good.answer = lambda _: http(b"", "503 Busy")
        with pytest.raises(WrongChain, match="is chain 5, but the network file names chain 31337"):
            await asked(source)  # and is checked again after it failed


async def test_a_stranger_beside_a_dead_endpoint_is_no_verdict() -> None:
    async with endpoints(2) as (stranger, dead), provider(stranger, dead) as source:
        stranger.answers["eth_chainId"] = lambda _: result("0x1")
        dead.answers["eth_chainId"] = lambda _: http(b"", "503 Busy")
        with pytest.raises(ChainUnreachable, match=r"is chain 1.*HTTP 503"):
            await asked(source)


async def test_a_chain_id_that_is_none_is_a_failure() -> None:
    async with endpoints(1) as (only,), provider(only) as source:
        only.answers["eth_chainId"] = lambda _: result(None)
        with pytest.raises(ChainUnreachable, match="did not tell its chain id"):
            await asked(source)


async def test_a_mute_endpoint_is_given_up() -> None:
    async with endpoints(2) as (mute, good), provider(mute, good, timeout_s=0.1) as source:
        mute.silent = True
        assert await asked(source) == "0x2a"
        await mute.broken_off.wait()
    async with endpoints(1) as (mute,), provider(mute, timeout_s=0.05) as source:
        mute.silent = True
        with pytest.raises(ChainUnreachable, match=r"no whole reply in 0\.05 s"):
            await asked(source, SEND)


async def test_a_trickling_endpoint_is_given_up() -> None:
    async def trickle(stream: trio.SocketStream) -> None:
        with trio.move_on_after(5):
            await stream.receive_some()
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            while True:
                try:
                    await stream.send_all(b" ")
                except trio.BrokenResourceError:
                    return
                await trio.sleep(0.01)

    async with trio.open_nursery() as nursery:
        url = f"http://127.0.0.1:{await listening(nursery, trickle)}"
        async with TrioHTTPProvider([url], chain_id=None, timeout_s=0.1) as source:
            with pytest.raises(ChainUnreachable, match="no whole reply"):
                await asked(source, SEND)
        nursery.cancel_scope.cancel()


async def test_a_cancelled_request_hangs_up_and_harms_no_other() -> None:
    async with endpoints(1) as (only,), provider(only, timeout_s=60) as source:
        only.silent = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(asked, source)
            while "eth_blockNumber" not in only.asked:  # noqa: ASYNC110
                await trio.sleep(0.001)
            nursery.cancel_scope.cancel()
        with trio.fail_after(5):
            await only.broken_off.wait()
        only.silent = False
        assert await asked(source) == "0x2a"


async def test_requests_cancelled_at_any_moment_leave_nothing_open() -> None:
    """Neither a connection that the pool counts as used, nor a generator that nobody closes."""
    async with endpoints(1) as (only,), provider(only) as source:
        ended = 0
        for moment in range(200):
            with trio.move_on_after(moment * 25e-6):
                await source.make_request(SEND, ["0x" + "00" * 100_000])
                ended += 1
        gc.collect()
        assert ended < 200
        with trio.fail_after(5):
            assert await asked(source) == "0x2a"


async def test_requests_run_at_the_same_time() -> None:
    """More of them than there are connections: the others wait their turn."""
    async with endpoints(1) as (only,), provider(only) as source:
        answers: list[str] = []

        async def one() -> None:
            answers.append(await asked(source))

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(one)
        assert answers == ["0x2a"] * 50


@pytest.mark.parametrize(
    ("urls", "told"),
    [
        ([], "give 1 to 16, not 0"),
        (["http://x"] * 17, "give 1 to 16, not 17"),
        (["ftp://host"], "must begin with http"),
        (["http://"], "name a host"),
        (["localhost:8545"], "must begin with http"),
    ],
)
def test_urls_are_checked(urls: list[str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        TrioHTTPProvider(urls, chain_id=1)


async def test_a_node_that_dies_and_comes_back(start_anvil: Callable[..., Anvil]) -> None:
    first = start_anvil()
    async with first.provider() as source:
        assert await asked(source) == "0x0"
        first.kill()
        with pytest.raises(ChainUnreachable, match="failed"):
            await asked(source)
        start_anvil(port=int(first.url.rsplit(":", 1)[1]))
        assert await asked(source) == "0x0"
