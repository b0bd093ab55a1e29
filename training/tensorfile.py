"""Canonical safetensors: one byte string for one set of arrays. Knows no torch, and no model.

The format is safetensors (u64le header length, JSON header, data). The library may order and pad as
it likes; a content hash may not depend on that. So the writer here sorts names and metadata, and
the reader accepts exactly what the writer would have written. Any safetensors library reads it.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from eigen.protocol import limits
from eigen.training.errors import TensorFileError
from eigen.training.layout import Shape

Array = NDArray[Any]

HEADER_BYTES_MAX = 128 * 1024
"""The deepest model here has 195 tensors of some 110 header bytes; with momentum and shared
moments, five times that."""
_DTYPES: Final[dict[str, np.dtype[Any]]] = {"F32": np.dtype("<f4"), "U8": np.dtype("u1")}
_NAMES: Final = {dtype: name for name, dtype in _DTYPES.items()}
_RANK_MAX = 8
"""A convolution's weight has rank 4."""
_ALIGNMENT = 8
"""The header is padded with spaces, so that the data starts aligned."""


@dataclass(frozen=True, slots=True)
class _Entry:
    dtype: str
    shape: Shape
    start: int
    stop: int


def write(arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> bytes:
    """The file. Arrays are fp32 or uint8; data lies in sorted-name order without gaps."""
    entries: dict[str, _Entry] = {}
    chunks: list[bytes] = []
    offset = 0
    for name in sorted(arrays):
        array = arrays[name]
        entries[name] = _Entry(_NAMES[array.dtype], array.shape, offset, offset + array.nbytes)
        offset += array.nbytes
        chunks.append(array.tobytes())
    return b"".join([_header(entries, metadata), *chunks])


def read(data: bytes) -> tuple[dict[str, str], dict[str, Array]]:
    """Metadata and arrays (read-only views of `data`, in sorted-name order).

    Raises `TensorFileError` for anything that `write` would not have written; nothing is allocated
    for what a header only claims.
    """
    if len(data) < 8:
        raise TensorFileError(f"{len(data)} bytes are no safetensors file")
    length = int.from_bytes(data[:8], "little")
    if length > min(HEADER_BYTES_MAX, len(data) - 8):
        raise TensorFileError(
            f"a header of {length} bytes in a file of {len(data)}; at most {HEADER_BYTES_MAX}"
        )
    metadata, entries = _parse(data[8 : 8 + length])
    if _header(entries, metadata) != data[: 8 + length]:
        raise TensorFileError("the header is not in canonical form")
    _check_contiguous(entries, len(data) - 8 - length)
    return metadata, {
        name: np.frombuffer(
            data,
            _DTYPES[entry.dtype],
            (entry.stop - entry.start) // _DTYPES[entry.dtype].itemsize,
            8 + length + entry.start,
        ).reshape(entry.shape)
        for name, entry in entries.items()
    }


def _header(entries: Mapping[str, _Entry], metadata: Mapping[str, str]) -> bytes:
    fields: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    for name, entry in sorted(entries.items()):
        fields[name] = {
            "dtype": entry.dtype,
            "shape": entry.shape,
            "data_offsets": (entry.start, entry.stop),
        }
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _parse(text: bytes) -> tuple[dict[str, str], dict[str, _Entry]]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TensorFileError(f"the header is not JSON: {type(error).__name__}") from None
    if type(fields) is not dict:
        raise TensorFileError("the header is not a JSON object")
    metadata = fields.pop("__metadata__", None)
    if type(metadata) is not dict or not all(type(value) is str for value in metadata.values()):
        raise TensorFileError("the header has no metadata of strings")
    return metadata, {name: _entry(name, value) for name, value in fields.items()}


def _entry(name: str, value: Any) -> _Entry:
    if type(value) is not dict or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise TensorFileError(f"tensor {name!r:.80} is not described by dtype, shape and offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if type(dtype) is not str or dtype not in _DTYPES:
        raise TensorFileError(f"tensor {name!r:.80} has a dtype other than {', '.join(_DTYPES)}")
    if not _naturals(shape, 1) or len(shape) > _RANK_MAX:
        raise TensorFileError(f"tensor {name!r:.80} has an empty or malformed shape")
    if not _naturals(offsets, 0) or len(offsets) != 2:
        raise TensorFileError(f"tensor {name!r:.80} has malformed offsets")
    size = math.prod(shape) * _DTYPES[dtype].itemsize
    if offsets[1] - offsets[0] != size:
        raise TensorFileError(f"tensor {name!r:.80} has offsets that do not fit its shape")
    return _Entry(dtype, tuple(shape), offsets[0], offsets[1])


def _naturals(value: Any, least: int) -> bool:
    return type(value) is list and all(
        type(number) is int and least <= number <= limits.U64_MAX for number in value
    )


def _check_contiguous(entries: Mapping[str, _Entry], size: int) -> None:
    edges = [0, *(edge for entry in entries.values() for edge in (entry.start, entry.stop)), size]
    if any(left != right for left, right in list(pairwise(edges))[::2]):
        raise TensorFileError("the tensors do not fill the file in order")
