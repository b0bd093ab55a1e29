"""SEAL objects to bytes and back. The binding reads and writes files only: these are in memory.

`memfd_create(2)` gives a file that no other process of this user can open by name and that is never
on a disk. Where a system has none, a file in a fresh folder of mode 0700 takes its place.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eigen.crypto.errors import MalformedCiphertext


@contextlib.contextmanager
def _file() -> Iterator[Path]:
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("seal", os.MFD_CLOEXEC)
        try:
            yield Path(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "seal"


def save(value: Any) -> bytes:
    """The object's bytes, compressed; the same for the same object."""
    with _file() as path:
        value.save(str(path))
        return path.read_bytes()


def load(kind: type, context: Any, data: bytes | memoryview) -> Any:
    """A SEAL object of these bytes, valid for the context.

    SEAL checks sizes and that every coefficient is below its modulus. Raises `MalformedCiphertext`.
    """
    value = kind()
    with _file() as path:
        path.write_bytes(data)
        try:
            value.load(context, str(path))
        except (RuntimeError, ValueError, MemoryError) as error:
            raise MalformedCiphertext(f"no {kind.__name__} of this context: {error}") from None
    return value
