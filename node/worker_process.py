"""A child process that answers calls over its pipes, as a cancellable coroutine a call.

Knows nothing of what is computed. The event loop only moves bytes, a pipe's buffer at a time.

    WorkerError
    ├── WorkerCrashed   ours: the process could not start, died in a call, or answered nonsense
    ├── WorkerTimedOut  ours: no answer in time
    └── WorkerClosed    ours: the worker was closed before or during the call

What the child itself answers with (`eigen.training.errors`) comes through as it is.
"""

import contextlib
import fcntl
import io
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import structlog
import trio

from eigen.training.errors import BY_NAME
from eigen.training.frames import OK, FrameError, pack, reader

CALL_TIMEOUT_S = 600.0
"""A round of local steps on a slow machine; what takes longer is stuck."""
PIPE_BYTES = 1 << 20
"""Buffer of each pipe where the system allows it: the most that an unprivileged Linux user gets."""
CHUNK_BYTES = 256 * 1024
"""Written or read between two looks at the event loop: well under a millisecond of copying."""
DYING_GRACE_S = 1.0
"""A process whose pipe broke is about to end; its own exit status says more than our signal."""
EXIT_WAIT_S = 5.0
"""A killed process is gone in milliseconds; one that hangs in the kernel is left behind."""

_log = structlog.get_logger(__name__)


class WorkerError(Exception):
    """Base of what goes wrong with the process rather than with the work."""


class WorkerCrashed(WorkerError):
    """The process did not start or did not last; the next call starts a new one."""


class WorkerClosed(WorkerError):
    """The worker was closed before or during the call."""


class WorkerTimedOut(WorkerError):
    """The call took too long, and the process was killed; the next call starts a new one."""


class WorkerProcess:
    """A child process, started at the first call.

    Calls wait for each other in order of arrival; `timeout_s` counts from when a call's turn comes,
    the start of the process included.

    Resource handling: use as an async context manager; leaving it ends the process. A call that is
    cancelled or times out kills the process, for a computation cannot be interrupted; the next call
    starts a new one.

    Error handling: `WorkerError` as above; otherwise what the child answers with.
    """

    def __init__(self, command: Sequence[str], environ: Mapping[str, str] | None = None) -> None:
        self._command = list(command)
        self._environ = dict(environ or {})
        self._turn = trio.Lock()
        self._process: trio.Process | None = None
        self._closed = False

    @property
    def pid(self) -> int | None:
        """The process, if one is running."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the process, and a call that is under way with `WorkerClosed`. Never fails."""
        self._closed = True
        await self._end()

    async def ask(
        self, name: str, values: Sequence[Any], timeout_s: float = CALL_TIMEOUT_S
    ) -> list[Any]:
        """Make one call, and return what it answers with."""
        call = pack(name, values)
        async with self._turn:
            try:
                with trio.fail_after(timeout_s):
                    process = await self._running()
                    await _write(process, call)
                    outcome, results = await _read(process)
            except trio.TooSlowError:
                await self._end()
                raise WorkerTimedOut(f"{name}: no answer within {timeout_s:g} s") from None
            except (trio.BrokenResourceError, trio.ClosedResourceError, FrameError) as error:
                fate = await self._end(grace_s=DYING_GRACE_S)
                if self._closed:
                    raise WorkerClosed(f"{name}: the worker was closed") from None
                raise WorkerCrashed(f"{name}: {fate} ({error})") from None
            except BaseException:
                await self._end()
                raise
        if outcome != OK:
            raise BY_NAME[outcome](*results)
        return results

    async def _running(self) -> trio.Process:
        """The process, started where there is none or where it died between calls."""
        if self._process is not None and self._process.returncode is not None:
            _log.warning("training_worker_died_idle", status=await self._end())
        if self._process is None:
            try:
                self._process = await trio.lowlevel.open_process(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env=os.environ | self._environ,
                )
            except OSError as error:
                raise WorkerCrashed(f"the process cannot be started: {error}") from None
            _widen(self._process)
            _log.info("training_worker_started", pid=self._process.pid)
        if self._closed:
            raise trio.ClosedResourceError("closed")
        return self._process

    async def _end(self, *, grace_s: float = 0.0) -> str:
        """End the process if there is one, and say how it ended.

        It is killed at once, or after `grace_s` where it seems to be ending by itself.
        """
        process, self._process = self._process, None
        if process is None:
            return "the process was closed"
        with trio.CancelScope(shield=True, deadline=trio.current_time() + grace_s):
            await process.wait()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + EXIT_WAIT_S):
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    await pipe.aclose()
            process.kill()
            await process.wait()
        return _fate(process.returncode)


async def _write(process: trio.Process, buffers: Sequence[bytes]) -> None:
    assert process.stdin is not None
    for buffer in buffers:
        view = memoryview(buffer)
        for start in range(0, len(view), CHUNK_BYTES):
            await process.stdin.send_all(view[start : start + CHUNK_BYTES])


async def _read(process: trio.Process) -> tuple[str, list[Any]]:
    """The reply. Raises `BrokenResourceError` where the pipe ends before it does."""
    parsing = reader()
    wanted = next(parsing)
    while True:
        data = await _read_exactly(process, wanted)
        try:
            wanted = parsing.send(data)
        except StopIteration as done:
            outcome, results = done.value
            break
    if outcome != OK and outcome not in BY_NAME:
        raise FrameError(f"the reply has the unknown name {outcome!r:.80}")
    return outcome, results


async def _read_exactly(process: trio.Process, count: int) -> bytes:
    assert process.stdout is not None
    whole = io.BytesIO()  # hands over what it holds, where joining would hold it twice
    while missing := count - whole.tell():
        chunk = await process.stdout.receive_some(min(missing, CHUNK_BYTES))
        if not chunk:
            raise trio.BrokenResourceError("the reply pipe ended")
        whole.write(chunk)
    return whole.getvalue()


def _widen(process: trio.Process) -> None:
    """Larger pipe buffers, where the system has them, for fewer turns of the event loop."""
    resize = getattr(fcntl, "F_SETPIPE_SZ", None)
    for pipe in (process.stdin, process.stdout):
        if resize is not None and isinstance(pipe, trio.lowlevel.FdStream):
            with contextlib.suppress(OSError):  # over the user's limit: slower, not wrong
                fcntl.fcntl(pipe.fileno(), resize, PIPE_BYTES)


def _fate(returncode: int | None) -> str:
    if returncode is None:
        return "the process does not end"
    if returncode == -signal.SIGKILL:
        return "the process was killed (SIGKILL), perhaps by the system for want of memory"
    if returncode < 0:
        return f"the process was killed by {signal.Signals(-returncode).name}"
    return f"the process exited with {returncode}; its log says why"
