"""The header of a sealed shard: what can be read without the key. Knows no ciphers.

Layout (integers big-endian), specified in docs/sealed-shards.md:

| offset | bytes | field |
|---|---|---|
| 0 | 8 | magic `EIGSHARD` |
| 8 | 2 | version |
| 10 | 2 | metadata length M |
| 12 | 8 | plaintext length |
| 20 | 32 | salt |
| 52 | 7 | nonce prefix |
| 59 | 32 | key commitment |
| 91 | M | metadata |
"""

import hashlib
import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from eigen.crypto.errors import Corrupt, NotASealedShard, Truncated, UnsupportedVersion
from eigen.protocol.types import Digest

Metadata = Mapping[str, str | int]
"""What a shard says of itself: names and flat values, in clear."""

MAGIC: Final = b"EIGSHARD"
VERSION: Final = 1
SALT_BYTES: Final = 32
NONCE_PREFIX_BYTES: Final = 7
COMMITMENT_BYTES: Final = 32

FIXED: Final = struct.Struct(f">8sHHQ{SALT_BYTES}s{NONCE_PREFIX_BYTES}s{COMMITMENT_BYTES}s")

METADATA_BYTES_MAX: Final = 4096
"""Read into memory before anything is authenticated; a job, a shard number and some names fit."""

INTEGER_MAX: Final = 2**53 - 1
"""Every JSON reader holds integers up to here exactly (RFC 7493, section 2.2)."""

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")


class Source(Protocol):
    """Where bytes come from: a file opened for binary reading, or `io.BytesIO`."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill some of the buffer; 0 at the end."""
        ...


@dataclass(frozen=True, slots=True)
class SealedHeader:
    """One sealed shard's header. Nothing in it is authentic before the first chunk is opened."""

    metadata: Metadata
    plaintext_bytes: int
    salt: bytes
    nonce_prefix: bytes
    key_commitment: bytes

    def encode(self) -> bytes:
        """The header's bytes. Raises ValueError for metadata that has no canonical form."""
        metadata = encode_metadata(self.metadata)
        fixed = FIXED.pack(
            MAGIC,
            VERSION,
            len(metadata),
            self.plaintext_bytes,
            self.salt,
            self.nonce_prefix,
            self.key_commitment,
        )
        return fixed + metadata

    def digest(self) -> Digest:
        """SHA-256 of the header: associated data of every chunk."""
        return Digest(hashlib.sha256(self.encode()).digest())


def encode_metadata(metadata: Metadata) -> bytes:
    """Canonical JSON (RFC 8785) of a flat object. Raises ValueError where there is none."""
    for name, value in metadata.items():
        if not _NAME.fullmatch(name):
            raise ValueError(f"metadata name {name!r}: 1 to 64 of a-z, 0-9 and _, a letter first")
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise ValueError(f"metadata {name}: a string or an integer, not {value!r}")  # noqa: TRY004
        if isinstance(value, int) and abs(value) > INTEGER_MAX:
            raise ValueError(f"metadata {name}: {value} is beyond 2^53 - 1")
    text = json.dumps(dict(metadata), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    try:
        encoded = text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("metadata holds half of a surrogate pair") from error
    if len(encoded) > METADATA_BYTES_MAX:
        raise ValueError(f"metadata takes {len(encoded)} bytes, {METADATA_BYTES_MAX} at most")
    return encoded


def read_header(source: Source) -> SealedHeader:
    """Read a header from the start of a sealed shard; reads no byte past it.

    Raises `NotASealedShard`, `UnsupportedVersion`, `Truncated`, or `Corrupt` where the metadata is
    not canonical.
    """
    fixed = read_up_to(source, FIXED.size)
    if not fixed or fixed[: len(MAGIC)] != MAGIC[: len(fixed)]:
        raise NotASealedShard("the file does not begin as a sealed shard does")
    if len(fixed) < FIXED.size:
        raise Truncated("the file ends inside the header")
    _, version, length, plaintext_bytes, salt, nonce_prefix, key_commitment = FIXED.unpack(fixed)
    if version != VERSION:
        raise UnsupportedVersion(f"version {version} of the format; this node knows {VERSION}")
    if length > METADATA_BYTES_MAX:
        raise Corrupt(f"the header announces {length} bytes of metadata")
    encoded = read_up_to(source, length)
    if len(encoded) < length:
        raise Truncated("the file ends inside the header")
    metadata = _decode_metadata(encoded)
    return SealedHeader(metadata, plaintext_bytes, salt, nonce_prefix, key_commitment)


def _decode_metadata(encoded: bytes) -> Metadata:
    try:
        metadata = json.loads(encoded)
        canonical = isinstance(metadata, dict) and encode_metadata(metadata) == encoded
    except (ValueError, RecursionError) as error:
        raise Corrupt("the header's metadata is no flat JSON object") from error
    if not canonical:
        raise Corrupt("the header's metadata is not in canonical form")
    return dict(metadata)


def read_up_to(source: Source, length: int) -> bytes:
    """`length` bytes, fewer only at the end of the source."""
    buffer = bytearray(length)
    return bytes(memoryview(buffer)[: fill(source, memoryview(buffer))])


def fill(source: Source, buffer: memoryview) -> int:
    """Read until the buffer is full or the source ends; how many bytes there were."""
    at = 0
    while at < len(buffer):
        count = source.readinto(buffer[at:])
        if not count:
            break
        at += count
    return at
