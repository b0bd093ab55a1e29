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
from functools import lru_cache
from itertools import repeat
from types import GenericAlias
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
        self.reason = reason

    def within(self, outer: str) -> "BadField":
        """The same, as a field of what is called `outer`."""
        joint = "." if self.field and not self.field.startswith("[") else ""
        return BadField(f"{outer}{joint}{self.field}", self.reason)


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


@dataclass(frozen=True, slots=True)
class _Shape:
    """How values of one annotation are packed and read; both raise `BadField`."""

    pack: Callable[[Any], Any]
    read: Callable[[Any], Any]


_shape_of: dict[Any, _Shape] = {}


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
    packed: bytes = msgpack.packb([_tag_of[cls], *_pack(value)], use_bin_type=True)
    return packed


def encode_bare(value: object) -> bytes:
    """Canonical bytes of a nested structure (such as a `RunSpec`) without a tag, for hashing."""
    packed: bytes = msgpack.packb(_pack(value), use_bin_type=True)
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
    value = _read(cls, items[1:])
    if encode(value) != data:
        raise Malformed(f"{cls.__name__} is not in canonical form")
    return cast(M, value)


def decode_bare(data: bytes, cls: type[M], *, bytes_max: int) -> M:
    """A nested structure written by `encode_bare`. Raises `WireError`."""
    if len(data) > bytes_max:
        raise Malformed(f"{len(data)} bytes, at most {bytes_max} allowed")
    value = _read(cls, _unpack(data))
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


def _pack(value: Any) -> Any:
    cls = type(value)
    try:
        return _shape(cls).pack(value)
    except BadField as error:
        raise error.within(cls.__name__) from None


def _read(cls: type, items: Any) -> Any:
    try:
        return _shape(cls).read(items)
    except BadField as error:
        raise error.within(cls.__name__) from None


def _shape(hint: Any) -> _Shape:
    """What an annotation means, worked out once."""
    known = _shape_of.get(hint)
    if known is None:
        known = _shape_of[hint] = _work_out(hint)
    return known


def _work_out(hint: Any) -> _Shape:
    kind, bound = _split(hint)
    if bound == "amount":
        return _Shape(_pack_amount, _read_amount)
    if get_origin(kind) is tuple:
        return _tuples(kind, bound)
    if dataclasses.is_dataclass(kind):
        return _structs(cast(type, kind))
    check = _scalar(kind, bound)
    return _Shape(check, check)


def _split(hint: Any) -> tuple[Any, Any]:
    """A hint's type and its bound."""
    if hint in _FIXED:
        return _FIXED[hint]
    if get_origin(hint) is Annotated:
        inner, bound, *_ = get_args(hint)
        return (_FIXED[inner][0] if inner in _FIXED else inner), bound
    return hint, None


def _structs(cls: type) -> _Shape:
    hints = get_type_hints(cls, include_extras=True)
    fields = [(f.name, _shape(hints[f.name])) for f in dataclasses.fields(cls)]

    def pack(value: Any) -> list[Any]:
        if type(value) is not cls:
            raise BadField("", f"a {type(value).__name__} is not a {cls.__name__}")
        packed = []
        for name, shape in fields:
            try:
                packed.append(shape.pack(getattr(value, name)))
            except BadField as error:
                raise error.within(name) from None
        return packed

    def read(items: Any) -> Any:
        if type(items) is not list:
            raise BadField("", f"a {type(items).__name__} where an array is expected")
        if len(items) != len(fields):
            raise BadField("", f"{len(items)} fields, {len(fields)} expected")
        values = {}
        for (name, shape), item in zip(fields, items, strict=True):
            try:
                values[name] = shape.read(item)
            except BadField as error:
                raise error.within(name) from None
        try:
            return cls(**values)
        except ValueError as error:  # a class's own invariant, in __post_init__
            raise BadField("", str(error)) from None

    return _Shape(pack, read)


def _tuples(kind: GenericAlias, bound: Any) -> _Shape:
    args = get_args(kind)
    repeated = _shape(args[0]) if len(args) == 2 and args[1] is Ellipsis else None
    each = [] if repeated else [_shape(arg) for arg in args]

    def shapes(count: int) -> Iterable[_Shape]:
        _check_length(count, bound)
        if repeated:
            return repeat(repeated, count)
        if len(each) != count:
            raise BadField("", f"{count} items, {len(each)} expected")
        return each

    def pack(value: Any) -> list[Any]:
        if type(value) is not tuple:
            raise BadField("", f"a {type(value).__name__} where a tuple is expected")
        packed: list[Any] = []
        for shape, item in zip(shapes(len(value)), value, strict=True):
            try:
                packed.append(shape.pack(item))
            except BadField as error:
                raise error.within(f"[{len(packed)}]") from None
        return packed

    def read(items: Any) -> tuple[Any, ...]:
        if type(items) is not list:
            raise BadField("", f"a {type(items).__name__} where an array is expected")
        values: list[Any] = []
        for shape, item in zip(shapes(len(items)), items, strict=True):
            try:
                values.append(shape.read(item))
            except BadField as error:
                raise error.within(f"[{len(values)}]") from None
        return tuple(values)

    return _Shape(pack, read)


def _pack_amount(value: Any) -> bytes:
    if type(value) is not int or not 0 <= value < 2**256:
        raise BadField("", "not an amount between 0 and 2^256 - 1")
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


def _read_amount(value: Any) -> int:
    if type(value) is not bytes or len(value) > 32:
        raise BadField("", "not an amount")
    return int.from_bytes(value, "big")


def _check_length(size: int, bound: Any) -> None:
    if isinstance(bound, Length) and not bound.least <= size <= bound.most:
        wanted = str(bound.most) if bound.least == bound.most else f"{bound.least} to {bound.most}"
        raise BadField("", f"length {size}, {wanted} allowed")


def _scalar(kind: Any, bound: Any) -> Callable[[Any], Any]:
    """A check that gives back what it was given."""
    least, most = (bound.least, bound.most) if isinstance(bound, Range) else (0, limits.U64_MAX)

    def check_int(value: int) -> None:
        if not least <= value <= most:
            raise BadField("", f"{value} is not within {least} to {most}")

    def check_float(value: float) -> None:
        if not math.isfinite(value):
            raise BadField("", "not a finite number")

    def check_str(value: str) -> None:
        try:
            _check_length(len(value.encode()), bound)
        except UnicodeEncodeError:
            raise BadField("", "not valid text") from None
        if isinstance(bound, CidText):
            _check_cid(value)

    def check_bytes(value: bytes) -> None:
        _check_length(len(value), bound)

    checks: dict[type, Callable[[Any], None]] = {
        int: check_int,
        float: check_float,
        str: check_str,
        bytes: check_bytes,
    }
    check = checks.get(kind)

    def check_all(value: Any) -> Any:
        if type(value) is not kind:
            raise BadField("", f"a {type(value).__name__} where a {kind.__name__} is expected")
        if check is not None:
            check(value)
        return value

    return check_all


@lru_cache(maxsize=1024)
def _check_cid(text: str) -> None:
    try:
        parse_cid(text)
    except CidError as error:
        raise BadField("", str(error)) from None
