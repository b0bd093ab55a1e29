"""Noise records over a byte stream: many records sealed into one send, one receive opened at once.

The record format is libp2p's: two bytes of length, then ciphertext and tag. Cost is what this file
is about: one buffer for receiving, no lock, no copy but those that the cipher makes.
"""

from collections import deque
from collections.abc import Sequence

import trio
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from eigen.node.libp2p.bounds import (
    NOISE_HANDSHAKE_BYTES_MAX,
    NOISE_RECORD_BYTES_MAX,
)
from eigen.node.libp2p.byte_stream import ByteStream, read_exactly
from eigen.node.libp2p.errors import ConnectionLost, HandshakeFailed, ProtocolViolation
from eigen.node.libp2p.identity import ID, NodeKey
from eigen.node.libp2p.noise_handshake import Handshake, Secrets

TAG_BYTES = 16
PLAIN_BYTES_MAX = NOISE_RECORD_BYTES_MAX - TAG_BYTES
RECEIVE_BYTES = 4 * (NOISE_RECORD_BYTES_MAX + 2)
IDLE_RECEIVE_BYTES = 16 * 1024


class NoiseChannel:
    """An encrypted, authenticated connection to `peer`. One task may read and one may write."""

    def __init__(self, stream: ByteStream, secrets: Secrets) -> None:
        self.peer: ID = secrets.peer
        self.stream = stream
        self._seal = ChaCha20Poly1305(secrets.send_key)
        self._open = ChaCha20Poly1305(secrets.receive_key)
        self._sent = 0
        self._received = 0
        self._buffer = bytearray(IDLE_RECEIVE_BYTES)
        self._have = 0
        self._plain: deque[bytes] = deque()

    def seal(self, data: bytes) -> bytearray:
        """Records for `data`, in wire form; uses up their nonces."""
        total = len(data)
        records = -(-total // PLAIN_BYTES_MAX)
        out = bytearray(total + records * (2 + TAG_BYTES))
        view, source = memoryview(out), memoryview(data)
        at = start = 0
        while start < total:
            size = min(PLAIN_BYTES_MAX, total - start)
            sealed = size + TAG_BYTES
            out[at] = sealed >> 8
            out[at + 1] = sealed & 0xFF
            self._seal.encrypt_into(
                b"\0\0\0\0" + self._sent.to_bytes(8, "little"),
                source[start : start + size],
                None,
                view[at + 2 : at + 2 + sealed],
            )
            self._sent += 1
            start += size
            at += 2 + sealed
        return out

    async def send(self, parts: Sequence[bytes | memoryview]) -> None:
        """Seal the parts as one run of bytes and send them. A cancel breaks the channel."""
        await self.stream.send_all(self.seal(b"".join(parts)))

    async def receive(self) -> list[bytes]:
        """Whatever has arrived, decrypted: at least one piece.

        Raises `ConnectionLost` at the end of the stream, `ProtocolViolation` on a forged record.
        """
        if self._plain:
            pieces = list(self._plain)
            self._plain.clear()
            return pieces
        while True:
            if self._have == len(self._buffer) or self._have == 0:
                self._resize()
            with memoryview(self._buffer) as view, view[self._have :] as free:
                received = await self.stream.receive_into(free)
            if received == 0:
                raise ConnectionLost("the peer closed the connection")
            self._have += received
            pieces = self._open_records()
            if pieces:
                return pieces

    def _resize(self) -> None:
        """Grow to full size when a receive filled the buffer."""
        if len(self._buffer) < RECEIVE_BYTES and self._have == len(self._buffer):
            self._buffer.extend(bytes(RECEIVE_BYTES - len(self._buffer)))

    def _open_records(self) -> list[bytes]:
        buffer, end, at = self._buffer, self._have, 0
        pieces = []
        decrypt = self._open.decrypt
        with memoryview(buffer) as view:
            while end - at >= 2:
                size = buffer[at] << 8 | buffer[at + 1]
                if size < TAG_BYTES:
                    raise ProtocolViolation("a Noise record shorter than its tag")
                if end - at - 2 < size:
                    break
                nonce = b"\0\0\0\0" + self._received.to_bytes(8, "little")
                try:
                    with view[at + 2 : at + 2 + size] as record:
                        piece = decrypt(nonce, record, None)
                except InvalidTag as error:
                    raise ProtocolViolation("a Noise record that does not authenticate") from error
                self._received += 1
                at += 2 + size
                if piece:
                    pieces.append(piece)
        if at:
            buffer[: end - at] = buffer[at:end]
            self._have = end - at
        return pieces

    async def read_exactly(self, count: int) -> bytes:
        """That many bytes; the rest stays for the next read. For negotiation only."""
        out = b""
        while len(out) < count:
            if not self._plain:
                self._plain.extend(await self.receive())
            piece = self._plain.popleft()
            need = count - len(out)
            if len(piece) > need:
                self._plain.appendleft(piece[need:])
                piece = piece[:need]
            out += piece
        return out

    async def write(self, data: bytes) -> None:
        """Send bytes. For negotiation only."""
        await self.send((data,))

    def abort(self) -> None:
        """Close the connection at once."""
        self.stream.abort()


async def secure_outbound(
    stream: ByteStream,
    key: NodeKey,
    static: X25519PrivateKey,
    *,
    expected: ID | None,
    prologue: bytes = b"",
) -> NoiseChannel:
    """Handshake as the dialling side; `expected` is whom the address promises.

    Raises `HandshakeFailed` (`WrongPeer` among them) or `ConnectionLost`.
    """
    handshake = Handshake(key, static, initiator=True, prologue=prologue)
    await _send_message(stream, handshake.write_1())
    handshake.read_2(await _receive_message(stream), expected)
    await _send_message(stream, handshake.write_3())
    return NoiseChannel(stream, handshake.finish())


async def secure_inbound(
    stream: ByteStream, key: NodeKey, static: X25519PrivateKey, *, prologue: bytes = b""
) -> NoiseChannel:
    """Handshake as the listening side. Raises `HandshakeFailed` or `ConnectionLost`."""
    handshake = Handshake(key, static, initiator=False, prologue=prologue)
    handshake.read_1(await _receive_message(stream))
    await _send_message(stream, handshake.write_2())
    handshake.read_3(await _receive_message(stream), None)
    return NoiseChannel(stream, handshake.finish())


async def _send_message(stream: ByteStream, message: bytes) -> None:
    await stream.send_all(len(message).to_bytes(2) + message)


async def _receive_message(stream: ByteStream) -> bytes:
    size = int.from_bytes(await read_exactly(stream, 2))
    if size > NOISE_HANDSHAKE_BYTES_MAX:
        raise HandshakeFailed(f"a handshake message of {size} bytes")
    message = await read_exactly(stream, size)
    await trio.lowlevel.checkpoint()  # public-key operations follow: let others run first
    return message
