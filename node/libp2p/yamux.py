"""A Yamux session over a Noise channel: one reader task, one writer task, one keep-alive task.

hashicorp's specification, wire-compatible as `/yamux/1.0.0`. Rules that make it hold:
the reader never writes and never waits for a stream; writers only queue whole frames, so a cancel
cannot tear one; control frames overtake data; windows are enforced; silence is probed.
"""

import random
from collections import deque
from collections.abc import Callable, Iterator

import trio

from eigen.node.libp2p.bounds import (
    ABANDONED_STREAM_S,
    BATCH_BYTES_MAX,
    CONTROL_QUEUE_BYTES_MAX,
    INBOUND_STREAMS_MAX,
    LANE_BYTES_MAX,
    PING_INTERVAL_S,
    PING_TIMEOUT_S,
    STREAM_OPENS_BURST,
    STREAM_OPENS_PER_S,
    WINDOW_BYTES_MAX,
)
from eigen.node.libp2p.errors import ConnectionLost, ProtocolViolation, StreamReset
from eigen.node.libp2p.memory_budget import MemoryBudget
from eigen.node.libp2p.noise_channel import NoiseChannel
from eigen.node.libp2p.token_bucket import TokenBucket
from eigen.node.libp2p.yamux_frames import HEADER_BYTES, Flag, GoAway, Kind, frame, unpack_header
from eigen.node.libp2p.yamux_stream import Lane, Stream


class Session:
    """Streams over one connection. `on_stream` is called, synchronously, for each inbound one."""

    def __init__(
        self,
        channel: NoiseChannel,
        *,
        initiator: bool,
        budget: MemoryBudget,
        on_stream: Callable[[Stream], None],
    ) -> None:
        self._channel = channel
        self.budget = budget
        self._on_stream = on_stream
        self._next_id = 1 if initiator else 2
        self._inbound_parity = 0 if initiator else 1
        self._last_inbound = 0
        self._streams: dict[int, Stream] = {}
        self._inbound_count = 0
        self._opens = TokenBucket(STREAM_OPENS_PER_S, STREAM_OPENS_BURST, trio.current_time())
        self._owed = bytearray()
        self._lanes: dict[Lane, deque[tuple[Stream, bytes, bytes | memoryview]]] = {
            lane: deque() for lane in Lane
        }
        self._lane_bytes = dict.fromkeys(Lane, 0)
        self._room = {lane: trio.Event() for lane in Lane}
        self._work = trio.Event()
        self._leaving = False
        self._failure: Exception | None = None
        self.closed = trio.Event()
        self._empty = trio.Event()
        self.rtt_s: float | None = None
        self._ping_id = random.getrandbits(31)
        self._pong = trio.Event()
        self._last_heard = trio.current_time()
        # The frame whose body is being received.
        self._head = b""
        self._body_stream: Stream | None = None
        self._body_left = 0
        self._body_flags = 0

    # Streams ------------------------------------------------------------------------------------

    @property
    def stream_count(self) -> int:
        """Open streams, both directions."""
        return len(self._streams)

    def open(self, lane: Lane = Lane.URGENT) -> Stream:
        """A new stream; its SYN is queued. Raises `ConnectionLost` on a closed session."""
        if self._failure is not None or self._leaving:
            raise ConnectionLost(str(self._failure or "the connection is closing"))
        stream_id, self._next_id = self._next_id, self._next_id + 2
        if stream_id > 0xFFFF_FFFD:
            raise ConnectionLost("the connection has used up its stream ids")
        stream = Stream(self, stream_id, inbound=False, lane=lane)
        self._streams[stream_id] = stream
        self.owe(frame(Kind.WINDOW, Flag.SYN, stream_id, 0))
        return stream

    async def idle(self) -> None:
        """Wait until no stream is open, or the session has ended."""
        while self._streams:
            self._empty = trio.Event()
            await self._empty.wait()

    def forget(self, stream: Stream) -> None:
        """A stream has ended both ways."""
        if self._streams.pop(stream.stream_id, None) is not None:
            self._inbound_count -= stream.inbound
            self.budget.return_grant(stream.settle())
            if not self._streams:
                self._empty.set()

    # Sending ------------------------------------------------------------------------------------

    def owe(self, control: bytes) -> None:
        """Queue a control frame; it overtakes data."""
        self._owed += control
        self._work.set()

    def has_room(self, lane: Lane) -> bool:
        """Whether a data frame may be queued now."""
        return self._lane_bytes[lane] < LANE_BYTES_MAX

    async def wait_for_room(self, lane: Lane) -> None:
        """Wait until the lane drains, or any of its streams fails."""
        await self._room[lane].wait()

    def wake_lane(self, lane: Lane) -> None:
        """Let writers look again."""
        room, self._room[lane] = self._room[lane], trio.Event()
        room.set()

    def enqueue(self, stream: Stream, header: bytes, body: bytes | memoryview) -> None:
        """Queue one whole frame of a stream, in order."""
        self._lanes[stream.lane].append((stream, header, body))
        self._lane_bytes[stream.lane] += HEADER_BYTES + len(body)
        self._work.set()

    def drop_queued(self, stream: Stream) -> None:
        """Forget a reset stream's frames that are not sent yet."""
        lane = self._lanes[stream.lane]
        if any(entry[0] is stream for entry in lane):
            kept = [entry for entry in lane if entry[0] is not stream]
            lane.clear()
            lane.extend(kept)
            self._lane_bytes[stream.lane] = sum(HEADER_BYTES + len(e[2]) for e in kept)
            self.wake_lane(stream.lane)

    def _next_batch(self) -> list[bytes | memoryview]:
        batch: list[bytes | memoryview] = []
        size = 0
        if self._owed:
            batch.append(bytes(self._owed))
            size = len(self._owed)
            self._owed.clear()
        for lane, queue in self._lanes.items():
            taken = 0
            while queue and size + taken < BATCH_BYTES_MAX:
                _, header, body = queue.popleft()
                batch.append(header)
                if body:
                    batch.append(body)
                taken += HEADER_BYTES + len(body)
            if taken:
                size += taken
                self._lane_bytes[lane] -= taken
                if self._lane_bytes[lane] <= LANE_BYTES_MAX // 2:
                    self.wake_lane(lane)
        return batch

    async def _write_loop(self) -> None:
        while True:
            batch = self._next_batch()
            if batch:
                await self._channel.send(batch)
            elif self._leaving:
                raise ConnectionLost("closed by this side")
            else:
                self._work = trio.Event()
                await self._work.wait()

    # Receiving ----------------------------------------------------------------------------------

    async def _read_loop(self) -> None:
        while True:
            for piece in await self._channel.receive():
                self._feed(piece)
            self._last_heard = trio.current_time()
            if len(self._owed) > CONTROL_QUEUE_BYTES_MAX:
                raise ProtocolViolation("a peer makes us answer and does not read")

    def _feed(self, piece: bytes) -> None:
        if self._head:
            piece = self._head + piece
            self._head = b""
        view = memoryview(piece)
        at, end = 0, len(piece)
        while at < end:
            if self._body_left:
                size = min(self._body_left, end - at)
                self._feed_body(view[at : at + size])
                at += size
                continue
            if end - at < HEADER_BYTES:
                self._head = bytes(view[at:])
                return
            self._on_header(*unpack_header(view, at))
            at += HEADER_BYTES

    def _feed_body(self, body: memoryview) -> None:
        self._body_left -= len(body)
        stream = self._body_stream
        if stream is not None and stream.failure is None:
            if self.budget.charge_buffer(self, len(body)):
                stream.feed(body)
            else:
                stream.reset("too much received and not read")
        if not self._body_left:
            self._body_done()

    def _body_done(self) -> None:
        stream, self._body_stream = self._body_stream, None
        if stream is not None and self._body_flags:
            self._end(stream, self._body_flags)

    def _on_header(self, version: int, kind: int, flags: int, stream_id: int, length: int) -> None:
        if version != 0:
            raise ProtocolViolation(f"Yamux version {version}")
        if kind in (Kind.DATA, Kind.WINDOW):
            self._on_stream_frame(kind, flags, stream_id, length)
        elif kind == Kind.PING:
            if flags & Flag.SYN:
                self.owe(frame(Kind.PING, Flag.ACK, 0, length))
            elif flags & Flag.ACK and length == self._ping_id:
                self._pong.set()
        elif kind == Kind.GO_AWAY:
            raise ConnectionLost(f"the peer said goodbye (code {length})")
        else:
            raise ProtocolViolation(f"Yamux frame type {kind}")

    def _on_stream_frame(self, kind: int, flags: int, stream_id: int, length: int) -> None:
        stream = self._streams.get(stream_id)
        if flags & Flag.SYN:
            stream = self._accept(stream_id)
        if kind == Kind.DATA:
            if length > WINDOW_BYTES_MAX:
                raise ProtocolViolation(f"a Yamux frame of {length} bytes")
            if stream is not None:
                if stream.finished and length:
                    raise ProtocolViolation("Yamux data after FIN")
                stream.charge(length)
            self._body_stream, self._body_left = stream, length
            self._body_flags = flags & (Flag.FIN | Flag.RST)
            if not length:
                self._body_done()
            return
        if stream is not None:
            stream.widen(length)
            self._end(stream, flags)

    def _end(self, stream: Stream, flags: int) -> None:
        if flags & Flag.RST:
            self.drop_queued(stream)
            stream.fail(StreamReset("reset by the peer"))
        elif flags & Flag.FIN:
            stream.finish()

    def _accept(self, stream_id: int) -> Stream | None:
        if stream_id == 0 or stream_id % 2 != self._inbound_parity or stream_id in self._streams:
            raise ProtocolViolation(f"a peer opened stream {stream_id}")
        waiting_s = self._opens.owe(1.0, trio.current_time())
        if waiting_s * STREAM_OPENS_PER_S > STREAM_OPENS_BURST:
            raise ProtocolViolation("a peer opens streams without end")
        if waiting_s or self._inbound_count >= INBOUND_STREAMS_MAX or self._leaving:
            self.owe(frame(Kind.WINDOW, Flag.RST, stream_id, 0))
            return None
        stream = Stream(self, stream_id, inbound=True, lane=Lane.URGENT)
        self._streams[stream_id] = stream
        self._inbound_count += 1
        self.owe(frame(Kind.WINDOW, Flag.ACK, stream_id, 0))
        self._on_stream(stream)
        return stream

    # Life ---------------------------------------------------------------------------------------

    async def _keep_alive(self) -> None:
        await self._probe()
        while True:
            await trio.sleep(PING_INTERVAL_S)
            self._sweep()
            if trio.current_time() - self._last_heard >= PING_INTERVAL_S:
                await self._probe()

    async def _probe(self) -> None:
        self._ping_id = (self._ping_id + 1) & 0xFFFF_FFFF
        self._pong = trio.Event()
        started = trio.current_time()
        self.owe(frame(Kind.PING, Flag.SYN, 0, self._ping_id))
        while True:
            with trio.move_on_after(PING_TIMEOUT_S):
                await self._pong.wait()
            now = trio.current_time()
            if self._pong.is_set():
                self.rtt_s = now - started
                return
            if now - self._last_heard >= PING_TIMEOUT_S:
                raise ConnectionLost(f"nothing heard for {now - self._last_heard:.0f} s")
            if now - started >= 3 * PING_TIMEOUT_S:
                return  # data flows, only the pong is slow: alive

    def _sweep(self) -> None:
        """Reset streams that the peer leaves half open."""
        oldest = trio.current_time() - ABANDONED_STREAM_S
        for stream in list(self._abandoned()):
            if stream.abandoned_at is not None and stream.abandoned_at < oldest:
                stream.reset("left half open by the peer")

    def _abandoned(self) -> Iterator[Stream]:
        return (s for s in self._streams.values() if s.abandoned_at is not None)

    async def run(self) -> None:
        """Move frames until the connection ends; then raises why.

        `ConnectionLost` in the usual case, `ProtocolViolation` where the peer broke the protocol.
        A cancel closes the connection without a goodbye.
        """
        failure: Exception = ConnectionLost("cancelled")
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write_loop)
                nursery.start_soon(self._keep_alive)
                await self._read_loop()
        except* ProtocolViolation as group:
            failure = _first(group)
        except* ConnectionLost as group:
            failure = _first(group)
        finally:
            self._close(failure)
        raise failure

    def close(self) -> None:
        """Say goodbye after what is queued, then end `run`. Never blocks."""
        if not self._leaving and self._failure is None:
            self._leaving = True
            lane = self._lanes[Lane.BULK]
            stub = Stream(self, 0, inbound=False, lane=Lane.BULK)
            lane.append((stub, frame(Kind.GO_AWAY, 0, 0, GoAway.NORMAL), b""))
            self._lane_bytes[Lane.BULK] += HEADER_BYTES
            self._work.set()

    def abort(self) -> None:
        """End the connection at once."""
        self._close(ConnectionLost("closed by this side"))

    def _close(self, failure: Exception) -> None:
        if self._failure is not None:
            return
        self._failure = failure
        self._leaving = True
        lost = failure if isinstance(failure, ConnectionLost) else ConnectionLost(str(failure))
        for stream in list(self._streams.values()):
            stream.fail(lost)
        self._channel.abort()
        self.budget.forget(self)
        self.closed.set()


def _first(group: BaseExceptionGroup[Exception]) -> Exception:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, Exception)
    return error
