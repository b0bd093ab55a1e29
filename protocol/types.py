"""Names for the byte strings that every folder passes around."""

from typing import NewType

Address = NewType("Address", bytes)
"""20 bytes: the end of keccak256 of a secp256k1 public key. A node's name on wire and chain."""

Digest = NewType("Digest", bytes)
"""32 bytes: a SHA-256 or keccak256 output; the field that holds it says which."""

RunId = NewType("RunId", bytes)
"""32 bytes: SHA-256 over a domain tag and the canonical run spec; the stream id on the ledger."""

Cid = NewType("Cid", str)
"""CIDv1 in base32 (multibase `b`), sha2-256, codec raw or dag-pb."""


def short(value: bytes | str) -> str:
    """First eight characters of an identifier, for logs and tables."""
    text = value.hex() if isinstance(value, bytes) else value
    return text[:8] if isinstance(value, bytes) else text[-8:]
