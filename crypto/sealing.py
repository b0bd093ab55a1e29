"""Sealed shards: AES-256-GCM in chunks, with a header that commits to the key.

The construction is STREAM (Hoang, Reyhanitabar, Rogaway and Vizár, CRYPTO 2015) with the nonces of
Tink's streaming AEAD: chunks cannot be cut off, reordered, repeated or mixed between shards. GCM by
itself does not commit to its key, so the header carries a commitment made by HKDF (RFC 5869).
docs/sealed-shards.md specifies every byte. Who gets the data key is `grants`' business.

One chunk is about a millisecond of work; all functions here block, so call them in a thread.
"""

import contextlib
import hmac
import io
import os
import secrets
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from eigen.crypto.errors import (
    Corrupt,
    SealedShardError,
    ShardTooLarge,
    Truncated,
    WrongKey,
    WrongMetadata,
)
from eigen.crypto.sealed_header import (
    NONCE_PREFIX_BYTES,
    SALT_BYTES,
    Metadata,
    SealedHeader,
    Source,
    fill,
    read_header,
)

__all__ = [
    "DATA_KEY_BYTES",
    "Metadata",
    "SealedHeader",
    "SealedShardError",
    "generate_data_key",
    "open_bytes",
    "open_file",
    "open_stream",
    "read_header",
    "seal_bytes",
    "seal_file",
    "seal_stream",
    "sealed_bytes",
]

DATA_KEY_BYTES: Final = 32
TAG_BYTES: Final = 16
KDF_INFO: Final = b"eigen/sealed-shard/1"

CHUNK_BYTES: Final = 1 << 20
"""Plaintext in one chunk: large enough that calls cost nothing, small enough to hold three."""

PLAINTEXT_BYTES_MAX: Final = 1 << 40
"""2^20 chunks of one key: far from GCM's limits, and beyond any one file that peers exchange."""


class Sink(Protocol):
    """Where bytes go: a file opened for binary writing, or `io.BytesIO`."""

    def write(self, data: memoryview, /) -> int | None:
        """Take all of the bytes; what is not buffered may not be written in part."""
        ...


def generate_data_key() -> bytes:
    """A fresh data key. One for each shard, so that a grant opens one shard alone."""
    return secrets.token_bytes(DATA_KEY_BYTES)


def sealed_bytes(plaintext_bytes: int, metadata: Metadata) -> int:
    """How large a shard is once it is sealed."""
    chunks = _chunk_count(plaintext_bytes)
    header = SealedHeader(metadata, plaintext_bytes, b"", b"", b"")
    return len(header.encode()) + plaintext_bytes + chunks * TAG_BYTES


def seal_stream(
    source: Source, sink: Sink, *, data_key: bytes, metadata: Metadata, plaintext_bytes: int
) -> None:
    """Seal the `plaintext_bytes` that a source holds, three chunks of memory at a time.

    `metadata` stays readable without the key, and cannot be changed without it. Raises ValueError
    for a key of the wrong length, metadata without a canonical form, or a source that holds less or
    more than announced; what the sink has by then is no sealed shard.
    """
    salt, prefix = secrets.token_bytes(SALT_BYTES), secrets.token_bytes(NONCE_PREFIX_BYTES)
    _seal(
        source,
        sink,
        data_key=data_key,
        metadata=metadata,
        plaintext_bytes=plaintext_bytes,
        salt=salt,
        nonce_prefix=prefix,
    )


def open_stream(
    source: Source,
    sink: Sink,
    *,
    data_key: bytes,
    metadata: Metadata | None = None,
    plaintext_bytes_max: int = PLAINTEXT_BYTES_MAX,
) -> SealedHeader:
    """Open a sealed shard into a sink, chunk by chunk, and return its header.

    Where `metadata` is given, the shard's must be equal to it. Each chunk is authentic when it is
    written, but only a return says that all of them are there: after an error, throw away what the
    sink has. Raises a `SealedShardError`, and ValueError for a data key of the wrong length.
    """
    header = read_header(source)
    if header.plaintext_bytes > min(plaintext_bytes_max, PLAINTEXT_BYTES_MAX):
        raise ShardTooLarge(
            f"the header announces {header.plaintext_bytes} bytes, "
            f"{min(plaintext_bytes_max, PLAINTEXT_BYTES_MAX)} at most"
        )
    if metadata is not None and metadata != header.metadata:
        names = sorted(metadata.keys() | header.metadata.keys())
        differ = [name for name in names if metadata.get(name) != header.metadata.get(name)]
        raise WrongMetadata(f"this is another shard than was asked for: {', '.join(differ)} differ")
    key, commitment = _derive(data_key, header.salt)
    if not hmac.compare_digest(commitment, header.key_commitment):
        raise WrongKey("the data key is not the one that this shard was sealed with")

    aead, associated = AESGCM(key), header.digest()
    sealed = memoryview(bytearray(CHUNK_BYTES + TAG_BYTES))
    plain = memoryview(bytearray(CHUNK_BYTES))
    for number, (nonce, length) in enumerate(_chunks(header)):
        chunk = sealed[: length + TAG_BYTES]
        if fill(source, chunk) < len(chunk):
            raise Truncated(f"the file ends inside chunk {number}")
        try:
            aead.decrypt_into(nonce, chunk, associated, plain[:length])
        except InvalidTag as error:
            raise Corrupt(f"chunk {number}, or the header, was altered") from error
        sink.write(plain[:length])
    if fill(source, sealed[:1]):
        raise Corrupt("there are bytes after the last chunk")
    return header


def seal_bytes(plaintext: bytes, *, data_key: bytes, metadata: Metadata) -> bytes:
    """`seal_stream` in memory."""
    sink = io.BytesIO()
    seal_stream(
        io.BytesIO(plaintext),
        sink,
        data_key=data_key,
        metadata=metadata,
        plaintext_bytes=len(plaintext),
    )
    return sink.getvalue()


def open_bytes(sealed: bytes, *, data_key: bytes, metadata: Metadata | None = None) -> bytes:
    """`open_stream` in memory; the plaintext, which is shorter than what is given."""
    sink = io.BytesIO()
    open_stream(io.BytesIO(sealed), sink, data_key=data_key, metadata=metadata)
    return sink.getvalue()


def seal_file(source: Path, target: Path, *, data_key: bytes, metadata: Metadata) -> None:
    """`seal_stream` from file to file; `target` appears whole and durable, or not at all.

    Replaces an older target. Raises OSError besides.
    """
    with source.open("rb") as reader, _written_whole(target, 0o644) as writer:
        size = os.fstat(reader.fileno()).st_size
        seal_stream(reader, writer, data_key=data_key, metadata=metadata, plaintext_bytes=size)


def open_file(
    source: Path,
    target: Path,
    *,
    data_key: bytes,
    metadata: Metadata | None = None,
    plaintext_bytes_max: int = PLAINTEXT_BYTES_MAX,
) -> SealedHeader:
    """`open_stream` from file to file; `target` appears whole and durable, or not at all.

    The target's mode is 0600: it holds what was sealed. Raises OSError besides.
    """
    with source.open("rb") as reader, _written_whole(target, 0o600) as writer:
        return open_stream(
            reader,
            writer,
            data_key=data_key,
            metadata=metadata,
            plaintext_bytes_max=plaintext_bytes_max,
        )


def _seal(
    source: Source,
    sink: Sink,
    *,
    data_key: bytes,
    metadata: Metadata,
    plaintext_bytes: int,
    salt: bytes,
    nonce_prefix: bytes,
) -> None:
    """`seal_stream` with its randomness as arguments, for test vectors.

    Outside of tests, a salt must never be used twice with one data key.
    """
    if not 0 <= plaintext_bytes <= PLAINTEXT_BYTES_MAX:
        raise ValueError(f"a shard has at most {PLAINTEXT_BYTES_MAX} bytes, not {plaintext_bytes}")
    key, commitment = _derive(data_key, salt)
    header = SealedHeader(dict(metadata), plaintext_bytes, salt, nonce_prefix, commitment)
    sink.write(memoryview(header.encode()))

    aead, associated = AESGCM(key), header.digest()
    plain = memoryview(bytearray(CHUNK_BYTES))
    sealed = memoryview(bytearray(CHUNK_BYTES + TAG_BYTES))
    for nonce, length in _chunks(header):
        if fill(source, plain[:length]) < length:
            raise ValueError(f"the source holds less than {plaintext_bytes} bytes")
        chunk = sealed[: length + TAG_BYTES]
        aead.encrypt_into(nonce, plain[:length], associated, chunk)
        sink.write(chunk)
    if fill(source, plain[:1]):
        raise ValueError(f"the source holds more than {plaintext_bytes} bytes")


def _derive(data_key: bytes, salt: bytes) -> tuple[bytes, bytes]:
    """AEAD key and key commitment."""
    if len(data_key) != DATA_KEY_BYTES:
        raise ValueError(f"a data key has {DATA_KEY_BYTES} bytes, not {len(data_key)}")
    derived = HKDF(SHA256(), 64, salt, KDF_INFO).derive(data_key)
    return derived[:32], derived[32:]


def _chunk_count(plaintext_bytes: int) -> int:
    """An empty shard has one chunk too, so that its header is authenticated."""
    return max(1, -(-plaintext_bytes // CHUNK_BYTES))


def _chunks(header: SealedHeader) -> Iterator[tuple[bytes, int]]:
    """Nonce and plaintext length of each chunk: prefix ‖ u32 counter ‖ 1 for the last, else 0."""
    last = _chunk_count(header.plaintext_bytes) - 1
    for number in range(last):
        yield header.nonce_prefix + struct.pack(">IB", number, 0), CHUNK_BYTES
    rest = header.plaintext_bytes - last * CHUNK_BYTES
    yield header.nonce_prefix + struct.pack(">IB", last, 1), rest


@contextlib.contextmanager
def _written_whole(target: Path, mode: int) -> Iterator[BinaryIO]:
    """A file beside `target` that takes its place when the block ends well, else is removed."""
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            yield file
            file.flush()
            os.fsync(fd)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
