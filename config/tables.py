"""Fills dataclasses from TOML tables, and says in which line something is wrong.

A field's metadata says what it takes: `kind` (see `kinds`), or `item` for an array of tables, the
dataclass that each of them fills. A field without either is a table of its own.
"""

from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, cast

from eigen.config.kinds import Kind
from eigen.config.toml_text import line_of, place

T = TypeVar("T")

ITEMS_MAX = 1024
"""Tables of one array."""


def required(kind: Kind[T], description: str) -> T:
    """A field that has no default."""
    made: object = field(metadata={"kind": kind, "description": description})
    return cast(T, made)


def items(made: type[T], description: str) -> tuple[T, ...]:
    """A field for an array of tables, none by default."""
    built: object = field(default=(), metadata={"item": made, "description": description})
    return cast(tuple[T, ...], built)


@dataclass(frozen=True, slots=True)
class TableReader:
    """Reads one file's `text`; `wrong` makes its error of a message."""

    text: str
    source: Path
    wrong: Callable[[str], Exception]

    def table(self, made: type[T], table: dict[str, Any], prefix: str = "", item: int = 0) -> T:
        """The dataclass `made`, filled. `item` says of which table of an array.

        Raises what `wrong` makes for a key that is missing or unknown, or a value of another kind.
        """
        known = {f.name: f for f in fields(cast(Any, made))}
        for name in table:
            if name not in known:
                meant = get_close_matches(name, known, 1, 0.6)
                hint = f"did you mean {meant[0]}?" if meant else f"there are {', '.join(known)}"
                raise self.error(prefix + name, f"no such key; {hint}", item)
        values = {}
        for name, f in known.items():
            if name in table:
                values[name] = self._value(f.metadata, f.type, prefix + name, table[name], item)
            elif f.default is MISSING and f.default_factory is MISSING:
                raise self.error(prefix + name, "is missing", item)
        return made(**values)

    def _value(self, about: Any, made: Any, key: str, value: object, item: int) -> object:
        if "item" in about:
            if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
                raise self.error(key, f"is an array of tables: write [[{key}]] for each", item)
            if len(value) > ITEMS_MAX:
                raise self.error(key, f"{len(value)} tables, at most {ITEMS_MAX}", item)
            return tuple(
                self.table(about["item"], one, f"{key}.", number)
                for number, one in enumerate(value)
            )
        if "kind" not in about:
            if not isinstance(value, dict):
                raise self.error(key, f"is a table: write [{key}] and its keys below it", item)
            return self.table(made, value, f"{key}.", item)
        kind: Kind[Any] = about["kind"]
        try:
            return kind.parse(value, self.source.parent)
        except ValueError as error:
            raise self.error(key, f"{error}; it must be {kind.accepts}", item) from error

    def error(self, key: str, reason: str, item: int = 0) -> Exception:
        """An error with file, line and key."""
        return self.wrong(f"{place(self.source, line_of(self.text, key, item))}: {key}: {reason}")
