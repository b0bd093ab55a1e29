"""The bulk lane's records: the specification's vectors, and what an enemy may do to them."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eigen.node.libp2p.bulk_records import (
    HEADER_BYTES,
    MESSAGE_BYTES_MAX,
    RECORDS_MAX,
    Kind,
    Opener,
    Sealer,
    derive,
)
from eigen.node.libp2p.errors import ProtocolViolation

DOCUMENT = Path(__file__).parents[2] / "docs" / "bulk-lane.md"
KEY = bytes(range(32))


def record(sealer: Sealer, kind: Kind, message: bytes) -> bytes:
    out = bytearray(HEADER_BYTES + len(message) + 16)
    return bytes(out[: sealer.seal(kind, message, out)])


def opened(opener: Opener, data: bytes) -> tuple[Kind, bytes]:
    header, body = data[:HEADER_BYTES], data[HEADER_BYTES:]
    assert opener.body_bytes(header) == len(body)
    return opener.open(header, body)


def test_the_vectors_of_the_specification():
    vectors = json.loads(DOCUMENT.read_text().partition("```json")[2].partition("```")[0])
    inputs = [bytes.fromhex(vectors[n]) for n in ("opener_secret", "receiver_secret", "binding")]
    for is_opener, ours, theirs in (
        (True, "from_opener", "from_receiver"),
        (False, "from_receiver", "from_opener"),
    ):
        keys = derive(*inputs, is_opener=is_opener)
        assert keys.send.hex() == vectors[ours.replace("from_", "") + "_key"]
        sealer, opener = Sealer(keys.send), Opener(keys.receive)
        for row in vectors[ours]:
            message = bytes.fromhex(row["message"])
            assert record(sealer, Kind[row["kind"]], message).hex() == row["record"]
        for row in vectors[theirs]:
            kind, message = opened(opener, bytes.fromhex(row["record"]))
            assert (kind.name, message.hex()) == (row["kind"], row["message"])


@given(messages=st.lists(st.binary(max_size=300), max_size=8))
def test_what_is_sealed_opens_in_order(messages):
    sealer, opener = Sealer(KEY), Opener(KEY)
    for message in messages:
        assert opened(opener, record(sealer, Kind.DATA, message)) == (Kind.DATA, message)


@given(message=st.binary(max_size=60), at=st.integers(0), bit=st.integers(0, 7))
def test_any_flipped_bit_is_noticed(message, at, bit):
    data = bytearray(record(Sealer(KEY), Kind.DATA, message))
    at %= len(data)
    data[at] ^= 1 << bit
    header = bytes(data[:HEADER_BYTES])
    opener = Opener(KEY)
    with pytest.raises(ProtocolViolation):  # noqa: PT012
        size = opener.body_bytes(header)
        opener.open(header, bytes(data[HEADER_BYTES : HEADER_BYTES + size]))


def test_repeated_reordered_and_reflected_records_do_not_open():
    sealer = Sealer(KEY)
    first, second = (record(sealer, Kind.DATA, b"%d" % n) for n in range(2))
    with pytest.raises(ProtocolViolation):
        opened(Opener(KEY), second)
    opener = Opener(KEY)
    opened(opener, first)
    with pytest.raises(ProtocolViolation):
        opened(opener, first)
    keys = derive(bytes(32), bytes(32), b"", is_opener=True)
    with pytest.raises(ProtocolViolation):
        opened(Opener(keys.receive), record(Sealer(keys.send), Kind.DATA, b"back"))


def test_bounds():
    with pytest.raises(ValueError, match="message: 1048577 bytes"):
        Sealer(KEY).seal(Kind.DATA, bytes(MESSAGE_BYTES_MAX + 1), bytearray(2 * MESSAGE_BYTES_MAX))
    with pytest.raises(ProtocolViolation, match="16777215"):
        Opener(KEY).body_bytes(b"\x01\xff\xff\xff")
    sealer = Sealer(KEY)
    sealer._count = RECORDS_MAX
    with pytest.raises(OverflowError):
        record(sealer, Kind.DATA, b"")
