"""Kinds of values that a setting accepts: how each is read, checked, shown and explained.

A `NotAccepted` from here is a reason in words; who catches it adds the setting's name and place.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar
from urllib.parse import urlsplit

from eigen.config.addresses import format_address, parse_address
from eigen.config.errors import NotAccepted
from eigen.config.toml_text import Plain
from eigen.protocol.types import Address

T = TypeVar("T")

LIST_ITEMS_MAX: Final = 256
"""Of any list; longer allow lists belong in a firewall."""

TEXT_CHARACTERS_MAX: Final = 4096
"""Of any string: a path or a URL."""


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """One kind of value.

    `accepts` completes "it must be …". `parse` takes what TOML gave and the folder against which
    relative paths are meant. `from_text` makes a TOML-like value of a flag or a variable. `plain`
    is the way back, None for a setting that is not set.
    """

    accepts: str
    parse: Callable[[object, Path], T]
    from_text: Callable[[str], object]
    plain: Callable[[T], Plain | None]


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise NotAccepted(f"{_name(value)} is no string")
    if len(value) > TEXT_CHARACTERS_MAX:
        raise NotAccepted(f"a string of {len(value)} characters is too long")
    return value


def _name(value: object) -> str:
    """A value as TOML shows it, and short enough for a message."""
    shown = str(value).lower() if isinstance(value, bool) else repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _boolean_from_text(text: str) -> object:
    words = {"true": True, "1": True, "yes": True, "on": True}
    words |= {"false": False, "0": False, "no": False, "off": False}
    return words.get(text.strip().lower(), text)


def _parse_boolean(value: object, _: Path) -> bool:
    if not isinstance(value, bool):
        raise NotAccepted(f"{_name(value)} is no boolean")
    return value


boolean: Final = Kind("true or false", _parse_boolean, _boolean_from_text, lambda value: value)


def integer(low: int, high: int) -> Kind[int]:
    """A whole number in [low, high]."""

    def parse(value: object, _: Path) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise NotAccepted(f"{_name(value)} is no whole number")
        if not low <= value <= high:
            raise NotAccepted(f"{_name(value)} is out of range")
        return value

    def from_text(text: str) -> object:
        return int(text) if re.fullmatch(r"[+-]?[0-9]{1,20}", text.strip()) else text

    return Kind(f"a whole number from {low} to {high}", parse, from_text, lambda value: value)


def number(low: float, high: float) -> Kind[float]:
    """A finite number in [low, high]; whole numbers are taken too."""

    def parse(value: object, _: Path) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise NotAccepted(f"{_name(value)} is no number")
        if not math.isfinite(value) or not low <= value <= high:
            raise NotAccepted(f"{_name(value)} is out of range")
        return float(value)

    def from_text(text: str) -> object:
        try:
            return float(text)
        except ValueError:
            return text

    return Kind(f"a number from {low:g} to {high:g}", parse, from_text, lambda value: value)


def text(most: int) -> Kind[str]:
    """Up to `most` characters on one line."""

    def parse(value: object, _: Path) -> str:
        found = _text(value)
        if len(found) > most or "\n" in found:
            raise NotAccepted(f"{_name(found)} is no line of up to {most} characters")
        return found

    return Kind(f"a line of up to {most} characters", parse, lambda given: given, str)


def choice(*words: str) -> Kind[str]:
    """One of a few words."""

    def parse(value: object, _: Path) -> str:
        if value not in words:
            raise NotAccepted(f"{_name(value)} is none of them")
        return str(value)

    listed = ", ".join(f'"{word}"' for word in words)
    return Kind(f"one of {listed}", parse, lambda text: text, lambda value: value)


def _parse_path(value: object, base: Path) -> Path:
    text = _text(value)
    if not text or "\0" in text:
        raise NotAccepted(f"{_name(value)} is no path")
    try:
        return base / Path(text).expanduser()
    except RuntimeError as error:
        raise NotAccepted(f"{_name(value)} names a user without a home") from error


path: Final = Kind("a path", _parse_path, lambda text: text, str)


def _parse_account(value: object, _: Path) -> Address:
    text = _text(value)
    try:
        return parse_address(text)
    except ValueError as error:
        raise NotAccepted(f"{_name(text)}: {error}") from error


address: Final = Kind(
    "an address (0x and 40 hexadecimal digits)",
    _parse_account,
    lambda text: text.strip(),
    format_address,
)


def _parse_url(value: object, _: Path) -> str:
    text = _text(value)
    try:
        parts = urlsplit(text)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError as error:
        raise NotAccepted(f"{_name(value)}: {error}") from error
    if not known or not text.isprintable() or " " in text:
        raise NotAccepted(f"{_name(value)} is no http or https URL")
    return text


url: Final = Kind("an http:// or https:// URL", _parse_url, lambda text: text.strip(), str)


def multiaddr(*, with_peer: bool) -> Kind[str]:
    """A multiaddr; `with_peer` where it must end in `/p2p/` and the peer's id, to be dialled."""

    def parse(value: object, _: Path) -> str:
        text = _text(value)
        from multiaddr import Multiaddr  # 12 ms, and only for a setting that is there

        try:
            parsed = Multiaddr(text)
            names = [protocol.name for protocol in parsed.protocols()]
        except Exception as error:
            raise NotAccepted(f"{_name(value)} is no multiaddr: {error}") from error
        if with_peer != ("p2p" in names[-1:]):
            part = "does not end in /p2p/ and a peer id" if with_peer else "names a peer"
            raise NotAccepted(f"{_name(value)} {part}")
        return str(parsed)

    example = "/ip4/192.0.2.1/tcp/4001" + ("/p2p/16Uiu2…" if with_peer else "")
    return Kind(f"a multiaddr such as {example}", parse, lambda text: text.strip(), str)


def listing(item: Kind[T]) -> Kind[tuple[T, ...]]:
    """A list, separated by commas where it is given as text. Doubles are refused."""

    def parse(value: object, base: Path) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise NotAccepted(f"{_name(value)} is no list")
        if len(value) > LIST_ITEMS_MAX:
            raise NotAccepted(f"a list of {len(value)} is too long, {LIST_ITEMS_MAX} at most")
        items = tuple(item.parse(one, base) for one in value)
        if len(set(items)) != len(items):
            raise NotAccepted("an item appears twice")
        return items

    def from_text(text: str) -> object:
        return [item.from_text(part.strip()) for part in text.split(",") if part.strip()]

    def plain(value: tuple[T, ...]) -> Plain:
        return [shown for one in value if (shown := item.plain(one)) is not None]

    return Kind(f"a list; each item is {item.accepts}", parse, from_text, plain)


def optional(item: Kind[T], unset: str) -> Kind[T | None]:
    """A setting that may be left out; `unset` says what holds then. Empty text unsets it."""

    def parse(value: object, base: Path) -> T | None:
        return None if value is None else item.parse(value, base)

    def from_text(text: str) -> object:
        return item.from_text(text) if text.strip() else None

    def plain(value: T | None) -> Plain | None:
        return None if value is None else item.plain(value)

    return Kind(f"{item.accepts} (left out: {unset})", parse, from_text, plain)
