"""Messages of libp2p's circuit relay v2 (`relay/circuit-v2.md`). Does no I/O but reading lengths.

Hop messages go between a relay and whoever uses it, stop messages from a relay to whoever is
dialled through it. One class stands for both: they differ in the numbers of their types and fields.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from multiaddr import Multiaddr

from eigen.node.libp2p import protobuf
from eigen.node.libp2p.errors import ProtocolViolation
from eigen.node.libp2p.identity import ID
from eigen.node.libp2p.multistream import Channel, encode_varint, read_varint

HOP: Final = "/libp2p/circuit/relay/0.2.0/hop"
STOP: Final = "/libp2p/circuit/relay/0.2.0/stop"
MESSAGE_BYTES_MAX: Final = 4096
"""As go-libp2p."""
PEER_ID_BYTES_MAX: Final = 64


class Hop(IntEnum):
    """Types of a hop message."""

    RESERVE = 0
    CONNECT = 1
    STATUS = 2


class Stop(IntEnum):
    """Types of a stop message."""

    CONNECT = 0
    STATUS = 1


class Status(IntEnum):
    """Results; 0 stands for none."""

    UNUSED = 0
    OK = 100
    RESERVATION_REFUSED = 200
    RESOURCE_LIMIT_EXCEEDED = 201
    PERMISSION_DENIED = 202
    CONNECTION_FAILED = 203
    NO_RESERVATION = 204
    MALFORMED_MESSAGE = 400
    UNEXPECTED_MESSAGE = 401


@dataclass(frozen=True, slots=True)
class Message:
    """A hop or stop message; `expire_s` (unix seconds) and `addresses` are of a reservation."""

    type: int
    peer: ID | None = None
    status: int = Status.UNUSED
    expire_s: int = 0
    addresses: tuple[str, ...] = ()


def encode(message: Message, *, hop: bool) -> bytes:
    """Bytes with their length before them."""
    body = protobuf.number(1, message.type)
    if message.peer is not None:
        body += protobuf.field(2, protobuf.field(1, message.peer.to_bytes()))
    if hop and message.expire_s:
        reservation = protobuf.number(1, message.expire_s)
        for address in message.addresses:
            reservation += protobuf.field(2, Multiaddr(address).to_bytes())
        body += protobuf.field(3, reservation)
    if message.status:
        body += protobuf.number(5 if hop else 4, message.status)
    return encode_varint(len(body)) + body


async def read(channel: Channel, *, hop: bool) -> Message:
    """Read one message. Raises `ProtocolViolation` on other bytes."""
    size = await read_varint(channel, MESSAGE_BYTES_MAX)
    body = await channel.read_exactly(size)
    try:
        numbers, fields = dict(protobuf.numbers(body)), dict(protobuf.fields(body))
        peer = dict(protobuf.fields(fields[2])).get(1, b"") if 2 in fields else b""
        expire = dict(protobuf.numbers(fields[3])).get(1, 0) if hop and 3 in fields else 0
    except ValueError as error:
        raise ProtocolViolation(f"circuit relay: {error}") from error
    if 1 not in numbers:
        raise ProtocolViolation("circuit relay: a message without a type")
    if len(peer) > PEER_ID_BYTES_MAX:
        raise ProtocolViolation("circuit relay: a peer id that is too long")
    status = numbers.get(5 if hop else 4, 0)
    return Message(numbers[1], ID(peer) if peer else None, status, expire)
