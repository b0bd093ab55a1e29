"""Noise and Yamux over memory streams: windows, cancels, resets, keep-alive, bad frames."""

import contextlib
import math

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from nodes import until
from trio.testing import MockClock, memory_stream_pair

from eigen.node.libp2p import bounds
from eigen.node.libp2p.byte_stream import PipeStream
from eigen.node.libp2p.errors import (
    ConnectionLost,
    HandshakeFailed,
    ProtocolViolation,
    StreamClosed,
    StreamReset,
    WrongPeer,
)
from eigen.node.libp2p.identity import NodeKey
from eigen.node.libp2p.memory_budget import MemoryBudget
from eigen.node.libp2p.noise_channel import NoiseChannel, secure_inbound, secure_outbound
from eigen.node.libp2p.yamux import Session
from eigen.node.libp2p.yamux_frames import Flag, Kind, frame
from eigen.node.libp2p.yamux_stream import Stream

ALICE, BOB = NodeKey(b"\x01" * 32), NodeKey(b"\x02" * 32)


async def channels(**options) -> tuple[NoiseChannel, NoiseChannel]:
    """Two ends of a Noise connection; the first is the initiator's."""
    left, right = memory_stream_pair()
    out = {}

    async def outbound():
        out["a"] = await secure_outbound(
            PipeStream(left), ALICE, X25519PrivateKey.generate(), expected=BOB.peer_id, **options
        )

    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbound)
        out["b"] = await secure_inbound(
            PipeStream(right), BOB, X25519PrivateKey.generate(), **options
        )
    return out["a"], out["b"]


class Link:
    """Two sessions that run; what each accepted, and how each ended."""

    def __init__(self, a: NoiseChannel, b: NoiseChannel, **options):
        self.accepted: list[Stream] = []
        self.budget = MemoryBudget(**options)
        self.a = Session(a, initiator=True, budget=self.budget, on_stream=self.accepted.append)
        self.b = Session(b, initiator=False, budget=self.budget, on_stream=self.accepted.append)
        self.ends: dict[str, Exception] = {}

    async def run(self, name: str) -> None:
        try:
            await getattr(self, name).run()
        except (ConnectionLost, ProtocolViolation) as end:
            self.ends[name] = end

    async def stream(self) -> tuple[Stream, Stream]:
        """A stream from a to b, both ends."""
        ours = self.a.open()
        await until(lambda: self.accepted)
        return ours, self.accepted.pop(0)


async def connect(nursery, **options) -> Link:
    link = Link(*await channels(), **options)
    nursery.start_soon(link.run, "a")
    nursery.start_soon(link.run, "b")
    return link


# Noise ------------------------------------------------------------------------------------------


async def test_both_ends_know_each_other_and_share_a_transcript():
    a, b = await channels()
    assert (a.peer, b.peer) == (BOB.peer_id, ALICE.peer_id)
    assert a.transcript == b.transcript
    await a.write(b"x" * 200_000)
    assert await b.read_exactly(200_000) == b"x" * 200_000


async def test_the_wrong_peer_is_noticed_before_anything_is_sent():
    left, right = memory_stream_pair()
    carol = NodeKey(b"\x03" * 32)
    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                lambda: secure_inbound(PipeStream(right), carol, X25519PrivateKey.generate())
            )
            await secure_outbound(
                PipeStream(left), ALICE, X25519PrivateKey.generate(), expected=BOB.peer_id
            )
    assert caught.group_contains(WrongPeer)


@given(noise=st.binary(min_size=1, max_size=300))
@settings(max_examples=60, deadline=None)
def test_a_handshake_of_random_bytes_fails_cleanly(noise):
    async def main():
        left, right = memory_stream_pair()
        await left.send_all(noise)
        await left.send_stream.aclose()
        with pytest.raises((HandshakeFailed, ConnectionLost)):
            await secure_inbound(PipeStream(right), BOB, X25519PrivateKey.generate())

    trio.run(main)


async def test_a_forged_record_ends_the_connection():
    a, b = await channels()
    record = bytearray(1000)
    size = a.seal([b"hello"], record)
    record[size - 1] ^= 1
    await a.stream.send_all(record[:size])
    with pytest.raises(ProtocolViolation, match="authenticate"):
        await b.receive()


async def test_it_is_the_noise_of_the_reference_implementation():
    """One side is `noiseprotocol`, which py-libp2p uses."""
    from noise.connection import Keypair, NoiseConnection

    from eigen.node.libp2p.noise_handshake import Handshake

    reference = NoiseConnection.from_name(b"Noise_XX_25519_ChaChaPoly_SHA256")
    reference.set_as_responder()
    reference.set_keypair_from_private_bytes(
        Keypair.STATIC, X25519PrivateKey.generate().private_bytes_raw()
    )
    reference.start_handshake()
    ours = Handshake(ALICE, X25519PrivateKey.generate(), initiator=True)
    ours._check_payload = lambda payload, _expected: setattr(ours, "_peer", BOB.peer_id)
    reference.read_message(ours.write_1())
    ours.read_2(bytes(reference.write_message(b"payload")), None)
    reference.read_message(ours.write_3())
    secrets = ours.finish()
    assert reference.get_handshake_hash() == secrets.transcript
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    sealed = ChaCha20Poly1305(secrets.send_key).encrypt(bytes(12), b"hello", b"")
    assert bytes(reference.decrypt(sealed)) == b"hello"


# Streams ----------------------------------------------------------------------------------------


async def test_bytes_flow_both_ways_and_end(nursery):
    link = await connect(nursery)
    ours, theirs = await link.stream()
    await ours.write(b"ping")
    ours.close_write()
    assert await theirs.read() == b"ping"
    assert await theirs.read() == b""
    await theirs.write(b"pong")
    theirs.close_write()
    assert await ours.read_exactly(4) == b"pong"
    assert await ours.read() == b""
    with pytest.raises(StreamClosed):
        await ours.write(b"late")
    assert link.a.stream_count == 0
    nursery.cancel_scope.cancel()


async def test_megabytes_both_ways_with_new_streams_do_not_deadlock(nursery):
    """A stock session stops at about 2 MB: its reader waits for a lock that its writer holds."""
    link = await connect(nursery)
    ours, theirs = await link.stream()
    piece, count = bytes(1 << 16), 400  # 25 MiB each way

    async def pour(stream):
        for _ in range(count):
            await stream.write(piece)

    async def drain(stream):
        await stream.read_exactly(count * len(piece))

    async def churn():
        for number in range(100):
            small, other = await link.stream()
            await small.write(b"%d" % number)
            small.close_write()
            assert await other.read() == b"%d" % number
            other.close()
            await trio.lowlevel.checkpoint()

    with trio.fail_after(30):
        async with trio.open_nursery() as inner:
            for stream in (ours, theirs):
                inner.start_soon(pour, stream)
                inner.start_soon(drain, stream)
            inner.start_soon(churn)
    nursery.cancel_scope.cancel()


async def test_a_cancelled_write_harms_no_other_stream(nursery):
    """On a stock session the connection is lost: half a Noise frame stays in the pipe."""
    link = await connect(nursery)
    for _ in range(5):
        ours, _theirs = await link.stream()
        with trio.move_on_after(0.02) as scope:
            while True:
                await ours.write(bytes(100_000))  # nobody reads: the window closes
        assert scope.cancelled_caught
        ours.reset()
        good, other = await link.stream()
        await good.write(b"still fine")
        assert await other.read() == b"still fine"
    assert not link.ends
    nursery.cancel_scope.cancel()


async def test_a_reader_that_pauses_is_waited_for(nursery, autojump_clock):
    """Stock: five seconds without reading, and the other side's write raises StreamReset."""
    link = await connect(nursery)
    ours, theirs = await link.stream()
    done = trio.Event()

    async def pour():
        await ours.write(bytes(2 << 20))
        done.set()

    nursery.start_soon(pour)
    await trio.sleep(3600)
    assert not done.is_set()
    await theirs.read_exactly(2 << 20)
    await done.wait()
    nursery.cancel_scope.cancel()


async def test_windows_are_enforced_not_warned_about(nursery):
    link = await connect(nursery)
    ours, _ = await link.stream()
    ours.send_window = 1 << 30  # a peer that ignores what it was granted

    async def flood():
        for _ in range(100):
            await ours.write(bytes(1 << 16))

    with pytest.raises(StreamReset):
        await flood()
    await until(lambda: "b" in link.ends)
    assert isinstance(link.ends["b"], ProtocolViolation)
    assert "window" in str(link.ends["b"])
    nursery.cancel_scope.cancel()


async def test_unread_bytes_are_bounded_over_all_streams(nursery):
    link = await connect(nursery, buffered_per_connection_bytes_max=600_000)
    opened = [await link.stream() for _ in range(5)]
    for ours, _ in opened:
        with trio.move_on_after(0.05):
            await ours.write(bytes(250_000))
    await trio.sleep(0.05)
    assert link.budget.buffered_bytes <= 600_000
    assert not link.ends  # single streams are reset, not the connection
    broken = [ours for ours, _ in opened if ours.failure is not None]
    assert 1 <= len(broken) <= 4
    nursery.cancel_scope.cancel()


async def test_one_byte_frames_do_not_cost_an_object_each(nursery):
    link = await connect(nursery)
    ours, theirs = await link.stream()
    for _ in range(5000):
        await ours.write(b"x")
    await until(lambda: theirs.buffered == 5000)
    assert len(theirs._buffer) < 5
    assert await theirs.read_exactly(5000) == b"x" * 5000
    nursery.cancel_scope.cancel()


async def test_reading_in_many_small_pieces_has_no_limit(nursery):
    """Stock `read_exactly` gives up after 100 partial reads."""
    link = await connect(nursery)
    ours, theirs = await link.stream()

    async def drip():
        for _ in range(500):
            await ours.write(b"ab")
            await trio.lowlevel.checkpoint()

    nursery.start_soon(drip)
    assert await theirs.read_exactly(1000) == b"ab" * 500
    nursery.cancel_scope.cancel()


async def test_streams_left_half_open_are_swept(nursery, autojump_clock):
    link = await connect(nursery)
    ours, theirs = await link.stream()
    await ours.write(b"x")
    theirs.close()  # a handler that is done, while the peer never closes
    await trio.sleep(bounds.ABANDONED_STREAM_S + 2 * bounds.PING_INTERVAL_S)
    assert link.b.stream_count == 0
    assert ours.failure is not None
    nursery.cancel_scope.cancel()


async def test_too_many_streams_are_reset_one_by_one(nursery):
    link = await connect(nursery)
    streams = [link.a.open() for _ in range(bounds.INBOUND_STREAMS_MAX + 10)]
    await until(lambda: streams[-1].failure)
    assert sum(stream.failure is not None for stream in streams) == 10
    assert len(link.accepted) == bounds.INBOUND_STREAMS_MAX
    assert not link.ends
    nursery.cancel_scope.cancel()


async def test_opening_streams_without_end_is_stopped(nursery):
    """Open, reset, open, reset: each costs the other side a task."""
    link = await connect(nursery)
    with contextlib.suppress(ConnectionLost):
        for number in range(3 * int(bounds.STREAM_OPENS_BURST)):
            link.a.open().reset()
            if number % 100 == 0:
                await trio.lowlevel.checkpoint()
    await until(lambda: "b" in link.ends)
    assert isinstance(link.ends["b"], ProtocolViolation)
    assert len(link.accepted) <= 1.5 * bounds.STREAM_OPENS_BURST
    nursery.cancel_scope.cancel()


async def test_a_peer_that_makes_us_answer_must_read(nursery):
    a, b = await channels()
    session = Session(b, initiator=False, budget=MemoryBudget(), on_stream=lambda _stream: None)
    pings = frame(Kind.PING, Flag.SYN, 0, 1) * 10_000
    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012
        async with trio.open_nursery() as inner:
            inner.start_soon(a.send, [pings])
            b.stream.send_all = _never
            await session.run()
    assert caught.group_contains(ProtocolViolation, match="does not read")
    nursery.cancel_scope.cancel()


async def _never(_data):
    await trio.sleep_forever()


async def test_a_lost_connection_is_no_clean_end_of_a_stream(nursery):
    """Stock: SIGKILL of the peer looks like a clean end, so truncation looks like completion."""
    link = await connect(nursery)
    ours, theirs = await link.stream()
    await ours.write(b"half")
    await until(lambda: theirs.buffered)
    link.a.abort()
    with pytest.raises(StreamReset):
        await theirs.read_exactly(8)


async def test_a_frozen_link_is_noticed(autojump_clock):
    """Nothing arrives and nothing leaves; stock sends pings and ignores that none is answered."""
    a, _ = await channels()
    budget = MemoryBudget()
    session = Session(a, initiator=True, budget=budget, on_stream=lambda _stream: None)
    start = trio.current_time()
    with pytest.raises(ConnectionLost, match="nothing heard"):
        await session.run()
    assert trio.current_time() - start <= 25


async def test_a_link_that_freezes_later_is_noticed_within_25_seconds(autojump_clock):
    a, b = await channels()
    frozen = False
    receive_into = a.stream.receive_into

    async def receive(buffer):
        count = await receive_into(buffer)
        if frozen:
            await trio.sleep_forever()
        return count

    a.stream.receive_into = receive
    async with trio.open_nursery() as nursery:
        link = Link(a, b)
        nursery.start_soon(link.run, "a")
        nursery.start_soon(link.run, "b")
        await trio.sleep(33)
        assert not link.ends  # an idle link that answers lives on
        frozen, since = True, trio.current_time()
        await link.a.closed.wait()
        assert trio.current_time() - since <= 25
        nursery.cancel_scope.cancel()


async def test_bulk_waits_behind_urgent_frames(nursery):
    link = await connect(nursery)
    bulk, _ = await link.stream()
    urgent, _ = await link.stream()
    session = link.a
    with trio.move_on_after(0.01):
        await bulk.write(bytes(1 << 20))
    session.enqueue(bulk, frame(Kind.DATA, 0, bulk.stream_id, 4), b"bulk")
    session.enqueue(urgent, frame(Kind.DATA, 0, urgent.stream_id, 6), b"urgent")
    batch = [bytes(part) for part in session._next_batch()]
    assert batch.index(b"urgent") < (batch.index(b"bulk") if b"bulk" in batch else math.inf)
    nursery.cancel_scope.cancel()


# Frames of an enemy -----------------------------------------------------------------------------


FRAMES = st.lists(
    st.tuples(
        st.integers(0, 1).filter(lambda version: version == 0) | st.integers(0, 255),
        st.integers(0, 5),
        st.integers(0, 15),
        st.integers(0, 9),
        st.integers(0, 300) | st.integers(0, 2**32 - 1),
    ),
    max_size=12,
)


@given(frames=FRAMES, junk=st.binary(max_size=64), cut=st.integers(1, 64))
@settings(max_examples=300, deadline=None)
def test_no_sequence_of_frames_crashes_a_session(frames, junk, cut):
    """Whatever arrives, in whatever pieces, ends in a named error or in nothing."""
    data = b"".join(
        version.to_bytes(1)
        + kind.to_bytes(1)
        + flags.to_bytes(2)
        + sid.to_bytes(4)
        + size.to_bytes(4)
        for version, kind, flags, sid, size in frames
    )

    async def main():
        budget = MemoryBudget()
        session = Session(
            _Nowhere(), initiator=False, budget=budget, on_stream=lambda _stream: None
        )
        try:
            for at in range(0, len(data + junk), cut):
                session._feed((data + junk)[at : at + cut])
        except (ProtocolViolation, ConnectionLost):
            pass
        session.abort()
        assert budget.buffered_bytes == 0
        assert budget.granted_bytes == 0

    trio.run(main, clock=MockClock())


class _Nowhere:
    """A channel that goes nowhere."""

    def abort(self) -> None:
        """Nothing to close."""


def test_flags_are_those_of_the_specification():
    assert frame(Kind.WINDOW, Flag.SYN | Flag.ACK, 1, 2) == b"\0\1\0\3\0\0\0\1\0\0\0\2"
