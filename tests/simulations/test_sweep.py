"""Sweeps: every combination once, on real processes; failures keep their row; it goes on later."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from rich.console import Console
from swept import run

from eigen.simulations.record import RunFolder
from eigen.simulations.sweep import SweepError, changed, points_of, sweep

SCENARIO: dict[str, Any] = {"name": "liars", "seed": 0, "nodes": {"trainers": {"count": 1}}}


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool's processes import `swept` and `runs` too."""
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)


def rows(path: Path) -> list[dict[str, Any]]:
    return list(pq.read_table(path).to_pylist())


def test_a_sweep_is_one_table_with_a_row_a_run(tmp_path: Path) -> None:
    said = io.StringIO()
    parameters = {"nodes.trainers.count": [10, 20], "seed": range(3)}
    console = Console(file=said, force_terminal=True, width=100)
    path = sweep(SCENARIO, parameters, tmp_path, run, processes=2, console=console)
    assert path == tmp_path / "runs.parquet"
    table = rows(path)
    assert [(row["nodes.trainers.count"], row["seed"]) for row in table] == [
        (10, 0),
        (10, 1),
        (10, 2),
        (20, 0),
        (20, 1),
        (20, 2),
    ]
    assert [row["loss"] for row in table] == [10, 10.1, 10.2, 20, 20.1, 20.2]
    assert {row["error"] for row in table} == {None}
    assert not any(row["partial"] for row in table)
    assert table[-1]["folder"] == "00005-count=20-seed=2"
    assert RunFolder.open(tmp_path / table[-1]["folder"]).about["events"] == 20
    assert "6/6" in said.getvalue()
    assert SCENARIO["nodes"]["trainers"]["count"] == 1


def test_a_failing_run_keeps_its_row_and_is_run_again(tmp_path: Path) -> None:
    parameters = {"behaviour": ["well", "fail", "more"]}
    table = rows(sweep(SCENARIO, parameters, tmp_path, run, processes=1))
    assert [row["error"] for row in table] == [None, "ValueError: no such luck", None]
    assert [row["partial"] for row in table] == [False, True, False]
    assert [row["loss"] for row in table] == [1, 1, 1]  # the partial run is readable

    sweep(SCENARIO, parameters, tmp_path, run, processes=1)
    ran = (tmp_path / "ran").read_text().split()
    assert sorted(ran) == ["00000-behaviour=well", "00002-behaviour=more"]  # each of them once


def test_a_killed_process_costs_its_run_alone(tmp_path: Path) -> None:
    parameters = {"behaviour": ["killed", "well", "more"]}
    table = rows(sweep(SCENARIO, parameters, tmp_path, run, processes=1))
    assert table[0]["error"].startswith("BrokenProcessPool")
    assert [row["loss"] for row in table] == [None, 1, 1]


def test_ctrl_c_keeps_what_is_complete(tmp_path: Path) -> None:
    """A real terminal's Ctrl-C: SIGINT to the whole process group."""
    child = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("swept.py")), str(tmp_path)],
        start_new_session=True,
        stderr=subprocess.PIPE,
        env=os.environ,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "hangs").exists():
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.5)  # so that it sleeps
    os.killpg(child.pid, signal.SIGINT)
    _, errors = child.communicate(timeout=60)
    assert child.returncode != 0
    assert errors.count("Traceback") <= 1 + errors.count("RemoteTraceback")
    complete, hung, never = rows(tmp_path / "runs.parquet")
    assert complete["loss"] == 1
    assert not complete["partial"]
    assert hung["partial"]
    assert "no run folder" in never["error"]


def test_a_folder_belongs_to_one_sweep(tmp_path: Path) -> None:
    sweep(SCENARIO, {"seed": [1]}, tmp_path, run, processes=1)
    with pytest.raises(SweepError, match="holds another sweep"):
        sweep(SCENARIO, {"seed": [2]}, tmp_path, run, processes=1)
    with pytest.raises(SweepError, match="holds another sweep"):
        sweep({**SCENARIO, "question": "other"}, {"seed": [1]}, tmp_path, run, processes=1)


def test_other_files_in_a_run_s_folder_are_left_alone(tmp_path: Path) -> None:
    kept = tmp_path / "00000-seed=1" / "thesis.txt"
    kept.parent.mkdir()
    kept.write_text("dear")
    (row,) = rows(sweep(SCENARIO, {"seed": [1]}, tmp_path, run, processes=1))
    assert "not empty" in row["error"]
    assert kept.read_text() == "dear"


def test_values_of_several_types_become_json(tmp_path: Path) -> None:
    path = sweep(SCENARIO, {"codec": ["int8", 2], "rounds": [1]}, tmp_path, run, processes=1)
    table = rows(path)
    assert [row["codec"] for row in table] == ['"int8"', "2"]
    assert [row["rounds"] for row in table] == [1, 1]
    assert [row["rounds (measured)"] for row in table] == [0, 0]


def test_settings_are_changed_in_a_copy() -> None:
    new = changed(SCENARIO, {"nodes.trainers.count": 5, "churn.down_s": 1.5})
    assert new["nodes"]["trainers"]["count"] == 5
    assert new["churn"] == {"down_s": 1.5}
    assert SCENARIO["nodes"]["trainers"]["count"] == 1
    assert "churn" not in SCENARIO


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "at least one parameter"),
        ({"seed": []}, "seed: no values"),
        ({"seed": [1, 2, 1]}, "seed: a value is named twice"),
        ({"seed.of": [1]}, "seed.of: seed is a value, not a table"),
        ({"seed": range(1000), "x": range(1000)}, "1,000,000 combinations"),
    ],
)
def test_sweeps_that_make_no_sense_are_refused(
    tmp_path: Path, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(SweepError, match=message):
        points_of(SCENARIO, parameters, tmp_path)
