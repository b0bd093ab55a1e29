"""One daemon a home: a lock that ends with its process, however that ends."""

import fcntl
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from eigen.node.exit_codes import ExitCode, UserError

ATTEMPTS: Final = 5
ATTEMPT_PAUSE_S: Final = 0.02
"""`running_pid` holds the lock for microseconds; a daemon that starts just then tries again."""

PID_BYTES_MAX: Final = 32


class HomeLocked(UserError):
    """Another process holds the lock. `pid` is None in the moment before it is written."""

    def __init__(self, path: Path, pid: int | None) -> None:
        who = "another process" if pid is None else f"process {pid}"
        super().__init__(
            f"a node runs in {path.parent} already ({who}); end it with: eigen stop, "
            "or choose another home with --home",
            ExitCode.HOME_LOCKED,
        )
        self.pid = pid


class HomeLock:
    """Holds a home for this process, from `with` to the end of the block.

    The lock is the kernel's (`flock`), so it is gone when the process is, also after `kill -9`;
    what stays is a file that locks nothing. The process id in it is for messages. The file is
    never removed, or a second process could lock a new file beside the first one's.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    def __enter__(self) -> Self:
        """Raises `HomeLocked` at once where another process holds the home."""
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if not _acquire(fd):
            pid = _read_pid(fd)
            os.close(fd)
            raise HomeLocked(self._path, pid)
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
        self._fd = fd
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._fd is not None:
            os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = None


def running_pid(path: Path) -> int | None:
    """Process id of the daemon that holds the home; None where none does.

    Minus one where a daemon holds it and has not written its id yet.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = _read_pid(fd)
        return -1 if pid is None else pid
    else:
        return None
    finally:
        os.close(fd)


def _acquire(fd: int) -> bool:
    for attempt in range(ATTEMPTS):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if attempt < ATTEMPTS - 1:
                time.sleep(ATTEMPT_PAUSE_S)
        else:
            return True
    return False


def _read_pid(fd: int) -> int | None:
    text = os.pread(fd, PID_BYTES_MAX, 0).strip()
    return int(text) if text.isdigit() else None
