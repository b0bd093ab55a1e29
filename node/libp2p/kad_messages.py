"""Messages of libp2p's Kademlia DHT (`kad-dht/README.md`). Does no I/O but reading one.

The format is the specification's. Values are not stored here, so the `record` of a message is not
read; signed peer records, which some implementations add, are passed over.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from eigen.node.libp2p import protobuf
from eigen.node.libp2p.bounds import (
    ADDRESSES_PER_PEER_MAX,
    KAD_KEY_BYTES_MAX,
    KAD_MESSAGE_BYTES_MAX,
    KAD_PEER_ID_BYTES_MAX,
    KAD_PEERS_PER_MESSAGE_MAX,
)
from eigen.node.libp2p.errors import ProtocolViolation
from eigen.node.libp2p.multistream import Channel, encode_varint, read_varint

CONNECTED: Final = 1
"""`ConnectionType` of a peer that the sender is connected to."""


class Kind(IntEnum):
    """Types of a message."""

    PUT_VALUE = 0
    GET_VALUE = 1
    ADD_PROVIDER = 2
    GET_PROVIDERS = 3
    FIND_NODE = 4
    PING = 5


@dataclass(frozen=True, slots=True)
class PeerRecord:
    """A peer as a message names it: bytes of its id and of multiaddrs, neither of them checked."""

    peer: bytes
    addresses: tuple[bytes, ...] = ()
    connected: bool = False


@dataclass(frozen=True, slots=True)
class Message:
    """A request or its answer. `key` is a multihash, or a peer id in FIND_NODE."""

    kind: Kind
    key: bytes = b""
    closer: tuple[PeerRecord, ...] = ()
    providers: tuple[PeerRecord, ...] = ()


def encode(message: Message) -> bytes:
    """Bytes with their length before them."""
    body = protobuf.number(1, message.kind)
    if message.key:
        body += protobuf.field(2, message.key)
    body += b"".join(protobuf.field(8, _encode_peer(peer)) for peer in message.closer)
    body += b"".join(protobuf.field(9, _encode_peer(peer)) for peer in message.providers)
    return encode_varint(len(body)) + body


def _encode_peer(peer: PeerRecord) -> bytes:
    body = protobuf.field(1, peer.peer)
    body += b"".join(protobuf.field(2, address) for address in peer.addresses)
    return body + (protobuf.number(3, CONNECTED) if peer.connected else b"")


async def read(channel: Channel) -> Message:
    """Read one message. Raises `ProtocolViolation` on other bytes, and what the channel raises."""
    size = await read_varint(channel, KAD_MESSAGE_BYTES_MAX)
    return decode(await channel.read_exactly(size))


def decode(body: bytes) -> Message:
    """A message without its length. Raises `ProtocolViolation` on other bytes."""
    key = b""
    lists: dict[int, list[PeerRecord]] = {8: [], 9: []}
    try:
        kind = Kind(dict(protobuf.numbers(body)).get(1, Kind.PUT_VALUE))
        for number, value in protobuf.fields(body):
            if number == 2:
                key = value
            elif number in lists:
                lists[number].append(_decode_peer(value))
    except ValueError as error:
        raise ProtocolViolation(f"kad: {error}") from error
    if len(key) > KAD_KEY_BYTES_MAX:
        raise ProtocolViolation("kad: a key that is too long")
    if max(map(len, lists.values())) > KAD_PEERS_PER_MESSAGE_MAX:
        raise ProtocolViolation("kad: a message that names too many peers")
    return Message(kind, key, tuple(lists[8]), tuple(lists[9]))


def _decode_peer(body: bytes) -> PeerRecord:
    """Raises ValueError. Addresses above the bound are passed over."""
    peer = b""
    addresses: list[bytes] = []
    for number, value in protobuf.fields(body):
        if number == 1:
            peer = value
        elif number == 2 and len(addresses) < ADDRESSES_PER_PEER_MAX:
            addresses.append(value)
    if not 0 < len(peer) <= KAD_PEER_ID_BYTES_MAX:
        raise ValueError("a peer without an id, or with one that is too long")
    connected = dict(protobuf.numbers(body)).get(3, 0) == CONNECTED
    return PeerRecord(peer, tuple(addresses), connected)
