"""Measures on this machine by how much honest replays differ, and the slightest cheats.

The same local steps are made in child processes with other instruction sets and thread counts, and
in other micro-batches; each result is checked against each other as a validator checks it. The
cheat leaves out a tenth of its steps, the last ones, and makes up their losses.
"""

import hashlib
import math
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from eigen.node.worker import TrainingWorker
from eigen.protocol.run import RunSpec
from eigen.training.calibration import Tolerance, proposed
from eigen.training.errors import SpecError
from eigen.training.frames import whole
from eigen.training.replay import chunks_to_open, compare, open_chunks
from eigen.training.results import LocalDelta, LocalUpdate, Replay
from eigen.training.schedule import rates
from eigen.training.spec import keeps_moments

SKIPPED = 10
"""The cheat leaves out one step in so many."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A way to compute: torch's threads, what chooses the instruction set, and micro-batches.

    With `pieces` of 0 they are as many as the run says.
    """

    name: str
    threads: int = 1
    environ: Mapping[str, str] = field(default_factory=dict)
    pieces: int = 0

    def spec(self, spec: RunSpec) -> RunSpec:
        """The run as this machine computes it."""
        pieces = self.pieces or spec.inner.micro_batches
        return replace(spec, inner=replace(spec.inner, micro_batches=pieces))


AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "AVX2"}
SSE = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"}


def machines(spec: RunSpec) -> list[Machine]:
    """This machine as it is, first, and what it can pass for."""
    found = [Machine("this machine"), Machine("2 threads", 2)]
    if platform.machine().lower() in ("x86_64", "amd64"):
        found += [Machine("AVX2", 1, AVX2), Machine("AVX2, 2 threads", 2, AVX2)]
        found += [Machine("SSE", 1, SSE)]
    pieces = 2 * spec.inner.micro_batches
    if spec.inner.batch % pieces == 0:
        found.append(Machine("half micro-batches", pieces=pieces))
    return found


@dataclass(frozen=True, slots=True)
class Measured:
    """Distances of checks: by trainer's and validator's machine, and of the cheats."""

    honest: Mapping[tuple[str, str], list[Replay]]
    cheats: list[Replay]

    def tolerance(self) -> Tolerance:
        """What follows. Raises `Inseparable`."""
        checks = [check.furthest for pair in self.honest.values() for check in pair]
        return proposed(checks, [check.furthest for check in self.cheats])


@dataclass(frozen=True, slots=True)
class _Round:
    """What the local steps of one round follow from, and the residual before."""

    number: int
    base: bytes
    order_seed: bytes
    residual: bytes


async def measure(
    spec: RunSpec,
    shards: Sequence[bytes],
    among: Sequence[Machine],
    rounds: int,
    tell: Callable[[str], None],
) -> Measured:
    """Train `rounds` rounds on each machine from the same checkpoints, and check all by all.

    `tell` is given each machine's name before its turn. One child process runs at a time; a cancel
    ends it. Raises what `TrainingWorker` raises, and `SpecError` where moments are kept.
    """
    if keeps_moments(spec):
        raise SpecError("inner.moments", "kept ones are not public: nobody can replay a round")
    fewer_steps(spec, 0)  # before anything is trained for it
    tell(among[0].name)
    async with TrainingWorker(threads=among[0].threads, environ=among[0].environ, nice=0) as worker:
        history, made = await _first(worker, spec, shards, rounds)
        results = {among[0].name: made}
        cheats = [await _cheat(worker, spec, shards, past) for past in history]
        for machine in among[1:]:
            tell(machine.name)
            results[machine.name] = await _again(machine, spec, shards, history)
        updates = {
            name: [
                local.encoded(await worker.encode(spec, local.delta, past.residual))
                for local, past in zip(made, history, strict=True)
            ]
            for name, made in results.items()
        }
        lies = [
            local.encoded(await worker.encode(spec, local.delta, past.residual))
            for local, past in zip(cheats, history, strict=True)
        ]
    honest = {
        (trainer, validator): [
            _check(spec, *one) for one in zip(history, updates[trainer], again, strict=True)
        ]
        for trainer in results
        for validator, again in results.items()
        if trainer != validator
    }
    first = results[among[0].name]
    return Measured(honest, [_check(spec, *one) for one in zip(history, lies, first, strict=True)])


async def _first(
    worker: TrainingWorker, spec: RunSpec, shards: Sequence[bytes], rounds: int
) -> tuple[list[_Round], list[LocalDelta]]:
    """The rounds of one trainer alone, whose update is the average."""
    base, residual = await worker.initial_checkpoint(spec), b""
    history, made = [], []
    for number in range(rounds):
        past = _Round(number, base, hashlib.sha256(bytes([number])).digest(), residual)
        history.append(past)
        local = await _steps(worker, spec, shards, past)
        made.append(local)
        encoded = await worker.encode(spec, local.delta, residual)
        residual, parts = whole(encoded.residual), encoded.parts + local.moments
        averages = [
            await worker.aggregate(spec, part, [(data, local.samples)], b"")
            for part, data in enumerate(parts)
        ]
        base = await worker.outer_step(spec, base, [average.data for average in averages])
    return history, made


async def _again(
    machine: Machine, spec: RunSpec, shards: Sequence[bytes], history: Sequence[_Round]
) -> list[LocalDelta]:
    async with TrainingWorker(threads=machine.threads, environ=machine.environ, nice=0) as worker:
        return [await _steps(worker, machine.spec(spec), shards, past) for past in history]


async def _steps(
    worker: TrainingWorker, spec: RunSpec, shards: Sequence[bytes], past: _Round
) -> LocalDelta:
    shard = shards[past.number % len(shards)]
    return await worker.local_steps(spec, past.base, [shard], past.order_seed, past.number)


async def _cheat(
    worker: TrainingWorker, spec: RunSpec, shards: Sequence[bytes], past: _Round
) -> LocalDelta:
    fewer = fewer_steps(spec, past.number)
    local = await _steps(worker, fewer, shards, past)
    made_up = [local.loss_trace[-1]] * (spec.inner.steps - fewer.inner.steps)
    samples = spec.inner.steps * spec.inner.batch
    return replace(local, loss_trace=local.loss_trace + made_up, samples=samples)


def fewer_steps(spec: RunSpec, rounds_before: int) -> RunSpec:
    """The run of who leaves out a tenth of a round's steps, one at least, at that round's rate.

    Raises `SpecError` where a round has one step only.
    """
    steps = spec.inner.steps - max(1, spec.inner.steps // SKIPPED)
    if not steps:
        raise SpecError("inner.steps", "1 leaves nothing to leave out")
    rate = math.fsum(rates(spec, rounds_before)) / spec.inner.steps
    inner = replace(spec.inner, steps=steps, lr=rate, schedule="constant", warmup=0)
    return replace(spec, inner=inner)


def _check(spec: RunSpec, past: _Round, update: LocalUpdate, again: LocalDelta) -> Replay:
    chunks = chunks_to_open(spec, past.order_seed)
    opened = open_chunks(chunks, past.residual, whole(update.residual))
    return compare(spec, again, update.parts, opened, (update.loss_trace, update.sketch))
