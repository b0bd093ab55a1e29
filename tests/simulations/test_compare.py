"""Comparisons: what differs is in the tables, each run is in each plot, strangers are refused."""

from pathlib import Path

import pytest
from runs import record_diverged, record_empty, record_run
from test_report import figures, loads

from eigen.simulations.compare import (
    RUNS_MAX,
    ComparisonError,
    compare,
    differing,
    flattened,
)
from eigen.simulations.record import RunFolderError


def test_runs_lie_over_each_other(tmp_path: Path) -> None:
    record_run(tmp_path / "mean", rule="mean", seed=2, held=False)
    record_run(tmp_path / "filter", trainers=9)
    path = compare([tmp_path / "mean", tmp_path / "filter"])
    assert path == tmp_path / "comparison.html"
    read = loads(path)
    assert read.fetched == []
    assert read.headings == [
        "Question",
        "Settings that differ",
        "Figures",
        "Loss",
        "Accuracy",
        "Round time",
        "Attempts",
        "Bytes sent",
        "Credited against contributed",
    ]
    assert "No: 1 of 1 assertions failed" in read.text
    for setting in ("seed", "nodes.trainers.count", "aggregation.rule"):
        assert setting in read.text
    drawn = figures(path)
    assert len(drawn) == 6
    for traces in drawn:
        names = " ".join(str(trace.get("name")) for trace in traces)
        assert "mean" in names
        assert "filter" in names


def test_runs_with_nothing_to_draw_are_compared_too(tmp_path: Path) -> None:
    record_empty(tmp_path / "a")
    record_empty(tmp_path / "b")
    record_diverged(tmp_path / "c")
    assert figures(compare([tmp_path / "a", tmp_path / "b"])) == []
    path = compare([tmp_path / "a", tmp_path / "c"], tmp_path / "two.html")
    assert path == tmp_path / "two.html"
    assert len(figures(path)) == 6


def test_folders_of_one_name_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    for parent in ("x", "y"):
        record_run(tmp_path / parent / "run", rounds=2, seed=1)
    path = compare([tmp_path / "x" / "run", tmp_path / "y" / "run"], tmp_path / "c.html")
    read = loads(path)
    assert str(tmp_path / "y" / "run") in read.text
    assert "all settings are the same" in read.text


def test_what_differs_is_found_by_dotted_key() -> None:
    first = {"a": 1, "t": {"x": 1, "y": [1, 2]}, "faults": [{"at_s": 1}]}
    second = {"a": 1, "t": {"x": 2, "y": [1, 2]}, "faults": [{"at_s": 1}, {"at_s": 9}]}
    assert flattened(second)["faults.1.at_s"] == 9
    assert differing({"first": first, "second": second}) == {
        "t.x": [1, 2],
        "faults.1.at_s": ["not set", 9],
    }


def test_runs_of_other_scenarios_are_refused(tmp_path: Path) -> None:
    record_run(tmp_path / "a", rounds=1)
    record_run(tmp_path / "b", rounds=1, name="churn")
    with pytest.raises(ComparisonError, match=r"'churn'.*'liars': compare takes runs of one"):
        compare([tmp_path / "a", tmp_path / "b"])
    assert not list(tmp_path.glob("*.html"))


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    record_run(tmp_path / "a", rounds=1)
    with pytest.raises(ComparisonError, match=f"takes 2 to {RUNS_MAX} run folders, not 1"):
        compare([tmp_path / "a"])
    with pytest.raises(ComparisonError, match="named twice"):
        compare([tmp_path / "a", tmp_path / "b" / ".." / "a"])
    with pytest.raises(RunFolderError, match="no run folder"):
        compare([tmp_path / "a", tmp_path / "nothing"])
