"""An owner's rows, read from what it names: CSV, safetensors, or a data set of scikit-learn.

Everything is checked here, before it costs anything: a number that is none is named by its row and
column.
"""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eigen.training.errors import SpecError

Values = NDArray[np.float64]

BUILT_IN = ("digits", "breast_cancer")
CSV_BYTES_MAX = 4 << 30
"""131,072 rows, all that a job can have, of 4,096 numbers of eight characters."""


def read_table(source: str, label: str) -> tuple[Values, Values]:
    """Rows x inputs and targets. Raises `SpecError`, naming data.source or data.label."""
    if source in BUILT_IN:
        return _built_in(source)
    path = Path(source)
    readers: dict[str, Callable[[Path, str], tuple[Values, Values]]] = {
        ".csv": _csv,
        ".safetensors": _safetensors,
    }
    reader = readers.get(path.suffix)
    if reader is None:
        names = ", ".join(BUILT_IN)
        raise SpecError("data.source", f"a .csv or .safetensors file, or one of {names}")
    try:
        if path.stat().st_size > CSV_BYTES_MAX:
            raise SpecError("data.source", f"{path} is over {CSV_BYTES_MAX >> 30} GiB")
        x, y = reader(path, label)
    except OSError as error:
        raise SpecError("data.source", f"{path} cannot be read: {error.strerror}") from None
    if len(x) < 2 or not x.shape[1]:
        raise SpecError("data.source", f"{len(x)} rows of {x.shape[1]} features are no data")
    return x, y


def _csv(path: Path, label: str) -> tuple[Values, Values]:
    with path.open(newline="") as file:
        lines = csv.reader(file)
        header = next(lines, [])
        if label not in header:
            raise SpecError("data.label", f"{path} has no column {label!r}; its first line names")
        rows = []
        for number, line in enumerate(lines, 2):
            if len(line) != len(header):
                raise SpecError(
                    "data.source", f"{path} line {number}: {len(line)} of {len(header)} columns"
                )
            rows.append([_number(text, path, number, header[i]) for i, text in enumerate(line)])
    table = np.array(rows, np.float64).reshape(-1, len(header))
    target = header.index(label)
    return np.delete(table, target, axis=1), table[:, target]


def _number(text: str, path: Path, line: int, column: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise SpecError(
            "data.source",
            f"{path} line {line}, column {column}: {text[:20]!r} is no finite number; "
            "drop or fill such rows first",
        )
    return value


def _safetensors(path: Path, label: str) -> tuple[Values, Values]:
    found = load_arrays(path, "data.source")
    y = found.pop(label, None)
    if y is None or len(found) != 1:
        raise SpecError("data.label", f"{path} must hold {label!r} and one array of features")
    [x] = found.values()
    if x.ndim != 2 or y.ndim != 1 or len(x) != len(y):
        raise SpecError("data.source", f"{path}: rows x inputs and as many targets, not {x.shape}")
    for name, values in (("features", x), (label, y[:, None])):
        if not np.isfinite(values).all():
            row, column = np.argwhere(~np.isfinite(values))[0]
            raise SpecError(
                "data.source",
                f"{path}, {name}, row {row}, column {column}: no finite number; drop or fill "
                "such rows first",
            )
    return x.astype(np.float64), y.astype(np.float64)


def load_arrays(path: Path, field: str) -> dict[str, NDArray[Any]]:
    """The arrays of a safetensors file as any library writes it. Raises `SpecError`."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return dict(load_file(path))
    except OSError as error:
        raise SpecError(field, f"{path} cannot be read: {error.strerror or error}") from None
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise SpecError(field, f"{path} is no safetensors file that can be used: {error}") from None


def _built_in(source: str) -> tuple[Values, Values]:
    try:
        from sklearn import datasets
    except ImportError:
        raise SpecError("data.source", f"{source} needs scikit-learn installed") from None
    loaded = datasets.load_digits() if source == "digits" else datasets.load_breast_cancer()
    scale = 16.0 if source == "digits" else 1.0
    return loaded.data.astype(np.float64) / scale, loaded.target.astype(np.float64)
