"""Why a contract refused, in words, from the bytes that it reverted with."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from eth_utils.address import to_checksum_address

from eigen.chain.abi import Abi
from eigen.chain.port import ProposalState

VALUE_CHARS_MAX: Final = 160
"""Of one argument: an error is shown on one line, and a contract chooses its length."""
ARGUMENTS_MAX: Final = 8

_BUILT_IN: Final = Abi(
    [
        {"type": "error", "name": "Error", "inputs": [{"name": "reason", "type": "string"}]},
        {"type": "error", "name": "Panic", "inputs": [{"name": "code", "type": "uint256"}]},
    ]
)
_PANICS: Final = {
    0x01: "an assertion failed",
    0x11: "arithmetic overflow",
    0x12: "division by zero",
    0x21: "no such enum value",
    0x31: "pop of an empty array",
    0x32: "array index out of bounds",
    0x41: "too much memory",
}
_STATES: Final = {
    "GovernorUnexpectedProposalState": tuple(state.name.lower() for state in ProposalState),
    "TimelockUnexpectedOperationState": ("unset", "waiting", "ready", "done"),
}
"""Errors whose arguments are states, with the names of those in the contract's order."""
_WORD_START: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|_")


@dataclass(frozen=True, slots=True)
class Refusal:
    """A revert's reason. `name` is Solidity's, empty where the contract gave none."""

    words: str
    name: str = ""


class RevertReader:
    """Knows the custom errors of the contracts given; the first that matches is taken."""

    def __init__(self, abis: Iterable[Abi] = ()) -> None:
        self._abis = tuple(abis)

    def read(self, data: bytes, fallback: str = "") -> Refusal:
        """Total on any bytes. `fallback` is what the endpoint said, for a revert without data."""
        if not data:
            return Refusal(_shortened(fallback) or "reverted without a reason")
        for abi in self._abis:
            if (error := abi.error(data)) is not None:
                return Refusal(_sentence(error.name, error.args), error.name)
        built_in = _BUILT_IN.error(data)
        if built_in is None:
            return Refusal(f"an error that this version does not know (0x{data[:4].hex()})")
        value = built_in.args[0][1]
        if built_in.name == "Error":
            return Refusal(_shortened(value) or "reverted without a reason", "Error")
        return Refusal(_PANICS.get(value, f"panic 0x{value:02x}"), "Panic")


def _sentence(name: str, args: tuple[tuple[str, Any], ...]) -> str:
    """`RoundNotLater(round, posted)` becomes `round not later: round 2, posted 3`."""
    states = _STATES.get(name)
    if states:
        args = tuple((label, _states(states, value)) for label, value in args)
    told = ", ".join(f"{_words(label)} {_shown(value)}" for label, value in args[:ARGUMENTS_MAX])
    return f"{_words(name)}: {told}" if told else _words(name)


def _states(names: tuple[str, ...], value: Any) -> Any:
    """OpenZeppelin tells a state as its number, and those expected as a bitmap of numbers.

    Ids and hashes beside them are far above both.
    """
    bits = int.from_bytes(value) if isinstance(value, bytes) else None
    if bits is None:
        return names[value] if value < len(names) else value
    if bits >= 1 << len(names):
        return value
    return " or ".join(name for i, name in enumerate(names) if bits >> i & 1) or "none"


def _words(label: str) -> str:
    return _WORD_START.sub(" ", label).lower().strip()


def _shown(value: Any) -> str:
    if isinstance(value, bytes):
        return to_checksum_address(value) if len(value) == 20 else _shortened("0x" + value.hex())
    if isinstance(value, tuple | list):
        return _shortened("[" + ", ".join(_shown(item) for item in value) + "]")
    return _shortened(str(value))


def _shortened(text: str) -> str:
    printable = "".join(c if c.isprintable() else "?" for c in text[: VALUE_CHARS_MAX + 1])
    return printable if len(printable) <= VALUE_CHARS_MAX else printable[:VALUE_CHARS_MAX] + "…"
