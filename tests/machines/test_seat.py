"""Seats, shards, owners and pay are pure functions that everybody computes alike."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import context

from eigen.protocol import limits
from eigen.protocol.checks import Checks
from eigen.protocol.evidence import RoundEvidence
from eigen.protocol.messages import SeatMember
from eigen.protocol.seat import (
    assign_open,
    assign_sealed,
    groups,
    leader,
    order_seed,
    part_owners,
    ranked,
    round_seed,
    shares,
)
from eigen.protocol.types import Address, Digest

ADDRESSES = [Address(bytes([i + 1]) * 20) for i in range(12)]
people = st.lists(st.sampled_from(ADDRESSES), min_size=1, max_size=12, unique=True)
seeds = st.binary(min_size=32, max_size=32).map(Digest)


def held_by(holders: tuple[SeatMember, ...]) -> dict[Address, set[int]]:
    return {h.trainer: set(h.shards) for h in holders}


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(people, seeds), min_size=1, max_size=6), st.integers(1, 16))
def test_sealed_shards_stay_with_who_has_seen_them(
    rounds: list[tuple[list[Address], Digest]], shards: int
) -> None:
    holders: tuple[SeatMember, ...] = ()
    for present, seed in rounds:
        before = held_by(holders)
        members, after = assign_sealed(holders, present, shards, seed)
        assert assign_sealed(holders, list(reversed(present)), shards, seed) == (members, after)
        now = held_by(after)
        everything = [shard for own in now.values() for shard in own]
        assert len(everything) == len(set(everything))  # each shard has one holder
        if members:
            assert set(everything) == set(range(shards))
        for trainer in present:  # who is here loses nothing
            assert before.get(trainer, set()) <= now.get(trainer, set())
        for trainer, own in now.items():  # who is absent gains nothing
            if trainer not in present:
                assert own <= before[trainer]
        assert [m.trainer for m in members] == sorted(m.trainer for m in members)
        assert all(set(m.shards) == now[m.trainer] and m.shards for m in members)
        assert len(members) == min(len(present), shards) or any(before.values())
        holders = after


@settings(max_examples=200)
@given(people, st.integers(1, 24), seeds)
def test_open_shards_are_dealt_anew_and_evenly(
    present: list[Address], shards: int, seed: Digest
) -> None:
    members, holders = assign_open(present, shards, seed)
    assert (members, holders) == assign_open(sorted(present), shards, seed)
    assert holders == ()
    assert [m.trainer for m in members] == sorted(present)
    dealt = Counter(shard for m in members for shard in m.shards)
    assert set(dealt) == set(range(shards))
    sizes = [len(m.shards) for m in members]
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1
    if len(present) <= shards:
        assert max(dealt.values()) == 1


def test_open_shards_change_hands_with_the_seed() -> None:
    hands = {assign_open(ADDRESSES[:4], 8, Digest(bytes([i]) * 32))[0] for i in range(20)}
    assert len(hands) == 20
    assert assign_open([], 8, Digest(bytes(32))) == ((), ())


@given(people, seeds, st.integers(0, 50))
def test_leadership_rotates_through_all(validators: list[Address], seed: Digest, at: int) -> None:
    turn = [leader(seed, at + i, validators) for i in range(len(validators))]
    assert sorted(turn) == sorted(validators)
    assert leader(seed, at + len(validators), validators) == turn[0]
    assert leader(seed, at, reversed(validators)) == turn[0]


@given(people, seeds)
def test_owners_are_permutations_with_an_equal_share_of_first_choices(
    members: list[Address], seed: Digest
) -> None:
    parts = 3 * len(members)
    owners = part_owners(seed, parts, tuple(members))
    for order in owners:
        assert sorted(order) == sorted(members)
    assert set(Counter(order[0] for order in owners).values()) == {3}


def test_lines_decide_who_owns_how_much() -> None:
    assert shares([]) == []
    assert shares([5, 900]) == [1, 1]  # with one other there is nothing to gain
    equal = shares([0, 0, 0, 0])
    assert len(set(equal)) == 1
    assert len(set(shares([7, 0, 7, 7]))) == 1  # of whom nothing is known is taken to be like most
    slow, *fast = shares([1_000, 10_000, 10_000, 10_000])
    assert slow == 0  # its own parts keep its line busy longer than the others' all the rest
    assert len(set(fast)) == 1
    one, *rest = shares([1_000_000, 1, 1, 1])
    assert one <= sum([one, *rest]) / 2 + 1  # no liar owns more than half


@given(st.lists(st.integers(1, limits.UPLOAD_MAX), min_size=3, max_size=limits.TRAINERS_MAX))
def test_nobody_could_be_done_sooner_with_other_shares(uploads: list[int]) -> None:
    owned = shares(uploads)
    whole, others = sum(owned), len(uploads) - 2
    took = [(1 + others * s / whole) / rate for s, rate in zip(owned, uploads, strict=True)]
    worst = max(time for time, own in zip(took, owned, strict=True) if own)
    for time, own in zip(took, owned, strict=True):
        if 0 < own < 0.49 * whole:  # who owns something, and no half, is busy as long as any other
            assert time == pytest.approx(worst, rel=0.05)


@given(people, seeds, st.integers(0, 3))
def test_groups_are_a_partition_of_nearly_equal_sizes(
    members: list[Address], seed: Digest, attempt: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "GROUP_MAX", 4)
        drawn = groups(seed, attempt, members)
    assert sorted(m for group in drawn for m in group) == sorted(members)
    assert all(group == tuple(m for m in members if m in group) for group in drawn)
    sizes = [len(group) for group in drawn]
    assert max(sizes) <= 4
    assert max(sizes) - min(sizes) <= 1


def test_groups_are_drawn_anew_in_each_round_and_attempt() -> None:
    members = [Address(bytes([i]) * 20) for i in range(40)]
    drawn = [groups(Digest(bytes([seed]) * 32), at, members) for seed in (1, 2) for at in (0, 1)]
    assert len({str(one) for one in drawn}) == len(drawn)


def test_a_lost_owners_parts_spread_over_the_others() -> None:
    seed = Digest(b"o" * 32)
    owners = part_owners(seed, 12 * 24, tuple(ADDRESSES))
    second = {order[1] for order in owners if order[0] == owners[0][0]}
    assert len(second) > 6


@given(seeds, st.integers(1, 10**6), seeds)
def test_no_two_draws_share_a_seed(run: Digest, round_: int, previous: Digest) -> None:
    seed = round_seed(run, round_, previous)
    drawn = {
        seed,
        round_seed(run, round_ + 1, previous),
        round_seed(previous, round_, run) if run != previous else b"",
        order_seed(seed, ADDRESSES[0]),
        order_seed(seed, ADDRESSES[1]),
    }
    assert len(drawn) == 5
    assert ranked(seed, b"a", ADDRESSES) != ranked(seed, b"b", ADDRESSES)


def test_where_places_are_few_each_trainer_gets_its_turn() -> None:
    few = context(trainers_max=3)
    seated: Counter[Address] = Counter()
    for i in range(40):
        run = replace(few, seed=Digest(bytes([i]) * 32))
        evidence = RoundEvidence(run, None, Digest(bytes(32)), Checks(run, ADDRESSES[0]))
        members, _ = evidence.assign(tuple(ADDRESSES), evidence.context.course.opened)
        assert len(members) == 3
        seated.update(m.trainer for m in members)
    assert set(seated) == set(ADDRESSES)
