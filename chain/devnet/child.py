"""A child process that does not outlive its parent. Knows nothing of what it runs."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

WAIT_POLL_S = 0.05  # one waitpid(2), portable, and no thread that outlives a cancel
STOP_TIMEOUT_S = 10.0  # to save what it holds, after SIGTERM; then it is killed

PASSED_ON = ("HOME", "PATH", "TMPDIR", "LANG")
"""Of our environment; the rest may hold passphrases and is none of the child's business."""

LEASH = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent ended first")
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Runs first in the child: asks Linux for SIGTERM when the parent ends, then becomes the program.

The request (prctl(2)) outlives execve. A function run between fork and exec could do it too, but is
not safe in a process with threads. Where there is no such request, as on macOS, a parent that is
killed leaves the child behind.
"""


@dataclass(frozen=True, slots=True)
class Child:
    """A running program."""

    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        """Its process id; the program replaced the interpreter that started it."""
        return self.process.pid

    @property
    def ended(self) -> bool:
        """Whether it is no longer running."""
        return self.process.poll() is not None

    async def wait(self) -> int:
        """Exit status, once it ends. A cancel leaves it running."""
        while (status := self.process.poll()) is None:  # noqa: ASYNC110 - no event to wait for
            await trio.sleep(WAIT_POLL_S)
        return status


@asynccontextmanager
async def child_process(program: Path, arguments: Sequence[str], log: Path) -> AsyncIterator[Child]:
    """Run a program, its output appended to `log`, for as long as the block runs.

    It ends with the block, however the block ends: SIGTERM, `STOP_TIMEOUT_S` to obey, SIGKILL. On
    Linux it also gets SIGTERM when this process dies, by whatever signal. It has a process group of
    its own, so that Ctrl-C reaches us alone and we end it in order.

    Must be entered from the thread that lasts: Linux sends the signal when the *thread* that
    started the child ends, which is why `trio.run_process` (it starts children in a worker thread
    that is dropped when idle) will not do. Where the program cannot be executed, the child ends at
    once and the log says why.
    """
    command = [sys.executable, "-I", "-S", "-c", LEASH, str(os.getpid()), str(program), *arguments]
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: ASYNC220 - see above; starting takes 1 to 2 ms
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={name: os.environ[name] for name in PASSED_ON if name in os.environ},
            start_new_session=True,
        )
    child = Child(process)
    try:
        yield child
    finally:
        with trio.CancelScope(shield=True):
            await _stop(child)


async def _stop(child: Child) -> None:
    if not child.ended:
        child.process.send_signal(signal.SIGTERM)
        with trio.move_on_after(STOP_TIMEOUT_S):
            await child.wait()
    if not child.ended:
        child.process.kill()
    await child.wait()
