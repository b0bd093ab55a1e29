"""The process that works on ciphertexts: TenSEAL holds the GIL, and could crash.

    python -m eigen.training.homomorphic.worker --side trainer --memory-bytes 4294967296 --nice 10

One call at a time, over its pipes (`eigen.training.frames`). `--side owner` answers the calls of
`Enterprise`, which hold the secret key; `--side trainer` those of `Evaluations`, which hold none.
TenSEAL is imported at the first call.
"""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, BinaryIO

from eigen.training.errors import EngineFault, OutOfMemory, TrainingError
from eigen.training.frames import OK, pack, read
from eigen.training.process import exit_on_hangup, limit_memory, take_pipes

METHODS = {
    "owner": ("prepare", "weights", "step", "result"),
    "trainer": ("check", "gradient", "add"),
}

_log = logging.getLogger("eigen.training.homomorphic.worker")


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve calls until the pipe closes. Exits with 0 then, with 2 for bad arguments."""
    parser = argparse.ArgumentParser("eigen.training.homomorphic.worker")
    parser.add_argument("--side", choices=sorted(METHODS), required=True)
    parser.add_argument("--memory-bytes", type=int, default=0, help="cap on memory; 0 for none")
    parser.add_argument("--nice", type=int, default=0, help="how far to stand back for others")
    options = parser.parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, format="ciphertext worker %(process)d: %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the node to handle
    calls, replies = take_pipes()
    exit_on_hangup(calls)
    os.nice(options.nice)
    if options.memory_bytes:
        limit_memory(options.memory_bytes)
    serve(calls, replies, lambda: _side(options.side, options.memory_bytes), METHODS[options.side])


def serve(
    calls: BinaryIO, replies: BinaryIO, make: Callable[[], Any], methods: Sequence[str]
) -> None:
    """Answer calls until end of file. `make` is called once, at the first call."""
    side: Any = None
    while (call := read(calls)) is not None:
        name, values = call
        try:
            side = side or make()
            reply = pack(OK, _method(side, name, methods)(*values))
        except TrainingError as error:
            reply = pack(type(error).__name__, error.args)
        except MemoryError:
            side = None  # what it holds is what there was no room beside
            why = "the memory limit of ciphertext work does not suffice (training.memory_mb)"
            reply = pack(OutOfMemory.__name__, [why])
        except Exception as error:
            _log.exception("a call failed")
            reply = pack(EngineFault.__name__, [f"{type(error).__name__}: {error}"])
        for buffer in reply:
            replies.write(buffer)
        replies.flush()


def _method(side: Any, name: str, methods: Sequence[str]) -> Callable[..., list[Any]]:
    if name not in methods:
        raise EngineFault(f"no such call: {name!r:.80}")
    method: Callable[..., list[Any]] = getattr(side, name)
    return method


def _side(name: str, memory_bytes: int) -> Any:
    if find_spec("tenseal") is None:
        raise EngineFault("TenSEAL is not installed here: pip install 'eigen[homomorphic]'")
    if name == "owner":
        from eigen.training.homomorphic.enterprise import Enterprise

        return Enterprise()
    from eigen.training.homomorphic.evaluations import Evaluations

    return Evaluations(memory_bytes)


if __name__ == "__main__":
    main()
