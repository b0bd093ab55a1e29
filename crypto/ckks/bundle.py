"""Several byte strings as one: how ciphertexts that belong together are stored and named.

bundle := "EIGENHE1" ‖ u32le count ‖ u32le size … ‖ bytes …
"""

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from eigen.crypto.errors import MalformedCiphertext

MAGIC: Final = b"EIGENHE1"
ITEMS_MAX: Final = 65_536
"""784 features of ten classes are 7,840 ciphertexts."""
ITEM_BYTES_MAX: Final = 16 << 20
"""The rotation keys of twelve steps have 15 MB; a ciphertext has 0.4 MB."""


Buffer = bytes | memoryview


def pack(items: Sequence[Buffer]) -> bytes:
    """The bundle of these."""
    return b"".join([_head(list(map(len, items))), *items])


def write(path: Path, items: Iterable[Buffer], *, count: int) -> None:
    """The bundle of `count` items into a file, one at a time: they need not fit in memory."""
    sizes = []
    with path.open("wb") as file:
        file.write(_head([0] * count))
        for item in items:
            file.write(item)
            sizes.append(len(item))
        assert len(sizes) == count
        file.seek(0)
        file.write(_head(sizes))


def _head(sizes: Sequence[int]) -> bytes:
    return MAGIC + struct.pack(f"<I{len(sizes)}I", len(sizes), *sizes)


def unpack(data: Buffer, *, count: int) -> list[memoryview]:
    """The items of a bundle that must hold exactly `count`; views, nothing is copied.

    Raises `MalformedCiphertext` for anything that `pack` would not have written, or an item above
    `ITEM_BYTES_MAX`; nothing is allocated for what a header only claims.
    """
    start = len(MAGIC) + 4 + 4 * count
    if not 0 <= count <= ITEMS_MAX or len(data) < start or data[: len(MAGIC)] != MAGIC:
        raise MalformedCiphertext(f"{len(data)} bytes are no bundle of {count} ciphertexts")
    if (held := int.from_bytes(data[8:12], "little")) != count:
        raise MalformedCiphertext(f"a bundle of {held} where {count} are expected")
    sizes = struct.unpack_from(f"<{count}I", data, 12)
    if max(sizes, default=0) > ITEM_BYTES_MAX:
        raise MalformedCiphertext(f"an item of {max(sizes)} bytes, at most {ITEM_BYTES_MAX}")
    if start + sum(sizes) != len(data):
        raise MalformedCiphertext(f"{len(data)} bytes where {start + sum(sizes)} are announced")
    view, items = memoryview(data), []
    for size in sizes:
        items.append(view[start : start + size])
        start += size
    return items
