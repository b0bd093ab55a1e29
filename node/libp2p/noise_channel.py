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
    BATCH_BYTES_MAX,
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
SMALL_RECEIVES = 64
"""So many small receives in a row, and the bulk is over."""
SMALL_SEND_BYTES = 8 * 1024
SEND_BUFFER_BYTES = 2 * BATCH_BYTES_MAX


POOL_BUFFERS_MAX = 8
"""Buffers kept for the next send; a fresh one costs 64 page faults."""

_PLAIN = bytearray(PLAIN_BYTES_MAX)  # gathers one record; used only between two awaits
_pool: list[bytearray] = []


def sealed_bytes(plain_bytes: int) -> int:
    """How long this many bytes are as records."""
    return plain_bytes + -(-plain_bytes // PLAIN_BYTES_MAX) * (2 + TAG_BYTES)


def _take_buffer(size: int) -> bytearray:
    if size <= SMALL_SEND_BYTES or size > SEND_BUFFER_BYTES:
        return bytearray(size)
    return _pool.pop() if _pool else bytearray(SEND_BUFFER_BYTES)


def _give_buffer(buffer: bytearray) -> None:
    if len(buffer) == SEND_BUFFER_BYTES and len(_pool) < POOL_BUFFERS_MAX:
        _pool.append(buffer)


class NoiseChannel:
    """An encrypted, authenticated connection to `peer`. One task may read and one may write."""

    def __init__(self, stream: ByteStream, secrets: Secrets) -> None:
        self.peer: ID = secrets.peer
        self.transcript = secrets.transcript
        self.stream = stream
        self._seal = ChaCha20Poly1305(secrets.send_key)
        self._open = ChaCha20Poly1305(secrets.receive_key)
        self._sent = 0
        self._received = 0
        self._buffer = bytearray(IDLE_RECEIVE_BYTES)
        self._have = 0
        self._small = 0  # receives in a row that a small buffer would have held
        self._plain: deque[bytes] = deque()

    def seal(self, parts: Sequence[bytes | memoryview], out: bytearray) -> int:
        """Write records for the joined parts into `out`; returns how long they are."""
        total = sum(map(len, parts))
        assert sealed_bytes(total) <= len(out)
        at = filled = 0
        with memoryview(out) as sealed, memoryview(_PLAIN) as plain:
            for part in parts:
                size, start = len(part), 0
                while start < size:
                    take = min(size - start, PLAIN_BYTES_MAX - filled)
                    plain[filled : filled + take] = part[start : start + take]
                    filled += take
                    start += take
                    if filled == PLAIN_BYTES_MAX:
                        at = self._seal_record(plain, filled, sealed, at)
                        filled = 0
            if filled:
                at = self._seal_record(plain, filled, sealed, at)
        return at

    def _seal_record(self, plain: memoryview, size: int, out: memoryview, at: int) -> int:
        end = at + 2 + size + TAG_BYTES
        out[at : at + 2] = (size + TAG_BYTES).to_bytes(2)
        nonce = b"\0\0\0\0" + self._sent.to_bytes(8, "little")
        self._seal.encrypt_into(nonce, plain[:size], None, out[at + 2 : end])
        self._sent += 1
        return end

    async def send(self, parts: Sequence[bytes | memoryview]) -> None:
        """Seal the parts as one run of bytes and send them. A cancel breaks the channel."""
        out = _take_buffer(sealed_bytes(sum(map(len, parts))))
        length = self.seal(parts, out)
        with memoryview(out) as view, view[:length] as records:
            await self.stream.send_all(records)
        _give_buffer(out)

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
            if len(self._buffer) > IDLE_RECEIVE_BYTES:
                self._small = 0 if received > IDLE_RECEIVE_BYTES else self._small + 1
            pieces = self._open_records()
            if pieces:
                return pieces

    def _resize(self) -> None:
        """Grow to full size when a receive filled the buffer; shrink when many needed little."""
        if len(self._buffer) < RECEIVE_BYTES and self._have == len(self._buffer):
            self._buffer.extend(bytes(RECEIVE_BYTES - len(self._buffer)))
        elif self._small > SMALL_RECEIVES and self._have == 0:
            self._buffer = bytearray(IDLE_RECEIVE_BYTES)
            self._small = 0

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
