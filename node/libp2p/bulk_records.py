"""The record layer of the bulk lane: keys, nonces, framing, truncation. Does no I/O.

Specification and test vectors: `docs/bulk-lane.md`. One AES-256-GCM key for each direction of each
transfer, a counter as nonce, the record's header as associated data.
"""

import hashlib
import hmac
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from eigen.node.libp2p.errors import ProtocolViolation

SECRET_BYTES: Final = 32
TOKEN_BYTES: Final = 16
HEADER_BYTES: Final = 4
TAG_BYTES: Final = 16
MESSAGE_BYTES_MAX: Final = 1024 * 1024
"""Plaintext of one record: an encoded part of 512 KiB of values, or one block, and some."""
RECORDS_MAX: Final = 2**20
"""Records of one key: 1 TiB at most, 2^36 AES blocks, far from GCM's bounds (NIST SP 800-38D)."""
LABEL: Final = b"eigen bulk lane 1"


class Kind(IntEnum):
    """What a record is. Part of its header, so authenticated."""

    READY = 0  # from the listening side: it holds the keys; empty
    DATA = 1  # one message of the application
    END = 2  # from the opener: no more messages follow; empty
    DONE = 3  # from the receiver: it took everything; empty
    ABORT = 4  # from the receiver: it gave up; the reason as text


@dataclass(frozen=True, slots=True)
class Keys:
    """Keys of one transfer as one side uses them."""

    send: bytes
    receive: bytes


def derive(
    opener_secret: bytes, receiver_secret: bytes, binding: bytes, *, is_opener: bool
) -> Keys:
    """HKDF-SHA256 (RFC 5869) over both secrets, salted with `binding`.

    `binding` is the transcript hash of the Noise connection on which the secrets travelled.
    """
    extracted = hmac.digest(binding, opener_secret + receiver_secret, "sha256")
    from_opener = hmac.digest(extracted, LABEL + b" opener" + b"\x01", "sha256")
    from_receiver = hmac.digest(extracted, LABEL + b" receiver" + b"\x01", "sha256")
    if is_opener:
        return Keys(send=from_opener, receive=from_receiver)
    return Keys(send=from_receiver, receive=from_opener)


class Sealer:
    """Makes records of one direction, each under the next nonce."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)
        self._count = 0

    def seal(self, kind: Kind, message: bytes | memoryview, out: bytearray) -> int:
        """Write a record into `out`; returns its length.

        Raises ValueError above `MESSAGE_BYTES_MAX`, OverflowError once the key is used up.
        """
        if len(message) > MESSAGE_BYTES_MAX:
            raise ValueError(f"message: {len(message)} bytes, at most {MESSAGE_BYTES_MAX} allowed")
        header = bytes([kind]) + len(message).to_bytes(3)
        end = HEADER_BYTES + len(message) + TAG_BYTES
        out[:HEADER_BYTES] = header
        with memoryview(out) as view, view[HEADER_BYTES:end] as body:
            self._cipher.encrypt_into(self._next_nonce(), message, header, body)
        return end

    def _next_nonce(self) -> bytes:
        if self._count >= RECORDS_MAX:
            raise OverflowError("the transfer is too long for one key; open another")
        nonce = self._count.to_bytes(12)
        self._count += 1
        return nonce


class Opener:
    """Checks and opens records of one direction, in order."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)
        self._count = 0

    def body_bytes(self, header: bytes | bytearray | memoryview) -> int:
        """How many bytes follow a header. Raises `ProtocolViolation` above the bound."""
        size = int.from_bytes(header[1:HEADER_BYTES])
        if size > MESSAGE_BYTES_MAX:
            raise ProtocolViolation(f"a bulk record of {size} bytes")
        return size + TAG_BYTES

    def open(self, header: bytes, body: bytes | memoryview) -> tuple[Kind, bytes]:
        """The record's kind and message. Raises `ProtocolViolation` on any other bytes."""
        if self._count >= RECORDS_MAX:
            raise ProtocolViolation("a bulk transfer with too many records")
        nonce = self._count.to_bytes(12)
        try:
            message = self._cipher.decrypt(nonce, body, header)
            kind = Kind(header[0])
        except InvalidTag as error:
            raise ProtocolViolation("a bulk record that does not authenticate") from error
        except ValueError as error:
            raise ProtocolViolation(f"a bulk record of kind {header[0]}") from error
        self._count += 1
        return kind, message


def token_id(token: bytes) -> bytes:
    """What the listening side files a token under: a lookup takes no secret-dependent time."""
    return hashlib.sha256(token).digest()
