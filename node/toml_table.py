"""TOML files that a person writes: read whole, with errors that name the file and the key."""

import tomllib
from pathlib import Path
from typing import Any

from eigen.node.exit_codes import ExitCode, UserError

FILE_BYTES_MAX = 256 * 1024
NUMBER_MAX = 1e300
"""Larger ones are infinite, or too large for a float: no setting comes near."""


class TomlFileError(UserError):
    """A file is wrong; the message names file and key, and what may stand there."""

    def __init__(self, path: Path, message: str) -> None:
        super().__init__(f"{path}: {message}", ExitCode.CONFIGURATION)


def read_toml(path: Path, kind: str) -> dict[str, Any]:
    """The table in a file, of at most `FILE_BYTES_MAX`. Raises `TomlFileError`."""
    try:
        with path.open("rb") as file:
            text = file.read(FILE_BYTES_MAX + 1)
        if len(text) > FILE_BYTES_MAX:
            raise TomlFileError(path, f"over {FILE_BYTES_MAX} bytes: no {kind}")
        return tomllib.loads(text.decode())
    except OSError as error:
        raise TomlFileError(path, f"cannot be read: {error.strerror}") from error
    except RecursionError as error:
        raise TomlFileError(path, "not valid TOML: nested too deeply") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TomlFileError(path, f"not valid TOML: {error}") from error


_NAMES = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "a table",
}


class TomlTable:
    """A TOML table that says where a key is missing, unknown or of the wrong type."""

    def __init__(self, path: Path, table: dict[str, Any], prefix: str) -> None:
        self._path = path
        self._table = table
        self._prefix = prefix

    def take(self, key: str, kind: Any, default: Any = None) -> Any:
        """The value of a key, of a kind or one of several; required where there is no default."""
        value = self._table.get(key, default)
        name = self._prefix + key
        if value is None:
            raise TomlFileError(self._path, f"{name} is missing")
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if type(value) not in kinds:
            wanted = " or ".join(_NAMES[k] for k in kinds)
            given = _NAMES.get(type(value), "a date or time")
            raise TomlFileError(self._path, f"{name}: {given}, not {wanted}")
        if value == "" and default is None:
            raise TomlFileError(self._path, f"{name} is empty")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number."""
        value = self.take(key, (float, int), default)
        if not abs(value) <= NUMBER_MAX:  # NaN is not, either
            raise TomlFileError(self._path, f"{self._prefix}{key}: not a finite number")
        return float(value)

    def sub(self, key: str, default: dict[str, Any] | None = None) -> "TomlTable":
        """The table under a key."""
        return TomlTable(self._path, self.take(key, dict, default), f"{key}.")

    def name(self, key: str) -> str:
        """What a person calls a key."""
        return self._prefix + key

    def rest(self, known: set[str]) -> list[str]:
        """Keys besides these."""
        return [key for key in self._table if key not in known]

    def refuse_unknown(self, known: set[str]) -> None:
        """Refuse keys besides these, naming all that there are."""
        for key in self.rest(known):
            accepted = ", ".join(sorted(known))
            raise TomlFileError(
                self._path, f"{self._prefix}{key}: no such key; there are {accepted}"
            )
