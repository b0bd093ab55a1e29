"""`eigen sim` as its user has it: run, report, replay, compare, and what wrong input says."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from eigen.node.cli import main as cli_main
from eigen.simulations.command import command

SCENARIO = """
name = "tiny"
question = "Is it quick?"

[run]
rounds = 2

[[nodes]]
name = "validators"
role = "validator"

[[nodes]]
name = "trainers"
count = 2

[[expect]]
what = "attempts"
most = 1.0
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(SCENARIO)
    return tmp_path


def sim(*words: str) -> Result:
    return CliRunner().invoke(command, list(words))


def test_a_run_is_recorded_reported_replayed_and_compared(here: Path) -> None:
    first = sim("run", "tiny.toml", "--into", "one", "--json")
    assert first.exit_code == 0, first.output
    told = json.loads(first.stdout)
    assert told["rounds"] == 2
    assert told["expected"] == [{"what": "attempts: at most 1", "held": True, "figure": "1"}]
    assert (here / "one" / "report.html").exists()
    replayed = sim("replay", "one")
    assert "the same trace as recorded" in replayed.output
    at = sim("replay", "one", "--at", "1.0", "--node", "trainers-0", "--next", "2")
    assert "trainers-0" in at.output
    assert "validators-0       round" not in at.output
    assert sim("run", "tiny.toml", "--into", "two", "--seed", "9").exit_code == 0
    compared = sim("compare", "one", "two", "--to", "both.html")
    assert compared.exit_code == 0, compared.output
    assert (here / "both.html").exists()


def test_an_expectation_that_fails_fails_the_command(here: Path) -> None:
    (here / "tiny.toml").write_text(SCENARIO.replace("most = 1.0", "least = 5.0"))
    run = sim("run", "tiny.toml", "--into", "one", "--no-report")
    assert run.exit_code == 1
    assert "NO   attempts: at least 5: 1" in run.output


def test_a_sweep_runs_every_combination(here: Path) -> None:
    swept = sim(
        "sweep", "tiny.toml", "seed=1,2", "run.rounds=1,2", "--into", "s", "--processes", "1"
    )
    assert swept.exit_code == 0, swept.output
    assert (here / "s" / "runs.parquet").exists()
    assert len(list((here / "s").glob("*/run.json"))) == 4


def test_a_new_scenario_is_one_that_comes_with_eigen_under_its_own_name(here: Path) -> None:
    assert sim("new", "mine").exit_code == 0
    assert 'name = "mine"' in (here / "mine.toml").read_text()
    assert sim("run", "mine.toml", "--into", "m", "--no-report").exit_code == 0
    assert sim("new", "mine").exception is not None


def test_scenarios_are_listed_with_their_questions() -> None:
    listed = sim("list")
    assert "churn-30" in listed.output
    assert listed.output.count("?") >= 15


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "nowhere.toml"), "nowhere.toml cannot be read"),
        (("run", "bad.toml"), "bad.toml:5: run.rounds: 0 is out of range"),
        (("report", "nothing"), "nothing"),
        (("sweep", "tiny.toml", "seed", "--into", "s"), "write key=value"),
    ],
)
def test_wrong_input_is_one_line(
    here: Path, words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "bad.toml").write_text(SCENARIO.replace("rounds = 2", "rounds = 0").lstrip("\n"))
    assert cli_main(["sim", *words]) != 0
    told = capsys.readouterr().err
    assert said in told
    assert "Traceback" not in told
