"""Reverts in words, and the ABI coding beneath them, on whatever bytes a contract gives."""

import pytest
from eth_abi import encode
from hypothesis import given
from hypothesis import strategies as st

from eigen.chain.abi import Abi, AbiMismatch
from eigen.chain.bindings import GOVERNOR, LEDGER, REVERTS, TIMELOCK, TOKEN
from eigen.chain.reverts import VALUE_CHARS_MAX, RevertReader
from eigen.crypto.hashing import keccak256

LEDGER_ERROR = keccak256(b"RoundNotLater(bytes32,uint64,uint64)")[:4]

EIP_55_EXAMPLE = bytes.fromhex("5aaeb6053f3e94c9b9a09f33669435e7ef1beaed")


def selector(signature: str) -> bytes:
    return keccak256(signature.encode())[:4]


@given(st.binary(max_size=300))
def test_any_bytes_give_words(data: bytes) -> None:
    refusal = REVERTS.read(data)
    assert refusal.words
    assert refusal.words.isprintable()


@given(st.sampled_from([b"\x08\xc3\x79\xa0", b"\x4e\x48\x7b\x71", LEDGER_ERROR]), st.binary())
def test_a_known_selector_with_garbage_gives_words(start: bytes, rest: bytes) -> None:
    assert REVERTS.read(start + rest).words


@given(st.text(max_size=500))
def test_a_reason_is_one_bounded_printable_line(reason: str) -> None:
    words = REVERTS.read(b"\x08\xc3\x79\xa0" + encode(["string"], [reason])).words
    assert words.isprintable()
    assert 0 < len(words) <= VALUE_CHARS_MAX + 1


@pytest.mark.parametrize(
    ("data", "name", "words"),
    [
        (b"", "", "the endpoint's words"),
        (b"\x01\x02\x03\x04", "", "an error that this version does not know (0x01020304)"),
        (selector("NothingToClaim()"), "NothingToClaim", "nothing to claim"),
        (
            LEDGER_ERROR + bytes(31) + b"\x01" + (2).to_bytes(32) + (3).to_bytes(32),
            "RoundNotLater",
            f"round not later: run 0x{'00' * 31}01, round 2, posted 3",
        ),
        (
            selector("NotValidator(uint256,address)") + bytes(44) + EIP_55_EXAMPLE,
            "NotValidator",
            "not validator: index 0, signer 0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
        ),
        (
            selector("GovernorUnexpectedProposalState(uint256,uint8,bytes32)")
            + encode(["uint256", "uint8", "bytes32"], [2**200, 1, (0b10010).to_bytes(32)]),
            "GovernorUnexpectedProposalState",
            f"governor unexpected proposal state: proposal id {2**200}, current active,"
            " expected states active or succeeded",
        ),
        (selector("Panic(uint256)") + (0x11).to_bytes(32), "Panic", "arithmetic overflow"),
        (selector("Panic(uint256)") + (0x99).to_bytes(32), "Panic", "panic 0x99"),
        (
            selector("Error(string)") + encode(["string"], [""]),
            "Error",
            "reverted without a reason",
        ),
    ],
)
def test_errors_in_words(data: bytes, name: str, words: str) -> None:
    refusal = REVERTS.read(data, "the endpoint's words")
    assert (refusal.name, refusal.words) == (name, words)


def test_a_reader_without_contracts_knows_the_built_in_errors() -> None:
    data = selector("Error(string)") + encode(["string"], ["no"])
    assert RevertReader().read(data).words == "no"
    assert RevertReader().read(selector("NothingToClaim()")).name == ""


@given(st.binary(min_size=20, max_size=20), st.integers(0, 2**256 - 1))
def test_addresses_are_raw_bytes_both_ways(account: bytes, amount: int) -> None:
    data = TOKEN.calldata("transfer", account, amount)
    assert data == selector("transfer(address,uint256)") + encode(
        ["address", "uint256"], [account, amount]
    )
    topics = [TOKEN.topic("Transfer"), bytes(12) + account, bytes(32)]
    event = TOKEN.event(topics, amount.to_bytes(32))
    assert event.name == "Transfer"
    assert event.args == {"from": account, "to": bytes(20), "value": amount}


@given(st.lists(st.binary(max_size=40), max_size=5), st.binary(max_size=200))
def test_any_log_is_decoded_or_refused(topics: list[bytes], data: bytes) -> None:
    with pytest.raises(AbiMismatch):
        LEDGER.event(topics, data)


@given(st.integers(0, 3), st.binary(max_size=200))
def test_a_log_of_ours_with_garbage_is_decoded_or_refused(extra: int, data: bytes) -> None:
    try:
        event = LEDGER.event([LEDGER.topic("Claimed"), *[b"\xff" * 32] * extra], data)
    except AbiMismatch:
        return
    assert event.name == "Claimed"


def test_an_empty_reply_is_no_result() -> None:
    with pytest.raises(AbiMismatch, match=r"balanceOf\(\) returned 0 bytes"):
        TOKEN.results("balanceOf", b"")


def test_what_we_call_is_not_overloaded() -> None:
    for abi, names in (
        (GOVERNOR, "state proposalVotes propose queue execute castVotesBySig nonces hasVoted"),
        (LEDGER, "head runs claim postRound validators quorum claimed payoutOf setPayout openRun"),
        (TIMELOCK, "grantRole renounceRole hasRole"),
        (TOKEN, "mint balanceOf totalSupply grantRole renounceRole hasRole"),
    ):
        assert not set(names.split()) & abi._overloaded
    with pytest.raises(AssertionError, match="overloaded"):
        GOVERNOR.calldata("quorumNumerator")


def test_indexed_strings_are_their_hash() -> None:
    abi = Abi(
        [
            {
                "type": "event",
                "name": "Named",
                "inputs": [{"name": "name", "type": "string", "indexed": True}],
            }
        ]
    )
    digest = keccak256(b"somebody")
    assert abi.event([abi.topic("Named"), digest], b"").args == {"name": digest}
