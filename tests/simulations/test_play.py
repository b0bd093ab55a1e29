"""Scenarios played: the same from one seed, and what they expect comes true."""

import subprocess
import sys
from pathlib import Path

import pytest

from eigen.simulations.command import LIBRARY
from eigen.simulations.outcome import Answer
from eigen.simulations.play import Play
from eigen.simulations.scenario import Scenario, load_scenario, parse_scenario

SMALL = """
name = "small"
question = "Does it end?"
seed = {seed}

[run]
rounds = 4
trainers_max = 8
shards = 8
model = "{model}"
parts = 2

[[nodes]]
name = "validators"
role = "validator"
count = 3

[[nodes]]
name = "trainers"
count = 6

[[nodes]]
name = "liars"
count = 2
behaviour = "{behaviour}"

[[expect]]
what = "committed"
least = 1.0

[[expect]]
what = "paid"
nodes = "liars"
most = {most}
"""


def small(
    seed: int = 1, model: str = "cost", behaviour: str = "idle", most: float = 1.0
) -> Scenario:
    text = SMALL.format(seed=seed, model=model, behaviour=behaviour, most=most)
    return parse_scenario(text, Path("small.toml"))


def held(answer: Answer) -> bool:
    return all(true for _, true, _ in answer.held)


@pytest.mark.parametrize("model", ["cost", "digits"])
def test_one_seed_is_one_trace_in_another_process_too(model: str) -> None:
    here = Play(small(7, model)).run().trace
    assert here == Play(small(7, model)).run().trace
    assert here != Play(small(8, model)).run().trace
    text = SMALL.format(seed=7, model=model, behaviour="idle", most=1.0)
    program = (
        "from pathlib import Path\n"
        "from eigen.simulations.play import Play\n"
        "from eigen.simulations.scenario import parse_scenario\n"
        f"print(Play(parse_scenario({text!r}, Path('s'))).run().trace)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == here


@pytest.mark.parametrize(
    "behaviour",
    [
        "equivocating",
        "withholding-owner",
        "spoiling-owner",
        "selective-sender",
        "silent-witness",
        "spam",
    ],
)
def test_rounds_go_on_with_two_of_eight_who(behaviour: str) -> None:
    assert held(Play(small(behaviour=behaviour)).run())


def test_who_does_not_train_is_not_paid_and_an_expectation_can_fail() -> None:
    assert held(Play(small(behaviour="idle", most=0.0)).run())
    assert not held(Play(small(behaviour="silent-witness", most=0.0)).run())


def test_real_training_learns_and_a_robust_rule_holds_against_sign_flips() -> None:
    play = Play(small(model="digits", behaviour="sign-flip"))
    play.run()
    accuracy = play.outcome.accuracy
    assert accuracy[4] > 0.6
    assert accuracy[4] > accuracy[1]


@pytest.mark.parametrize(
    "name",
    ["calm", "power-cut", "partition-heals", "validators-lost", "continents", "spoiling-owners"],
)
def test_scenarios_of_the_library_answer_as_they_expect(name: str) -> None:
    scenario, _ = load_scenario(LIBRARY / f"{name}.toml")
    answer = Play(scenario).run()
    assert held(answer), answer.held


def test_who_joins_late_is_seated_and_a_frozen_fifth_stops_nobody() -> None:
    text = SMALL.format(seed=3, model="cost", behaviour="idle", most=1.0).replace(
        'name = "trainers"\ncount = 6', 'name = "trainers"\ncount = 6\njoins_s = 30'
    )
    text = text.replace('behaviour = "idle"', 'behaviour = "honest"').replace(
        "rounds = 4", "rounds = 40"
    )
    play = Play(parse_scenario(text, Path("late.toml")))
    assert held(play.run())
    early = [r for r, record in play.outcome.records.items() if len(record.trainers) == 2]
    later = [r for r, record in play.outcome.records.items() if len(record.trainers) == 8]
    assert early
    assert later
    assert max(early) < max(later)


def test_nodes_come_and_go_as_a_trace_says() -> None:
    text = SMALL.format(seed=3, model="cost", behaviour="honest", most=1.0).replace(
        'name = "trainers"\ncount = 6',
        'name = "trainers"\ncount = 6\ntraces = [[0, 20, 40, 86400], [30]]',
    )
    play = Play(parse_scenario(text.replace("rounds = 4", "rounds = 60"), Path("traced.toml")))
    network = play.network
    seen: list[tuple[float, str, str]] = []
    network.watch = lambda what, who: seen.append((network.now, network.devices[who].name, what))
    assert held(play.run())
    first, second = ([(at, what) for at, name, what in seen if name == n] for n in NAMES)
    assert first == [(20.0, "down"), (40.0, "up")]
    assert second == [(30.0, "up")]
    assert max(len(record.trainers) for record in play.records.values()) == 8


NAMES = ("trainers-4", "trainers-5")


def test_lines_downwards_take_their_time() -> None:
    took = []
    for mbit in (0.0, 1.0):
        text = SMALL.format(seed=3, model="cost", behaviour="honest", most=1.0).replace(
            'name = "trainers"\n', f'name = "trainers"\ndownload_mbit = {mbit}\n'
        )
        took.append(Play(parse_scenario(text, Path("slow.toml"))).run().virtual_s)
    assert took[1] > took[0] + 4 * 1.0  # a model of 1,000,000 values at 2 bits, both ways, a round


def test_a_validator_that_donates_forged_heads_keeps_nobody_out() -> None:
    text = SMALL.format(seed=3, model="cost", behaviour="honest", most=1.0).replace(
        'role = "validator"\ncount = 3',
        'role = "validator"\ncount = 3\n\n[[nodes]]\nname = "donor"\nrole = "validator"\n'
        'behaviour = "lying-donor"\n\n[[faults]]\nat_s = 5\nwhat = "kill"\n'
        'nodes = "trainers"\nshare = 0.5\nfor_s = 20',
    )
    play = Play(parse_scenario(text.replace("rounds = 4", "rounds = 30"), Path("donor.toml")))
    assert held(play.run())
