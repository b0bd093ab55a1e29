"""The node's side of the processes that work on ciphertexts, with their bounds of time and memory.

Knows no TenSEAL. Errors are those of `worker_process`, and `eigen.training.errors`.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eigen.node.worker_process import WorkerProcess
from eigen.protocol.private_job import PrivateJob
from eigen.protocol.wire import encode, encode_bare
from eigen.training.frames import Files
from eigen.training.homomorphic.plan import Plan

PREPARE_TIMEOUT_S = 3600.0
"""784 features of 32 x 4096 rows are 25,000 ciphertexts of 3 ms, on a slow machine."""


class _CipherWorker(WorkerProcess):
    def __init__(self, side: str, memory_bytes: int, nice: int) -> None:
        command = [sys.executable, "-P", "-m", "eigen.training.homomorphic.worker"]
        command += [f"--side={side}", f"--memory-bytes={memory_bytes}", f"--nice={nice}"]
        super().__init__(command, {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"})


class EvaluationWorker(_CipherWorker):
    """`eigen.training.homomorphic.evaluations` in a process: public keys and ciphertexts."""

    def __init__(self, *, memory_bytes: int = 0, nice: int = 10) -> None:
        super().__init__("trainer", memory_bytes, nice)

    async def check(self, job: PrivateJob, keys: Files, *, timeout_s: float) -> None:
        """See `Evaluations.check`."""
        await self.ask("check", [encode(job), keys], timeout_s)

    async def gradient(
        self,
        job: PrivateJob,
        keys: Files,
        shards: Sequence[Files],
        weights: Files,
        k: float,
        into: Path,
        *,
        timeout_s: float,
    ) -> None:
        """See `Evaluations.gradient`."""
        values = [encode(job), keys, list(shards), weights, k, str(into)]
        await self.ask("gradient", values, timeout_s)

    async def add(
        self, job: PrivateJob, keys: Files, inputs: Sequence[Files], into: Path, *, timeout_s: float
    ) -> None:
        """See `Evaluations.add`."""
        await self.ask("add", [encode(job), keys, list(inputs), str(into)], timeout_s)


@dataclass(frozen=True, slots=True)
class Prepared:
    """What `Enterprise.prepare` gives: the secret key, the first state, and the shapes."""

    secret: bytes
    state: bytes
    head: int
    rows: int
    features: int
    outputs: int
    counts: Sequence[int]


@dataclass(frozen=True, slots=True)
class Step:
    """What a step gives: the new state, the hold-out's loss and score, and whether it was last."""

    state: bytes
    loss: float
    score: float
    done: bool


class EnterpriseWorker(_CipherWorker):
    """`eigen.training.homomorphic.enterprise` in a process: secret keys and data."""

    def __init__(self, *, memory_bytes: int = 0, nice: int = 5) -> None:
        super().__init__("owner", memory_bytes, nice)

    async def prepare(self, plan: Plan, folder: Path) -> Prepared:
        """See `Enterprise.prepare`."""
        values = [encode_bare(plan), str(folder)]
        return Prepared(*await self.ask("prepare", values, PREPARE_TIMEOUT_S))

    async def weights(
        self, plan: Plan, folder: Path, secret: bytes, state: bytes, into: Path, *, timeout_s: float
    ) -> float:
        """See `Enterprise.weights`."""
        values = [encode_bare(plan), str(folder), secret, state, str(into)]
        [k] = await self.ask("weights", values, timeout_s)
        return float(k)

    async def step(
        self,
        plan: Plan,
        folder: Path,
        secret: bytes,
        state: bytes,
        total: Files,
        *,
        timeout_s: float,
    ) -> Step:
        """See `Enterprise.step`."""
        values = [encode_bare(plan), str(folder), secret, state, total]
        return Step(*await self.ask("step", values, timeout_s))

    async def result(self, plan: Plan, folder: Path, state: bytes, into: Path) -> float:
        """See `Enterprise.result`."""
        [score] = await self.ask("result", [encode_bare(plan), str(folder), state, str(into)])
        return float(score)
