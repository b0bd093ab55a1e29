"""Content ids: CIDv1 over raw leaves and UnixFS file nodes, as IPFS has them.

A content of up to one block is a raw leaf. A larger one is a balanced UnixFS DAG of raw leaves
(`ipfs add --cid-version=1 --raw-leaves --chunker=size-1048576` gives the same id), so kubo and
helia can fetch and pin it. Follows the multiformats CID specification, DAG-PB and UnixFS 1.
"""

import base64
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from eigen.protocol import limits
from eigen.protocol.types import Cid, Digest

RAW = 0x55
DAG_PB = 0x70
_SHA2_256 = b"\x12\x20"


class CidError(ValueError):
    """Not a CID of ours, or a block that does not decode; a peer's fault."""


class CidMismatch(CidError):
    """A block does not hash to the CID under which it was sent."""


@dataclass(frozen=True, slots=True)
class Link:
    """A child of a DAG node: its CID, the file bytes under it and the blocks' bytes in all."""

    cid: Cid
    file_bytes: int
    dag_bytes: int


def cid_of(codec: int, digest: bytes) -> Cid:
    """The CIDv1 text of a SHA-256 digest."""
    raw = bytes([1, codec]) + _SHA2_256 + digest
    return Cid("b" + base64.b32encode(raw).decode().lower().rstrip("="))


def parse_cid(cid: str) -> tuple[int, Digest]:
    """Codec (`RAW` or `DAG_PB`) and SHA-256 digest. Raises `CidError` unless canonical."""
    if len(cid) != 59 or cid[0] != "b":
        raise CidError(f"not a CIDv1 in base32: {cid!r:.70}")
    text = cid[1:].upper()
    try:
        raw = base64.b32decode(text + "=" * (-len(text) % 8))
    except ValueError:
        raise CidError(f"not base32: {cid!r:.70}") from None
    if raw[0] != 1 or raw[1] not in (RAW, DAG_PB) or raw[2:4] != _SHA2_256 or len(raw) != 36:
        raise CidError(f"not a sha2-256 CID with codec raw or dag-pb: {cid}")
    if cid_of(raw[1], raw[4:]) != cid:
        raise CidError(f"not the canonical text of a CID: {cid}")
    return raw[1], Digest(raw[4:])


def digest_of(cid: str) -> Digest:
    """The SHA-256 digest inside a CID."""
    return parse_cid(cid)[1]


def multihash_of(cid: str) -> bytes:
    """The multihash inside a CID: the same for a block whatever its codec. Raises `CidError`."""
    return _SHA2_256 + digest_of(cid)


def raw_cid(block: bytes) -> Cid:
    """The CID of one raw leaf."""
    return cid_of(RAW, hashlib.sha256(block).digest())


def check_block(cid: str, block: bytes) -> None:
    """Raises `CidMismatch` unless the block hashes to its CID."""
    _, digest = parse_cid(cid)
    if hashlib.sha256(block).digest() != digest:
        raise CidMismatch(f"{len(block)} bytes do not hash to {cid}")


def blocks_of(data: bytes | memoryview) -> Iterator[tuple[Cid, bytes]]:
    """All blocks of a content, leaves first, the root last."""
    view, size = memoryview(data), limits.BLOCK_BYTES_MAX
    starts = range(0, max(len(view), 1), size)
    return blocks_from(bytes(view[start : start + size]) for start in starts)


def blocks_from(leaves: Iterable[bytes]) -> Iterator[tuple[Cid, bytes]]:
    """As `blocks_of`, of a content that comes in pieces of `BLOCK_BYTES_MAX`, the last one smaller.

    An empty content is one empty piece.
    """
    level: list[Link] = []
    for block in leaves:
        level.append(Link(raw_cid(block), len(block), len(block)))
        yield level[-1].cid, block
    while len(level) > 1:
        above: list[Link] = []
        for start in range(0, len(level), limits.DAG_LINKS_MAX):
            links = level[start : start + limits.DAG_LINKS_MAX]
            block = _write_node(links)
            cid = cid_of(DAG_PB, hashlib.sha256(block).digest())
            file_bytes = sum(link.file_bytes for link in links)
            above.append(Link(cid, file_bytes, len(block) + sum(x.dag_bytes for x in links)))
            yield cid, block
        level = above


def content_cid(data: bytes | memoryview) -> Cid:
    """The root CID of a content."""
    root = Cid("")
    for cid, _ in blocks_of(data):
        root = cid
    return root


def links_of(cid: str, block: bytes) -> Sequence[Link]:
    """Children of a block in file order; none for a raw leaf.

    Raises `CidError` where a dag-pb block is not the canonical UnixFS file node that we write.
    """
    codec, _ = parse_cid(cid)
    if codec == RAW:
        return ()
    links = _read_node(block)
    if _write_node(links) != block:
        raise CidError(f"{cid} is not a canonical UnixFS file node")
    return links


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _delimited(field: int, payload: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(payload)) + payload


def _write_node(links: Sequence[Link]) -> bytes:
    """DAG-PB: links before data, each link Hash, Name (empty), Tsize; data is UnixFS type File."""
    out = bytearray()
    unixfs = bytearray(b"\x08\x02\x18" + _varint(sum(link.file_bytes for link in links)))
    for link in links:
        codec, digest = parse_cid(link.cid)
        hash_bytes = bytes([1, codec]) + _SHA2_256 + digest
        body = _delimited(1, hash_bytes) + _delimited(2, b"") + b"\x18" + _varint(link.dag_bytes)
        out += _delimited(2, body)
        unixfs += b"\x20" + _varint(link.file_bytes)
    return bytes(out + _delimited(1, bytes(unixfs)))


class _Reader:
    """Protobuf fields off a byte string; every fault is a `CidError`."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def varint(self) -> int:
        value = shift = 0
        while True:
            if self.at >= len(self.data) or shift > 63:
                raise CidError("truncated or oversized varint in a DAG node")
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def fields(self) -> Iterator[tuple[int, int | bytes]]:
        while self.at < len(self.data):
            key = self.varint()
            if key & 7 == 0:
                yield key >> 3, self.varint()
            elif key & 7 == 2:
                size = self.varint()
                if size > len(self.data) - self.at:
                    raise CidError("truncated field in a DAG node")
                yield key >> 3, self.data[self.at : self.at + size]
                self.at += size
            else:
                raise CidError("unexpected wire type in a DAG node")


def _read_node(block: bytes) -> Sequence[Link]:
    hashes: list[tuple[Cid, int]] = []
    sizes: list[int] = []
    for field, value in _Reader(block).fields():
        if field == 2 and isinstance(value, bytes):
            link = dict(_Reader(value).fields())
            raw, tsize = link.get(1), link.get(3)
            if not isinstance(raw, bytes) or len(raw) != 36 or not isinstance(tsize, int):
                raise CidError("a DAG link without hash or size")
            if raw[:1] != b"\x01" or raw[1] not in (RAW, DAG_PB) or raw[2:4] != _SHA2_256:
                raise CidError("a DAG link that is not a CIDv1 with sha2-256")
            hashes.append((cid_of(raw[1], raw[4:]), tsize))
        elif field == 1 and isinstance(value, bytes):
            sizes = [v for f, v in _Reader(value).fields() if f == 4 and isinstance(v, int)]
        if len(hashes) > limits.DAG_LINKS_MAX:
            raise CidError(f"more than {limits.DAG_LINKS_MAX} links in a DAG node")
    if len(hashes) != len(sizes) or not hashes:
        raise CidError("links and block sizes of a DAG node differ in number")
    if sum(sizes) > limits.BLOB_BYTES_MAX:
        raise CidError(f"a content of more than {limits.BLOB_BYTES_MAX} bytes")
    return [Link(cid, size, tsize) for (cid, tsize), size in zip(hashes, sizes, strict=True)]
