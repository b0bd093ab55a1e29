"""Canonical msgpack: frozen dataclasses to bytes and back, strictly.

A message is the array `[tag, field, field, …]` in field order. What is accepted is exactly what
`encode` would have written: after decoding, the message is encoded again and must give the same
bytes, so there is one encoding for each message and a hash of it means something. The shape of each
field comes from its annotation; bounds come from `Annotated[..., Bound]`.

    WireError
    ├── Malformed       not msgpack, or not the canonical bytes of any message
    ├── UnknownMessage  a tag that this version does not have
    └── BadField        a field of the wrong type, length or range; `field` names it
"""

import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import repeat
from typing import Annotated, Any, TypeVar, cast, get_args, get_origin, get_type_hints

import msgpack

from eigen.protocol import limits
from eigen.protocol.cid import CidError, parse_cid
from eigen.protocol.types import Address, Cid, Digest, RunId

M = TypeVar("M")


class WireError(ValueError):
    """A peer's bytes are not a message. The message says what is wrong with them."""


class Malformed(WireError):
    """Not msgpack, or not canonical."""


class UnknownMessage(WireError):
    """The tag is not in the catalogue."""

    def __init__(self, tag: object) -> None:
        super().__init__(f"unknown message tag {tag!r:.40}")


class BadField(WireError):
    """A field does not fit its type or bound."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field


@dataclass(frozen=True, slots=True)
class Length:
    """At most (or exactly) this many bytes or items."""

    most: int
    least: int = 0


@dataclass(frozen=True, slots=True)
class Range:
    """An integer between `least` and `most`, both included."""

    most: int
    least: int = 0


@dataclass(frozen=True, slots=True)
class CidText(Length):
    """The text of a CID of ours; anything else would fail much later, far from who sent it."""


def exactly(count: int) -> Length:
    """A length that is neither more nor less."""
    return Length(count, count)


Text = Annotated[str, Length(limits.TEXT_BYTES_MAX)]
U64 = Annotated[int, Range(limits.U64_MAX)]
Amount = Annotated[int, "amount"]
"""A token amount in base units, 0 to 2^256 - 1; travels as minimal big-endian bytes."""

_FIXED: dict[Any, tuple[type, Length]] = {
    Address: (bytes, exactly(20)),
    Digest: (bytes, exactly(32)),
    RunId: (bytes, exactly(32)),
    Cid: (str, CidText(limits.CID_BYTES_MAX, 1)),
}

_tag_of: dict[type, int] = {}
_type_of: dict[int, type] = {}
_fields_of: dict[type, tuple[tuple[str, "_Shape"], ...]] = {}


@dataclass(frozen=True, slots=True)
class _Shape:
    """What an annotation asks for, read from it once: typing is slow to ask."""

    kind: Any
    bound: Any
    is_struct: bool
    items: tuple["_Shape", ...] | None  # of a tuple
    repeats: bool  # whether `items` is one shape for any number


def message(tag: int) -> Callable[[type[M]], type[M]]:
    """Class decorator: make a frozen dataclass a message with this tag, unique for ever."""

    def register(cls: type[M]) -> type[M]:
        if tag in _type_of:
            raise ValueError(f"tag {tag} is taken by {_type_of[tag].__name__}")
        _tag_of[cls] = tag
        _type_of[tag] = cls
        return cls

    return register


def catalogue() -> dict[int, type]:
    """All messages by tag."""
    return dict(_type_of)


def encode(value: object) -> bytes:
    """Canonical bytes of a message. Raises `BadField` where it breaks its own bounds."""
    cls = type(value)
    if cls not in _tag_of:
        raise TypeError(f"{cls.__name__} is not a message")
    packed: bytes = msgpack.packb([_tag_of[cls], *_pack_fields(value)], use_bin_type=True)
    return packed


def encode_bare(value: object) -> bytes:
    """Canonical bytes of a nested structure (such as a `RunSpec`) without a tag, for hashing."""
    packed: bytes = msgpack.packb(_pack_fields(value), use_bin_type=True)
    return packed


def decode(data: bytes, *expected: type[M], bytes_max: int | None = None) -> M:
    """The message in `data`; of one of the `expected` types if any are given.

    Raises `WireError` and nothing else, whatever the bytes are.
    """
    bound = limits.GOSSIP_MESSAGE_BYTES_MAX if bytes_max is None else bytes_max
    if len(data) > bound:
        raise Malformed(f"{len(data)} bytes, at most {bound} allowed")
    items = _unpack(data)
    if not isinstance(items, list) or not items or type(items[0]) is not int:
        raise Malformed("not an array that starts with a tag")
    cls = _type_of.get(items[0])
    if cls is None:
        raise UnknownMessage(items[0])
    if expected and cls not in expected:
        names = " or ".join(e.__name__ for e in expected)
        raise Malformed(f"a {cls.__name__} where a {names} is expected")
    value = _read_struct(cls, items[1:], cls.__name__)
    if encode(value) != data:
        raise Malformed(f"{cls.__name__} is not in canonical form")
    return cast(M, value)


def decode_bare(data: bytes, cls: type[M], *, bytes_max: int) -> M:
    """A nested structure written by `encode_bare`. Raises `WireError`."""
    if len(data) > bytes_max:
        raise Malformed(f"{len(data)} bytes, at most {bytes_max} allowed")
    value = _read_struct(cls, _unpack(data), cls.__name__)
    if encode_bare(value) != data:
        raise Malformed(f"{cls.__name__} is not in canonical form")
    return cast(M, value)


def _unpack(data: bytes) -> Any:
    try:
        return msgpack.unpackb(
            data,
            raw=False,
            use_list=True,
            strict_map_key=True,
            max_ext_len=0,
            max_map_len=0,
        )
    except (ValueError, RecursionError, msgpack.UnpackException) as error:
        raise Malformed(f"not msgpack: {type(error).__name__}") from None


def _fields(cls: Any) -> tuple[tuple[str, _Shape], ...]:
    known = _fields_of.get(cls)
    if known is None:
        hints = get_type_hints(cls, include_extras=True)
        known = tuple((f.name, _shape(hints[f.name])) for f in dataclasses.fields(cls))
        _fields_of[cls] = known
    return known


def _shape(hint: Any) -> _Shape:
    kind, bound = _split(hint)
    items, repeats = None, False
    if get_origin(kind) is tuple:
        arguments = get_args(kind)
        repeats = len(arguments) == 2 and arguments[1] is Ellipsis
        items = tuple(_shape(argument) for argument in arguments[: 1 if repeats else None])
    return _Shape(kind, bound, dataclasses.is_dataclass(kind), items, repeats)


def _split(hint: Any) -> tuple[Any, Any]:
    """A hint's type and its bound."""
    if hint in _FIXED:
        return _FIXED[hint]
    if get_origin(hint) is Annotated:
        inner, bound, *_ = get_args(hint)
        return (_FIXED[inner][0] if inner in _FIXED else inner), bound
    return hint, None


def _pack_fields(value: Any) -> list[Any]:
    cls = type(value)
    return [
        _pack(getattr(value, name), shape, f"{cls.__name__}.{name}") for name, shape in _fields(cls)
    ]


def _item_shapes(shape: _Shape, count: int, field: str) -> Iterable[_Shape]:
    assert shape.items is not None
    _check_length(count, shape.bound, field)
    if shape.repeats:
        return repeat(shape.items[0], count)
    if len(shape.items) != count:
        raise BadField(field, f"{count} items, {len(shape.items)} expected")
    return shape.items


def _check_length(size: int, bound: Any, field: str) -> None:
    if isinstance(bound, Length) and not bound.least <= size <= bound.most:
        wanted = str(bound.most) if bound.least == bound.most else f"{bound.least} to {bound.most}"
        raise BadField(field, f"length {size}, {wanted} allowed")


def _check_scalar(value: Any, kind: Any, bound: Any, field: str) -> None:
    if type(value) is not kind:
        raise BadField(field, f"a {type(value).__name__} where a {kind.__name__} is expected")
    if kind is int:
        least, most = (bound.least, bound.most) if isinstance(bound, Range) else (0, limits.U64_MAX)
        if not least <= value <= most:
            raise BadField(field, f"{value} is not within {least} to {most}")
    elif kind is float:
        if not math.isfinite(value):
            raise BadField(field, "not a finite number")
    elif kind is str:
        try:
            _check_length(len(value.encode()), bound, field)
        except UnicodeEncodeError:
            raise BadField(field, "not valid text") from None
        if isinstance(bound, CidText):
            _check_cid(value, field)
    elif kind is bytes:
        _check_length(len(value), bound, field)


def _check_cid(text: str, field: str) -> None:
    try:
        parse_cid(text)
    except CidError as error:
        raise BadField(field, str(error)) from None


def _pack(value: Any, shape: _Shape, field: str) -> Any:
    if shape.bound == "amount":
        if type(value) is not int or not 0 <= value < 2**256:
            raise BadField(field, "not an amount between 0 and 2^256 - 1")
        return value.to_bytes((value.bit_length() + 7) // 8, "big")
    if shape.items is not None:
        if type(value) is not tuple:
            raise BadField(field, f"a {type(value).__name__} where a tuple is expected")
        shapes = _item_shapes(shape, len(value), field)
        return [
            _pack(v, s, f"{field}[{i}]") for i, (v, s) in enumerate(zip(value, shapes, strict=True))
        ]
    if shape.is_struct:
        if type(value) is not shape.kind:
            raise BadField(field, f"a {type(value).__name__} is not a {shape.kind}")
        return _pack_fields(value)
    _check_scalar(value, shape.kind, shape.bound, field)
    return value


def _read(value: Any, shape: _Shape, field: str) -> Any:
    if shape.bound == "amount":
        if type(value) is not bytes or len(value) > 32:
            raise BadField(field, "not an amount")
        return int.from_bytes(value, "big")
    if shape.items is not None:
        if type(value) is not list:
            raise BadField(field, f"a {type(value).__name__} where an array is expected")
        shapes = _item_shapes(shape, len(value), field)
        return tuple(
            _read(v, s, f"{field}[{i}]") for i, (v, s) in enumerate(zip(value, shapes, strict=True))
        )
    if shape.is_struct:
        return _read_struct(shape.kind, value, field)
    _check_scalar(value, shape.kind, shape.bound, field)
    return value


def _read_struct(cls: Any, items: Any, field: str) -> Any:
    if type(items) is not list:
        raise BadField(field, f"a {type(items).__name__} where an array is expected")
    fields = _fields(cls)
    if len(items) != len(fields):
        raise BadField(field, f"{len(items)} fields, {len(fields)} expected")
    values = {
        name: _read(item, shape, f"{field}.{name}")
        for (name, shape), item in zip(fields, items, strict=True)
    }
    try:
        return cls(**values)
    except ValueError as error:  # a class's own invariant, in __post_init__
        raise BadField(field, str(error)) from None
