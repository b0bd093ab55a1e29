"""Bulk transfers between two nodes: lanes, fallback, offsets, refusals, cuts, caps."""

import contextlib
import secrets

import pytest
import trio
from nodes import make, until

from eigen.node.libp2p import bulk as bulk_module
from eigen.node.libp2p import surroundings
from eigen.node.libp2p.byte_stream import TcpStream
from eigen.node.libp2p.config import Limits
from eigen.node.ports import PeerUnreachable, RequestRefused, RequestTimeout

PARTS = "/test/parts/1"


class Taker:
    """Takes transfers and notes what came."""

    def __init__(self, node, offset=0):
        self.headers, self.parts, self.errors = [], [], []
        self.offset = offset
        node.serve_bulk(PARTS, self._handle)

    async def _handle(self, _peer, header, reader):
        self.headers.append(header)
        try:
            await reader.accept(self.offset)
            while (part := await reader.receive(timeout_s=5)) is not None:
                self.parts.append(part)
        except Exception as error:
            self.errors.append(error)
            raise


async def pair(nursery, **settings):
    """Two connected nodes; the second dialled the first."""
    alice, bob = make(**settings), make(**settings)
    await nursery.start(alice.run)
    await nursery.start(bob.run)
    await bob.connect(alice.listen_addrs()[0], timeout_s=5)
    await until(lambda: alice.peers() and bob.peers())
    return alice, bob


async def test_a_lane_is_used_only_when_its_greeting_is_sent(nursery, monkeypatch):
    """A busy machine: the other side has the greeting while its sender still waits to go on."""
    alice, bob = await pair(nursery)
    send_all, sending = TcpStream.send_all, set()
    met = []

    async def send_slowly(stream, data):
        if stream in sending:
            met.append(stream)
            raise trio.BusyResourceError("another task is sending")
        sending.add(stream)
        try:
            await send_all(stream, data)
            if stream._give_way is not None and data[:8] != bulk_module.MAGIC:
                await trio.sleep(0.05)  # records on a lane
        finally:
            sending.discard(stream)

    monkeypatch.setattr(TcpStream, "send_all", send_slowly)
    taker = Taker(bob)
    async with alice.open_bulk(bob.local, PARTS, b"", timeout_s=5) as out:
        await out.send(b"part", timeout_s=5)
        await out.finish(timeout_s=5)
    assert taker.parts == [b"part"]
    assert alice._bulk.lanes == 1
    assert not met
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("dialler_sends", [True, False])
@pytest.mark.parametrize("reachable", [True, False])
async def test_parts_arrive_whole_and_in_order(nursery, dialler_sends, reachable, monkeypatch):
    alice, bob = await pair(nursery)
    if not reachable:  # whoever dials a lane finds nobody there
        monkeypatch.setattr(surroundings, "connect_tcp", refused)
    sender, receiver = (bob, alice) if dialler_sends else (alice, bob)
    taker = Taker(receiver, offset=7)
    parts = [secrets.token_bytes(size) for size in (0, 1, 512 * 1024, 1024 * 1024, 77)]
    async with sender.open_bulk(receiver.local, PARTS, b"what", timeout_s=5) as out:
        assert out.offset == 7
        for part in parts:
            await out.send(part, timeout_s=5)
        await out.finish(timeout_s=5)
    assert taker.parts == parts
    assert taker.headers == [b"what"]
    for node in (alice, bob):
        assert (node._bulk.lanes, node._bulk.fallbacks) == ((1, 0) if reachable else (0, 1))


async def refused(_endpoint):
    raise bulk_module.ConnectionLost("refused")


async def test_leaving_without_finish_is_noticed_as_a_cut(nursery):
    alice, bob = await pair(nursery)
    taker = Taker(alice)
    async with bob.open_bulk(alice.local, PARTS, b"", timeout_s=5) as out:
        await out.send(b"only part", timeout_s=5)
    await until(lambda: bool(taker.errors))
    assert isinstance(taker.errors[0], PeerUnreachable)


async def test_a_refusal_says_why(nursery):
    alice, bob = await pair(nursery)

    async def at_once(_peer, _header, _reader):
        raise RequestRefused("busy")

    async def midway(_peer, _header, reader):
        await reader.receive(timeout_s=5)
        raise RequestRefused("wrong hash")

    alice.serve_bulk("/test/once/1", at_once)
    alice.serve_bulk("/test/midway/1", midway)
    with pytest.raises(RequestRefused, match="busy"):
        async with bob.open_bulk(alice.local, "/test/once/1", b"", timeout_s=5):
            pytest.fail("opened")
    with pytest.raises(RequestRefused, match="does not serve"):
        async with bob.open_bulk(alice.local, "/test/none/1", b"", timeout_s=5):
            pytest.fail("opened")
    with pytest.raises(RequestRefused, match="wrong hash"):  # noqa: PT012
        async with bob.open_bulk(alice.local, "/test/midway/1", b"", timeout_s=5) as out:
            for _ in range(200):
                await out.send(bytes(1 << 20), timeout_s=5)
            await out.finish(timeout_s=5)


async def test_a_receiver_that_does_not_read_runs_into_the_senders_deadline(nursery):
    alice, bob = await pair(nursery)

    async def sleepy(_peer, _header, reader):
        await reader.accept()
        await trio.sleep_forever()

    alice.serve_bulk(PARTS, sleepy)
    with pytest.raises(RequestTimeout):  # noqa: PT012
        async with bob.open_bulk(alice.local, PARTS, b"", timeout_s=5) as out:
            for _ in range(100):
                await out.send(bytes(1 << 20), timeout_s=0.3)


async def test_a_silent_sender_runs_into_the_receivers_deadline(nursery):
    alice, bob = await pair(nursery)
    errors = []

    async def hasty(_peer, _header, reader):
        try:
            await reader.receive(timeout_s=0.2)
        except RequestTimeout as error:
            errors.append(error)
            raise

    alice.serve_bulk(PARTS, hasty)
    async with bob.open_bulk(alice.local, PARTS, b"", timeout_s=5):
        await until(lambda: bool(errors))


async def test_upload_is_capped(nursery):
    alice, bob = await pair(nursery, limits=Limits(upload_bytes_per_s=4e6))
    taker = Taker(alice)
    start = trio.current_time()
    async with bob.open_bulk(alice.local, PARTS, b"", timeout_s=5) as out:
        for _ in range(8):
            await out.send(bytes(500_000), timeout_s=5)
        await out.finish(timeout_s=5)
    assert len(taker.parts) == 8
    assert trio.current_time() - start > 0.85  # 4 MB at 4 MB/s, less the burst of 0.4 MB


async def test_a_stranger_with_a_made_up_token_gets_nothing(nursery):
    alice, _ = await pair(nursery)
    host, port = alice.listen_addrs()[0].split("/")[2:5:2]
    stranger = await trio.open_tcp_stream(host, int(port))
    await stranger.send_all(bulk_module.MAGIC + bytes(16))
    with trio.fail_after(5):
        assert await stranger.receive_some() == b""
    await stranger.aclose()


async def test_many_transfers_at_once_both_ways(nursery):
    alice, bob = await pair(nursery)
    takers = {node.local: Taker(node) for node in (alice, bob)}
    parts = [secrets.token_bytes(512 * 1024) for _ in range(4)]

    async def send(sender, receiver):
        async with sender.open_bulk(receiver.local, PARTS, b"", timeout_s=20) as out:
            for part in parts:
                await out.send(part, timeout_s=20)
            await out.finish(timeout_s=20)

    async with trio.open_nursery() as sending:
        for _ in range(8):
            sending.start_soon(send, alice, bob)
            sending.start_soon(send, bob, alice)
    for taker in takers.values():
        assert sorted(taker.parts) == sorted(parts * 8)
        assert taker.errors == []
    assert alice._bulk.lanes == bob._bulk.lanes == 16
    await until(lambda: not alice._bulk._expected and not bob._bulk._expected)


async def test_one_peer_may_not_open_transfers_without_end(nursery):
    alice, bob = await pair(nursery)

    async def wait(_peer, _header, reader):
        await reader.accept()
        await trio.sleep_forever()

    alice.serve_bulk(PARTS, wait)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(bulk_module.TRANSFERS_PER_PEER_MAX):
            await stack.enter_async_context(bob.open_bulk(alice.local, PARTS, b"", timeout_s=5))
        with pytest.raises(RequestRefused, match="too many transfers"):
            await stack.enter_async_context(bob.open_bulk(alice.local, PARTS, b"", timeout_s=5))
    await until(lambda: not alice._bulk._inbound)
