"""Run folders: what is written comes back, whatever ends the run."""

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from eigen.simulations.record import (
    BATCH_ROWS,
    EVENTS_SCHEMA,
    FORMAT,
    Recorder,
    RunFolder,
    RunFolderError,
)

SCENARIO = 'name = "tiny"\n\n[nodes.trainers]\ncount = 2\n'
ABOUT: dict[str, object] = {"name": "tiny", "question": "Does it work?", "seed": 7, "tier": 1}


def rows(table: Any) -> list[dict[str, Any]]:
    return list(table.to_pylist())


def test_rows_come_back_as_they_were_recorded(tmp_path: Path) -> None:
    with Recorder(tmp_path / "run", SCENARIO, ABOUT) as recorder:
        recorder.event(0.5, "a", "seat", 1, 0)
        recorder.event(0.75, "ü", "penalize", 1, 2, "b: lied about part 3")
        recorder.metric(1.0, "loss", 2.5, round_=1)
        recorder.metric(1.0, "bytes_sent", 4096.0, "a", 1)
        recorder.finish(virtual_s=1.0, events=42, trace_hash="ab", assertions=[])
    run = RunFolder.open(tmp_path / "run")
    assert rows(run.events()) == [
        {"time_s": 0.5, "node": "a", "kind": "seat", "round": 1, "attempt": 0, "detail": ""},
        {
            "time_s": 0.75,
            "node": "ü",
            "kind": "penalize",
            "round": 1,
            "attempt": 2,
            "detail": "b: lied about part 3",
        },
    ]
    assert rows(run.metrics(["loss"])) == [
        {"time_s": 1.0, "name": "loss", "value": 2.5, "node": "", "round": 1}
    ]
    assert run.metrics().num_rows == 2
    assert not run.partial
    assert run.scenario_text == SCENARIO
    assert run.scenario["nodes"] == {"trainers": {"count": 2}}
    assert run.about["events"] == 42
    assert run.about["rows"] == {"events": 2, "metrics": 2}
    assert run.about["wall_s"] > 0
    assert run.about["versions"]["python"]


def test_row_groups_are_flushed_as_it_goes(tmp_path: Path) -> None:
    with Recorder(tmp_path, SCENARIO, ABOUT) as recorder:
        for count in range(2 * BATCH_ROWS + 3):
            recorder.event(count, f"n{count % 700}", "train", 0, 0)
        unfinished = (tmp_path / ".events.parquet.new").stat().st_size
        recorder.finish()
    assert unfinished > 1000
    table = RunFolder.open(tmp_path).events()
    assert table.num_rows == 2 * BATCH_ROWS + 3
    assert table["time_s"].to_pylist() == list(range(2 * BATCH_ROWS + 3))
    assert table["node"][-1].as_py() == f"n{(2 * BATCH_ROWS + 2) % 700}"
    assert table.schema.equals(EVENTS_SCHEMA)
    assert not list(tmp_path.glob(".*"))


def test_ctrl_c_leaves_a_readable_partial_run(tmp_path: Path) -> None:
    """A real SIGINT to a real process that records without end."""
    code = f"""
        import itertools
        from pathlib import Path
        from eigen.simulations.record import Recorder
        with Recorder(Path({str(tmp_path / "run")!r}), {SCENARIO!r}, {ABOUT!r}) as recorder:
            for count in itertools.count():
                recorder.event(count, "a", "train", count, 0, str(count))
                recorder.metric(count, "loss", 1.0)
                if count == 200_000:
                    print("now", flush=True)
    """
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "now\n"
    with pytest.raises(RunFolderError, match="still goes on, or was killed"):
        RunFolder.open(tmp_path / "run")
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=60)
    assert child.returncode != 0
    assert errors.rstrip().endswith("KeyboardInterrupt")

    run = RunFolder.open(tmp_path / "run")
    assert run.partial
    assert run.about["ended"] == "stopped with Ctrl-C"
    table = run.events()
    assert table.num_rows > 200_000
    assert run.about["rows"]["events"] == table.num_rows
    assert table["detail"].to_pylist() == [str(count) for count in range(table.num_rows)]


def test_ctrl_c_between_two_columns_loses_that_row_alone(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, SCENARIO, ABOUT)
    recorder.event(1.0, "a", "seat", 0, 0)
    recorder._events.columns[0].append(2.0)  # what an interrupt in `event` leaves
    with pytest.raises(KeyboardInterrupt), recorder:
        raise KeyboardInterrupt
    assert RunFolder.open(tmp_path).events()["time_s"].to_pylist() == [1.0]


def test_an_error_is_named_in_the_partial_run(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, SCENARIO, ABOUT)
    recorder.describe(virtual_s=3.0)
    with pytest.raises(ZeroDivisionError), recorder:
        recorder.metric(1.0, "loss", 1 / 0)
    run = RunFolder.open(tmp_path)
    assert run.partial
    assert run.about["ended"] == "ZeroDivisionError: division by zero"
    assert run.about["virtual_s"] == 3.0


def test_leaving_without_finish_is_partial(tmp_path: Path) -> None:
    with Recorder(tmp_path, SCENARIO, ABOUT):
        pass
    assert RunFolder.open(tmp_path).about["ended"] == "left before it was finished"


def test_an_empty_run_has_empty_tables(tmp_path: Path) -> None:
    with Recorder(tmp_path, SCENARIO, ABOUT) as recorder:
        recorder.finish()
    run = RunFolder.open(tmp_path)
    assert run.events().num_rows == run.metrics(["loss"]).num_rows == 0


def test_what_is_not_finite_survives(tmp_path: Path) -> None:
    with Recorder(tmp_path, SCENARIO, ABOUT) as recorder:
        recorder.metric(0.0, "loss", math.nan)
        recorder.metric(1.0, "loss", math.inf)
        recorder.finish(best=math.nan, spread=(1.0, -math.inf))
    run = RunFolder.open(tmp_path)
    first, second = run.metrics()["value"].to_pylist()
    assert math.isnan(first)
    assert second == math.inf
    assert run.about["best"] is None  # JSON has no NaN
    assert run.about["spread"] == [1.0, None]


def test_a_million_events_stay_within_a_memory_bound(tmp_path: Path) -> None:
    """The peak of a process of its own grows by less than a million rows would take."""
    code = f"""
        import resource
        from pathlib import Path
        from eigen.simulations.record import Recorder
        def peak_mb():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        nodes = [f"node-{{i}}" for i in range(10_000)]
        kinds = ["seat", "train", "commit", "exchange", "vote", "step", "adopt"]
        with Recorder(Path({str(tmp_path)!r}), {SCENARIO!r}, {ABOUT!r}) as recorder:
            for i in range(100_000):
                recorder.event(i * 1e-3, nodes[i % 10_000], kinds[i % 7], 0, 0, f"detail {{i}}")
            before = peak_mb()
            for i in range(100_000, 1_100_000):
                recorder.event(i * 1e-3, nodes[i % 10_000], kinds[i % 7], 0, 0, f"detail {{i}}")
            recorder.finish()
        print(peak_mb() - before)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        check=True,
        env=os.environ,
    )
    assert float(done.stdout) < 60  # measured: 15; kept in memory they would take over 130
    assert RunFolder.open(tmp_path).events(["seat"]).num_rows > 150_000


@pytest.mark.parametrize("missing", list(ABOUT))
def test_a_run_says_what_it_is(tmp_path: Path, missing: str) -> None:
    about = {key: value for key, value in ABOUT.items() if key != missing}
    with pytest.raises(ValueError, match=f"needs {missing}"):
        Recorder(tmp_path / "run", SCENARIO, about)
    assert not (tmp_path / "run").exists()


def test_a_folder_in_use_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("dear")
    with pytest.raises(RunFolderError, match="not empty; name another"):
        Recorder(tmp_path, SCENARIO, ABOUT)
    with pytest.raises(RunFolderError, match="cannot record there"):
        Recorder(tmp_path / "thesis.txt" / "run", SCENARIO, ABOUT)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def recorded(folder: Path) -> Path:
    with Recorder(folder, SCENARIO, ABOUT) as recorder:
        recorder.finish()
    return folder


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = recorded(tmp_path) / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": FORMAT + 1}))
    with pytest.raises(RunFolderError, match=f"format {FORMAT + 1}, .* up to {FORMAT}: update"):
        RunFolder.open(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("run.json", None, "no run folder: it has no run.json"),
        ("run.json", "{", "run.json cannot be read"),
        ("run.json", "[]", "not one of a simulated run"),
        ("run.json", '{"format": 1}', "lacks name, question, seed, tier, assertions, partial"),
        ("scenario.toml", None, "scenario.toml cannot be read"),
        ("scenario.toml", "= 1", "scenario.toml cannot be read"),
        ("events.parquet", None, "events.parquet is missing"),
        ("metrics.parquet", "PAR1 no more", "metrics.parquet cannot be read"),
    ],
)
def test_a_broken_folder_is_refused_in_one_line(
    tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    path = recorded(tmp_path) / name
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(RunFolderError, match=message) as refused:
        RunFolder.open(tmp_path)
    assert str(refused.value).startswith(str(tmp_path))
    assert "\n" not in str(refused.value)


def test_a_table_of_other_columns_is_refused(tmp_path: Path) -> None:
    recorded(tmp_path)
    (tmp_path / "metrics.parquet").replace(tmp_path / "events.parquet")
    (tmp_path / "metrics.parquet").write_bytes((tmp_path / "events.parquet").read_bytes())
    with pytest.raises(RunFolderError, match="has other columns"):
        RunFolder.open(tmp_path)


def test_no_folder_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="no run folder"):
        RunFolder.open(tmp_path / "nothing")
