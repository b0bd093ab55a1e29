"""Addresses as people write them: hexadecimal with the mixed-case checksum of EIP-55."""

import re
from typing import Final

from Crypto.Hash import keccak

from eigen.protocol.types import Address

_HEX: Final = re.compile(r"0x[0-9a-fA-F]{40}")


def format_address(address: Address) -> str:
    """`0x` and 40 digits; a letter is upper case where EIP-55 says so."""
    digits = address.hex()
    check = keccak.new(digest_bits=256, data=digits.encode()).hexdigest()
    return "0x" + "".join(
        digit.upper() if int(nibble, 16) >= 8 else digit
        for digit, nibble in zip(digits, check, strict=False)
    )


def parse_address(text: str) -> Address:
    """The 20 bytes of an address. Raises ValueError, with a reason, where a digit is wrong.

    All lower or all upper case carries no checksum and is accepted, as EIP-55 has it.
    """
    if not _HEX.fullmatch(text):
        raise ValueError("an address is 0x and 40 hexadecimal digits")
    address = Address(bytes.fromhex(text[2:]))
    if text[2:] not in (text[2:].lower(), text[2:].upper()) and text != format_address(address):
        raise ValueError("the checksum (EIP-55) is wrong: a character was mistyped")
    return address
