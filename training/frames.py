"""How calls and replies cross the pipe between a node and its training worker. Knows no torch.

    frame := u32le head size ‖ u32le blob count ‖ u64le blob size … ‖ head ‖ blob …
    head  := msgpack [name, values]        name of a call, of an error, or "ok"

Byte strings in `values` travel as blobs behind the head, so that neither side copies megabytes
through msgpack; what lies on disk already travels as its files' names. Reading is a generator that
says how many bytes it wants next: a blocking worker and a Trio client drive the same one. Both ends
are ours, yet every size is bounded: a worker whose memory is corrupt must not take its node along.
"""

import io
import struct
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgpack

HEAD_BYTES_MAX = 1 << 20
"""A loss trace and a thousand blob references take some 20 kB."""
BLOBS_MAX = 4096
"""1,024 parts or shards, and some more."""
FRAME_BYTES_MAX = 4 << 30
"""The largest checkpoint with momentum (1.1 GB) and a few shards of 1 GiB."""

OK = "ok"
"""Name of a reply with results; other replies are named after their error."""

_PREFIX = struct.Struct("<II")
_BLOB = 1  # msgpack extension type: data is the u32le index of a blob
_FILES = 2  # data is a msgpack array of paths


@dataclass(frozen=True, slots=True)
class Files:
    """A byte string that lies in files, one after another, on a disk that both processes see."""

    paths: tuple[str, ...]

    def read(self) -> bytes:
        """The bytes. Raises OSError."""
        whole = io.BytesIO()
        for path in self.paths:
            whole.write(Path(path).read_bytes())
        return whole.getvalue()


def whole(value: bytes | Files) -> bytes:
    """The bytes, wherever they are. Raises OSError."""
    return value.read() if isinstance(value, Files) else value


class FrameError(Exception):
    """Not a frame, or one that is too large. The other end of the pipe is at fault."""


def pack(name: str, values: Sequence[Any]) -> list[bytes]:
    """The frame as buffers to be written one after another; blobs are not copied.

    Values are None, bool, int, float, str, bytes, `Files`, and lists or tuples of them (read as
    lists).
    Raises `FrameError` where a bound is passed.
    """
    blobs: list[bytes] = []
    head: bytes = msgpack.packb([name, _refer(list(values), blobs)])
    sizes = [len(blob) for blob in blobs]
    _check(len(head), sizes)
    return [
        _PREFIX.pack(len(head), len(blobs)) + struct.pack(f"<{len(sizes)}Q", *sizes),
        head,
        *blobs,
    ]


def reader() -> Generator[int, bytes, tuple[str, list[Any]]]:
    """Reads one frame: yields a count, wants exactly so many bytes sent in; returns name, values.

    Raises `FrameError` for anything but a frame.
    """
    head_bytes, blob_count = _PREFIX.unpack((yield _PREFIX.size))
    if blob_count > BLOBS_MAX:
        raise FrameError(f"{blob_count} blobs, at most {BLOBS_MAX} allowed")
    sizes = struct.unpack(f"<{blob_count}Q", (yield 8 * blob_count))
    _check(head_bytes, sizes)
    head = yield head_bytes
    blobs: list[bytes] = []
    for size in sizes:
        blobs.append((yield size))
    return _decode(head, blobs)


def read(file: BinaryIO) -> tuple[str, list[Any]] | None:
    """The next frame's name and values, or None at the end of the file, be it within a frame."""
    parsing = reader()
    wanted = next(parsing)
    while True:
        data = file.read(wanted)
        if len(data) < wanted:
            return None
        try:
            wanted = parsing.send(data)
        except StopIteration as done:
            frame: tuple[str, list[Any]] = done.value
            return frame


def _check(head_bytes: int, sizes: Sequence[int]) -> None:
    if head_bytes > HEAD_BYTES_MAX:
        raise FrameError(f"a head of {head_bytes} bytes, at most {HEAD_BYTES_MAX} allowed")
    if len(sizes) > BLOBS_MAX:
        raise FrameError(f"{len(sizes)} blobs, at most {BLOBS_MAX} allowed")
    if sum(sizes) > FRAME_BYTES_MAX:
        raise FrameError(f"{sum(sizes)} bytes of blobs, at most {FRAME_BYTES_MAX} allowed")


def _refer(value: Any, blobs: list[bytes]) -> Any:
    """The value with each byte string moved to `blobs` and its index in its place."""
    if isinstance(value, bytes):
        blobs.append(value)
        return msgpack.ExtType(_BLOB, (len(blobs) - 1).to_bytes(4, "little"))
    if isinstance(value, Files):
        return msgpack.ExtType(_FILES, msgpack.packb(value.paths))
    if isinstance(value, list | tuple):
        return [_refer(item, blobs) for item in value]
    return value


def _decode(head: bytes, blobs: list[bytes]) -> tuple[str, list[Any]]:
    def blob(code: int, data: bytes) -> bytes | Files:
        if code == _FILES:
            return _files(msgpack.unpackb(data))
        if code != _BLOB or len(data) != 4:
            raise FrameError("an unknown extension type")
        index = int.from_bytes(data, "little")
        if index >= len(blobs):
            raise FrameError(f"blob {index} of {len(blobs)}")
        return blobs[index]

    try:
        frame = msgpack.unpackb(head, ext_hook=blob, strict_map_key=True, max_map_len=0)
    except (ValueError, RecursionError, msgpack.UnpackException) as error:
        raise FrameError(f"the head is not msgpack: {type(error).__name__}") from None
    if type(frame) is not list or len(frame) != 2:
        raise FrameError("the head is not a name and values")
    name, values = frame
    if type(name) is not str or type(values) is not list:
        raise FrameError("the head is not a name and values")
    return name, values


def _files(paths: Any) -> Files:
    if type(paths) is not list or not all(type(path) is str for path in paths):
        raise FrameError("files without paths")
    return Files(tuple(paths))
