"""The worker's own side: errors travel, stray output does not, and bad arguments are refused."""

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from eigen.protocol.wire import encode_bare
from eigen.training import errors
from eigen.training.frames import OK, Files, pack, read
from eigen.training.ranks import Ranks
from eigen.training.results import Evaluation
from eigen.training.worker import METHODS, main, serve


def read_reply(pipe: BinaryIO) -> tuple[str, list[Any]]:
    reply = read(pipe)
    assert reply is not None, "the reply pipe ended"
    return reply


class Scripted:
    """An engine whose `evaluate` does what the test says."""

    ranks = Ranks()

    def __init__(self, act: Callable[[], Any]) -> None:
        self.act = act

    def evaluate(self, spec: object, checkpoint: bytes, data: bytes) -> Any:
        assert (checkpoint, data) == (b"checkpoint", b"data")
        return self.act()


def replies_to(act: Callable[[], Any], calls: bytes, count: int) -> list[tuple[str, list[Any]]]:
    replies = io.BytesIO()
    serve(io.BytesIO(calls), replies, lambda: Scripted(act))  # type: ignore[arg-type]
    replies.seek(0)
    read = [read_reply(replies) for _ in range(count)]
    assert replies.read() == b""
    return read


@pytest.fixture
def call(make_spec) -> bytes:
    return b"".join(pack("evaluate", [encode_bare(make_spec()), "", b"checkpoint", b"data"]))


def test_results_are_sent_field_by_field(call: bytes) -> None:
    assert replies_to(lambda: Evaluation(0.5, 0.9, 360), call, 1) == [(OK, [0.5, 0.9, 360])]
    assert replies_to(lambda: b"bytes", call, 1) == [(OK, [b"bytes"])]


def test_what_lies_in_files_is_read_there_and_a_result_is_left_in_one(
    make_spec, tmp_path: Path
) -> None:
    pieces = [tmp_path / "one", tmp_path / "two"]
    for piece, data in zip(pieces, (b"check", b"point"), strict=True):
        piece.write_bytes(data)
    files, into = Files(tuple(map(str, pieces))), tmp_path / "result"
    call = b"".join(pack("evaluate", [encode_bare(make_spec()), str(into), files, b"data"]))
    assert replies_to(lambda: b"bytes", call, 1) == [(OK, [b""])]
    assert into.read_bytes() == b"bytes"
    pieces[1].unlink()
    [(name, [reason])] = replies_to(lambda: b"bytes", call, 1)
    assert name == "EngineFault"
    assert str(pieces[1]) in reason


@pytest.mark.parametrize(
    ("raised", "sent"),
    [
        (errors.BadInput(3, "too short"), errors.BadInput(3, "too short")),
        (errors.SpecError("codec", "unknown"), errors.SpecError("codec", "unknown")),
        (errors.ShardError("no x"), errors.ShardError("no x")),
        (MemoryError(), errors.OutOfMemory("the worker's memory limit does not suffice: ")),
        (ZeroDivisionError("by zero"), errors.EngineFault("ZeroDivisionError: by zero")),
    ],
)
def test_an_error_is_answered_and_the_next_call_served(
    call: bytes, raised: Exception, sent: errors.TrainingError
) -> None:
    first = [True]

    def act() -> bytes:
        if first.pop() if first else False:
            raise raised
        return b"fine"

    failed, fine = replies_to(act, call + call, 2)
    rebuilt = errors.BY_NAME[failed[0]](*failed[1])
    assert (type(rebuilt), str(rebuilt)) == (type(sent), str(sent))
    assert fine == (OK, [b"fine"])


def test_every_error_has_a_name_on_the_pipe() -> None:
    def leaves(kind: type) -> set[type]:
        return {kind}.union(*(leaves(below) for below in kind.__subclasses__()))

    assert set(errors.BY_NAME.values()) == leaves(errors.TrainingError) - {errors.TrainingError}


def test_only_the_engines_methods_can_be_called(make_spec) -> None:
    calls = b"".join(pack("__init__", [encode_bare(make_spec()), "", 1]))
    [(name, [reason])] = replies_to(lambda: b"", calls, 1)
    assert (name, reason) == ("EngineFault", "no such call: '__init__'")
    from eigen.training.engine import Engine

    assert all(callable(getattr(Engine, method)) for method in METHODS)


def test_a_pipe_that_ends_within_a_call_ends_the_worker_quietly(call: bytes) -> None:
    for cut in (0, 4, 20, len(call) - 1):
        assert replies_to(lambda: b"", call[:cut], 0) == []


NOISY = """
import os, sys
from eigen.training import worker

class Noisy:
    def evaluate(self, spec, checkpoint, data):
        print("stray text", flush=True)
        os.write(1, b"stray bytes")
        return sys.stdin.read() or "stdin is empty"

worker._engine = lambda options: Noisy()
worker.main([])
"""


def test_what_libraries_print_does_not_reach_the_reply_pipe(call: bytes) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", NOISY],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(call)
        process.stdin.flush()
        assert read_reply(process.stdout) == (OK, ["stdin is empty"])
        process.stdin.close()
        assert process.stdout.read() == b""
        log = process.stderr.read()
        assert b"stray text" in log
        assert b"stray bytes" in log
    assert process.returncode == 0


@pytest.mark.parametrize("bad", [["--threads=0"], ["--threads=x"], ["--nice"], ["more"]])
def test_bad_arguments_are_refused(bad: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as left:
        main(bad)
    assert left.value.code == 2
    assert "usage" in capsys.readouterr().err
