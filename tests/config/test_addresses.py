"""Addresses in text form, checked with the examples of EIP-55."""

import pytest
from eth_utils import to_checksum_address
from hypothesis import given
from hypothesis import strategies as st

from eigen.config.addresses import format_address, parse_address
from eigen.protocol.types import Address

EIP_55 = [
    "0x52908400098527886E0F7030069857D2E4169EE7",
    "0xde709f2102306220921060314715629080e2fb77",
    "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
    "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
    "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
    "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
]


@pytest.mark.parametrize("text", EIP_55)
def test_the_examples_of_eip_55(text: str) -> None:
    assert format_address(parse_address(text)) == text
    assert parse_address(text.lower()) == parse_address(text)


@given(st.binary(min_size=20, max_size=20).map(Address))
def test_the_checksum_is_eth_utils(address: Address) -> None:
    assert format_address(address) == to_checksum_address(address)
    assert parse_address(format_address(address)) == address


def test_a_mistyped_letter_is_noticed() -> None:
    with pytest.raises(ValueError, match="EIP-55"):
        parse_address(EIP_55[2].replace("aAeb", "aaeb"))


@pytest.mark.parametrize("text", ["", "0x", EIP_55[0][2:], EIP_55[0] + "0", "0x" + "g" * 40])
def test_what_is_no_address_at_all(text: str) -> None:
    with pytest.raises(ValueError, match="40 hexadecimal digits"):
        parse_address(text)
