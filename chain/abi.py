"""Calldata, results, events and errors of a contract, by its JSON ABI. Knows no endpoint.

Addresses are 20 raw bytes both ways, fixed and dynamic byte strings are bytes, structs are tuples
in field order.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from eth_abi.codec import ABICodec
from eth_abi.decoding import AddressDecoder
from eth_abi.encoding import AddressEncoder
from eth_abi.exceptions import DecodingError, EncodingError
from eth_abi.registry import registry as standard_registry
from eth_utils.abi import collapse_if_tuple

from eigen.crypto.hashing import keccak256
from eigen.protocol.types import Digest

SELECTOR_BYTES: Final = 4
WORD_BYTES: Final = 32


class _RawAddressDecoder(AddressDecoder):
    decoder_fn = staticmethod(bytes)  # type: ignore[assignment]  # the base makes hex text of it


def _codec() -> ABICodec:
    registry = standard_registry.copy()  # type: ignore[no-untyped-call]
    registry.unregister("address")
    registry.register("address", AddressEncoder, _RawAddressDecoder, label="address")
    return ABICodec(registry)


CODEC: Final = _codec()


class AbiMismatch(Exception):
    """Bytes from the chain do not have the form that the ABI gives them: another contract's."""


@dataclass(frozen=True, slots=True)
class Event:
    """A decoded log. `args` are by name; an indexed dynamic value is its hash."""

    name: str
    args: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CustomError:
    """A decoded Solidity error. `args` are (name, value) in order."""

    name: str
    args: tuple[tuple[str, Any], ...]


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    names: tuple[str, ...]
    types: tuple[str, ...]
    outputs: tuple[str, ...]
    indexed: tuple[bool, ...]

    @property
    def hash(self) -> Digest:
        return keccak256(f"{self.name}({','.join(self.types)})".encode())


class Abi:
    """The ABI of one contract; its functions must not be overloaded where they are called."""

    def __init__(self, items: Sequence[Mapping[str, Any]]) -> None:
        entries = [(item["type"], _entry(item)) for item in items]
        functions = [entry for kind, entry in entries if kind == "function"]
        self._functions = {entry.name: entry for entry in functions}
        names = Counter(entry.name for entry in functions)
        self._overloaded = {name for name, count in names.items() if count > 1}
        self._constructor = next((e for kind, e in entries if kind == "constructor"), None)
        events = [entry for kind, entry in entries if kind == "event"]
        self._events = {entry.hash: entry for entry in events}
        self._topics = {entry.name: entry.hash for entry in events}
        errors = [entry for kind, entry in entries if kind == "error"]
        self._errors = {bytes(entry.hash[:SELECTOR_BYTES]): entry for entry in errors}

    def calldata(self, function: str, *args: object) -> bytes:
        """Selector and encoded arguments. Raises `eth_abi` encoding errors on a wrong argument."""
        entry = self._function(function)
        return entry.hash[:SELECTOR_BYTES] + CODEC.encode(entry.types, args)

    def arguments(self, function: str, data: bytes) -> tuple[Any, ...]:
        """What calldata gives a function. Raises `AbiMismatch` where it is not that function's.

        Only the canonical encoding is taken: what this returns encodes to the same bytes.
        """
        entry = self._function(function)
        if data[:SELECTOR_BYTES] != entry.hash[:SELECTOR_BYTES]:
            raise AbiMismatch(f"calldata of another function than {function}")
        try:
            args = CODEC.decode(entry.types, data[SELECTOR_BYTES:])
            same = CODEC.encode(entry.types, args) == data[SELECTOR_BYTES:]
        except (DecodingError, EncodingError, ValueError, OverflowError) as error:
            raise AbiMismatch(f"calldata of {function} in another form") from error
        if not same:
            raise AbiMismatch(f"calldata of {function} in another form")
        return args

    def creation(self, bytecode: bytes, *args: object) -> bytes:
        """Creation code with encoded constructor arguments."""
        types = self._constructor.types if self._constructor else ()
        return bytecode + CODEC.encode(types, args)

    def results(self, function: str, data: bytes) -> tuple[Any, ...]:
        """What a call returned. Raises `AbiMismatch`, also for the empty reply of no contract."""
        try:
            return CODEC.decode(self._function(function).outputs, data)
        except (DecodingError, ValueError, OverflowError) as error:
            raise AbiMismatch(f"{function}() returned {len(data)} bytes of another form") from error

    def topic(self, event: str) -> Digest:
        """First topic of an event's logs."""
        return self._topics[event]

    def event(self, topics: Sequence[bytes], data: bytes) -> Event:
        """A log of this contract. Raises `AbiMismatch` for any other."""
        entry = self._events.get(Digest(bytes(topics[0]))) if topics else None
        if entry is None:
            raise AbiMismatch("a log of an event that the contract does not have")
        kinds = list(zip(entry.names, entry.types, entry.indexed, strict=True))
        in_topics = [(name, kind) for name, kind, indexed in kinds if indexed]
        in_data = [(name, kind) for name, kind, indexed in kinds if not indexed]
        try:
            args = {
                name: CODEC.decode([_topic_type(kind)], bytes(topic))[0]
                for (name, kind), topic in zip(in_topics, topics[1:], strict=True)
            }
            values = CODEC.decode([kind for _, kind in in_data], data)
        except (DecodingError, ValueError, OverflowError) as error:
            raise AbiMismatch(f"a log of {entry.name} in another form") from error
        return Event(
            entry.name, args | {name: v for (name, _), v in zip(in_data, values, strict=True)}
        )

    def error(self, data: bytes) -> CustomError | None:
        """A revert's data as a custom error of this contract, or None."""
        entry = self._errors.get(data[:SELECTOR_BYTES])
        if entry is None:
            return None
        try:
            values = CODEC.decode(entry.types, data[SELECTOR_BYTES:])
        except (DecodingError, ValueError, OverflowError):
            return None
        return CustomError(entry.name, tuple(zip(entry.names, values, strict=True)))

    def _function(self, name: str) -> _Entry:
        assert name not in self._overloaded, f"{name} is overloaded"
        return self._functions[name]


def _entry(item: Mapping[str, Any]) -> _Entry:
    inputs = item.get("inputs", ())
    return _Entry(
        name=item.get("name", ""),
        names=tuple(field["name"] or f"arg{index}" for index, field in enumerate(inputs)),
        types=tuple(collapse_if_tuple(field) for field in inputs),
        outputs=tuple(collapse_if_tuple(field) for field in item.get("outputs", ())),
        indexed=tuple(bool(field.get("indexed")) for field in inputs),
    )


def _topic_type(kind: str) -> str:
    """Indexed values longer than a word are stored as their hash (Solidity ABI, "Events")."""
    dynamic = kind in ("string", "bytes") or kind.endswith("]") or kind.startswith("(")
    return "bytes32" if dynamic else kind
