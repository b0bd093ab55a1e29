"""Signed gossip: who said these bytes, on which network and under which topic."""

import hashlib

from eigen.crypto.errors import BadSignature
from eigen.crypto.identity import Identity, recover
from eigen.protocol.messages import Envelope
from eigen.protocol.types import Address, Digest

_DOMAIN = b"eigen/envelope/1"


def envelope_digest(network_id: str, topic: str, payload: bytes) -> Digest:
    """SHA-256 over length-prefixed domain, network, topic and payload: what the author signs."""
    h = hashlib.sha256()
    for part in (_DOMAIN, network_id.encode(), topic.encode(), payload):
        h.update(len(part).to_bytes(4, "big") + part)
    return Digest(h.digest())


def sign_envelope(identity: Identity, network_id: str, topic: str, payload: bytes) -> Envelope:
    """The payload with its author's signature."""
    return Envelope(payload, identity.sign(envelope_digest(network_id, topic, payload)))


def author_of(envelope: Envelope, network_id: str, topic: str) -> Address:
    """Who signed it for this network and topic. Raises `BadSignature`.

    Any 65 bytes recover to *some* address: whether that one may speak is the caller's to decide.
    """
    digest = envelope_digest(network_id, topic, envelope.payload)
    return recover(digest, envelope.signature)


__all__ = ["BadSignature", "author_of", "envelope_digest", "sign_envelope"]
