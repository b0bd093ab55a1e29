"""The Noise handshake `XX_25519_ChaChaPoly_SHA256` with libp2p's signed payload. Does no I/O.

The Noise Protocol Framework, revision 34, and libp2p's `noise/README.md`. The prologue is empty on
a public network, as libp2p has it; a private network puts its key there, so that a stranger fails
at the first authenticated byte.
"""

import hashlib
import hmac
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from eigen.node.libp2p import protobuf
from eigen.node.libp2p.errors import HandshakeFailed, WrongPeer
from eigen.node.libp2p.identity import ID, NodeKey, peer_of_wrapped_key, verify_signature

NAME: Final = b"Noise_XX_25519_ChaChaPoly_SHA256"  # 32 bytes: it is its own initial hash
SIGNED_PREFIX: Final = b"noise-libp2p-static-key:"
KEY_BYTES: Final = 32
TAG_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Secrets:
    """What a finished handshake yields: the peer, one key a direction, and the transcript hash."""

    peer: ID
    send_key: bytes
    receive_key: bytes
    transcript: bytes


class _Symmetric:
    """The `SymmetricState` of the framework, section 5.2."""

    def __init__(self, prologue: bytes) -> None:
        self.hash = self.chain = NAME
        self.key: ChaCha20Poly1305 | None = None
        self.nonce = 0
        self.mix_hash(prologue)

    def mix_hash(self, data: bytes) -> None:
        self.hash = hashlib.sha256(self.hash + data).digest()

    def mix_key(self, secret: bytes) -> None:
        self.chain, key = _hkdf(self.chain, secret)
        self.key, self.nonce = ChaCha20Poly1305(key), 0

    def seal(self, plaintext: bytes) -> bytes:
        sealed = plaintext
        if self.key is not None:
            sealed = self.key.encrypt(self._next_nonce(), plaintext, self.hash)
        self.mix_hash(sealed)
        return sealed

    def open(self, sealed: bytes) -> bytes:
        plaintext = sealed
        if self.key is not None:
            try:
                plaintext = self.key.decrypt(self._next_nonce(), sealed, self.hash)
            except InvalidTag as error:
                raise HandshakeFailed(
                    "a handshake message is forged, or of another private network"
                ) from error
        self.mix_hash(sealed)
        return plaintext

    def _next_nonce(self) -> bytes:
        nonce = b"\0\0\0\0" + self.nonce.to_bytes(8, "little")
        self.nonce += 1
        return nonce


class Handshake:
    """Three messages: the initiator writes, reads and writes; the responder the other way round."""

    def __init__(
        self, key: NodeKey, static: X25519PrivateKey, *, initiator: bool, prologue: bytes = b""
    ) -> None:
        self._initiator = initiator
        self._static = static
        self._static_public = static.public_key().public_bytes_raw()
        self._ephemeral = X25519PrivateKey.generate()
        self._remote_ephemeral: X25519PublicKey | None = None
        self._remote_static = b""
        self._peer: ID | None = None
        self._state = _Symmetric(prologue)
        signature = key.sign(SIGNED_PREFIX + self._static_public)
        self._payload = encode_payload(key.wrapped_public_key, signature)

    def write_1(self) -> bytes:
        """`-> e`."""
        return self._write_ephemeral() + self._state.seal(b"")

    def read_1(self, message: bytes) -> None:
        """`-> e`."""
        rest = self._read_ephemeral(message)
        self._state.open(rest)

    def write_2(self) -> bytes:
        """`<- e, ee, s, es` and the payload."""
        ephemeral = self._write_ephemeral()
        remote = self._remote()
        self._state.mix_key(_agree(self._ephemeral, remote))
        static = self._state.seal(self._static_public)
        self._state.mix_key(_agree(self._static, remote))
        return ephemeral + static + self._state.seal(self._payload)

    def read_2(self, message: bytes, expected: ID | None) -> None:
        """`<- e, ee, s, es` and the payload. Raises `WrongPeer` if it is not `expected`."""
        rest = self._read_ephemeral(message)
        self._state.mix_key(_agree(self._ephemeral, self._remote()))
        payload = self._read_static(rest, self._ephemeral)
        self._check_payload(payload, expected)

    def write_3(self) -> bytes:
        """`-> s, se` and the payload."""
        static = self._state.seal(self._static_public)
        self._state.mix_key(_agree(self._static, self._remote()))
        return static + self._state.seal(self._payload)

    def read_3(self, message: bytes, expected: ID | None) -> None:
        """`-> s, se` and the payload."""
        payload = self._read_static(message, self._ephemeral)
        self._check_payload(payload, expected)

    def finish(self) -> Secrets:
        """The transport keys. Call after the third message."""
        assert self._peer is not None
        first, second = _hkdf(self._state.chain, b"")
        send, receive = (first, second) if self._initiator else (second, first)
        return Secrets(self._peer, send, receive, self._state.hash)

    def _write_ephemeral(self) -> bytes:
        public = self._ephemeral.public_key().public_bytes_raw()
        self._state.mix_hash(public)
        return public

    def _read_ephemeral(self, message: bytes) -> bytes:
        if len(message) < KEY_BYTES:
            raise HandshakeFailed("a handshake message is too short")
        self._remote_ephemeral = X25519PublicKey.from_public_bytes(message[:KEY_BYTES])
        self._state.mix_hash(message[:KEY_BYTES])
        return message[KEY_BYTES:]

    def _read_static(self, rest: bytes, ours: X25519PrivateKey) -> bytes:
        if len(rest) < KEY_BYTES + 2 * TAG_BYTES:
            raise HandshakeFailed("a handshake message is too short")
        self._remote_static = self._state.open(rest[: KEY_BYTES + TAG_BYTES])
        self._state.mix_key(_agree(ours, X25519PublicKey.from_public_bytes(self._remote_static)))
        return self._state.open(rest[KEY_BYTES + TAG_BYTES :])

    def _check_payload(self, payload: bytes, expected: ID | None) -> None:
        wrapped, signature = decode_payload(payload)
        if not verify_signature(wrapped, SIGNED_PREFIX + self._remote_static, signature):
            raise HandshakeFailed("the peer did not sign its Noise key")
        self._peer = peer_of_wrapped_key(wrapped)
        if expected is not None and self._peer != expected:
            raise WrongPeer(f"asked for {expected}, found {self._peer}")

    def _remote(self) -> X25519PublicKey:
        assert self._remote_ephemeral is not None
        return self._remote_ephemeral


def encode_payload(wrapped_key: bytes, signature: bytes) -> bytes:
    """Protobuf `NoiseHandshakePayload` with `identity_key` (1) and `identity_sig` (2)."""
    return protobuf.field(1, wrapped_key) + protobuf.field(2, signature)


def decode_payload(payload: bytes) -> tuple[bytes, bytes]:
    """Wrapped key and signature; other fields, such as extensions, are skipped."""
    try:
        fields = dict(protobuf.fields(payload))
        return fields[1], fields[2]
    except ValueError as error:
        raise HandshakeFailed(f"a bad handshake payload: {error}") from error
    except KeyError as error:
        raise HandshakeFailed("a handshake payload without key or signature") from error


def _agree(private: X25519PrivateKey, public: X25519PublicKey) -> bytes:
    try:
        return private.exchange(public)
    except ValueError as error:  # a point of small order
        raise HandshakeFailed("an invalid X25519 key") from error


def _hkdf(chain: bytes, secret: bytes) -> tuple[bytes, bytes]:
    """HKDF of the framework, section 4.3, two outputs."""
    temporary = hmac.digest(chain, secret, "sha256")
    first = hmac.digest(temporary, b"\x01", "sha256")
    return first, hmac.digest(temporary, first + b"\x02", "sha256")
