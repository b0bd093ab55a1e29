"""Content ids equal IPFS's own, and hostile blocks are refused with a named error."""

import hashlib
import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eigen.protocol import limits
from eigen.protocol.cid import (
    DAG_PB,
    RAW,
    CidError,
    CidMismatch,
    blocks_of,
    check_block,
    cid_of,
    content_cid,
    digest_of,
    links_of,
    parse_cid,
    raw_cid,
)

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "cid.json").read_text())
PATTERN = bytes((7 * i + 3) % 251 for i in range(251))
MIB = 1024 * 1024


def content(size: int) -> bytes:
    """What tests/vectors/cid.mjs imports."""
    return (PATTERN * (size // len(PATTERN) + 1))[:size]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: str(v["bytes"]))
def test_a_content_has_the_id_that_ipfs_gives_it(vector: dict[str, Any]) -> None:
    count, root = 0, ""
    for cid, _ in blocks_of(memoryview(content(vector["bytes"]))):
        count, root = count + 1, cid
    assert root == vector["cid"]
    assert count == vector["blocks"]


def test_the_vectors_reach_two_levels_of_nodes() -> None:
    assert max(v["bytes"] for v in VECTORS) > limits.DAG_LINKS_MAX * limits.BLOCK_BYTES_MAX


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 4 * MIB), st.binary(min_size=1, max_size=9))
def test_a_content_can_be_walked_back_from_its_root(size: int, seed: bytes) -> None:
    data = (seed * (size // len(seed) + 1))[:size]
    blocks = dict(blocks_of(data))

    def walk(cid: str) -> bytes:
        check_block(cid, blocks[cid])
        links = links_of(cid, blocks[cid])
        if not links:
            return blocks[cid]
        parts = [walk(link.cid) for link in links]
        assert [len(part) for part in parts] == [link.file_bytes for link in links]
        return b"".join(parts)

    assert walk(content_cid(data)) == data


def test_a_cid_says_codec_and_digest() -> None:
    digest = hashlib.sha256(b"leaf").digest()
    assert parse_cid(raw_cid(b"leaf")) == (RAW, digest)
    assert parse_cid(cid_of(DAG_PB, digest)) == (DAG_PB, digest)
    assert digest_of(raw_cid(b"leaf")) == digest


GOOD = raw_cid(b"leaf")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "b",
        GOOD[:-1],
        GOOD + "a",
        "B" + GOOD[1:].upper(),
        GOOD[:1] + GOOD[1:].upper(),
        "z" + GOOD[1:],
        GOOD[:-1] + "1",  # not in the alphabet
        GOOD[:-1] + "é",
        GOOD[:20] + "ß" + GOOD[21:],
        GOOD[:-1] + chr(ord(GOOD[-1]) + 1),  # unused bits set: the same bytes, another text
        "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG",  # CIDv0
        "b" + "a" * 58,
        "bafyreie7q3iidccmpvszul7kudcvvuavuo7u6gzlbobczuk5nqk3b4akba",  # dag-cbor
    ],
)
def test_what_is_not_our_cid_is_refused(text: str) -> None:
    with pytest.raises(CidError):
        parse_cid(text)


@settings(max_examples=300)
@given(st.text(max_size=64))
def test_any_text_parses_or_is_a_cid_error(text: str) -> None:
    try:
        codec, digest = parse_cid(text)
    except CidError:
        return
    assert cid_of(codec, digest) == text


def test_a_block_under_another_name_is_a_mismatch() -> None:
    check_block(GOOD, b"leaf")
    with pytest.raises(CidMismatch, match="5 bytes do not hash to"):
        check_block(GOOD, b"leaf2")


# hostile nodes ----------------------------------------------------------------------------------
def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number: int, payload: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(payload)) + payload


HASH = bytes([1, RAW, 0x12, 0x20]) + hashlib.sha256(b"leaf").digest()


def link(hash_bytes: bytes = HASH, name: bytes = b"", size: int = 4) -> bytes:
    return field(2, field(1, hash_bytes) + field(2, name) + b"\x18" + varint(size))


def unixfs(sizes: list[int], total: int | None = None, kind: int = 2) -> bytes:
    body = bytes([8, kind, 0x18]) + varint(sum(sizes) if total is None else total)
    return field(1, body + b"".join(b"\x20" + varint(s) for s in sizes))


def node_cid(block: bytes) -> str:
    return cid_of(DAG_PB, hashlib.sha256(block).digest())


def test_the_nodes_below_are_built_as_ours_are() -> None:
    block = link() + link() + unixfs([4, 4])
    assert [one.file_bytes for one in links_of(node_cid(block), block)] == [4, 4]
    [*_, (root, last)] = blocks_of(content(MIB + 1))
    assert links_of(root, last)[1].file_bytes == 1
    assert links_of(raw_cid(b"x"), b"x") == ()


HOSTILE = {
    "empty": b"",
    "truncated varint": b"\x80",
    "endless varint": b"\x80" * 12,
    "truncated field": b"\x12\x7f\x00",
    "a field of 2^63 bytes": b"\x12" + varint(2**63) + b"x",
    "another wire type": b"\x0d\x00\x00\x00\x00",
    "no links": unixfs([]),
    "links without data": link() + link(),
    "data without links": unixfs([4, 4]),
    "more sizes than links": link() + unixfs([4, 4]),
    "a wrong total": link() + unixfs([4], total=5),
    "a directory": link() + unixfs([4], kind=1),
    "a named link": link(name=b"a") + unixfs([4]),
    "data first": unixfs([4]) + link(),
    "an unknown field": link() + unixfs([4]) + field(3, b"x"),
    "inline data": link() + field(1, b"\x08\x02\x12\x01x\x18\x05\x20\x04"),
    "a link to a CIDv0": link(HASH[2:]) + unixfs([4]),
    "a link of another codec": link(b"\x01\x71" + HASH[2:]) + unixfs([4]),
    "a link of another hash": link(b"\x01\x55\x16\x20" + HASH[4:]) + unixfs([4]),
    "a link without hash": field(2, field(2, b"") + b"\x18\x04") + unixfs([4]),
    "a link without size": field(2, field(1, HASH) + field(2, b"")) + unixfs([4]),
    "a hash that is a number": field(2, b"\x08\x04" + field(2, b"") + b"\x18\x04") + unixfs([4]),
    "two hashes in a link": field(2, field(1, HASH) * 2 + field(2, b"") + b"\x18\x04")
    + unixfs([4]),
    "a size in two bytes": link()[:-1] + b"\x84\x00" + unixfs([4]),
    "more than 4 GiB": link() + link() + unixfs([limits.BLOB_BYTES_MAX, 1]),
    "sizes that overflow": link() + unixfs([2**63]),
    "too many links": link() * (limits.DAG_LINKS_MAX + 1)
    + unixfs([4] * (limits.DAG_LINKS_MAX + 1)),
}


@pytest.mark.parametrize("block", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_node_is_refused(block: bytes) -> None:
    with pytest.raises(CidError):
        links_of(node_cid(block), block)


def test_mutated_nodes_raise_cid_errors_and_nothing_else() -> None:
    block = bytes(link() + link() + unixfs([4, 4]))
    refused = 0
    for at in range(len(block)):
        for flip in (1, 0x80, 0xFF):
            bent = bytearray(block)
            bent[at] ^= flip
            try:
                links = links_of(node_cid(bytes(bent)), bytes(bent))
            except CidError:
                refused += 1
            else:
                assert len(links) == 2
    assert refused > 50  # every flip outside the two digests


def test_leaves_come_before_their_node() -> None:
    first = [cid for cid, _ in islice(blocks_of(content(3 * MIB)), 3)]
    assert all(parse_cid(cid)[0] == RAW for cid in first)
