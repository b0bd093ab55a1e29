"""The node's side of the training worker: `Engine`'s calls as cancellable coroutines.

Knows no torch: tensors stay in the child process. Its errors are those of `worker_process`.
"""

import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from eigen.node.worker_process import (
    CALL_TIMEOUT_S,
    WorkerClosed,
    WorkerCrashed,
    WorkerError,
    WorkerProcess,
    WorkerTimedOut,
)
from eigen.protocol.run import RunSpec
from eigen.protocol.wire import encode_bare
from eigen.training import spec as specs
from eigen.training.frames import Files
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

__all__ = ["TrainingWorker", "WorkerClosed", "WorkerCrashed", "WorkerError", "WorkerTimedOut"]


class TrainingWorker(WorkerProcess):
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
        command = [sys.executable, "-P", "-m"]
        if processes > 1:
            command += ["torch.distributed.run", "--standalone"]
            command += [f"--nproc-per-node={processes}", "-m"]
        command.append("eigen.training.worker")
        command += [f"--threads={threads}", f"--device={device}", f"--nice={nice}"]
        if memory_bytes is not None:
            command.append(f"--memory-bytes={memory_bytes}")
        super().__init__(command, environ)
        self._options: dict[str, Any] = {
            "threads": threads,
            "device": device,
            "processes": processes,
            "memory_bytes": memory_bytes,
            "nice": nice,
            "environ": dict(environ or {}),
        }
        self._beside: TrainingWorker | None = None

    async def aclose(self) -> None:
        """End the process, and a call that is under way with `WorkerClosed`. Never fails."""
        self._closed = True
        if self._beside is not None:
            await self._beside.aclose()
        await super().aclose()

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
        return await self.ask(name, [_encoded(spec), str(into or ""), *values], timeout_s)


@lru_cache(maxsize=16)
def _encoded(spec: RunSpec) -> bytes:
    return encode_bare(spec)
