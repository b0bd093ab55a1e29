"""EIP-712 digests of flat structs: what a wallet shows, and a contract checks, of a statement.

Knows no particular statement (`statements`) and no keys (`identity`). Nested structs and arrays are
left out on purpose: no statement of ours needs one.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from eigen.crypto.errors import TypedDataError
from eigen.crypto.hashing import keccak256
from eigen.protocol.types import Address, Digest

__all__ = ["Domain", "TypedDataError", "struct_hash", "typed_digest"]

DOMAIN_TYPE: Final = (
    "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
)

_IDENTIFIER: Final = r"[A-Za-z_$][A-Za-z0-9_$]*"
_STRUCT: Final = re.compile(rf"({_IDENTIFIER})\(([^()]*)\)")
_MEMBER: Final = re.compile(rf"([a-z]+)([0-9]*) ({_IDENTIFIER})")


@dataclass(frozen=True, slots=True)
class Domain:
    """Where a statement counts: one contract on one chain. Its separator is in every digest."""

    name: str
    version: str
    chain_id: int
    verifying_contract: Address

    @property
    def separator(self) -> Digest:
        """`domainSeparator` of EIP-712, OpenZeppelin's `_domainSeparatorV4()`."""
        return _separator(self)


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    kind: str  # uint, int, bytes, address, bool, string
    size: int  # bits of an integer, bytes of a fixed byte string, 0 otherwise


def typed_digest(domain: Domain, type_string: str, values: Mapping[str, object]) -> Digest:
    """`keccak256(0x1901 ‖ domainSeparator ‖ hashStruct)`: the digest that is signed.

    `type_string` is the struct's encoded type, such as `Ballot(uint256 proposalId,uint8 support)`,
    `values` its members: int for integers, bool, bytes for `bytes`, `bytesN` and `address`, str.
    Raises `TypedDataError` for a type outside this set, a missing or a surplus value, a value of
    another Python type or out of range.
    """
    return keccak256(b"\x19\x01" + domain.separator + struct_hash(type_string, values))


def struct_hash(type_string: str, values: Mapping[str, object]) -> Digest:
    """`hashStruct` of EIP-712: the type's hash and the members' encodings, 32 bytes each."""
    members = _parse(type_string)
    names = {member.name for member in members}
    if names != values.keys():
        missing, surplus = sorted(names - values.keys()), sorted(values.keys() - names)
        raise TypedDataError(f"{type_string}: missing {missing}, not in the type {surplus}")
    encoded = (_encode(member, values[member.name]) for member in members)
    return keccak256(b"".join([keccak256(type_string.encode()), *encoded]))


@lru_cache(maxsize=16)  # a daemon speaks in two domains: its ledger and its governor
def _separator(domain: Domain) -> Digest:
    return struct_hash(
        DOMAIN_TYPE,
        {
            "name": domain.name,
            "version": domain.version,
            "chainId": domain.chain_id,
            "verifyingContract": domain.verifying_contract,
        },
    )


@lru_cache(maxsize=64)  # type strings are constants of the program
def _parse(type_string: str) -> tuple[_Member, ...]:
    struct = _STRUCT.fullmatch(type_string)
    if struct is None:
        raise TypedDataError(f"not an encoded struct type: {type_string!r}")
    members = tuple(_member(part) for part in struct[2].split(",")) if struct[2] else ()
    if len({member.name for member in members}) != len(members):
        raise TypedDataError(f"{type_string}: a member appears twice")
    return members


def _member(text: str) -> _Member:
    match = _MEMBER.fullmatch(text)
    if match is None:
        raise TypedDataError(f"not a struct member: {text!r}")
    kind, digits, name = match[1], match[2], match[3]
    size = int(digits) if digits and not digits.startswith("0") else 0
    if kind in ("uint", "int"):
        known = size % 8 == 0 and 8 <= size <= 256
    elif kind == "bytes":
        known = not digits or 1 <= size <= 32
    else:
        known = kind in ("address", "bool", "string") and not digits
    if not known:
        raise TypedDataError(f"no such elementary type: {kind}{digits}")
    return _Member(name, kind, size)


def _encode(member: _Member, value: object) -> bytes:
    """One member as 32 bytes (EIP-712, "Definition of encodeData")."""
    match member.kind, value:
        case "bool", bool():
            return int(value).to_bytes(32)
        case (("uint" | "int"), int()) if not isinstance(value, bool):
            low, high = (0, 1 << member.size) if member.kind == "uint" else _signed(member.size)
            if low <= value < high:
                return (value % (1 << 256)).to_bytes(32)
        case "address", bytes() if len(value) == 20:
            return bytes(12) + value
        case "bytes", bytes() if not member.size:
            return keccak256(value)
        case "bytes", bytes() if len(value) == member.size:
            return value.ljust(32, b"\0")
        case "string", str():
            try:
                return keccak256(value.encode())
            except UnicodeEncodeError:
                pass
    shown = value.hex() if isinstance(value, bytes) else repr(value)
    kind = f"{member.kind}{member.size or ''}"
    raise TypedDataError(f"{member.name}: {shown[:80]} ({type(value).__name__}) is no {kind}")


def _signed(bits: int) -> tuple[int, int]:
    return -(1 << (bits - 1)), 1 << (bits - 1)
