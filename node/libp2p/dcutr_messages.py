"""Messages of hole punching (`relay/DCUtR.md` of the libp2p specifications). Does no I/O."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from eigen.node.libp2p import protobuf
from eigen.node.libp2p.bounds import REACH_ADDRESSES_MAX, REACH_MESSAGE_BYTES_MAX
from eigen.node.libp2p.errors import ProtocolViolation
from eigen.node.libp2p.multiaddrs import Endpoint, from_bytes, to_bytes
from eigen.node.libp2p.multistream import Channel, encode_varint, read_varint

DCUTR: Final = "/libp2p/dcutr"


class Kind(IntEnum):
    """Types of a message."""

    CONNECT = 100
    SYNC = 300


@dataclass(frozen=True, slots=True)
class HolePunch:
    """Where its sender may be dialled (CONNECT), or that now is the time (SYNC)."""

    kind: Kind
    addresses: tuple[Endpoint, ...] = ()


def encode(message: HolePunch) -> bytes:
    """The bytes of a message, without their length."""
    addresses = b"".join(protobuf.field(2, to_bytes(address)) for address in message.addresses)
    return protobuf.number(1, message.kind) + addresses


def decode(body: bytes) -> HolePunch:
    """Read one message; addresses that are not IP and TCP are passed over.

    Raises `ProtocolViolation` on other bytes.
    """
    try:
        kind = Kind(dict(protobuf.numbers(body)).get(1, 0))
        texts = [value for key, value in protobuf.fields(body) if key == 2]
    except ValueError as error:
        raise ProtocolViolation(f"dcutr: {error}") from error
    endpoints = map(from_bytes, texts[:REACH_ADDRESSES_MAX])
    return HolePunch(kind, tuple(e for e in endpoints if e is not None))


def frame(message: HolePunch) -> bytes:
    """A message with its length."""
    body = encode(message)
    return encode_varint(len(body)) + body


async def read(channel: Channel, expected: Kind) -> HolePunch:
    """The next message. Raises `ProtocolViolation` where it is another than expected."""
    size = await read_varint(channel, REACH_MESSAGE_BYTES_MAX)
    message = decode(await channel.read_exactly(size))
    if message.kind is not expected:
        raise ProtocolViolation(f"dcutr: {message.kind.name} in place of {expected.name}")
    return message
