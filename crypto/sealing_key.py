"""The key to which shards' data keys are wrapped: ML-KEM-768 and X25519 together.

Shards lie on public storage for years, so a wrapped key must outlast X25519 too: the pair is the
hybrid `MLKEM768-X25519` of HPKE (draft-ietf-hpke-pq), known as X-Wing. Breaking it takes breaking
both. Its private key is a 32-byte seed, expanded as draft-connolly-cfrg-xwing-kem says.
"""

import hashlib
import secrets
from pathlib import Path
from typing import Final, Self

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import MLKEM768X25519PrivateKey, MLKEM768X25519PublicKey

from eigen.crypto.errors import BadPublicKey
from eigen.crypto.keystore import Passphrase, create_key_file, load_key_file

SEED_BYTES: Final = 32
MLKEM_SEED_BYTES: Final = 64  # d ‖ z of FIPS 203
MLKEM_PUBLIC_BYTES: Final = 1184
PUBLIC_BYTES: Final = MLKEM_PUBLIC_BYTES + 32


class SealingKeyPair:
    """A node's key pair for wrapped data keys. Its `repr` shows a fingerprint of the public key."""

    __slots__ = ("private_key", "public_bytes", "secret")

    secret: bytes
    public_bytes: bytes

    def __init__(self, secret: bytes) -> None:
        """The pair of a 32-byte seed. Raises ValueError for another length."""
        if len(secret) != SEED_BYTES:
            raise ValueError(f"a sealing key's seed has {SEED_BYTES} bytes, not {len(secret)}")
        expanded = hashlib.shake_256(secret).digest(MLKEM_SEED_BYTES + 32)
        mlkem = MLKEM768PrivateKey.from_seed_bytes(expanded[:MLKEM_SEED_BYTES])
        x25519 = X25519PrivateKey.from_private_bytes(expanded[MLKEM_SEED_BYTES:])
        self.secret = secret
        self.private_key = MLKEM768X25519PrivateKey(mlkem, x25519)
        self.public_bytes = (
            mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()
        )

    @classmethod
    def generate(cls) -> Self:
        """A fresh pair from the operating system's randomness."""
        return cls(secrets.token_bytes(SEED_BYTES))

    def __repr__(self) -> str:
        return f"SealingKeyPair({hashlib.sha256(self.public_bytes).hexdigest()[:16]})"


def parse_public_key(data: bytes) -> MLKEM768X25519PublicKey:
    """A peer's public key from its 1,216 bytes. Raises `BadPublicKey`."""
    if len(data) != PUBLIC_BYTES:
        raise BadPublicKey(f"a sealing key has {PUBLIC_BYTES} bytes, not {len(data)}")
    try:
        return MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(data[:MLKEM_PUBLIC_BYTES]),
            X25519PublicKey.from_public_bytes(data[MLKEM_PUBLIC_BYTES:]),
        )
    except ValueError as error:
        raise BadPublicKey("not an ML-KEM-768 and X25519 public key") from error


def load_sealing_key(path: Path, passphrase: Passphrase | None = None) -> SealingKeyPair:
    """The pair whose seed a key file holds. Raises a `KeyFileError`."""
    return SealingKeyPair(load_key_file(path, passphrase))


def create_sealing_key(path: Path, passphrase: bytes | None = None) -> SealingKeyPair:
    """A fresh pair, kept in a new key file. Raises a `KeyFileError`."""
    pair = SealingKeyPair.generate()
    create_key_file(path, pair.secret, passphrase)
    return pair
