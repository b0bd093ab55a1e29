"""Frames: what is packed is read, whatever is read is bounded."""

import struct
from collections.abc import Sequence
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eigen.training.frames import (
    BLOBS_MAX,
    FRAME_BYTES_MAX,
    HEAD_BYTES_MAX,
    FrameError,
    pack,
    reader,
)

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner, max_size=5),
    max_leaves=20,
)


def read(data: bytes) -> tuple[str, list[Any]]:
    """Drive the reader over `data`; EOFError where it wants more than there is."""
    parsing = reader()
    wanted = next(parsing)
    while True:
        if wanted > len(data):
            raise EOFError
        chunk, data = data[:wanted], data[wanted:]
        try:
            wanted = parsing.send(chunk)
        except StopIteration as done:
            assert data == b""
            return done.value


def frame(head: object, sizes: Sequence[int] = (), blobs: bytes = b"") -> bytes:
    packed = head if isinstance(head, bytes) else msgpack.packb(head)
    prefix = struct.pack("<II", len(packed), len(sizes))
    return prefix + struct.pack(f"<{len(sizes)}Q", *sizes) + packed + blobs


@settings(deadline=None)
@given(st.text(), st.lists(values, max_size=5))
def test_what_is_packed_is_read(name: str, items: list[Any]) -> None:
    assert read(b"".join(pack(name, items))) == (name, items)


def test_tuples_are_read_as_lists_and_blobs_are_not_copied() -> None:
    blob = bytes(1000)
    buffers = pack("call", [((blob, 3),)])
    assert any(buffer is blob for buffer in buffers)
    assert len(buffers[1]) < 50
    assert read(b"".join(buffers)) == ("call", [[[blob, 3]]])


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_an_error_or_too_short(data: bytes) -> None:
    with pytest.raises((FrameError, EOFError)):
        read(data)


BLOB_0 = msgpack.ExtType(1, bytes(4))


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<II", 0, BLOBS_MAX + 1),
        struct.pack("<II", HEAD_BYTES_MAX + 1, 0),
        struct.pack("<IIQ", 1, 1, FRAME_BYTES_MAX + 1),
        struct.pack("<IIQQ", 1, 2, FRAME_BYTES_MAX, 1),
        frame(b"\xc1"),
        frame(b"\x91" * 2000),
        frame("call"),
        frame(["call"]),
        frame([1, []]),
        frame(["call", "values"]),
        frame(["call", [{"a": 1}]]),
        frame(["call", [BLOB_0]]),
        frame(["call", [msgpack.ExtType(2, bytes(4))]], [1], b"x"),
        frame(["call", [msgpack.ExtType(1, bytes(3))]], [1], b"x"),
    ],
)
def test_what_no_sender_sends_is_refused(data: bytes) -> None:
    with pytest.raises(FrameError):
        read(data)


def test_the_probes_above_differ_from_a_good_frame_in_one_thing() -> None:
    assert read(frame(["call", [BLOB_0]], [1], b"x")) == ("call", [b"x"])


def test_too_many_blobs_are_not_packed() -> None:
    with pytest.raises(FrameError, match="4097 blobs"):
        pack("call", [[b"x"] * 4097])
    with pytest.raises(FrameError, match="a head of"):
        pack("x" * (HEAD_BYTES_MAX + 1), [])
