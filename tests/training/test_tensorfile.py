"""Tensor files: one encoding each, readable by the safetensors library, strict to hostile bytes."""

import json

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from eigen.training.errors import TensorFileError
from eigen.training.tensorfile import HEADER_BYTES_MAX, read, write

arrays = st.dictionaries(
    st.text(min_size=1, max_size=20).filter(lambda name: name != "__metadata__"),
    st.one_of(
        hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=4)),
        hnp.arrays(np.uint8, hnp.array_shapes(max_dims=3, max_side=4)),
    ),
    max_size=4,
)
metadata = st.dictionaries(st.text(max_size=10), st.text(max_size=10), max_size=3)

GOOD = write({"x": np.zeros((2, 3), np.float32), "y": np.ones(4, np.uint8)}, {"b": "1", "a": "2"})


def with_header(header: object, data: bytes = b"") -> bytes:
    text = (
        header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    )
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


@settings(deadline=None)
@given(arrays, metadata)
def test_what_is_written_is_read_back(given_arrays, given_metadata) -> None:
    data = write(given_arrays, given_metadata)
    back_metadata, back = read(data)
    assert back_metadata == given_metadata
    assert list(back) == sorted(given_arrays)
    for name, array in given_arrays.items():
        assert back[name].dtype == array.dtype
        assert back[name].shape == array.shape
        assert back[name].tobytes() == array.tobytes()
    shuffled = dict(reversed(given_arrays.items()))
    assert write(shuffled, dict(reversed(given_metadata.items()))) == data


def test_the_safetensors_library_reads_it(tmp_path) -> None:
    loaded = safetensors.numpy.load(GOOD)
    assert loaded["x"].shape == (2, 3)
    assert loaded["y"].tolist() == [1, 1, 1, 1]
    (tmp_path / "file").write_bytes(GOOD)
    with safetensors.safe_open(tmp_path / "file", "numpy") as file:
        assert file.metadata() == {"a": "2", "b": "1"}


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(TensorFileError):
        read(data)


@settings(deadline=None)
@given(st.integers(0, len(GOOD) - 28 - 1), st.integers(0, 255))
def test_any_change_of_the_header_is_refused_or_another_file(place: int, value: int) -> None:
    changed = GOOD[:place] + bytes([value]) + GOOD[place + 1 :]
    try:
        back_metadata, back = read(changed)
    except TensorFileError:
        return
    assert write(back, back_metadata) == changed


def entry(
    dtype: object = "U8", shape: object = (2,), offsets: object = (0, 2)
) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    "data",
    [
        GOOD[:-1],
        GOOD + b"\0",
        (HEADER_BYTES_MAX + 1).to_bytes(8, "little") + b" " * (HEADER_BYTES_MAX + 1),
        with_header(b"[" * 5000 + b"]" * 5000),
        with_header(b'{"__metadata__":{},"x":' + b"9" * 5000 + b"}"),
        with_header([]),
        with_header({}),
        with_header({"__metadata__": {"a": 1}}),
        with_header({"__metadata__": {}, "x": entry("F64", (1,), (0, 8))}, bytes(8)),
        with_header({"__metadata__": {}, "x": entry(["U8"])}, bytes(2)),
        with_header({"__metadata__": {}, "x": entry(shape=(-2,))}, bytes(2)),
        with_header({"__metadata__": {}, "x": entry(shape=(True, 2))}, bytes(2)),
        with_header({"__metadata__": {}, "x": entry(shape=(0,), offsets=(0, 0))}),
        with_header({"__metadata__": {}, "x": entry(shape=(2.0,))}, bytes(2)),
        with_header({"__metadata__": {}, "x": entry(shape=[1] * 9 + [2])}, bytes(2)),
        with_header({"__metadata__": {}, "x": entry(shape=[2**63] * 4, offsets=(0, 2))}, bytes(2)),
        with_header({"__metadata__": {}, "x": entry(offsets=(0, 2, 2))}, bytes(2)),
        with_header({"__metadata__": {}, "x": entry() | {"more": 1}}, bytes(2)),
        with_header({"__metadata__": {}, "x": entry(offsets=(1, 3))}, bytes(3)),
        with_header({"__metadata__": {}, "x": entry(), "y": entry()}, bytes(2)),
        with_header({"__metadata__": {}, "y": entry(), "x": entry(offsets=(2, 4))}, bytes(4)),
        with_header({"x": entry(), "__metadata__": {}}, bytes(2)),
        with_header(
            b'{"__metadata__":{},"x":1,"x":' + json.dumps(entry()).encode() + b"}", bytes(2)
        ),
        with_header(b'{"__metadata__":{}, "x":' + json.dumps(entry()).encode() + b"}", bytes(2)),
    ],
)
def test_what_no_writer_writes_is_refused(data: bytes) -> None:
    with pytest.raises(TensorFileError):
        read(data)


def test_the_helper_above_writes_good_files_too() -> None:
    good = with_header({"__metadata__": {}, "x": entry()}, b"\1\2")
    assert read(good)[1]["x"].tolist() == [1, 2]
