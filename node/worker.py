"""The node's side of the training worker: `Engine`'s calls as cancellable coroutines.

Knows no torch: tensors stay in the child process. The event loop only moves bytes, a pipe's buffer
at a time.

    WorkerError
    ├── WorkerCrashed   ours: the process could not start, died in a call, or answered nonsense
    ├── WorkerTimedOut  ours: no answer in time
    └── WorkerClosed    ours: the worker was closed before or during the call

What the engine itself raises (`eigen.training.errors`) comes through as it is.
"""

import contextlib
import fcntl
import io
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

import structlog
import trio

from eigen.protocol.run import RunSpec
from eigen.protocol.wire import encode_bare
from eigen.training import spec as specs
from eigen.training.errors import BY_NAME
from eigen.training.frames import OK, Files, FrameError, pack, reader
from eigen.training.gap import SAMPLES
from eigen.training.replay import Claimed, Opened
from eigen.training.results import (
    Encoded,
    Evaluation,
    Gap,
    LocalDelta,
    LocalUpdate,
    PartAverage,
    Replay,
)

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


class TrainingWorker:
    """A child process that computes for this node, started at the first call.

    `processes` of them share local steps, one a GPU, where there is more than one. `environ` is
    added to this process's environment.

    Local steps that are made ahead of their round, and replays, run in a second child, with the
    same settings, so that a round's other calls go on meanwhile: it is started at the first.

    Calls to one child wait for each other in order of arrival; `timeout_s` counts from when a
    call's turn comes, the start of the process and of torch (some seconds) included.

    Resource handling: use as an async context manager; leaving it ends the process. A call that is
    cancelled or times out kills the process, for a computation cannot be interrupted; the next call
    starts a new one. The engine is stateless, so nothing is lost but the call.

    Error handling: `WorkerError` as above; otherwise what the method of `Engine` documents.
    """

    def __init__(
        self,
        *,
        threads: int = 1,
        device: str = "cpu",
        processes: int = 1,
        memory_bytes: int | None = None,
        nice: int = 10,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._command = [sys.executable, "-P", "-m"]
        if processes > 1:
            self._command += ["torch.distributed.run", "--standalone"]
            self._command += [f"--nproc-per-node={processes}", "-m"]
        self._command.append("eigen.training.worker")
        self._command += [f"--threads={threads}", f"--device={device}", f"--nice={nice}"]
        if memory_bytes is not None:
            self._command.append(f"--memory-bytes={memory_bytes}")
        self._options: dict[str, Any] = {
            "threads": threads,
            "device": device,
            "processes": processes,
            "memory_bytes": memory_bytes,
            "nice": nice,
            "environ": dict(environ or {}),
        }
        self._turn = trio.Lock()
        self._process: trio.Process | None = None
        self._beside: TrainingWorker | None = None
        self._closed = False

    @property
    def pid(self) -> int | None:
        """The process, if one is running."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def __aenter__(self) -> "TrainingWorker":
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
        if self._beside is not None:
            await self._beside.aclose()
        await self._end()

    def part_count(self, spec: RunSpec) -> int:
        """Parts of an update; computed here, at once."""
        return specs.part_count(spec)

    def carries(self, spec: RunSpec) -> bool:
        """Whether aggregating a part leaves state for the next round; known at once."""
        return specs.carries(spec)

    async def initial_checkpoint(
        self, spec: RunSpec, *, timeout_s: float = CALL_TIMEOUT_S
    ) -> bytes:
        """See `Engine.initial_checkpoint`."""
        [checkpoint] = await self._call("initial_checkpoint", spec, [], timeout_s)
        return bytes(checkpoint)

    async def train(
        self,
        spec: RunSpec,
        base: bytes | Files,
        shards: Sequence[bytes],
        order_seed: bytes,
        residual: bytes | Files,
        rounds_before: int = 0,
        kept: bytes = b"",
        *,
        into: Path | None = None,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> LocalUpdate:
        """See `Engine.train`. With `into`, the residual is written there."""
        values = [base, shards, order_seed, residual, rounds_before, kept]
        return LocalUpdate(*await self._call("train", spec, values, timeout_s, into))

    async def local_steps(
        self,
        spec: RunSpec,
        base: bytes | Files,
        shards: Sequence[bytes],
        order_seed: bytes,
        rounds_before: int = 0,
        kept: bytes = b"",
        own: Sequence[bytes] = (),
        *,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> LocalDelta:
        """See `Engine.local_steps`. In a child of its own: other calls do not wait for it."""
        values = [base, shards, order_seed, rounds_before, kept, own]
        return LocalDelta(*await self._call_beside("local_steps", spec, values, timeout_s))

    async def encode(
        self,
        spec: RunSpec,
        delta: bytes,
        residual: bytes | Files,
        *,
        into: Path | None = None,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> Encoded:
        """See `Engine.encode`. With `into`, the new residual is written there."""
        return Encoded(*await self._call("encode", spec, [delta, residual], timeout_s, into))

    async def aggregate(
        self,
        spec: RunSpec,
        part: int,
        inputs: Sequence[tuple[bytes, int]],
        carried: bytes,
        *,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> PartAverage:
        """See `Engine.aggregate`."""
        return PartAverage(*await self._call("aggregate", spec, [part, inputs, carried], timeout_s))

    async def collect(
        self,
        spec: RunSpec,
        part: int,
        inputs: Sequence[tuple[bytes, int]],
        *,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> bytes:
        """See `Engine.collect`."""
        [data] = await self._call("collect", spec, [part, inputs], timeout_s)
        return bytes(data)

    async def combine(
        self,
        spec: RunSpec,
        part: int,
        inputs: Sequence[tuple[bytes, int]],
        carried: bytes,
        *,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> PartAverage:
        """See `Engine.combine`."""
        return PartAverage(*await self._call("combine", spec, [part, inputs, carried], timeout_s))

    async def contributions(
        self,
        spec: RunSpec,
        part: int,
        inputs: Sequence[tuple[bytes, int]],
        result: bytes,
        samples: int = 0,
        *,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> list[int]:
        """See `Engine.contributions`."""
        values = [part, inputs, result, samples]
        [found] = await self._call("contributions", spec, values, timeout_s)
        return list(found)

    async def replay(
        self,
        spec: RunSpec,
        base: bytes | Files,
        shards: Sequence[bytes],
        order_seed: bytes,
        rounds_before: int,
        own: Sequence[bytes],
        parts: Sequence[bytes],
        opened: Opened,
        claimed: Claimed,
        *,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> Replay:
        """See `Engine.replay`. In the child of `local_steps`: other calls do not wait for it."""
        values = [base, shards, order_seed, rounds_before, own, parts, opened, claimed]
        return Replay(*await self._call_beside("replay", spec, values, timeout_s))

    async def gap(
        self,
        spec: RunSpec,
        base: bytes | Files,
        parts: Sequence[bytes],
        shards: Sequence[bytes],
        order_seed: bytes,
        fresh: Sequence[bytes],
        seed: bytes,
        count: int = SAMPLES,
        own: Sequence[bytes] = (),
        average: Sequence[bytes] = (),
        *,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> Gap:
        """See `Engine.gap`. In the child of `local_steps`: other calls do not wait for it."""
        values = [base, parts, shards, order_seed, fresh, seed, count, own, average]
        return Gap(*await self._call_beside("gap", spec, values, timeout_s))

    async def outer_step(
        self,
        spec: RunSpec,
        base: bytes | Files,
        results: Sequence[bytes],
        *,
        into: Path | None = None,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> bytes:
        """See `Engine.outer_step`. With `into`, the checkpoint is written there; nothing returns.

        What a failed or cancelled call has written there is no checkpoint.
        """
        values = [base, results]
        [checkpoint] = await self._call("outer_step", spec, values, timeout_s, into)
        return bytes(checkpoint)

    async def evaluate(
        self, spec: RunSpec, checkpoint: bytes, data: bytes, *, timeout_s: float = CALL_TIMEOUT_S
    ) -> Evaluation:
        """See `Engine.evaluate`."""
        return Evaluation(*await self._call("evaluate", spec, [checkpoint, data], timeout_s))

    async def _call_beside(
        self, name: str, spec: RunSpec, values: Sequence[Any], timeout_s: float
    ) -> list[Any]:
        if self._beside is None:
            self._beside = TrainingWorker(**self._options)
            self._beside._closed = self._closed
        return await self._beside._call(name, spec, values, timeout_s)

    async def _call(
        self,
        name: str,
        spec: RunSpec,
        values: Sequence[Any],
        timeout_s: float,
        into: Path | None = None,
    ) -> list[Any]:
        call = pack(name, [_encoded(spec), str(into or ""), *values])
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
                    env=os.environ | self._options["environ"],
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


@lru_cache(maxsize=16)
def _encoded(spec: RunSpec) -> bytes:
    return encode_bare(spec)


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
