"""Parts of one update in a file without a name: gone with the object, and with the process."""

import os
import weakref
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path


class PartFile:
    """Byte strings by number. What was just written is read from the system's cache."""

    def __init__(self, parts: Sequence[bytes], path: Path) -> None:
        """Written to `path`, which goes at once. Raises OSError."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        weakref.finalize(self, os.close, descriptor)
        path.unlink()
        with open(descriptor, "wb", closefd=False) as file:
            file.writelines(parts)
        self._descriptor = descriptor
        self._ends = [0, *accumulate(len(part) for part in parts)]

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __iter__(self) -> Iterator[bytes]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> bytes:
        """Raises IndexError, and OSError where the disk does not give it back."""
        start, end = self._ends[index], self._ends[index + 1]
        data = os.pread(self._descriptor, end - start, start)
        if len(data) != end - start:
            raise OSError(f"part {index}: {len(data)} of {end - start} bytes were read")
        return data
