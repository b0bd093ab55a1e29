"""TOML files that members write, read so that a mistake names its key and what may stand there."""

import tomllib
from pathlib import Path
from typing import Any

from eigen.node.exit_codes import ExitCode, UserError
from eigen.protocol.limits import DESCRIPTION_BYTES_MAX

FILE_BYTES_MAX = 256 * 1024
NUMBER_MAX = 1e300
"""Larger ones are infinite, or too large for a float: no setting comes near."""


class MemberFileError(UserError):
    """A file is wrong; the message names file and key, and what may stand there."""

    def __init__(self, path: Path, message: str) -> None:
        super().__init__(f"{path}: {message}", ExitCode.CONFIGURATION)


def read_table(path: Path, what: str) -> dict[str, Any]:
    """The TOML in a file; `what` it is to be is for messages. Raises `MemberFileError`."""
    try:
        with path.open("rb") as file:
            text = file.read(FILE_BYTES_MAX + 1)
        if len(text) > FILE_BYTES_MAX:
            raise MemberFileError(path, f"over {FILE_BYTES_MAX} bytes: no {what}")
        return tomllib.loads(text.decode())
    except OSError as error:
        raise MemberFileError(path, f"cannot be read: {error.strerror}") from error
    except RecursionError as error:
        raise MemberFileError(path, "not valid TOML: nested too deeply") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MemberFileError(path, f"not valid TOML: {error}") from error


_NAMES = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "a table",
}


class Table:
    """A TOML table that says where a key is missing, unknown or of the wrong type."""

    def __init__(self, path: Path, table: dict[str, Any], prefix: str = "") -> None:
        self.path = path
        self._table = table
        self._prefix = prefix

    def __contains__(self, key: str) -> bool:
        return key in self._table

    def error(self, key: str, message: str) -> MemberFileError:
        """What is wrong with a key, named in full."""
        return MemberFileError(self.path, f"{self._prefix}{key}: {message}")

    def take(self, key: str, kind: Any, default: Any = None) -> Any:
        """A value of exactly this type; missing or empty is an error where there is no default."""
        value = self._table.get(key, default)
        if value is None:
            raise MemberFileError(self.path, f"{self._prefix}{key} is missing")
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if type(value) not in kinds:
            wanted = " or ".join(_NAMES[k] for k in kinds)
            given = _NAMES.get(type(value), "a date or time")
            raise self.error(key, f"{given}, not {wanted}")
        if value == "" and default is None:
            raise MemberFileError(self.path, f"{self._prefix}{key} is empty")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number."""
        value = self.take(key, (float, int), default)
        if not abs(value) <= NUMBER_MAX:  # NaN is not, either
            raise self.error(key, "not a finite number")
        return float(value)

    def sub(self, key: str, default: dict[str, Any] | None = None) -> "Table":
        """A table inside."""
        return Table(self.path, self.take(key, dict, default), f"{self._prefix}{key}.")

    def rest(self, known: set[str]) -> list[str]:
        """Keys that are none of these."""
        return [key for key in self._table if key not in known]

    def refuse_unknown(self, known: set[str]) -> None:
        """Raise for the first key that is none of these."""
        for key in self.rest(known):
            accepted = ", ".join(sorted(known))
            raise self.error(key, f"no such key; there are {accepted}")

    def description(self) -> str:
        """The key that says what the file is about, bounded as a proposal's is."""
        text: str = self.take("description", str, "")
        if (size := len(text.encode())) > DESCRIPTION_BYTES_MAX:
            raise self.error("description", f"{size} bytes, at most {DESCRIPTION_BYTES_MAX}")
        return text
