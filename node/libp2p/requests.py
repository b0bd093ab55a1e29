"""One request, one reply, on a stream of its own.

On the wire, after the stream's negotiation: a length and the request; back come one byte of status,
a length, and the reply or the reason of a refusal. A reply that the connection cuts short is
noticed by its length.
"""

import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from eigen.node.libp2p.bounds import (
    HANDLER_TIMEOUT_S,
    HANDLERS_PER_PEER_MAX,
    REFUSAL_BYTES_MAX,
    TRANSFER_FLOOR_BYTES_PER_S,
    TRANSFER_GRACE_S,
)
from eigen.node.libp2p.connection import Connection
from eigen.node.libp2p.errors import (
    ConnectionLost,
    NotSupported,
    ProtocolViolation,
    StreamReset,
)
from eigen.node.libp2p.multistream import encode_varint, read_varint
from eigen.node.libp2p.swarm import Swarm
from eigen.node.libp2p.yamux_stream import Lane, Stream
from eigen.node.ports import (
    PeerUnreachable,
    ReplyTooLarge,
    RequestHandler,
    RequestRefused,
    RequestTimeout,
)
from eigen.protocol.types import Address

log = logging.getLogger(__name__)

OK: Final = b"\x00"
REFUSED: Final = b"\x01"
INTERNAL_ERROR: Final = "internal error"
URGENT_BYTES_MAX: Final = 64 * 1024
"""Replies wanted above this size travel behind the others."""

Penalize = Callable[[Address, float, str], None]


def transfer_timeout_s(size: int) -> float:
    """The longest that a transfer of this many bytes may take."""
    return TRANSFER_GRACE_S + size / TRANSFER_FLOOR_BYTES_PER_S


class Requests:
    """Sends requests over a swarm, and bounds how many of one peer are worked on."""

    def __init__(self, swarm: Swarm) -> None:
        self._swarm = swarm
        self._busy: dict[Address, trio.Semaphore] = {}
        self._waiting: dict[Address, int] = {}

    def handler(
        self, handle: RequestHandler, *, request_bytes_max: int
    ) -> Callable[[Connection, Stream], Awaitable[None]]:
        """The stream handler that serves `handle`."""

        async def serve(connection: Connection, stream: Stream) -> None:
            async with _Place(self, connection.address):
                await _serve_one(connection, stream, handle, request_bytes_max)

        return serve

    async def request(
        self,
        peer: Address,
        protocol: str,
        payload: bytes,
        *,
        reply_bytes_max: int,
        timeout_s: float,
    ) -> bytes:
        """See `ports.Network.request`."""
        stream: Stream | None = None
        lane = Lane.URGENT if reply_bytes_max <= URGENT_BYTES_MAX else Lane.BULK
        try:
            with trio.move_on_after(timeout_s):
                frame = encode_varint(len(payload))
                lazily = frame + payload if len(payload) <= URGENT_BYTES_MAX else b""
                stream, _ = await self._swarm.open(peer, [protocol], lane=lane, lazily=lazily)
                if not lazily:
                    await stream.write(frame)
                    await stream.write(payload)
                stream.close_write()
                reply = await _read_reply(stream, reply_bytes_max, peer)
                stream.close()
                stream = None
                return reply
        except (ConnectionLost, StreamReset) as error:
            raise PeerUnreachable(f"{protocol}: {error}", peer) from error
        except NotSupported as error:
            raise RequestRefused(f"the peer does not serve {protocol}", peer) from error
        except ProtocolViolation as violation:
            self._swarm.penalize(peer, violation.cost, str(violation))
            raise PeerUnreachable(f"{protocol}: {violation}", peer) from violation
        finally:
            if stream is not None:
                stream.reset("the request was given up")
        raise RequestTimeout(f"{protocol}: no whole reply in {timeout_s} s", peer)


class _Place:
    """One of a peer's places for requests being worked on."""

    def __init__(self, requests: Requests, peer: Address) -> None:
        self._requests = requests
        self._peer = peer

    async def __aenter__(self) -> None:
        waiting = self._requests._waiting
        waiting[self._peer] = waiting.get(self._peer, 0) + 1
        semaphore = self._requests._busy.setdefault(
            self._peer, trio.Semaphore(HANDLERS_PER_PEER_MAX)
        )
        try:
            await semaphore.acquire()
        except BaseException:
            self._left()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._requests._busy[self._peer].release()
        self._left()

    def _left(self) -> None:
        waiting = self._requests._waiting
        waiting[self._peer] -= 1
        if not waiting[self._peer]:
            del waiting[self._peer]
            del self._requests._busy[self._peer]


async def _serve_one(
    connection: Connection, stream: Stream, handle: RequestHandler, request_bytes_max: int
) -> None:
    size = -1
    with trio.move_on_after(TRANSFER_GRACE_S):
        size = await read_varint(stream, request_bytes_max)
    if size < 0:
        raise StreamReset("no request came")
    payload: bytes | None = None
    with trio.move_on_after(transfer_timeout_s(size)):
        payload = await stream.read_exactly(size)
    if payload is None:
        raise StreamReset("the request came too slowly")
    with trio.move_on_after(HANDLER_TIMEOUT_S) as answering:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when_reset, stream, nursery.cancel_scope)
            await _answer(connection, stream, handle, payload)
            nursery.cancel_scope.cancel()
    if answering.cancelled_caught:
        raise StreamReset("the reply took too long")


async def _cancel_when_reset(stream: Stream, scope: trio.CancelScope) -> None:
    """The requester has given up: nobody waits for the handler any more."""
    await stream.wait_failed()
    scope.cancel()


async def _answer(
    connection: Connection, stream: Stream, handle: RequestHandler, payload: bytes
) -> None:
    try:
        status, body = OK, await handle(connection.address, payload)
    except RequestRefused as refusal:
        status, body = REFUSED, str(refusal).encode()[:REFUSAL_BYTES_MAX]
    except Exception:
        log.exception("a request handler failed (peer %s)", connection.peer)
        status, body = REFUSED, INTERNAL_ERROR.encode()
    if len(body) > URGENT_BYTES_MAX:
        stream.lane = Lane.BULK
    with contextlib.suppress(StreamReset):  # the requester has given up
        await stream.write(status + encode_varint(len(body)))
        await stream.write(body)
        stream.close_write()


async def _read_reply(stream: Stream, reply_bytes_max: int, peer: Address) -> bytes:
    status = await stream.read_exactly(1)
    if status == REFUSED:
        size = await read_varint(stream, REFUSAL_BYTES_MAX)
        reason = (await stream.read_exactly(size)).decode(errors="replace")
        raise RequestRefused(reason, peer)
    if status != OK:
        raise ProtocolViolation(f"a reply with status {status[0]}")
    size = await read_varint(stream, 2**62)
    if size > reply_bytes_max:
        raise ReplyTooLarge(f"a reply of {size} bytes, {reply_bytes_max} allowed", peer)
    return await stream.read_exactly(size)
