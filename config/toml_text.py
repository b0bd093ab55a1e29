"""Writing the TOML that we need, and finding the line of a key. Reading is `tomllib`'s."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Final

Plain = bool | int | float | str | list["Plain"]
"""What one TOML value is made of here; tables are written by `document`."""


def literal(value: Plain) -> str:
    """One value on one line, such that `tomllib` reads the same value back."""
    if isinstance(value, list):
        return f"[{', '.join(map(literal, value))}]"
    if isinstance(value, str):
        # A TOML basic string escapes as JSON does, and DEL besides.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, float):
        return repr(value)  # `inf` and `nan` are TOML too
    return json.dumps(value)


def document(tables: Mapping[str, Mapping[str, Plain]]) -> str:
    """A file of named tables in the given order; the table named "" comes without a header."""
    blocks = []
    for name, rows in tables.items():
        lines = [f"[{name}]"] if name else []
        lines += [f"{key} = {literal(value)}" for key, value in rows.items()]
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


_HEADER: Final = re.compile(r"\s*\[+([^\]]*)\]")
_ASSIGNMENT: Final = re.compile(r"\s*([\w\s.\"'-]+?)\s*=")


def line_of(text: str, key: str, item: int = 0) -> int | None:
    """Line on which `section` or `section.key` is first set; None where it is not found.

    Of an array of tables, the one with the number `item` is meant; where that does not set the key,
    its header's line is given. Good enough for a message:
    it follows headers, plain and dotted keys, not inline tables.
    """
    section, seen, within = "", Counter[str](), None
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            section = found = _bare(header[1])
            if within is not None:
                return within
            if line.lstrip().startswith("[["):
                seen[section] += 1
                if key.startswith(f"{section}.") and seen[section] == item + 1:
                    within = number
                elif seen[section] != item + 1:
                    section = found = "\0"  # another table of the array
        elif assignment := _ASSIGNMENT.match(line):
            found = f"{section}.{_bare(assignment[1])}".lstrip(".")
        else:
            continue
        if found == key or found.startswith(f"{key}."):
            return number
    return within


def _bare(name: str) -> str:
    return re.sub(r"[\s\"']", "", name)


def place(path: Path, line: int | None) -> str:
    """`file:line` as editors and terminals follow it."""
    return f"{path}:{line}" if line else str(path)
