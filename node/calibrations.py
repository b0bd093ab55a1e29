"""The tolerances that were measured on this machine, in a TOML file of the home."""

import tomllib
from pathlib import Path
from typing import Any

from eigen.config.errors import ConfigError
from eigen.config.toml_text import Plain, document
from eigen.node.durable import write_durably
from eigen.protocol.run import RunSpec
from eigen.training.calibration import DEFAULTS, Tolerance, work_id

FILE_BYTES_MAX = 1 << 20
"""A table takes some 200 bytes."""
_HEAD = "# Written by `eigen validator calibrate`: how far an honest replay may be off.\n\n"


class CalibrationFileError(ConfigError):
    """The file of tolerances is damaged; it can be measured anew."""


def tolerance(path: Path, spec: RunSpec) -> Tolerance:
    """What was measured for this run's model and inner steps, else the default of its precision.

    Raises `CalibrationFileError`.
    """
    return load(path).get(work_id(spec), DEFAULTS[spec.inner.precision])


def load(path: Path) -> dict[str, Tolerance]:
    """All that was measured, by `work_id`; nothing where there is no file.

    Raises `CalibrationFileError` with what is wrong.
    """
    return {name: _tolerance(path, name, table) for name, table in _tables(path).items()}


def save(path: Path, spec: RunSpec, measured: Tolerance) -> None:
    """Add or replace one run's; durable on return. Raises `CalibrationFileError` or OSError."""
    kept = load(path) | {work_id(spec): measured}
    names = {name: str(table.get("name", "")) for name, table in _tables(path).items()}
    names[work_id(spec)] = spec.name
    tables: dict[str, dict[str, Plain]] = {
        name: {"name": names[name], "accept": one.accept, "reject": one.reject}
        for name, one in kept.items()
    }
    write_durably(path, [(_HEAD + document(tables)).encode()], path.parent)


def _tables(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(FILE_BYTES_MAX + 1)
        if len(text) > FILE_BYTES_MAX:
            raise CalibrationFileError(f"{path}: over {FILE_BYTES_MAX} bytes: no calibration")
        return tomllib.loads(text.decode())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise CalibrationFileError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CalibrationFileError(f"{path}: not valid TOML: {error}; delete it") from error


def _tolerance(path: Path, name: str, table: Any) -> Tolerance:
    try:
        accept, reject = table["accept"], table["reject"]
        return Tolerance(float(accept), float(reject))
    except KeyError as error:
        raise CalibrationFileError(f"{path}: [{name}] has no {error.args[0]}") from error
    except (TypeError, ValueError) as error:
        raise CalibrationFileError(f"{path}: [{name}]: {error}") from error
