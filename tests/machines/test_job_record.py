"""Who is paid what for a private job: worked out from signed rounds, without any trust."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eigen.protocol.cid import raw_cid
from eigen.protocol.job_effects import Signed
from eigen.protocol.job_record import (
    BadRecord,
    JobRecord,
    OpenedRound,
    contributions,
    excluded_by,
    record_payouts,
)
from eigen.protocol.messages import Envelope, ShardInfo
from eigen.protocol.private_job import (
    JobContribution,
    JobQuestion,
    JobSeat,
    JobVerdict,
    PartialSum,
    PrivateJob,
)
from eigen.protocol.types import Address, Digest

ID = bytes(32)
OWNER, A, B, C = (Address(bytes([i]) * 20) for i in (9, 1, 2, 3))
CID = raw_cid(b"x")
SHARDS = tuple(ShardInfo(raw_cid(bytes([i])), 1, 1) for i in range(3))
JOB = PrivateJob(OWNER, "j", 0, 8, 4, 1, True, CID, SHARDS, 10, 20, 500, 7)
RECORD = JobRecord(ID, True, 2, Digest(ID), (), CID)


def told(round_: int, *seats: tuple[int, Address, tuple[int, ...]]) -> OpenedRound:
    """A round whose sums were made by these seats, each of a question's serial."""
    questions = {
        serial: JobQuestion(
            ID,
            round_,
            serial,
            CID,
            1.0,
            tuple(JobSeat(who, shards) for at, who, shards in seats if at == serial),
            20,
        )
        for serial, _, _ in seats
    }
    sums = [
        Signed(who, PartialSum(ID, round_, serial, CID, (), CID), Envelope(b"", bytes(65)))
        for serial, who, _ in seats
    ]
    return OpenedRound(round_, questions, sums)


def test_shards_are_counted_over_rounds_and_questions() -> None:
    rounds = [told(1, (1, A, (0, 1)), (1, B, (2,))), told(2, (2, A, (0,)), (3, B, (1, 2)))]
    assert contributions(ID, JOB, rounds, {B}) == (
        JobContribution(A, 3, False),
        JobContribution(B, 3, True),
    )


GOOD = told(1, (1, A, (0, 1)), (1, B, (2,)))


@pytest.mark.parametrize(
    ("rounds", "said"),
    [
        ([replace(GOOD, sums=GOOD.sums[:1])], "not every shard went in once"),
        ([replace(GOOD, sums=[*GOOD.sums, GOOD.sums[0]])], "not every shard went in once"),
        ([replace(GOOD, questions={})], "a sum without its question"),
        ([replace(GOOD, round=2)], "rounds are missing"),
        ([GOOD, GOOD], "rounds are missing"),
        ([replace(GOOD, sums=[replace(GOOD.sums[0], author=C)])], "a trainer without a seat"),
        (
            [
                replace(
                    GOOD, sums=[replace(GOOD.sums[0], sum=replace(GOOD.sums[0].sum, job=b"1" * 32))]
                )
            ],
            "a sum of another round",
        ),
    ],
    ids=["left out", "twice", "unasked", "second first", "again", "stranger", "other job"],
)
def test_a_round_that_does_not_add_up_is_refused(rounds: list[OpenedRound], said: str) -> None:
    with pytest.raises(BadRecord, match=said):
        contributions(ID, JOB, rounds, ())


def test_only_a_validator_of_this_job_excludes() -> None:
    false = JobVerdict(ID, 1, 1, A, False)
    assert excluded_by(ID, [(C, false)], {C}) == {A}
    assert excluded_by(ID, [(B, false)], {C}) == frozenset(), "no validator"
    assert excluded_by(ID, [(C, replace(false, sound=True))], {C}) == frozenset()
    assert excluded_by(b"1" * 32, [(C, false)], {C}) == frozenset()


@given(
    price=st.integers(1, 2**112 - 1),
    counts=st.lists(st.integers(0, 10_000), min_size=1, max_size=8),
    rounds=st.integers(1, 10),
    done=st.booleans(),
)
def test_payouts_never_exceed_what_is_due(
    price: int, counts: list[int], rounds: int, done: bool
) -> None:
    parts = tuple(
        JobContribution(Address(bytes([i + 1]) * 20), count, False)
        for i, count in enumerate(counts)
    )
    record = replace(RECORD, done=done, rounds=rounds, contributions=parts)
    total = sum(p.cumulative for p in record_payouts(JOB, record, price))
    due = price if done else price * rounds // 10
    assert total <= due
    if sum(counts):
        assert due - total <= len(counts), "less than a unit each is left"
    else:
        assert total == 0
