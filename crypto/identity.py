"""A node's secp256k1 identity: its address, its signatures, and whose signature a peer's is.

One key is a node's libp2p peer id and its EVM account. Knows no files (`keystore`) and no statement
formats (`eip712`, `statements`): it signs 32-byte digests.
"""

from typing import Final, Self

from coincurve import PrivateKey, PublicKey

from eigen.crypto.errors import BadPublicKey, BadSignature
from eigen.crypto.hashing import keccak256
from eigen.protocol.types import Address, Digest

__all__ = ["SIGNATURE_BYTES", "BadPublicKey", "BadSignature", "Identity", "address_of", "recover"]

SECRET_BYTES: Final = 32
DIGEST_BYTES: Final = 32
PUBLIC_KEY_BYTES: Final = 33  # SEC 1 compressed
SIGNATURE_BYTES: Final = 65  # r (32) | s (32) | v (1)

CURVE_ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
V_OFFSET: Final = 27  # ecrecover takes v in {27, 28}: the parity of R.y plus 27


class Identity:
    """A secp256k1 key pair. Its `repr` shows the address alone, so that it is safe to log."""

    __slots__ = ("_key", "address", "public_key")

    address: Address
    public_key: bytes

    def __init__(self, key: PrivateKey) -> None:
        self._key = key
        self.public_key = key.public_key.format(compressed=True)
        self.address = _address(key.public_key)

    @classmethod
    def generate(cls) -> Self:
        """A fresh key from the operating system's randomness."""
        return cls(PrivateKey())

    @classmethod
    def from_secret(cls, secret: bytes) -> Self:
        """The identity of a 32-byte big-endian scalar in [1, n). Raises ValueError otherwise."""
        if len(secret) != SECRET_BYTES:
            raise ValueError(f"a secp256k1 secret has {SECRET_BYTES} bytes, not {len(secret)}")
        if not 0 < int.from_bytes(secret) < CURVE_ORDER:
            raise ValueError("a secp256k1 secret lies between 1 and the curve's order")
        return cls(PrivateKey(secret))

    @property
    def secret(self) -> bytes:
        """The 32-byte scalar. Keep it out of logs, messages and command lines."""
        return self._key.secret

    def sign(self, digest: Digest) -> bytes:
        """Sign a 32-byte digest: r‖s‖v, 65 bytes, v in {27, 28}, s in the lower half (EIP-2).

        Deterministic (RFC 6979): the same digest gives the same bytes.
        """
        if len(digest) != DIGEST_BYTES:
            raise ValueError(f"a digest has {DIGEST_BYTES} bytes, not {len(digest)}")
        signature = self._key.sign_recoverable(digest, hasher=None)
        return signature[:64] + bytes([signature[64] + V_OFFSET])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Identity) and self.public_key == other.public_key

    def __hash__(self) -> int:
        return hash(self.public_key)

    def __repr__(self) -> str:
        return f"Identity(0x{self.address.hex()})"


def recover(digest: Digest, signature: bytes) -> Address:
    """Who signed a digest, by the rules of Ethereum's ecrecover and OpenZeppelin's ECDSA.

    Total: any bytes give an address or `BadSignature`. A signature with s in the upper half is
    refused, so that nobody but the signer can make a second signature of the same digest.
    """
    if len(digest) != DIGEST_BYTES:
        raise BadSignature(f"a digest has {DIGEST_BYTES} bytes, not {len(digest)}")
    if len(signature) != SIGNATURE_BYTES:
        raise BadSignature(f"a signature has {SIGNATURE_BYTES} bytes, not {len(signature)}")
    s, v = int.from_bytes(signature[32:64]), signature[64]
    if v not in (V_OFFSET, V_OFFSET + 1):
        raise BadSignature(f"v is 27 or 28, not {v}")
    if s > CURVE_ORDER // 2:
        raise BadSignature("s lies in the upper half of the curve's order (EIP-2)")
    compact = signature[:64] + bytes([v - V_OFFSET])
    try:
        key = PublicKey.from_signature_and_message(compact, digest, hasher=None)
    except ValueError as error:
        raise BadSignature("no public key has this signature") from error
    return _address(key)


def address_of(public_key: bytes) -> Address:
    """The address of a SEC 1 public key, compressed (33 bytes) or not (65).

    Raises `BadPublicKey` for anything that is no point of the curve.
    """
    try:
        return _address(PublicKey(bytes(public_key)))
    except ValueError as error:
        raise BadPublicKey("not a secp256k1 public key") from error


def _address(key: PublicKey) -> Address:
    """Keccak-256 of the 64 coordinate bytes, last 20 (yellow paper, appendix F)."""
    return Address(keccak256(key.format(compressed=False)[1:])[12:])
