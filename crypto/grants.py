"""Granting a shard: its data key, wrapped to one recipient by HPKE (RFC 9180, base mode).

The context of a grant is bound to the wrapped key, so that it opens nothing else, for nobody else.
HPKE's base mode does not say who wrapped a key: sign the message that carries it.
"""

from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from eigen.crypto.errors import BadPublicKey, GrantExpired, WrongGrant
from eigen.crypto.sealing import DATA_KEY_BYTES
from eigen.crypto.sealing_key import SealingKeyPair, parse_public_key
from eigen.protocol.types import Address

SUITE: Final = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)

WRAPPED_KEY_BYTES: Final = 1120 + DATA_KEY_BYTES + 16
"""Encapsulation (ML-KEM-768 ciphertext and X25519 key), ciphertext, tag."""

LABEL: Final = b"eigen/grant/1"
TEXT_BYTES_MAX: Final = 256
"""Of a network id or a job's name in a context; both are short identifiers."""


@dataclass(frozen=True, slots=True)
class GrantContext:
    """What a data key is granted for. `job` is the dataset manifest's CID or the job's id."""

    network: str
    job: str
    shard: int
    recipient: Address
    expires_s: int  # unix seconds; the grant is void from then on

    def info(self) -> bytes:
        """HPKE's `info`: each field after its length in two bytes, integers big-endian.

        Raises ValueError for a field that has no encoding.
        """
        texts = [self.network.encode(), self.job.encode()]
        if any(len(text) > TEXT_BYTES_MAX for text in texts):
            raise ValueError(f"network and job take at most {TEXT_BYTES_MAX} bytes")
        if len(self.recipient) != 20:
            raise ValueError(f"an address has 20 bytes, not {len(self.recipient)}")
        if not 0 <= self.shard < 1 << 32 or not 0 <= self.expires_s < 1 << 64:
            raise ValueError("shard takes 32 bits, expires_s 64, both without a sign")
        integers = [self.shard.to_bytes(4), self.recipient, self.expires_s.to_bytes(8)]
        return b"".join(len(field).to_bytes(2) + field for field in (LABEL, *texts, *integers))


def wrap_key(data_key: bytes, recipient_public: bytes, context: GrantContext) -> bytes:
    """Wrap a data key to a recipient's `SealingKeyPair.public_bytes`: 1,168 bytes.

    Randomised: two wraps differ. Raises `BadPublicKey` for what is no public key, ValueError for a
    data key or a context of our own that is malformed.
    """
    if len(data_key) != DATA_KEY_BYTES:
        raise ValueError(f"a data key has {DATA_KEY_BYTES} bytes, not {len(data_key)}")
    info, public_key = context.info(), parse_public_key(recipient_public)
    try:
        return SUITE.encrypt(data_key, public_key, info=info)
    except ValueError as error:  # an X25519 point of low order
        raise BadPublicKey("no key can be agreed with this public key") from error


def unwrap_key(
    wrapped: bytes, key_pair: SealingKeyPair, context: GrantContext, *, now_s: int
) -> bytes:
    """The data key of a grant, for the holder of the key pair.

    Total on a peer's bytes. Raises `GrantExpired` from `expires_s` on, `WrongGrant` where the bytes
    were wrapped to another key, for another context, or were altered.
    """
    if now_s >= context.expires_s:
        raise GrantExpired(f"the grant of shard {context.shard} ended at {context.expires_s}")
    if len(wrapped) != WRAPPED_KEY_BYTES:
        raise WrongGrant(f"a wrapped key has {WRAPPED_KEY_BYTES} bytes, not {len(wrapped)}")
    try:
        info = context.info()
        data_key = SUITE.decrypt(wrapped, key_pair.private_key, info=info)
    except (InvalidTag, ValueError) as error:
        raise WrongGrant("the data key was not wrapped to this key in this context") from error
    return data_key
