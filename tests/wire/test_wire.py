"""The wire is strict: one encoding a message, a named error for everything else, and only that."""

import dataclasses
import json
import math
import random
import struct
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wire_samples import hints, kinds, sample, split, structs
from wire_vectors import plain

from eigen.protocol import limits
from eigen.protocol.cid import raw_cid
from eigen.protocol.messages import (
    Attempt,
    Commitment,
    Credit,
    Heartbeat,
    Proposal,
    ProposedCall,
    RoundRecord,
    SeatProposal,
    SeatVote,
    StepNotice,
)
from eigen.protocol.requests import BlockQuery, PartPush, ResultPush
from eigen.protocol.run import (
    AggregationSpec,
    InnerSpec,
    ModelSpec,
    OuterSpec,
    RunSpec,
    run_id,
    spec_digest,
)
from eigen.protocol.types import Address, Digest, RunId
from eigen.protocol.wire import (
    BadField,
    Length,
    Malformed,
    UnknownMessage,
    WireError,
    catalogue,
    decode,
    decode_bare,
    encode,
    encode_bare,
    message,
)

MOST = 4 * 1024 * 1024
VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "wire.json").read_text())

RUN = RunId(b"r" * 32)
AT = Attempt(RUN, 3, 1)
VOTE = SeatVote(AT, Digest(b"d" * 32))
NOTICE = StepNotice(AT, raw_cid(b"checkpoint"))
COMMITMENT = Commitment(
    AT, raw_cid(b"base"), Digest(b"p" * 32), Digest(b"q" * 32), bytes(256), 100, (1.5, 0.25)
)
CALLS = (ProposedCall(Address(b"\x01" * 20), 5, b"\xaa"),)
SPEC = RunSpec(
    "digits",
    ModelSpec("mlp", (("hidden", 64),)),
    raw_cid(b"manifest"),
    10,
    InnerSpec(20, 32, 1e-3, 0.01),
    OuterSpec("sgd", 1.0, 0.0),
    "int8",
    "int8",
    AggregationSpec("mean"),
    65_536,
    2,
    16,
    10**20,
    1000,
    7,
)


def items(value: object) -> Any:
    """A message's msgpack array, to be bent out of shape."""
    return msgpack.unpackb(encode(value))


def pack(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


# round trips ------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_every_message_survives_the_wire(kind: type) -> None:
    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(structs(kind))
    def round_trip(value: Any) -> None:
        data = encode(value)
        again = decode(data, kind, bytes_max=MOST)
        assert again == value
        assert type(again) is kind
        assert encode(again) == data

    round_trip()


@settings(max_examples=60, deadline=None)
@given(structs(RunSpec))
def test_a_spec_survives_without_a_tag_and_names_its_run(spec: RunSpec) -> None:
    data = encode_bare(spec)
    assert decode_bare(data, RunSpec, bytes_max=MOST) == spec
    other = dataclasses.replace(spec, seed=spec.seed ^ 1)
    assert run_id(other) != run_id(spec)
    assert spec_digest(other) != spec_digest(spec)


def test_the_catalogue_has_one_frozen_class_for_each_tag() -> None:
    for tag, kind in catalogue().items():
        assert items(sample(kind, random.Random(tag)))[0] == tag
        assert dataclasses.fields(kind) is not None
        assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="tag 41 is taken by SeatVote"):
        message(41)(Credit)


# vectors ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["message"])
def test_the_bytes_of_each_message_are_what_they_were(vector: dict[str, Any]) -> None:
    data = bytes.fromhex(vector["bytes"])
    value: Any = decode(data, bytes_max=MOST)
    assert type(value) is catalogue()[vector["tag"]]
    assert type(value).__name__ == vector["message"]
    assert plain(value) == vector["fields"]
    assert encode(value) == data


def test_every_message_has_a_vector() -> None:
    assert [v["tag"] for v in VECTORS] == sorted(catalogue())


# only the canonical form ------------------------------------------------------------------------
def longer_int(data: bytes) -> bytes:
    """The vote with its attempt number 1 written in two bytes instead of one."""
    at = data.index(RUN) + 32
    assert data[at : at + 2] == b"\x03\x01"
    return data[: at + 1] + b"\xcc\x01" + data[at + 2 :]


def longer_array(data: bytes) -> bytes:
    assert data[0] == 0x93
    return b"\xdc\x00\x03" + data[1:]


def longer_bytes(data: bytes) -> bytes:
    at = data.rindex(b"\xc4\x20")
    return data[:at] + b"\xc5\x00\x20" + data[at + 2 :]


@pytest.mark.parametrize("bend", [longer_int, longer_array, longer_bytes])
def test_a_longer_way_of_writing_the_same_is_refused(bend: Any) -> None:
    bent = bend(encode(VOTE))
    assert msgpack.unpackb(bent) == items(VOTE)  # it is the same message, written otherwise
    with pytest.raises(Malformed, match="SeatVote is not in canonical form"):
        decode(bent)


def test_a_single_precision_float_is_refused() -> None:
    data = encode(COMMITMENT)
    double = b"\xcb" + struct.pack(">d", 0.25)
    assert data.endswith(double)
    with pytest.raises(Malformed, match="canonical"):
        decode(data[: -len(double)] + b"\xca" + struct.pack(">f", 0.25))


def test_an_amount_with_a_leading_zero_is_refused() -> None:
    record = RoundRecord(
        AT,
        Digest(bytes(32)),
        raw_cid(b"a"),
        raw_cid(b"b"),
        (),
        (),
        (Credit(Address(b"t" * 20), 100, 7),),
        (),
        (),
    )
    bent = items(record)
    bent[7][0][2] = b"\x00\x07"
    with pytest.raises(Malformed, match="canonical"):
        decode(pack(bent))


def test_trailing_and_missing_bytes_are_refused() -> None:
    data = encode(VOTE)
    for bent in (data + b"\x00", data + data, data[:-1], data[:1], b""):
        with pytest.raises(Malformed):
            decode(bent)


@pytest.mark.parametrize(
    ("bent", "error"),
    [
        (b"\xc1", Malformed),  # the one byte that msgpack never uses
        (pack({}), Malformed),
        (pack({1: 2}), Malformed),
        (pack([]), Malformed),
        (pack(41), Malformed),
        (pack(["41", 1]), Malformed),
        (pack([True]), Malformed),
        (pack([41.0]), Malformed),
        (pack([1_000]), UnknownMessage),
        (pack([-1]), UnknownMessage),
        (pack([41]), BadField),
        (b"\x91" * 2_000 + b"\x00", Malformed),  # nested deeper than a stack
        (b"\xdd\xff\xff\xff\xff", Malformed),  # an array of 2^32 items, none of them there
        (b"\xc6\xff\xff\xff\xff", Malformed),
        (b"\x92\x29\xd6\xff\x00\x00\x00\x00", Malformed),  # an extension type (a timestamp)
        (b"\x92\x29\xc7\x00\x05", BadField),  # an empty extension
        (b"\x92\x29\x81\x01\x02", Malformed),  # a map
        (b"\x92\x18\xa2\xff\xfe", Malformed),  # text that is not UTF-8
    ],
)
def test_what_is_no_message_has_a_named_error(bent: bytes, error: type[WireError]) -> None:
    with pytest.raises(error):
        decode(bent)


def test_a_message_of_another_type_than_expected_is_refused() -> None:
    with pytest.raises(Malformed, match="a SeatVote where a StepNotice or Commitment is expected"):
        decode(encode(VOTE), StepNotice, Commitment)


# fields -----------------------------------------------------------------------------------------
def change(value: object, path: list[int], into: Any) -> bytes:
    """The bytes of a message with one item replaced; `path` counts from behind the tag."""
    bent = items(value)
    place = bent
    first, *rest = path
    steps = [first + 1, *rest]
    for step in steps[:-1]:
        place = place[step]
    place[steps[-1]] = into
    return pack(bent)


BENT_FIELDS = [
    (VOTE, [0, 0], "r" * 32, "SeatVote.attempt.run", "a str where a bytes is expected"),
    (VOTE, [0, 0], b"r" * 31, "SeatVote.attempt.run", "length 31, 32 allowed"),
    (VOTE, [0, 1], 0, "SeatVote.attempt.round", "0 is not within 1 to 1000000"),
    (VOTE, [0, 1], 3.0, "SeatVote.attempt.round", "a float where a int is expected"),
    (VOTE, [0, 1], True, "SeatVote.attempt.round", "a bool where a int is expected"),
    (VOTE, [0, 2], -1, "SeatVote.attempt.number", "-1 is not within"),
    (VOTE, [0, 2], 1001, "SeatVote.attempt.number", "1001 is not within 0 to 1000"),
    (VOTE, [0], [RUN, 3], "SeatVote.attempt", "2 fields, 3 expected"),
    (VOTE, [0], [RUN, 3, 1, 1], "SeatVote.attempt", "4 fields, 3 expected"),
    (VOTE, [0], None, "SeatVote.attempt", "a NoneType where an array is expected"),
    (VOTE, [1], None, "SeatVote.seat", "a NoneType where a bytes is expected"),
    (NOTICE, [1], b"bafk", "StepNotice.checkpoint", "a bytes where a str is expected"),
    (NOTICE, [1], "", "StepNotice.checkpoint", "length 0, 1 to 64 allowed"),
    (NOTICE, [1], "b" + "a" * 58, "StepNotice.checkpoint", "not a sha2-256 CID"),
    (NOTICE, [1], "x" * 65, "StepNotice.checkpoint", "length 65"),
    (COMMITMENT, [4], bytes(255), "Commitment.sketch", "length 255, 256 allowed"),
    (COMMITMENT, [5], 2**48 + 1, "Commitment.samples", "is not within"),
    (COMMITMENT, [6], [1], "Commitment.loss_trace[0]", "a int where a float is expected"),
    (COMMITMENT, [6], [1.0, math.nan], "Commitment.loss_trace[1]", "not a finite number"),
    (COMMITMENT, [6], [math.inf], "Commitment.loss_trace[0]", "not a finite number"),
    (COMMITMENT, [6], [-math.inf], "Commitment.loss_trace[0]", "not a finite number"),
    (COMMITMENT, [6], [0.5] * 1025, "Commitment.loss_trace", "length 1025, 0 to 1024 allowed"),
    (Proposal(CALLS, "x", (SPEC,)), [2, 0, 14], 2**63, "Proposal.specs[0].seed", "is not within"),
    (
        Proposal(CALLS, "x", (SPEC,)),
        [2, 0, 12],
        b"\x01" * 33,
        "Proposal.specs[0].reward_per_round",
        "not an amount",
    ),
    (
        Proposal(CALLS, "x", (SPEC,)),
        [2, 0, 12],
        5,
        "Proposal.specs[0].reward_per_round",
        "not an amount",
    ),
    (
        Proposal(CALLS, "x", (SPEC,)),
        [2, 0, 12],
        b"\x01" + bytes(16),
        "Proposal.specs[0]",
        "does not fit uint128",
    ),
    (
        Proposal(CALLS, "x", (SPEC,)),
        [2, 0, 11],
        1,
        "Proposal.specs[0]",
        "trainers_min is above trainers_max",
    ),
    (Proposal(CALLS, "x", (SPEC,)), [1], "é" * 2049, "Proposal.description", "length 4098"),
    (
        Proposal(CALLS, "x", (SPEC,)),
        [2, 0, 1, 1],
        [["a", 1, 2]],
        "Proposal.specs[0].model.options[0]",
        "3 items",
    ),
]


@pytest.mark.parametrize(("value", "path", "into", "field", "reason"), BENT_FIELDS)
def test_a_bad_field_is_named(
    value: object, path: list[int], into: Any, field: str, reason: str
) -> None:
    with pytest.raises(BadField) as caught:
        decode(change(value, path, into))
    assert caught.value.field == field
    assert reason in str(caught.value)


def test_what_a_sender_could_not_decode_it_cannot_encode() -> None:
    wrong = [
        dataclasses.replace(VOTE, seat=Digest(b"short")),
        dataclasses.replace(NOTICE, checkpoint="nonsense"),
        dataclasses.replace(COMMITMENT, loss_trace=[1.0]),
        dataclasses.replace(COMMITMENT, loss_trace=(math.nan,)),
        dataclasses.replace(COMMITMENT, samples=True),
        dataclasses.replace(VOTE, attempt=VOTE),
        dataclasses.replace(
            SeatProposal(AT, Digest(bytes(32)), raw_cid(b""), (), ()), members=None
        ),
        Heartbeat(0, 0, ("\ud800",), Address(bytes(20)), b"", (), ""),
    ]
    for value in wrong:
        with pytest.raises(BadField):
            encode(value)
    with pytest.raises(TypeError, match="Attempt is not a message"):
        encode(AT)


def bounded(kind: type) -> list[tuple[str, Any, Length]]:
    return [
        (name, inner, bound)
        for name, hint in hints(kind).items()
        for inner, bound in [split(hint)]
        if isinstance(bound, Length) and inner in (bytes, str)
    ]


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_every_string_field_stops_at_its_bound(kind: type) -> None:
    value: Any = sample(kind, random.Random(kind.__name__))
    for name, inner, bound in bounded(kind):
        full = inner(b"x" * bound.most) if inner is bytes else "x" * bound.most
        assert decode(encode(dataclasses.replace(value, **{name: full})), bytes_max=MOST)
        over = [*items(value)]
        place = [f.name for f in dataclasses.fields(kind)].index(name) + 1
        over[place] = full + full[:1]
        with pytest.raises(BadField) as caught:
            decode(pack(over), bytes_max=MOST)
        assert caught.value.field == f"{kind.__name__}.{name}"


def test_what_is_larger_than_its_channel_is_refused_before_it_is_parsed() -> None:
    whole = PartPush(AT, 0, bytes(limits.PART_BYTES_MAX), ())
    assert decode(encode(whole), PartPush, bytes_max=MOST) == whole
    with pytest.raises(Malformed, match="at most 65536 allowed"):
        decode(encode(whole), PartPush)
    with pytest.raises(Malformed, match="at most 10 allowed"):
        decode_bare(encode_bare(SPEC), RunSpec, bytes_max=10)


def test_a_tail_on_a_bare_structure_is_refused() -> None:
    with pytest.raises(Malformed):
        decode_bare(encode_bare(SPEC) + b"\x00", RunSpec, bytes_max=MOST)
    with pytest.raises(BadField):
        decode_bare(pack([]), RunSpec, bytes_max=MOST)


# fuzz -------------------------------------------------------------------------------------------
def mutate(data: bytes, rng: random.Random) -> bytes:
    """A few bytes flipped, cut, doubled, moved, or replaced by msgpack's own markers."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(out)) if out else 0
        match rng.randrange(6):
            case 0 if out:
                out[at] ^= 1 << rng.randrange(8)
            case 1:
                out[at:at] = rng.randbytes(rng.randint(1, 4))
            case 2:
                del out[at : at + rng.randint(1, 4)]
            case 3 if out:
                out[at] = rng.choice((0xC0, 0xC1, 0xC2, 0xC7, 0xCA, 0xCB, 0xD4, 0xDC, 0xDF, 0x80))
            case 4:
                out[at : at + 4] = out[at : at + 4][::-1]
            case _:
                out += out[at : at + 8]
    return bytes(out)


def test_mutated_messages_raise_wire_errors_and_nothing_else() -> None:
    rng = random.Random(20)
    refused = accepted = 0
    for round_ in range(720):
        for kind in kinds():
            data = encode(sample(kind, rng))
            bent = mutate(data, rng) if round_ % 10 else rng.randbytes(rng.randint(0, 80))
            try:
                value = decode(bent, bytes_max=MOST)
            except WireError:
                refused += 1
            else:  # another message, or the same: whatever it is, these are its only bytes
                assert encode(value) == bent
                accepted += 1
    assert refused + accepted >= 20_000
    assert refused > 10_000
    assert accepted > 500  # bits flipped inside hashes: otherwise the fuzz is too blunt


@settings(max_examples=2_000, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_raise_wire_errors_and_nothing_else(data: bytes) -> None:
    try:
        value = decode(data)
    except WireError:
        return
    assert encode(value) == data


def nested(depth: int) -> st.SearchStrategy[Any]:
    leaves = (
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | st.floats()
        | st.text(max_size=8)
        | st.binary(max_size=40)
    )
    return st.recursive(leaves, lambda inner: st.lists(inner, max_size=8), max_leaves=depth)


@settings(max_examples=1_000, deadline=None)
@given(st.sampled_from(sorted(catalogue())), st.lists(nested(8), max_size=14))
def test_well_formed_msgpack_of_any_shape_raises_wire_errors_only(
    tag: int, fields: list[Any]
) -> None:
    data = pack([tag, *fields])
    try:
        value = decode(data)
    except WireError:
        return
    assert encode(value) == data


def test_blocks_and_results_travel_by_their_names() -> None:
    query = BlockQuery(raw_cid(b"block"))
    assert decode(encode(query), BlockQuery).cid == raw_cid(b"block")
    push = ResultPush(AT, 1023, 3, b"data")
    assert decode(encode(push), ResultPush) == push
