"""The two hash functions that peers and contracts share. Knows no encoding of what it hashes."""

import hashlib

from Crypto.Hash import keccak

from eigen.protocol.types import Digest


def keccak256(data: bytes) -> Digest:
    """Keccak-256 with the original padding, as Ethereum uses it (not FIPS 202's SHA3-256)."""
    return Digest(keccak.new(digest_bits=256, data=data).digest())


def sha256(data: bytes) -> Digest:
    """SHA-256 (FIPS 180-4)."""
    return Digest(hashlib.sha256(data).digest())
