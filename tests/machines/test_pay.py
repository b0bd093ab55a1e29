"""What work earns, what is held of it, and who gets it in the end."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import context

from eigen.protocol.cid import raw_cid
from eigen.protocol.messages import NO_DIGEST, Attempt, Credit, Payout, RoundRecord
from eigen.protocol.pay import Work, credits_of, payouts_after
from eigen.protocol.run import PaySpec, RunSpec
from eigen.protocol.types import Address, Digest

ADDRESSES = [Address(bytes([i + 1]) * 20) for i in range(12)]
A, B, C, D = ADDRESSES[:4]


def spec(pay: PaySpec, rounds: int = 5, reward: int = 1_000, share: int = 1_000) -> RunSpec:
    plain = context(rounds=rounds).spec
    return replace(plain, reward_per_round=reward, validator_share_bps=share, pay=pay)


def work(*done: tuple[Address, int, int]) -> list[Work]:
    return [Work(trainer, samples, worth, NO_DIGEST) for trainer, samples, worth in done]


def amounts(earned: tuple[Credit, ...]) -> dict[Address, int]:
    return {credit.account: credit.amount for credit in earned}


pays = st.builds(
    PaySpec,
    by=st.sampled_from(["samples", "contribution"]),
    share_max_bps=st.integers(1, 10_000),
    held_rounds=st.integers(1, 40),
)
done = st.lists(st.tuples(st.integers(0, 2**48), st.integers(-(2**80), 2**80)), max_size=8)


@settings(max_examples=200)
@given(pays, done, st.integers(0, 6), st.integers(0, 2**127), st.integers(0, 10_000))
def test_credits_never_exceed_the_reward_nor_the_cap(
    pay: PaySpec, worths: list[tuple[int, int]], watching: int, reward: int, share: int
) -> None:
    run = spec(pay, reward=reward, share=share)
    all_work = work(*((a, *w) for a, w in zip(ADDRESSES, worths, strict=False)))
    trainers, validators = credits_of(run, all_work, ADDRESSES[:watching])
    assert sum(c.amount for c in (*trainers, *validators)) <= reward
    assert len({c.amount for c in validators}) <= 1
    rest = reward - reward * share // 10_000
    for one in trainers:
        assert one.amount <= max(rest * pay.share_max_bps // 10_000, rest // len(trainers))


def test_pay_follows_what_updates_are_worth_and_not_what_they_claim() -> None:
    by_worth = spec(PaySpec(by="contribution"), share=0)
    paid = amounts(credits_of(by_worth, work((A, 100, 30), (B, 100, 10), (C, 100, -90)), ())[0])
    assert paid == {A: 750, B: 250, C: 0}


def test_where_no_update_points_with_the_others_samples_decide() -> None:
    by_worth = spec(PaySpec(by="contribution"), share=0)
    paid = amounts(credits_of(by_worth, work((A, 300, -1), (B, 100, 0)), ())[0])
    assert paid == {A: 750, B: 250}


def test_nobody_gets_more_than_the_cap_and_what_is_over_it_is_not_paid() -> None:
    capped = spec(PaySpec(by="contribution", share_max_bps=4_000), share=0)
    paid = amounts(credits_of(capped, work((A, 1, 97), (B, 1, 1), (C, 1, 2)), ())[0])
    assert paid == {A: 400, B: 10, C: 20}
    assert (
        amounts(credits_of(capped, work((A, 1, 97), (B, 1, 1)), ())[0])[A] == 500
    )  # an equal share


def record(number: int, table: tuple[Payout, ...]) -> RoundRecord:
    at, base = Attempt(context().run, number, 0), raw_cid(b"base")
    return RoundRecord(at, Digest(bytes(32)), base, base, (), (), (), (), table)


earned_in_rounds = st.lists(
    st.lists(st.tuples(st.integers(0, 11), st.integers(0, 10**20)), max_size=6),
    min_size=1,
    max_size=8,
)


@given(pays, earned_in_rounds, st.data())
def test_what_is_released_only_grows_and_in_the_end_it_is_all(
    pay: PaySpec, rounds: list[list[tuple[int, int]]], data: st.DataObject
) -> None:
    run = spec(pay, rounds=len(rounds))
    last: RoundRecord | None = None
    total = 0
    for number, earned in enumerate(rounds, 1):
        before = {p.account: p.cumulative for p in last.payouts} if last else {}
        awaited = data.draw(st.sets(st.sampled_from(ADDRESSES))) if number < len(rounds) else set()
        earnings = [Credit(ADDRESSES[i], 1, amount) for i, amount in earned]
        table = payouts_after(run, number, last, earnings, awaited=awaited)
        total += sum(amount for _, amount in earned)
        paid = {p.account: p.cumulative for p in table}
        assert list(paid) == sorted(paid)
        assert all(paid[account] >= was for account, was in before.items())
        assert all(paid[account] == before.get(account, 0) for account in awaited & paid.keys())
        assert sum(paid.values()) + sum(p.held for p in table) == total
        last = record(number, table)
    assert last is not None
    assert not any(p.held for p in last.payouts)


def test_who_is_thrown_out_loses_what_is_held_and_keeps_what_was_released() -> None:
    run, last = spec(PaySpec(held_rounds=10), rounds=100), None
    for number in range(1, 31):
        last = record(number, payouts_after(run, number, last, [Credit(A, 1, 100)]))
    [before] = last.payouts
    assert before.held == pytest.approx(900, abs=50)  # some nine rounds' pay
    [after] = payouts_after(run, 31, last, [Credit(A, 1, 100)], ejected={A})
    assert after == Payout(A, before.cumulative, 0)


def test_who_has_not_shown_its_work_by_the_last_round_goes_without() -> None:
    run = spec(PaySpec(held_rounds=10), rounds=3)
    last = record(2, (Payout(A, 10, 90), Payout(B, 10, 90)))
    table = payouts_after(run, 3, last, [Credit(A, 1, 5), Credit(B, 1, 5)], awaited={B})
    assert table == (Payout(A, 105, 0), Payout(B, 10, 0))
