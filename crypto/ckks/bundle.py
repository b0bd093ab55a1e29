"""Several byte strings as one: how ciphertexts that belong together are stored and named.

bundle := "EIGENHE1" ‖ u32le count ‖ u32le size … ‖ bytes …
"""

import struct
from collections.abc import Sequence
from typing import Final

from eigen.crypto.errors import MalformedCiphertext

MAGIC: Final = b"EIGENHE1"
ITEMS_MAX: Final = 65_536
"""784 features of ten classes are 7,840 ciphertexts."""
ITEM_BYTES_MAX: Final = 16 << 20
"""The rotation keys of twelve steps have 15 MB; a ciphertext has 0.4 MB."""


def pack(items: Sequence[bytes]) -> bytes:
    """The bundle of these."""
    sizes = struct.pack(f"<{len(items)}I", *map(len, items))
    return b"".join([MAGIC, len(items).to_bytes(4, "little"), sizes, *items])


def unpack(data: bytes, *, count: int) -> list[bytes]:
    """The items of a bundle that must hold exactly `count`.

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
    items = []
    for size in sizes:
        items.append(data[start : start + size])
        start += size
    return items
