"""Writing a file so that it is whole or not there, whatever happens."""

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path


def write_durably(path: Path, pieces: Iterable[bytes], drafts: Path, prefix: str = "tmp") -> None:
    """Write `pieces`, one after another, to `path`, in place of what is there; durable on return.

    The file is written under another name in `drafts`, on the same file system, synced and renamed.
    Raises OSError.
    """
    fd, name = tempfile.mkstemp(dir=drafts, prefix=prefix)
    try:
        with os.fdopen(fd, "wb") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
