"""Peer ids and addresses of one secp256k1 key. Knows no connection.

A libp2p peer id of a secp256k1 key is the identity multihash of the protobuf-wrapped public key
(libp2p specs, `peer-ids.md`), so the key, and with it the account, is read from the id alone.
"""

import functools
from typing import Final

import coincurve
from libp2p.crypto.serialization import deserialize_public_key
from libp2p.peer.id import ID

from eigen.crypto.errors import BadPublicKey
from eigen.crypto.identity import Identity, address_of
from eigen.node.libp2p.errors import BadMultiaddr, HandshakeFailed
from eigen.protocol.types import Address

__all__ = ["ID", "NodeKey", "address_of_peer", "peer_from_text", "verify_signature"]

KEY_PREFIX: Final = b"\x08\x02\x12\x21"
"""Protobuf `PublicKey { Type = Secp256k1, Data = 33 bytes }`."""
ID_PREFIX: Final = b"\x00\x25"
"""Identity multihash of 37 bytes."""


class NodeKey:
    """This node's key: its peer id, its address, and signatures as libp2p wants them (DER)."""

    __slots__ = ("_key", "address", "peer_id", "wrapped_public_key")

    def __init__(self, secret: bytes) -> None:
        identity = Identity.from_secret(secret)
        self._key = coincurve.PrivateKey(secret)
        self.address: Address = identity.address
        self.wrapped_public_key: bytes = KEY_PREFIX + identity.public_key
        self.peer_id = ID(ID_PREFIX + self.wrapped_public_key)

    def sign(self, data: bytes) -> bytes:
        """ECDSA over SHA-256 of the data, DER."""
        return self._key.sign(data)

    def __repr__(self) -> str:
        return f"NodeKey({self.peer_id})"


@functools.lru_cache(maxsize=8192)
def _address_of_id(raw: bytes) -> Address:
    if len(raw) != 39 or not raw.startswith(ID_PREFIX + KEY_PREFIX):
        raise HandshakeFailed("the peer id does not hold a secp256k1 key")
    try:
        return address_of(raw[6:])
    except BadPublicKey as error:
        raise HandshakeFailed("the peer id holds no point of secp256k1") from error


def address_of_peer(peer: ID) -> Address:
    """The account that a peer id belongs to. Raises `HandshakeFailed` for other key types."""
    return _address_of_id(peer.to_bytes())


def peer_from_text(text: str) -> ID:
    """Parse a peer id (base58 or multibase). Raises `BadMultiaddr`."""
    try:
        return ID.from_string(text)
    except ValueError as error:
        raise BadMultiaddr(text, "not a peer id") from error


def peer_of_wrapped_key(wrapped: bytes) -> ID:
    """The peer id of a protobuf-wrapped public key of any type. Raises `HandshakeFailed`."""
    if wrapped.startswith(KEY_PREFIX) and len(wrapped) == 37:
        return ID(ID_PREFIX + wrapped)
    try:
        return ID.from_pubkey(deserialize_public_key(wrapped))
    except Exception as error:  # the parsers raise what they like on a peer's bytes
        raise HandshakeFailed("not a public key") from error


def verify_signature(wrapped: bytes, data: bytes, signature: bytes) -> bool:
    """Whether a wrapped public key signed the data. Total: malformed input is False."""
    try:
        if wrapped.startswith(KEY_PREFIX) and len(wrapped) == 37:
            return coincurve.PublicKey(wrapped[4:]).verify(signature, data)
        return deserialize_public_key(wrapped).verify(data, signature)
    except Exception:  # `verify` raises on a malformed signature where False is meant
        return False
