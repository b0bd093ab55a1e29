"""Files that their owner alone may read: opened after a check, written whole or not at all."""

import os
import secrets
import shlex
import stat
from pathlib import Path

from eigen.crypto.errors import (
    KeyFileError,
    KeyFileExists,
    KeyFileMalformed,
    KeyFileMissing,
    KeyFilePermissions,
)


def read_private(path: Path, *, bytes_max: int, folder_too: bool) -> bytes:
    """The content of a file that group and others cannot touch.

    `folder_too` asks the same of its folder, so that nobody else could have put the file there. The
    check is made on the opened file. Raises `KeyFileMissing`, `KeyFilePermissions` with the command
    to run, `KeyFileMalformed` over `bytes_max`, or `KeyFileError` for another reason of the
    operating system.
    """
    try:
        # NONBLOCK: a pipe in its place must not hang us before it is seen to be one.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise KeyFileMissing(f"there is no file {path}", path) from error
    except OSError as error:
        if path.is_symlink():
            message = f"{path} is a symbolic link: put the file itself there"
            raise KeyFilePermissions(message, path) from error
        raise KeyFileError(f"{path} cannot be opened: {error.strerror}", path) from error
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise KeyFilePermissions(f"{path} is no regular file", path)
        _check(path, status, "600")
        if folder_too:
            check_folder(path.parent)
        with os.fdopen(fd, "rb", closefd=False) as file:
            data = file.read(bytes_max + 1)
    except OSError as error:
        raise KeyFileError(f"{path} cannot be read: {error.strerror}", path) from error
    finally:
        os.close(fd)
    if len(data) > bytes_max:
        raise KeyFileMalformed(f"{path} is over {bytes_max} bytes", path)
    return data


def write_private(path: Path, data: bytes, *, folder_too: bool) -> None:
    """Write a new file of mode 0600, in a folder that is made, with mode 0700, where it is missing.

    `folder_too` refuses a folder that others can enter. Durable when it returns; after an error, or
    a crash at any point, the file is whole or absent. Raises `KeyFileExists` where there is one
    already, even one that appears at the same moment, and `KeyFilePermissions`.
    """
    folder = path.parent
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder_too:
            check_folder(folder)
        temporary = folder / f".{path.name}.{secrets.token_hex(8)}"
        try:
            _write_new(temporary, data)
            os.link(temporary, path)  # unlike a rename, fails where the name is taken
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(folder)
    except FileExistsError as error:
        raise KeyFileExists(f"{path} exists, and is never overwritten", path) from error
    except OSError as error:
        raise KeyFileError(f"{path} cannot be written: {error.strerror}", path) from error


def check_folder(folder: Path) -> None:
    """Raise `KeyFilePermissions` where anybody but the owner may use a folder."""
    try:
        status = folder.stat()
    except FileNotFoundError as error:
        raise KeyFileMissing(f"there is no folder {folder}", folder) from error
    _check(folder, status, "700")


def _check(path: Path, status: os.stat_result, mode: str) -> None:
    quoted = shlex.quote(str(path))
    if status.st_uid != os.geteuid():
        raise KeyFilePermissions(
            f"{path} belongs to another user; run: chown {os.geteuid()} {quoted}", path
        )
    if status.st_mode & 0o077:
        raise KeyFilePermissions(
            f"others may use {path} (mode {stat.S_IMODE(status.st_mode):04o}); "
            f"run: chmod {mode} {quoted}",
            path,
        )


def _write_new(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        os.fchmod(fd, 0o600)  # whatever the umask left of it
        file.write(data)
        file.flush()
        os.fsync(fd)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
