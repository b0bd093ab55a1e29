"""The one shape that a content's blocks may have, so that a small DAG cannot stand for a huge one.

Links may repeat, so a few hostile nodes of 174 links could name 174^n blocks. Only the balanced
layout that `eigen.protocol.cid.blocks_of` writes is followed: its size fixes every node's.
"""

from dataclasses import dataclass
from typing import Final

from eigen.protocol import limits
from eigen.protocol.cid import CidError, links_of
from eigen.protocol.types import Cid

LEAF: Final = limits.BLOCK_BYTES_MAX
FANOUT: Final = limits.DAG_LINKS_MAX


@dataclass(frozen=True, slots=True)
class Node:
    """A block of a content and what it must be. A root's size and level follow from its block."""

    cid: Cid
    file_bytes: int | None = None
    level: int | None = None  # 0: a leaf


def children(node: Node, block: bytes, *, bytes_max: int = limits.BLOB_BYTES_MAX) -> list[Node]:
    """What a block links to, in file order; nothing for a leaf.

    Raises `CidError` where the block is no canonical node, its size is not what its parent said or
    is above `bytes_max`, or its links are not those of the balanced layout.
    """
    links = links_of(node.cid, block)
    size = sum(link.file_bytes for link in links) if links else len(block)
    if size > bytes_max:
        raise CidError(f"{node.cid} stands for {size} bytes, at most {bytes_max}")
    level = _level(size) if node.level is None else node.level
    if (node.file_bytes is not None and size != node.file_bytes) or bool(links) != (level > 0):
        raise CidError(f"{node.cid} is not at its place in the DAG of a file")
    if not links:
        return []
    below = LEAF * FANOUT ** (level - 1)
    sizes = [below] * (size // below) + ([size % below] if size % below else [])
    if [link.file_bytes for link in links] != sizes:
        raise CidError(f"{node.cid} does not split {size} bytes as a balanced DAG does")
    return [Node(link.cid, link.file_bytes, level - 1) for link in links]


def _level(size: int) -> int:
    level, most = 0, LEAF
    while most < size:
        level, most = level + 1, most * FANOUT
    return level
