"""Sealed shards open whole with their key, or fail with a name for whatever was done to them."""

import hashlib
import io
import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eigen.crypto import sealed_header, sealing
from eigen.crypto.errors import (
    Corrupt,
    NotASealedShard,
    SealedShardError,
    ShardTooLarge,
    Truncated,
    UnsupportedVersion,
    WrongKey,
    WrongMetadata,
)
from eigen.crypto.sealed_header import METADATA_BYTES_MAX, encode_metadata
from eigen.crypto.sealing import (
    CHUNK_BYTES,
    DATA_KEY_BYTES,
    TAG_BYTES,
    generate_data_key,
    open_bytes,
    open_file,
    open_stream,
    read_header,
    seal_bytes,
    seal_file,
    seal_stream,
    sealed_bytes,
)

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "sealed_shard.json").read_text())
KEY = bytes(range(32))
METADATA = {"job": "tumours", "shard": 3}
HEADER_BYTES = 91 + len('{"job":"tumours","shard":3}')

names = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
metadata_values = st.one_of(texts, st.integers(-(2**53) + 1, 2**53 - 1))
metadatas = st.dictionaries(names, metadata_values, max_size=5)


def plaintext(length: int) -> bytes:
    return hashlib.shake_128(b"plaintext").digest(length)


@pytest.fixture(scope="module")
def three_chunks() -> bytes:
    return seal_bytes(plaintext(2 * CHUNK_BYTES + 1000), data_key=KEY, metadata=METADATA)


@pytest.mark.parametrize("vector", VECTORS["shards"], ids=lambda vector: vector["name"])
def test_every_byte_is_as_specified(vector: dict[str, Any]) -> None:
    label = f"{vector['name']} plaintext"
    plain = hashlib.shake_128(label.encode()).digest(vector["plaintext_bytes"])
    key = bytes.fromhex(vector["data_key"])
    metadata = json.loads(vector["metadata"])
    sink = io.BytesIO()
    sealing._seal(
        io.BytesIO(plain),
        sink,
        data_key=key,
        metadata=metadata,
        plaintext_bytes=len(plain),
        salt=bytes.fromhex(vector["salt"]),
        nonce_prefix=bytes.fromhex(vector["nonce_prefix"]),
    )
    sealed = sink.getvalue()
    header = bytes.fromhex(vector["header"])
    assert sealed[: len(header)] == header
    assert len(sealed) == vector["sealed_bytes"] == sealed_bytes(len(plain), metadata)
    assert hashlib.sha256(sealed).hexdigest() == vector["sealed_sha256"]
    assert "sealed" not in vector or sealed.hex() == vector["sealed"]
    assert open_bytes(sealed, data_key=key, metadata=metadata) == plain


@given(st.binary(max_size=300), metadatas)
def test_what_is_sealed_is_opened(plain: bytes, metadata: dict[str, str | int]) -> None:
    sealed = seal_bytes(plain, data_key=KEY, metadata=metadata)
    assert len(sealed) == sealed_bytes(len(plain), metadata)
    assert open_bytes(sealed, data_key=KEY, metadata=metadata) == plain
    header = read_header(io.BytesIO(sealed))
    assert header.metadata == metadata
    assert header.plaintext_bytes == len(plain)


@pytest.mark.parametrize(
    "length", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES]
)
def test_chunk_boundaries(length: int) -> None:
    sealed = seal_bytes(plaintext(length), data_key=KEY, metadata={})
    assert open_bytes(sealed, data_key=KEY) == plaintext(length)


def test_sealing_the_same_twice_gives_different_bytes() -> None:
    assert seal_bytes(b"x", data_key=KEY, metadata={}) != seal_bytes(
        b"x", data_key=KEY, metadata={}
    )
    assert len({generate_data_key() for _ in range(3)}) == 3


def test_another_key_is_noticed_before_any_chunk(three_chunks: bytes) -> None:
    sink = io.BytesIO()
    with pytest.raises(WrongKey):
        open_stream(io.BytesIO(three_chunks), sink, data_key=bytes(32))
    assert sink.getvalue() == b""


def test_another_shard_is_noticed_with_what_differs(three_chunks: bytes) -> None:
    with pytest.raises(WrongMetadata, match="asked for: shard differ"):
        open_bytes(three_chunks, data_key=KEY, metadata={"job": "tumours", "shard": 4})
    with pytest.raises(WrongMetadata, match="asked for: job, other differ"):
        open_bytes(three_chunks, data_key=KEY, metadata={"shard": 3, "other": 1})


@pytest.mark.parametrize(
    ("at", "errors"),
    [
        (range(8), NotASealedShard),
        (range(8, 10), UnsupportedVersion),
        (range(20, 52), WrongKey),  # salt
        (range(52, 59), Corrupt),  # nonce prefix
        (range(59, 91), WrongKey),  # commitment
        (range(91, HEADER_BYTES), (Corrupt, WrongMetadata)),
        (range(12, 20), (Corrupt, Truncated, ShardTooLarge)),  # plaintext length
        (range(10, 12), (Corrupt, Truncated, WrongKey)),  # metadata length
    ],
)
def test_every_byte_of_the_header_counts(
    at: range, errors: type[SealedShardError] | tuple[type[SealedShardError], ...]
) -> None:
    sealed = seal_bytes(b"some plaintext", data_key=KEY, metadata=METADATA)
    assert len(read_header(io.BytesIO(sealed)).encode()) == HEADER_BYTES
    for position in at:
        for flip in (0x01, 0x80):
            altered = bytearray(sealed)
            altered[position] ^= flip
            with pytest.raises(errors):
                open_bytes(bytes(altered), data_key=KEY, metadata=METADATA)


def test_altered_metadata_is_noticed_though_it_is_not_asked_for() -> None:
    sealed = seal_bytes(b"some plaintext", data_key=KEY, metadata=METADATA)
    altered = sealed.replace(b'"shard":3', b'"shard":4')
    assert read_header(io.BytesIO(altered)).metadata["shard"] == 4
    with pytest.raises(Corrupt, match="chunk 0, or the header"):
        open_bytes(altered, data_key=KEY)


def test_every_byte_of_every_chunk_counts() -> None:
    sealed = seal_bytes(b"some plaintext", data_key=KEY, metadata={})
    for position in range(93, len(sealed)):
        altered = bytearray(sealed)
        altered[position] ^= 1
        with pytest.raises(Corrupt, match="chunk 0"):
            open_bytes(bytes(altered), data_key=KEY)


def test_chunks_cannot_be_moved_repeated_dropped_or_mixed(three_chunks: bytes) -> None:
    size = CHUNK_BYTES + TAG_BYTES
    head, body = three_chunks[:HEADER_BYTES], three_chunks[HEADER_BYTES:]
    one, two, three = body[:size], body[size : 2 * size], body[2 * size :]
    other = seal_bytes(plaintext(2 * CHUNK_BYTES + 1000), data_key=KEY, metadata=METADATA)
    stranger = other[HEADER_BYTES + size : HEADER_BYTES + 2 * size]

    for chunks, number in [
        ((two, one, three), 0),
        ((one, one, three), 1),
        ((one, stranger, three), 1),
        ((one, three, two), 1),
    ]:
        with pytest.raises(Corrupt, match=f"chunk {number}"):
            open_bytes(head + b"".join(chunks), data_key=KEY)
    for chunks in [(one, two), (one,), ()]:
        with pytest.raises(Truncated):
            open_bytes(head + b"".join(chunks), data_key=KEY)
    with pytest.raises(Corrupt, match="after the last chunk"):
        open_bytes(three_chunks + b"\0", data_key=KEY)


def test_a_shard_cut_anywhere_is_truncated(three_chunks: bytes) -> None:
    small = seal_bytes(b"some plaintext", data_key=KEY, metadata=METADATA)
    for length in range(1, len(small)):
        with pytest.raises(Truncated):
            open_bytes(small[:length], data_key=KEY, metadata=METADATA)
    for length in (
        len(three_chunks) - 1,
        len(three_chunks) - 1000 - TAG_BYTES,
        HEADER_BYTES + CHUNK_BYTES,
    ):
        with pytest.raises(Truncated):
            open_bytes(three_chunks[:length], data_key=KEY)
    with pytest.raises(NotASealedShard):
        open_bytes(b"", data_key=KEY)


def test_a_shard_cut_and_relabelled_is_corrupt(three_chunks: bytes) -> None:
    """An attacker may shorten the announced length too; the last chunk's nonce differs."""
    cut = bytearray(three_chunks[: HEADER_BYTES + 2 * (CHUNK_BYTES + TAG_BYTES)])
    cut[12:20] = (2 * CHUNK_BYTES).to_bytes(8)
    with pytest.raises(Corrupt, match="chunk 0"):
        open_bytes(bytes(cut), data_key=KEY)


@settings(max_examples=300)
@given(st.binary(max_size=300))
def test_any_bytes_fail_with_a_name(data: bytes) -> None:
    for sealed in (data, sealed_header.MAGIC + data, sealed_header.MAGIC + b"\0\1" + data):
        with pytest.raises(SealedShardError):
            open_bytes(sealed, data_key=KEY)


@pytest.mark.parametrize(
    "metadata",
    [
        b"",
        b"[]",
        b"null",
        b'{"a": 1}',
        b'{"b":1,"a":1}',
        b'{"a":1,"a":1}',
        b'{"a":true}',
        b'{"a":1.5}',
        b'{"a":[]}',
        b'{"a":9007199254740992}',
        b'{"A":1}',
        b'{"a":"\\u0062"}',
        b'{"a":"\\ud800"}',
        b'{"a":"\xff"}',
        b'{"a":' + b"9" * 4000 + b"}",
        b"[" * 4000,
    ],
)
def test_metadata_that_is_not_canonical_is_corrupt(metadata: bytes) -> None:
    fixed = sealed_header.FIXED.pack(b"EIGSHARD", 1, len(metadata), 0, b"", b"", b"")
    with pytest.raises(Corrupt, match="metadata is n"):
        read_header(io.BytesIO(fixed + metadata))


def test_sizes_are_bounded_before_anything_is_read() -> None:
    fixed = sealed_header.FIXED.pack(b"EIGSHARD", 1, METADATA_BYTES_MAX + 1, 2**63, b"", b"", b"")
    with pytest.raises(Corrupt, match="announces 4097 bytes of metadata"):
        read_header(io.BytesIO(fixed))
    fixed = sealed_header.FIXED.pack(b"EIGSHARD", 1, 2, 2**63, b"", b"", b"")
    with pytest.raises(ShardTooLarge):
        open_bytes(fixed + b"{}", data_key=KEY)
    sealed = seal_bytes(bytes(101), data_key=KEY, metadata={})
    with pytest.raises(ShardTooLarge, match="101 bytes, 100 at most"):
        open_stream(io.BytesIO(sealed), io.BytesIO(), data_key=KEY, plaintext_bytes_max=100)


@pytest.mark.parametrize(
    ("metadata", "complaint"),
    [
        ({"": 1}, "metadata name ''"),
        ({"Shard": 1}, "metadata name 'Shard'"),
        ({"a" * 65: 1}, "metadata name"),
        ({"shard": True}, "a string or an integer"),
        ({"shard": 1.0}, "a string or an integer"),
        ({"shard": 2**53}, "beyond"),
        ({"note": "\ud800"}, "surrogate"),
        ({"note": "x" * METADATA_BYTES_MAX}, "4096 at most"),
    ],
)
def test_metadata_of_our_own_must_have_a_canonical_form(metadata: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        seal_bytes(b"", data_key=KEY, metadata=metadata)


def test_canonical_metadata_is_that_of_rfc_8785() -> None:
    metadata = {"b": '€\n\x0f"\\/é\x7f', "a": -5}
    assert encode_metadata(metadata) == '{"a":-5,"b":"€\\n\\u000f\\"\\\\/é\x7f"}'.encode()


def test_sources_that_lie_about_their_length() -> None:
    for length, complaint in ((6, "less than 6"), (4, "more than 4")):
        with pytest.raises(ValueError, match=complaint):
            seal_stream(
                io.BytesIO(b"12345"),
                io.BytesIO(),
                data_key=KEY,
                metadata={},
                plaintext_bytes=length,
            )
    with pytest.raises(ValueError, match="data key has 32 bytes"):
        seal_bytes(b"", data_key=b"short", metadata={})
    assert len(generate_data_key()) == DATA_KEY_BYTES


class Dribble(io.RawIOBase):
    """A source that gives a few bytes at a time, as pipes do."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)
        self._sizes = itertools.cycle([1, 7, 100, 4096, 65536])

    def readinto(self, buffer: Any) -> int:
        return self._data.readinto(memoryview(buffer)[: next(self._sizes)])


def test_short_reads_do_not_matter(three_chunks: bytes) -> None:
    sink = io.BytesIO()
    open_stream(Dribble(three_chunks), sink, data_key=KEY)
    assert sink.getvalue() == plaintext(2 * CHUNK_BYTES + 1000)


def test_files_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    source, sealed, opened = tmp_path / "plain", tmp_path / "sealed", tmp_path / "opened"
    source.write_bytes(plaintext(CHUNK_BYTES + 5))
    seal_file(source, sealed, data_key=KEY, metadata=METADATA)
    header = open_file(sealed, opened, data_key=KEY, metadata=METADATA)

    assert opened.read_bytes() == source.read_bytes()
    assert header.metadata == METADATA
    assert opened.stat().st_mode & 0o777 == 0o600
    assert {path.name for path in tmp_path.iterdir()} == {"plain", "sealed", "opened"}

    data = bytearray(sealed.read_bytes())
    data[-1] ^= 1
    sealed.write_bytes(data)
    with pytest.raises(Corrupt, match="chunk 1"):
        open_file(sealed, tmp_path / "other", data_key=KEY)
    assert opened.read_bytes() == source.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"plain", "sealed", "opened"}


def test_a_failed_seal_leaves_the_older_file(tmp_path: Path, monkeypatch: Any) -> None:
    source, sealed = tmp_path / "plain", tmp_path / "sealed"
    source.write_bytes(b"plain")
    sealed.write_bytes(b"older")
    calls = []

    def full_disk(fd: int) -> None:
        calls.append(fd)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        seal_file(source, sealed, data_key=KEY, metadata={})
    assert calls
    assert sealed.read_bytes() == b"older"
    assert {path.name for path in tmp_path.iterdir()} == {"plain", "sealed"}
