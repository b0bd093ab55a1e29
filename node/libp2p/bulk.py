"""Bulk transfers: agreed on over a libp2p stream, carried on a TCP connection of their own.

The side that dialled the libp2p connection dials the same port once more, so whatever is reachable
for control is reachable for bulk. Where that fails, the same records travel on the libp2p stream.
"""

import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Final, TypeVar

import trio

from eigen.node.libp2p.bulk_records import (
    SECRET_BYTES,
    TOKEN_BYTES,
    Keys,
    Kind,
    derive,
    token_id,
)
from eigen.node.libp2p.bulk_transfer import Incoming, Outgoing, Records
from eigen.node.libp2p.byte_stream import ByteStream, read_exactly
from eigen.node.libp2p.connection import Connection, Served
from eigen.node.libp2p.errors import (
    ConnectionLost,
    Libp2pError,
    NotSupported,
    ProtocolViolation,
    StreamReset,
)
from eigen.node.libp2p.give_way import Uplink
from eigen.node.libp2p.multiaddrs import Endpoint
from eigen.node.libp2p.multistream import encode_varint, read_varint
from eigen.node.libp2p.rate import Pacer
from eigen.node.libp2p.stream_bytes import StreamBytes
from eigen.node.libp2p.swarm import LANE_FIRST_BYTE, Swarm
from eigen.node.libp2p.yamux_stream import Lane, Stream
from eigen.node.ports import NetworkError, PeerUnreachable, RequestRefused, RequestTimeout
from eigen.protocol import wire
from eigen.protocol.limits import TEXT_BYTES_MAX
from eigen.protocol.types import Address

M = TypeVar("M")

log = logging.getLogger(__name__)

PROTOCOL: Final = "/eigen/bulk/1"
MAGIC: Final = LANE_FIRST_BYTE + b"EIGBULK"
"""First bytes of a lane, before the token."""
OFFER_BYTES_MAX: Final = 8 * 1024
"""A protocol name, a header of 4 KiB, a secret and a token."""
HEADER_BYTES_MAX: Final = 4096
LANE_TIMEOUT_S: Final = 3.0
"""To set up a lane; then the transfer goes over the libp2p stream."""
OFFER_TIMEOUT_S: Final = 30.0
"""From a stream's opening to the receiver's answer."""
TRANSFERS_PER_PEER_MAX: Final = 16
"""Inbound transfers of one peer; each holds up to 2.3 MB of buffers."""
GIVE_UP_S: Final = 1.0
"""How long a handler may go on once its opener has left."""
WAITING_MAX: Final = 1024
"""Tokens of lanes that are expected."""

ON_LANE: Final = b"\x01"
ON_STREAM: Final = b"\x00"


@dataclass(frozen=True, slots=True)
class Offer:
    """What the opener says first."""

    protocol: wire.Text
    header: Annotated[bytes, wire.Length(HEADER_BYTES_MAX)]
    secret: Annotated[bytes, wire.exactly(SECRET_BYTES)]
    token: Annotated[bytes, wire.exactly(TOKEN_BYTES)]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the receiver says then. A refusal has a reason and nothing else that counts."""

    refused: wire.Text
    offset: wire.U64
    secret: Annotated[bytes, wire.exactly(SECRET_BYTES)]
    token: Annotated[bytes, wire.exactly(TOKEN_BYTES)]


class Reader:
    """The receiver's end, as its handler sees it: see `ports.BulkReader`."""

    def __init__(self, accept: Callable[[int], Awaitable[Incoming]]) -> None:
        self._accept = accept
        self.incoming: Incoming | None = None

    async def accept(self, offset: int = 0) -> None:
        """See `ports.BulkReader.accept`."""
        if self.incoming is not None:
            raise RuntimeError("the transfer is accepted already")
        self.incoming = await self._accept(offset)

    async def receive(self, *, timeout_s: float) -> bytes | None:
        """See `ports.BulkReader.receive`."""
        if self.incoming is None:
            await self.accept()
        assert self.incoming is not None
        return await self.incoming.receive(timeout_s=timeout_s)


Handler = Callable[[Address, bytes, Reader], Awaitable[None]]


class Bulk:
    """Opens transfers over a swarm, and serves those that peers open."""

    def __init__(self, swarm: Swarm, upload: Pacer, download: Pacer) -> None:
        self._swarm = swarm
        self._entropy = swarm.around.entropy
        self._upload = upload
        self._download = download
        self._handlers: dict[str, Handler] = {}
        self._expected: dict[bytes, _Expected] = {}
        self._inbound: dict[Address, int] = {}
        self._uplink = Uplink()
        self.lanes = self.fallbacks = 0
        swarm.served[PROTOCOL] = Served(self._serve)
        swarm.take_lane = self._take_lane

    def handle(self, protocol: str, handler: Handler) -> None:
        """Serve a protocol. Raises ValueError the second time."""
        if protocol in self._handlers:
            raise ValueError(f"protocol: {protocol!r} is served already")
        self._handlers[protocol] = handler

    # Opener -------------------------------------------------------------------------------------

    @asynccontextmanager
    async def open(
        self, peer: Address, protocol: str, header: bytes, *, timeout_s: float
    ) -> AsyncIterator[Outgoing]:
        """See `ports.Network.open_bulk`."""
        connection = self._swarm.connection(peer)
        if connection is None:
            raise PeerUnreachable("the peer is not connected", peer)
        stream: Stream | None = None
        records: Records | None = None
        try:
            try:
                with trio.fail_after(timeout_s):
                    stream, _ = await connection.open([PROTOCOL], lane=Lane.BULK)
                    records, offset = await self._set_up(connection, stream, protocol, header)
            except trio.TooSlowError as error:
                raise RequestTimeout(f"{protocol}: no answer in {timeout_s} s", peer) from error
            except NotSupported as error:
                raise RequestRefused("the peer takes no bulk transfers", peer) from error
            except Libp2pError as error:
                raise PeerUnreachable(f"{protocol}: {error}", peer) from error
            yield Outgoing(peer, records, self._upload, offset)
        finally:
            if records is not None:
                records.abort()
            if stream is not None:
                stream.reset("bulk transfer over")

    async def _set_up(
        self, connection: Connection, stream: Stream, protocol: str, header: bytes
    ) -> tuple[Records, int]:
        secret, token = self._entropy(SECRET_BYTES), self._entropy(TOKEN_BYTES)
        with self._expect(token) as expected:
            await _write(stream, Offer(protocol, header, secret, token))
            answer = await _read(stream, Answer)
            if answer.refused:
                raise RequestRefused(answer.refused, connection.address)
            keys = derive(secret, answer.secret, connection.binding, is_opener=True)
            records = await self._carrier(connection, stream, keys, answer.token, expected)
        return records, answer.offset

    # Receiver -----------------------------------------------------------------------------------

    async def _serve(self, connection: Connection, stream: Stream) -> None:
        peer = connection.address
        if self._inbound.get(peer, 0) >= TRANSFERS_PER_PEER_MAX:
            await _write(stream, _refusal("too many transfers at a time"))
            return
        self._inbound[peer] = self._inbound.get(peer, 0) + 1
        try:
            await self._serve_one(connection, stream)
        finally:
            self._inbound[peer] -= 1
            if not self._inbound[peer]:
                del self._inbound[peer]

    async def _serve_one(self, connection: Connection, stream: Stream) -> None:
        offer: Offer | None = None
        with trio.move_on_after(OFFER_TIMEOUT_S):
            offer = await _read(stream, Offer)
        if offer is None:
            raise StreamReset("no offer came")
        handler = self._handlers.get(offer.protocol)
        if handler is None:
            await _write(stream, _refusal(f"the peer does not serve {offer.protocol}"))
            return
        accepted: list[Records] = []

        async def accept(offset: int) -> Incoming:
            records = await self._accept(connection, stream, offer, offset)
            accepted.append(records)
            return Incoming(connection.address, records, self._download)

        reader = Reader(accept)

        async def give_up_with_the_opener() -> None:
            await stream.wait_failed()
            for records in accepted:
                records.abort()  # whoever reads gets an error
            await trio.sleep(GIVE_UP_S)
            nursery.cancel_scope.cancel()

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(give_up_with_the_opener)
                await self._handle(connection, stream, offer.header, handler, reader)
                nursery.cancel_scope.cancel()
        finally:
            for records in accepted:
                records.close()

    async def _handle(
        self,
        connection: Connection,
        stream: Stream,
        header: bytes,
        handler: Handler,
        reader: Reader,
    ) -> None:
        """Run the handler; whatever it raises ends here."""
        try:
            await handler(connection.address, header, reader)
            if reader.incoming is not None:
                await reader.incoming.confirm()
        except RequestRefused as refusal:
            await self._refuse(stream, reader, str(refusal))
        except (NetworkError, ConnectionLost) as error:
            log.debug("a bulk transfer of %s ended: %s", connection.peer, error)
        except Exception:
            log.exception("a bulk handler failed (peer %s)", connection.peer)
            await self._refuse(stream, reader, "internal error")

    async def _refuse(self, stream: Stream, reader: Reader, reason: str) -> None:
        with contextlib.suppress(Libp2pError), trio.move_on_after(LANE_TIMEOUT_S):
            if reader.incoming is None:
                await _write(stream, _refusal(reason))
            else:
                await reader.incoming.refuse(reason)

    async def _accept(
        self, connection: Connection, stream: Stream, offer: Offer, offset: int
    ) -> Records:
        secret, token = self._entropy(SECRET_BYTES), self._entropy(TOKEN_BYTES)
        keys = derive(offer.secret, secret, connection.binding, is_opener=False)
        try:
            with trio.fail_after(OFFER_TIMEOUT_S), self._expect(token) as expected:
                await _write(stream, Answer("", offset, secret, token))
                return await self._carrier(connection, stream, keys, offer.token, expected)
        except (trio.TooSlowError, Libp2pError) as error:
            raise PeerUnreachable(f"no lane: {error}", connection.address) from error

    # Lanes --------------------------------------------------------------------------------------

    async def _carrier(
        self,
        connection: Connection,
        stream: Stream,
        keys: Keys,
        their_token: bytes,
        expected: "_Expected",
    ) -> Records:
        """Records on a lane if one can be made within the time, else on the stream."""
        if connection.outbound:
            records = None
            if connection.remote.relay is None and not connection.punched:
                records = await self._dial_lane(connection.remote, keys, their_token)
            await stream.write(ON_STREAM if records is None else ON_LANE)
        else:
            expected.arm(keys)
            choice = await stream.read_exactly(1)
            records = await expected.take() if choice == ON_LANE else None
        if records is not None:
            self.lanes += 1
            return records
        self.fallbacks += 1
        return Records(StreamBytes(stream, connection.remote), keys)

    async def _dial_lane(self, remote: Endpoint, keys: Keys, their_token: bytes) -> Records | None:
        carrier: ByteStream | None = None
        ready: Records | None = None
        try:
            with trio.move_on_after(LANE_TIMEOUT_S):
                carrier = await self._swarm.around.transport.dial(remote)
                carrier.mark_as_bulk(self._uplink)
                await carrier.send_all(MAGIC + their_token)
                records = Records(carrier, keys)
                kind, _ = await records.receive()
                if kind is Kind.READY:
                    ready = records
        except Libp2pError as error:
            log.info("no bulk lane to %s (%s): the transfer goes over libp2p", remote, error)
        finally:
            if ready is None and carrier is not None:
                carrier.abort()
        return ready

    async def _take_lane(self, stream: ByteStream) -> None:
        """A connection that began with `LANE_FIRST_BYTE`: hand it to whoever expects it."""
        kept = False
        try:
            with trio.move_on_after(LANE_TIMEOUT_S):
                rest = await read_exactly(stream, len(MAGIC) - 1 + TOKEN_BYTES)
                magic, token = rest[: len(MAGIC) - 1], rest[len(MAGIC) - 1 :]
                expected = self._expected.pop(token_id(token), None)
                if magic == MAGIC[1:] and expected is not None:
                    kept = await expected.arrive(stream)
        except Libp2pError as error:
            log.debug("a bulk lane from %s: %s", stream.remote_ip, error)
        finally:
            if not kept:
                stream.abort()

    @contextlib.contextmanager
    def _expect(self, token: bytes) -> Iterator["_Expected"]:
        """Take a lane with this token, once, while in the context."""
        if len(self._expected) >= WAITING_MAX:
            raise ConnectionLost("too many bulk transfers are being set up")
        key = token_id(token)
        expected = self._expected[key] = _Expected(self._uplink)
        try:
            yield expected
        finally:
            self._expected.pop(key, None)
            expected.close()


class _Expected:
    """A lane that the other side is to open."""

    def __init__(self, uplink: Uplink) -> None:
        self._uplink = uplink
        self._armed = trio.Event()
        self._greeted = trio.Event()
        self._keys: Keys | None = None
        self._records: Records | None = None
        self._closed = False

    def arm(self, keys: Keys) -> None:
        """The keys are known: a lane may be greeted."""
        self._keys = keys
        self._armed.set()

    async def arrive(self, stream: ByteStream) -> bool:
        """The lane is there: prove to it that this side has the keys. False: nobody wants it."""
        await self._armed.wait()
        if self._closed or self._keys is None:
            return False
        stream.mark_as_bulk(self._uplink)
        records = Records(stream, self._keys)
        self._records = records
        try:
            await records.send(Kind.READY)
        finally:
            self._greeted.set()
        return True

    async def take(self) -> Records | None:
        """The lane, if one came. The other side may have the greeting before `arrive` goes on."""
        if self._records is not None:
            await self._greeted.wait()
        records, self._records = self._records, None
        return records

    def close(self) -> None:
        """No lane is expected any more; one that came and was not taken is closed."""
        self._closed = True
        self._armed.set()
        if self._records is not None:
            self._records.abort()


async def _write(stream: Stream, message: Offer | Answer) -> None:
    body = wire.encode_bare(message)
    await stream.write(encode_varint(len(body)) + body)


async def _read(stream: Stream, kind: type[M]) -> M:
    size = await read_varint(stream, OFFER_BYTES_MAX)
    body = await stream.read_exactly(size)
    try:
        return wire.decode_bare(body, kind, bytes_max=OFFER_BYTES_MAX)
    except wire.WireError as error:
        raise ProtocolViolation(f"bulk: {error}") from error


def _refusal(reason: str) -> Answer:
    text = reason.encode()[:TEXT_BYTES_MAX].decode(errors="ignore") or "refused"
    return Answer(text, 0, bytes(SECRET_BYTES), bytes(TOKEN_BYTES))
