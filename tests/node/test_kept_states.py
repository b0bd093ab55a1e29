"""Optimizer states on disk: durable, checked, and right after `kill -9` of a real process."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import structlog
from service_peers import until
from test_rounds_service import cast
from training_child import ROUNDS

from eigen.node.records import SqliteRecords
from eigen.node.states import OPTIMIZER, StateFiles
from eigen.protocol.run import InnerSpec
from eigen.protocol.types import RunId

RUN = RunId(b"r" * 32)
CHILD = Path(__file__).with_name("training_child.py")


@pytest.fixture
def states(tmp_path: Path) -> Iterator[StateFiles]:
    with closing(SqliteRecords(tmp_path / "node.sqlite3")) as records:
        yield StateFiles(tmp_path / "states", records)


async def test_a_state_is_there_until_its_round_is_long_over(
    states: StateFiles, tmp_path: Path
) -> None:
    assert await states.get(OPTIMIZER, RUN, 1) == b""
    for number in (1, 2, 3):
        await states.put(OPTIMIZER, RUN, number, b"state %d" % number)
    await states.put(OPTIMIZER, RUN, 3, b"again")
    await states.put(OPTIMIZER, RunId(b"s" * 32), 1, b"another run's")
    assert [await states.get(OPTIMIZER, RUN, n) for n in (1, 2, 3)] == [
        b"state 1",
        b"state 2",
        b"again",
    ]
    await states.forget_before(RUN, 3)
    assert [await states.get(OPTIMIZER, RUN, n) for n in (1, 2, 3)] == [b"", b"", b"again"]
    assert await states.get(OPTIMIZER, RunId(b"s" * 32), 1) == b"another run's"
    assert len(list((tmp_path / "states").iterdir())) == 2


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda path: path.write_bytes(b"other bytes"), "its bytes are not those that were stored"),
        (lambda path: path.write_bytes(b"stat"), "its bytes are not those that were stored"),
        (lambda path: path.unlink(), "No such file or directory"),
    ],
)
async def test_a_spoiled_state_is_refused_with_the_reason(
    states: StateFiles, tmp_path: Path, spoil: Any, why: str
) -> None:
    await states.put(OPTIMIZER, RUN, 1, b"state")
    spoil(tmp_path / "states" / f"{RUN.hex()}-1.optimizer")
    with structlog.testing.capture_logs() as logs:
        assert await states.get(OPTIMIZER, RUN, 1) == b""
    [said] = logs
    assert said["why"] == why
    assert said["file"].endswith("-1.optimizer")
    await states.put(OPTIMIZER, RUN, 1, b"new")
    assert await states.get(OPTIMIZER, RUN, 1) == b"new"


def test_what_a_killed_write_left_is_removed(states: StateFiles, tmp_path: Path) -> None:
    states.clear_partial()
    (tmp_path / "states").mkdir()
    (tmp_path / "states" / "partial-x").write_bytes(b"half")
    states.clear_partial()
    assert list((tmp_path / "states").iterdir()) == []


@pytest.mark.timeout(180)
async def test_a_trainer_whose_state_is_bad_trains_afresh_and_says_why(tmp_path: Path) -> None:
    inner = InnerSpec(4, 16, 0.01, 0.0, moments="kept")
    async with cast(tmp_path, inner=inner) as at:
        states, run = at.alice.driver.ports.states, at.context.run
        get, spoiled = states.get, []

        async def damaged(kind: str, of: RunId, round_: int) -> bytes:
            state = await get(kind, of, round_)
            if round_ != 2:
                return state
            spoiled.append(state)
            return state.replace(b"eigen-optimizer-1", b"eigen-optimizer-0")

        states.get = damaged  # type: ignore[method-assign]
        with structlog.testing.capture_logs() as logs:
            at.start()
            await until(lambda: at.val.driver.head.round >= 4, 90)
        assert len(spoiled) == 1
        assert spoiled[0]
        refused = [e["why"] for e in logs if "refused" in e["event"]]
        assert refused == ["format is 'eigen-optimizer-0', the run has 'eigen-optimizer-1'"]
        for number in (3, 4):
            paid = {c.account for c in at.val.driver.history[number].trainers}
            assert paid == set(at.trainers)
        assert b'"steps":"4"' in await get(OPTIMIZER, run, 3) or b'"steps":"8"' in await get(
            OPTIMIZER, run, 4
        )


# kill -9 ----------------------------------------------------------------------------------------
def child(folder: Path, overlap: bool) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    with (folder / "log").open("a") as log:
        return subprocess.Popen(
            [sys.executable, "-P", str(CHILD), str(folder), "overlap" if overlap else "apart"],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(CHILD.parent), *sys.path])},
        )


def finished(process: subprocess.Popen[str]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Its updates, and its last word."""
    with process:
        out, _ = process.communicate(timeout=200)
    *said, last = [json.loads(line) for line in out.splitlines()]
    assert last.get("done")
    return said, last


@pytest.mark.timeout(500)
@pytest.mark.parametrize("overlap", [False, True])
def test_a_killed_trainer_goes_on_as_one_that_was_not(tmp_path: Path, overlap: bool) -> None:
    """Every update of the killed one is the same: moments, data, residual and base."""
    whole, last = finished(child(tmp_path / "whole", overlap))
    wanted = {said["round"]: said for said in whole}
    assert list(wanted) == list(range(1, ROUNDS + 1))
    for number, said in wanted.items():
        assert (said["steps"], said["position"]) == (4 * number, 64 * number)
    assert len({said["base"] for said in whole}) == (ROUNDS - 1 if overlap else ROUNDS)
    assert last["files"] == [], "states of a run that is over stay on disk"

    killed: list[dict[str, Any]] = []
    for stop in (3, 4):
        with child(tmp_path / "killed", overlap) as process:
            assert process.stdout is not None
            killed += [json.loads(process.stdout.readline()) for _ in range(stop)]
            process.kill()
            killed += [json.loads(line) for line in process.stdout if line.endswith("\n")]
        assert process.returncode == -signal.SIGKILL
    assert not any(said.get("done") for said in killed), "it was killed too late"
    rest, _ = finished(child(tmp_path / "killed", overlap))
    seen = killed + rest
    assert len(seen) > ROUNDS, "no update was made twice"
    for said in seen:
        assert said == wanted[said["round"]]
    assert {said["round"] for said in seen} == set(wanted)
