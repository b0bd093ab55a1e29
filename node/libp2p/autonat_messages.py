"""Messages of AutoNAT v2 (`autonat/autonat-v2.md` of the libp2p specifications). Does no I/O.

The asker sends a `DialRequest`; the server may want to be paid with data first; then it dials the
asker back, says the nonce there (`DialBack`), and answers with a `DialResponse`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from eigen.node.libp2p import protobuf
from eigen.node.libp2p.bounds import REACH_ADDRESSES_MAX, REACH_MESSAGE_BYTES_MAX
from eigen.node.libp2p.errors import ProtocolViolation
from eigen.node.libp2p.multiaddrs import Endpoint, from_bytes, to_bytes
from eigen.node.libp2p.multistream import Channel, encode_varint, read_varint

DIAL_REQUEST: Final = "/libp2p/autonat/2/dial-request"
DIAL_BACK: Final = "/libp2p/autonat/2/dial-back"


class Status(IntEnum):
    """What became of a request."""

    INTERNAL_ERROR = 0
    REQUEST_REJECTED = 100
    DIAL_REFUSED = 101
    OK = 200


class Dial(IntEnum):
    """What became of the dial."""

    UNUSED = 0
    DIAL_ERROR = 100
    DIAL_BACK_ERROR = 101
    OK = 200


@dataclass(frozen=True, slots=True)
class DialRequest:
    """Addresses to try, the most wanted first; None stands for one that is not IP and TCP."""

    addresses: tuple[Endpoint | None, ...]
    nonce: int


@dataclass(frozen=True, slots=True)
class DialResponse:
    """The outcome; `index` is that of the address that was dialled."""

    status: int
    index: int = 0
    dial: int = Dial.UNUSED


@dataclass(frozen=True, slots=True)
class DialDataRequest:
    """The server wants so many bytes before it dials the address at `index`."""

    index: int
    count: int


@dataclass(frozen=True, slots=True)
class DialDataResponse:
    """Some of those bytes."""

    data: bytes


Message = DialRequest | DialResponse | DialDataRequest | DialDataResponse


def encode(message: Message) -> bytes:
    """The bytes of a message, without their length."""
    match message:
        case DialRequest(addresses, nonce):
            body = b"".join(protobuf.field(1, to_bytes(a)) for a in addresses if a is not None)
            return protobuf.field(1, body + protobuf.fixed64(2, nonce))
        case DialResponse(status, index, dial):
            numbers: Sequence[int] = (status, index, dial)
            body = b"".join(protobuf.number(key, n) for key, n in enumerate(numbers, start=1))
            return protobuf.field(2, body)
        case DialDataRequest(index, count):
            return protobuf.field(3, protobuf.number(1, index) + protobuf.number(2, count))
        case DialDataResponse(data):
            return protobuf.field(4, protobuf.field(1, data))


def decode(body: bytes) -> Message:
    """Read one message. Raises `ProtocolViolation` on other bytes."""
    try:
        return _decode(body)
    except ValueError as error:
        raise ProtocolViolation(f"autonat: {error}") from error


def _decode(body: bytes) -> Message:
    parts = list(protobuf.fields(body))
    if len(parts) != 1:
        raise ValueError("not exactly one message")
    ((kind, inner),) = parts
    numbers = dict(protobuf.numbers(inner))
    match kind:
        case 1:
            texts = [value for key, value in protobuf.fields(inner) if key == 1]
            addresses = tuple(map(from_bytes, texts[:REACH_ADDRESSES_MAX]))
            return DialRequest(addresses, numbers.get(2, 0) % 2**64)
        case 2:
            return DialResponse(numbers.get(1, 0), numbers.get(2, 0), numbers.get(3, 0))
        case 3:
            return DialDataRequest(numbers.get(1, 0), numbers.get(2, 0))
        case 4:
            return DialDataResponse(dict(protobuf.fields(inner)).get(1, b""))
    raise ValueError(f"no message has number {kind}")


def encode_dial_back(nonce: int) -> bytes:
    """What is said on the connection back."""
    return protobuf.fixed64(1, nonce)


def decode_dial_back(body: bytes) -> int:
    """The nonce. Raises `ProtocolViolation` on other bytes."""
    try:
        return dict(protobuf.numbers(body)).get(1, 0)
    except ValueError as error:
        raise ProtocolViolation(f"autonat: {error}") from error


def frame(body: bytes) -> bytes:
    """A message with its length."""
    return encode_varint(len(body)) + body


async def read(channel: Channel) -> bytes:
    """The body of the next message. Raises `ProtocolViolation` where it is too long."""
    return await channel.read_exactly(await read_varint(channel, REACH_MESSAGE_BYTES_MAX))
