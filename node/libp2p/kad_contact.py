"""Whom the DHT may ask: a peer, its place in the key space, and where it is dialled. Does no I/O.

What a message says of a peer becomes a contact only where its id holds a secp256k1 key, and keeps
only addresses that can be dialled.
"""

import functools
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from multiaddr import Multiaddr

from eigen.node.libp2p.bounds import KAD_ADDRESSES_TOLD
from eigen.node.libp2p.errors import HandshakeFailed
from eigen.node.libp2p.identity import ID, address_of_peer
from eigen.node.libp2p.kad_messages import PeerRecord
from eigen.node.libp2p.multiaddrs import Endpoint, parse
from eigen.protocol.limits import MULTIADDR_BYTES_MAX
from eigen.protocol.types import Address

BITS: Final = 256
"""Of a place in the key space."""


def place_of(key: bytes) -> int:
    """Where a key, or the bytes of a peer id, lies: its SHA-256 as a number. Distance is XOR."""
    return int.from_bytes(hashlib.sha256(key).digest(), "big")


@dataclass(frozen=True, slots=True)
class Contact:
    """One peer. Endpoints carry no peer id; a relayed one names its relay."""

    peer: ID
    address: Address
    place: int
    endpoints: tuple[Endpoint, ...] = ()


def contact(peer: ID, endpoints: Iterable[Endpoint] = ()) -> Contact:
    """The contact of a peer. Raises `HandshakeFailed` where its id holds no secp256k1 key."""
    raw = peer.to_bytes()
    return Contact(peer, address_of_peer(peer), place_of(raw), tuple(endpoints))


def read_contact(record: PeerRecord, *, loopback: bool) -> Contact | None:
    """What a message says of a peer, or None where that is no peer of ours.

    `loopback` says whether addresses of this machine are kept: only from a peer on it.
    """
    peer = ID(record.peer)
    try:
        named = contact(peer)
    except HandshakeFailed:
        return None
    endpoints = [_endpoint(raw) for raw in record.addresses]
    usable = tuple(
        dict.fromkeys(
            e.anonymous
            for e in endpoints
            if e is not None and e.peer in (None, peer) and (loopback or not e.is_loopback)
        )
    )
    return Contact(named.peer, named.address, named.place, usable)


def write_record(named: Contact, *, loopback: bool, connected: bool) -> PeerRecord:
    """A contact as a message names it; addresses of this machine only where `loopback`."""
    told = [e for e in named.endpoints if loopback or not e.is_loopback][:KAD_ADDRESSES_TOLD]
    return PeerRecord(named.peer.to_bytes(), tuple(map(_bytes, told)), connected)


@functools.lru_cache(maxsize=4096)
def _bytes(endpoint: Endpoint) -> bytes:
    raw: bytes = Multiaddr(endpoint.bare).to_bytes()
    return raw


@functools.lru_cache(maxsize=4096)
def _endpoint(raw: bytes) -> Endpoint | None:
    if len(raw) > MULTIADDR_BYTES_MAX:
        return None
    try:
        endpoint = parse(str(Multiaddr(raw)))
    except Exception:  # the library raises what it likes on a peer's bytes
        return None
    return endpoint if endpoint.port and not endpoint.is_unspecified else None
