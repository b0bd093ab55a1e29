"""The training worker: a child process that answers calls of `Engine` on its stdin and stdout.

    python -m eigen.training.worker --threads 1 --memory-bytes 4294967296 --nice 10

One call at a time. Torch is imported at the first call, not at the start. Whatever prints, in
Python or in C, goes to stderr: the reply pipe is a descriptor of its own. A failing call is
answered with its error and does not end the worker.

The worker ends as soon as its parent does, even in the middle of a call (`process`).

Under `torchrun` several processes are one worker: rank 0 answers, and the others share its local
steps. All of them hold the call pipe's end, so all end with the node.
"""

import argparse
import contextlib
import dataclasses
import io
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

from eigen.protocol.run import RunSpec
from eigen.protocol.wire import decode_bare
from eigen.training.errors import EngineFault, OutOfMemory, TrainingError
from eigen.training.frames import OK, Files, pack, read
from eigen.training.process import exit_on_hangup, limit_memory, take_pipes

if TYPE_CHECKING:
    from eigen.training.engine import Engine

SHARED = ("train", "local_steps", "replay")
"""What several ranks do together."""
METHODS = (
    *SHARED,
    "encode",
    "initial_checkpoint",
    "aggregate",
    "collect",
    "combine",
    "contributions",
    "gap",
    "outer_step",
    "evaluate",
)
"""What may be called; each takes a run spec, the path of a file for its result or its residual, or
nothing, and then what `Engine` documents."""
SPEC_BYTES_MAX = 64 * 1024
"""A run spec travels in a gossip message, so it is smaller than one."""
SPECS_KEPT = 16
"""Specs that are not read again for each part; a node seldom takes part in more runs."""

MEMORY_BYTES_MIN = 512 << 20
"""Torch takes some 300 MiB before it holds a single tensor, and dies untidily with less."""

_log = logging.getLogger("eigen.training.worker")


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve calls until the pipe closes. Exits with 0 then, with 2 for bad arguments."""
    options = _options(arguments)
    logging.basicConfig(stream=sys.stderr, format="training worker %(process)d: %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the node to handle
    calls, replies = take_pipes()
    exit_on_hangup(calls)
    os.nice(options.nice)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    os.environ["OMP_WAIT_POLICY"] = "passive"  # idle threads sleep: this machine has other work
    if options.memory_bytes:
        limit_memory(options.memory_bytes)
    if int(os.environ.get("RANK", "0")):
        follow(_engine(options))
    serve(calls, replies, lambda: _engine(options))


def serve(calls: BinaryIO, replies: BinaryIO, engine: "Callable[[], Engine]") -> None:
    """Answer calls until end of file. `engine` is called once, at the first call."""
    loaded: Engine | None = None
    while (call := read(calls)) is not None:
        try:
            loaded = loaded or engine()
            if call[0] in SHARED and loaded.ranks.count > 1:
                loaded.ranks.share(b"".join(pack(*call)))
            reply = pack(OK, _answer(loaded, *call))
        except TrainingError as error:
            reply = pack(type(error).__name__, error.args)
        except Exception as error:
            fault = _fault(error)
            if loaded and loaded.ranks.count > 1:
                raise SystemExit(f"the other ranks wait for this one: {fault}") from error
            reply = pack(type(fault).__name__, fault.args)
        for buffer in reply:
            replies.write(buffer)
        replies.flush()


def follow(engine: "Engine") -> NoReturn:
    """As another rank than 0: do whatever rank 0 is asked to train, until the process is ended."""
    while True:
        call = read(io.BytesIO(engine.ranks.share(b"")))
        assert call is not None
        with contextlib.suppress(TrainingError):  # rank 0 has the same one, and answers with it
            _answer(engine, *call)


def _answer(engine: "Engine", name: str, values: list[Any]) -> list[Any]:
    if name not in METHODS:
        raise EngineFault(f"no such call: {name!r:.80}")
    spec, into, *rest = values
    arguments = [value.read() if isinstance(value, Files) else value for value in rest]
    result = getattr(engine, name)(_spec(spec), *arguments)
    if into and isinstance(result, bytes):
        Path(into).write_bytes(result)
        return [b""]
    if into and result.residual:
        Path(into).write_bytes(result.residual)
        result = dataclasses.replace(result, residual=Files((into,)))
    if dataclasses.is_dataclass(result):
        return [getattr(result, field.name) for field in dataclasses.fields(result)]
    return [result]


@lru_cache(maxsize=SPECS_KEPT)
def _spec(data: bytes) -> RunSpec:
    return decode_bare(data, RunSpec, bytes_max=SPEC_BYTES_MAX)


def _fault(error: Exception) -> TrainingError:
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return OutOfMemory(f"the worker's memory limit does not suffice: {error}")
    _log.exception("a call failed")
    return EngineFault(f"{type(error).__name__}: {error}")


def _engine(options: argparse.Namespace) -> "Engine":
    if 0 < options.memory_bytes < MEMORY_BYTES_MIN:
        raise OutOfMemory(
            f"{options.memory_bytes >> 20} MiB do not suffice for training; at least "
            f"{MEMORY_BYTES_MIN >> 20} MiB are needed"
        )
    from eigen.training import ranks
    from eigen.training.engine import Engine

    place, device = ranks.join(options.device)
    return Engine(options.threads, device, place)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("eigen.training.worker", description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=_natural, default=1, help="torch's threads")
    parser.add_argument("--device", default="cpu", help="where local steps are computed")
    parser.add_argument("--memory-bytes", type=int, default=0, help="cap on memory; 0 for none")
    parser.add_argument("--nice", type=int, default=0, help="how far to stand back for others")
    return parser.parse_args(arguments)


def _natural(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


if __name__ == "__main__":
    main()
