"""EIP-712 digests agree with eth_account, the encoder that wallets' tests use."""

from typing import Any

import pytest
from eth_account.messages import _hash_eip191_message, encode_typed_data
from hypothesis import given
from hypothesis import strategies as st

from eigen.crypto.eip712 import Domain, TypedDataError, struct_hash, typed_digest
from eigen.crypto.hashing import keccak256
from eigen.crypto.identity import Identity, recover
from eigen.crypto.statements import (
    BALLOT_TYPE,
    ROUND_ROOT_TYPE,
    ballot_digest,
    governor_domain,
    ledger_domain,
    round_root_digest,
)
from eigen.protocol.types import Address, Digest, RunId

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
addresses = st.binary(min_size=20, max_size=20).map(Address)
domains = st.builds(Domain, text, text, st.integers(0, 2**256 - 1), addresses)

byte_strings = st.integers(1, 32).flatmap(
    lambda size: st.tuples(st.just(f"bytes{size}"), st.binary(min_size=size, max_size=size))
)
unsigned = st.integers(1, 32).flatmap(
    lambda size: st.tuples(st.just(f"uint{8 * size}"), st.integers(0, 2 ** (8 * size) - 1))
)
signed = st.integers(1, 32).flatmap(
    lambda size: st.tuples(
        st.just(f"int{8 * size}"),
        st.integers(-(2 ** (8 * size - 1)), 2 ** (8 * size - 1) - 1),
    )
)
members = st.lists(
    st.one_of(
        byte_strings,
        unsigned,
        signed,
        st.tuples(st.just("address"), addresses),
        st.tuples(st.just("bool"), st.booleans()),
        st.tuples(st.just("string"), text),
        st.tuples(st.just("bytes"), st.binary(max_size=80)),
    ),
    max_size=8,
)


def eth_account_digest(domain: Domain, type_string: str, values: dict[str, Any]) -> bytes:
    name, _, body = type_string.removesuffix(")").partition("(")
    fields = [part.split(" ") for part in body.split(",") if part]
    message = encode_typed_data(
        {
            "name": domain.name,
            "version": domain.version,
            "chainId": domain.chain_id,
            "verifyingContract": "0x" + domain.verifying_contract.hex(),
        },
        {name: [{"name": field, "type": kind} for kind, field in fields]},
        {
            field: "0x" + values[field].hex() if kind == "address" else values[field]
            for kind, field in fields
        },
    )
    return bytes(_hash_eip191_message(message))


@given(domains, members)
def test_any_flat_struct_hashes_as_eth_account_does(
    domain: Domain, drawn: list[tuple[str, object]]
) -> None:
    type_string = f"Mail({','.join(f'{kind} m{i}' for i, (kind, _) in enumerate(drawn))})"
    values = {f"m{i}": value for i, (_, value) in enumerate(drawn)}
    assert typed_digest(domain, type_string, values) == eth_account_digest(
        domain, type_string, values
    )


@given(
    st.integers(1, 2**64),
    addresses,
    st.lists(st.binary(min_size=32, max_size=32), min_size=4, max_size=4),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**256 - 1),
)
def test_round_roots(
    chain_id: int, ledger: Address, words: list[bytes], number: int, total: int
) -> None:
    domain = ledger_domain(chain_id, ledger)
    run, checkpoint, record, root = words
    digest = round_root_digest(
        domain,
        run=RunId(run),
        round_=number,
        checkpoint=Digest(checkpoint),
        record=Digest(record),
        payout_root=Digest(root),
        payout_total=total,
    )
    values = {"run": run, "round": number, "checkpoint": checkpoint, "record": record}
    values |= {"payoutRoot": root, "payoutTotal": total}
    assert digest == eth_account_digest(domain, ROUND_ROOT_TYPE, values)


@given(st.integers(1, 2**64), addresses, st.integers(0, 2**256 - 1), st.integers(0, 2))
def test_ballots(chain_id: int, governor: Address, proposal: int, support: int) -> None:
    voter = Identity.generate()
    domain = governor_domain(chain_id, governor)
    digest = ballot_digest(domain, proposal=proposal, support=support, voter=voter.address, nonce=7)
    values = {"proposalId": proposal, "support": support, "voter": voter.address, "nonce": 7}
    assert digest == eth_account_digest(domain, BALLOT_TYPE, values)
    assert recover(digest, voter.sign(digest)) == voter.address


def test_the_ballot_type_is_openzeppelins() -> None:
    # `BALLOT_TYPEHASH` as the compiled Governor of OpenZeppelin 5 holds it.
    assert keccak256(BALLOT_TYPE.encode()).hex() == (
        "f2aad550cf55f045cb27e9c559f9889fdfb6e6cdaa032301d6ea397784ae51d7"
    )


DOMAIN = Domain("d", "1", 1, Address(bytes(20)))


@pytest.mark.parametrize(
    ("type_string", "complaint"),
    [
        ("Mail", "not an encoded struct type"),
        ("Mail(uint256 a", "not an encoded struct type"),
        ("Mail(uint a)", "no such elementary type: uint"),
        ("Mail(uint12 a)", "no such elementary type: uint12"),
        ("Mail(uint264 a)", "no such elementary type: uint264"),
        ("Mail(uint08 a)", "no such elementary type: uint08"),
        ("Mail(bytes33 a)", "no such elementary type: bytes33"),
        ("Mail(bytes0 a)", "no such elementary type: bytes0"),
        ("Mail(address20 a)", "no such elementary type: address20"),
        ("Mail(person a)", "no such elementary type: person"),
        ("Mail(uint8[] a)", "not a struct member"),
        ("Mail(uint8 a, uint8 b)", "not a struct member"),
        ("Mail(uint8 a,uint8 a)", "appears twice"),
    ],
)
def test_types_without_an_encoding_here_are_refused(type_string: str, complaint: str) -> None:
    with pytest.raises(TypedDataError, match=complaint):
        struct_hash(type_string, {"a": 1})


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("uint8", 256),
        ("uint8", -1),
        ("uint8", True),
        ("uint8", "1"),
        ("int8", 128),
        ("int8", -129),
        ("bool", 1),
        ("address", b"\x01" * 19),
        ("address", "0x" + "00" * 20),
        ("bytes4", b"\x01" * 3),
        ("bytes4", b"\x01" * 5),
        ("bytes", "text"),
        ("string", b"bytes"),
        ("string", "\ud800"),
    ],
)
def test_values_that_do_not_fit_are_refused_by_name(kind: str, value: object) -> None:
    with pytest.raises(TypedDataError, match=r"^field: .* is no " + kind):
        struct_hash(f"Mail({kind} field)", {"field": value})


def test_missing_and_surplus_values_are_refused() -> None:
    with pytest.raises(TypedDataError, match=r"missing \['a'\], not in the type \['b'\]"):
        typed_digest(DOMAIN, "Mail(uint8 a)", {"b": 1})
