"""Cheating does not pay at the defaults: expected payoffs, and the same by playing the rounds."""

import random
from dataclasses import replace

import pytest

from eigen.node.run_file import DEFAULT_PAY
from eigen.protocol.cid import raw_cid
from eigen.protocol.economics import (
    ATTACKS,
    Attack,
    Terms,
    detection,
    found_within,
    held,
    held_rounds_needed,
    late_payoff,
    payoff,
    run_payoff,
)
from eigen.protocol.messages import NO_DIGEST, Attempt, Credit, RoundRecord
from eigen.protocol.pay import payouts_after
from eigen.protocol.run import AggregationSpec, InnerSpec, ModelSpec, OuterSpec, RunSpec
from eigen.protocol.types import Address, RunId

UNIT = 10**9
"""An honest trainer's pay of a round."""
CHEAT = Address(bytes(20))
DEFAULTS = Terms.of(DEFAULT_PAY)
SPEC = RunSpec(
    name="economics",
    model=ModelSpec("mlp", ()),
    dataset=raw_cid(b""),
    rounds=1,
    inner=InnerSpec(10, 16, 0.01, 0.0),
    outer=OuterSpec("sgd", 1.0, 0.0),
    codec="fp32",
    result_codec="fp32",
    aggregation=AggregationSpec("mean"),
    part_values=1024,
    trainers_min=1,
    trainers_max=4,
    reward_per_round=UNIT,
    validator_share_bps=0,
    seed=0,
    pay=DEFAULT_PAY,
)
EMPTY = RoundRecord(
    Attempt(RunId(bytes(32)), 1, 0), NO_DIGEST, raw_cid(b""), raw_cid(b""), (), (), (), (), ()
)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_no_attack_pays_at_the_defaults(attack: Attack) -> None:
    """Not in a long run, even where nobody measures the gap, nor in any run where somebody does."""
    for one in (attack, attack.without_gap()):
        assert payoff(DEFAULTS, one) < 0.0
        assert late_payoff(DEFAULTS, one) < 0.0
        assert run_payoff(DEFAULTS, one, 400) < 0.0
        needed = held_rounds_needed(DEFAULTS, one)
        assert needed is not None
        assert needed <= DEFAULT_PAY.held_rounds
    assert all(run_payoff(DEFAULTS, attack, rounds) < 0.0 for rounds in (1, 8, 20, 50))


@pytest.mark.parametrize(("rounds", "replayed"), [(8, 0.2), (20, 0.15), (50, 0.1), (400, 0.05)])
def test_a_short_run_without_the_gap_needs_more_replays(rounds: int, replayed: float) -> None:
    """At its end all pay is released: docs/contribution-proofs.md has this table."""

    def best(share: float) -> float:
        terms = Terms(share, DEFAULT_PAY.held_rounds)
        return max(run_payoff(terms, attack.without_gap(), rounds) for attack in ATTACKS)

    assert best(replayed) < 0.0 < best(replayed - 0.05)


def lived(terms: Terms, attack: Attack, rounds: int, chance: random.Random) -> float:
    """What a cheat has of each of so many rounds, less an honest trainer's; by `pay`'s table."""
    run = replace(SPEC, rounds=rounds, pay=replace(SPEC.pay, held_rounds=terms.held_rounds))
    record, spent = EMPTY, 0.0
    for number in range(1, rounds + 1):
        caught = chance.random() < detection(terms, attack)
        earned = () if caught else (Credit(CHEAT, 1, round(attack.paid * UNIT)),)
        ejected = {CHEAT} if caught else set()
        table = payouts_after(run, number, record, earned, ejected=ejected)
        record = replace(EMPTY, payouts=table)
        spent += (1.0 - attack.saves) * terms.cost + caught * terms.entry
    released = sum(payout.cumulative for payout in record.payouts) / UNIT
    return released - spent - rounds * (1.0 - terms.cost)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_played_out_no_attack_pays_either(attack: Attack) -> None:
    chance = random.Random(1)
    for rounds in (20, 200):
        lives = [lived(DEFAULTS, attack, rounds, chance) for _ in range(2_000 // rounds)]
        assert sum(lives) < 0.0
    blind = attack.without_gap()
    lives = [lived(DEFAULTS, blind, 200, chance) / 200 for _ in range(40)]
    assert sum(lives) / 40 == pytest.approx(run_payoff(DEFAULTS, blind, 200) / 200, abs=0.1)


def test_the_formulas_are_what_playing_comes_to() -> None:
    attack = Attack("free riding", saves=1.0, paid=1.0)
    terms = Terms(replayed=0.1, held_rounds=10, cost=0.8, entry=2.0)
    chance = random.Random(2)
    short = [lived(terms, attack, 15, chance) for _ in range(1_500)]
    assert sum(short) / len(short) == pytest.approx(run_payoff(terms, attack, 15), rel=0.15)
    long = [lived(terms, attack, 1_500, chance) / 1_500 for _ in range(12)]
    assert sum(long) / len(long) == pytest.approx(payoff(terms, attack), abs=0.03)
    assert run_payoff(terms, attack, 800) / 800 == pytest.approx(payoff(terms, attack), abs=0.01)


def test_what_is_held_and_how_soon_a_cheat_is_found() -> None:
    terms = Terms(replayed=0.02, held_rounds=50)
    assert held(terms) == 49.0
    assert held(terms, 10) == pytest.approx(9.0, abs=0.1)
    half = ATTACKS[1]
    assert found_within(terms, half.without_gap(), 35) == pytest.approx(0.507, abs=0.001)
    assert found_within(terms, half, 35) > 0.99
    sure = Attack("never found", saves=1.0, paid=1.0)
    assert held_rounds_needed(Terms(0.0, 1), sure) is None
    assert payoff(Terms(0.0, 1), sure) == pytest.approx(0.8)
    needed = held_rounds_needed(Terms(0.05, 1), sure)
    assert needed is not None
    assert payoff(Terms(0.05, needed), sure) <= 0.0 < payoff(Terms(0.05, needed - 1), sure)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"replayed": 1.1}, "replayed is 1.1"),
        ({"held_rounds": 0}, "held_rounds is 0"),
        ({"cost": -0.1}, "cost is -0.1"),
        ({"entry": float("nan")}, "entry is nan"),
    ],
)
def test_terms_out_of_range_are_named(wrong: dict[str, float], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Terms(**{"replayed": 0.1, "held_rounds": 5} | wrong)
