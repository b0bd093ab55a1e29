"""Scenarios: every one that comes with Eigen loads, and a wrong one names file, line and key."""

from pathlib import Path

import pytest

from eigen.simulations.command import LIBRARY
from eigen.simulations.scenario import ScenarioError, load_scenario, parse_scenario

HEAD = 'name = "one"\nquestion = "What?"\n'
NODES = """
[[nodes]]
name = "validators"
role = "validator"
count = 3

[[nodes]]
name = "trainers"
count = 5
"""
SOURCE = Path("one.toml")


def test_the_library_has_questions_and_all_of_it_loads() -> None:
    paths = sorted(LIBRARY.glob("*.toml"))
    assert len(paths) >= 15
    for path in paths:
        scenario, _ = load_scenario(path)
        assert scenario.name == path.stem
        assert scenario.question.endswith("?")
        assert scenario.expect, f"{path} expects nothing"


def test_defaults_are_a_whole_scenario() -> None:
    scenario = parse_scenario(HEAD + NODES, SOURCE)
    assert scenario.run.rounds == 10
    assert [group.count for group in scenario.nodes] == [3, 5]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (NODES, "one.toml: name: is missing"),
        (HEAD + "sead = 1\n" + NODES, "one.toml:3: sead: no such key; did you mean seed?"),
        (
            HEAD + NODES + "cuont = 1\n",
            "one.toml:12: nodes.cuont: no such key; did you mean count?",
        ),
        (HEAD + NODES + "session_s = -1\n", "one.toml:12: nodes.session_s: -1 is out of range"),
        (HEAD + NODES + 'region = "mars"\n', "one.toml:12: nodes.region: no region 'mars'"),
        (HEAD + NODES + 'behaviour = "kind"\n', "one.toml:12: nodes.behaviour: 'kind' is none of"),
        (HEAD + NODES.replace("trainers", "validators"), "two groups 'validators'"),
        (HEAD + "[run]\ntrainers_min = 6\n" + NODES, "one.toml:4: run.trainers_min: 6, and there"),
        (HEAD + "[run]\nquorum = 1\n" + NODES, "one.toml:4: run.quorum: no majority of 3"),
        (HEAD + NODES.replace('role = "validator"', ""), "0 validators"),
        (HEAD + "[run]\nrounds = 1.5\n" + NODES, "one.toml:4: run.rounds: 1.5 is no whole number"),
        (HEAD + '[links]\nregions = ["a", "b"]\n' + NODES, "links.latency_ms: needs 2 rows of 2"),
        (HEAD + "[deadlines]\nattempt_s = 1\n" + NODES, "one.toml:4: deadlines.attempt_s: must be"),
        (
            HEAD + NODES + '[[faults]]\nat_s = 1\nwhat = "kill"\nnodes = "nobody"\n',
            "one.toml:15: faults.nodes: no nodes 'nobody'",
        ),
        (
            HEAD + NODES + '[[expect]]\nwhat = "accuracy"\n',
            'run.model = "cost" has no accuracy',
        ),
        (
            HEAD + "[nodes]\ncount = 1\n",
            "one.toml:3: nodes: is an array of tables: write [[nodes]]",
        ),
        (HEAD + "[[", "one.toml: not valid TOML"),
    ],
)
def test_a_wrong_scenario_says_where_and_what(text: str, said: str) -> None:
    with pytest.raises(ScenarioError) as error:
        parse_scenario(text, SOURCE)
    assert said in str(error.value)


def test_a_file_that_cannot_be_read_is_no_traceback(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="cannot be read"):
        load_scenario(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ScenarioError, match="not UTF-8"):
        load_scenario(tmp_path / "binary.toml")
