"""Measures what docs/training.md quotes; a program, not a test.

python tests/training/bench.py codecs|digits|digits_codecs|gpt|replay|worker
"""

import contextlib
import hashlib
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import trio

from eigen.node.worker import TrainingWorker
from eigen.protocol.limits import PART_VALUES_MAX
from eigen.protocol.run import AggregationSpec, ModelSpec, OuterSpec, RunSpec
from eigen.protocol.types import Cid
from eigen.training.errors import BadInput, CheckpointError
from eigen.training.presets import CHAR_GPT, DIGITS

GPT = ModelSpec(
    "gpt", (("context", 64), ("depth", 2), ("heads", 4), ("vocabulary", 128), ("width", 64))
)
MLP = ModelSpec("mlp", (("classes", 10), ("depth", 1), ("hidden", 256), ("inputs", 64)))


def digits_spec(seed: int, trainers: int) -> RunSpec:
    return RunSpec(
        name="digits",
        model=DIGITS.model,
        dataset=Cid("bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"),
        rounds=DIGITS.rounds,
        inner=DIGITS.inner,
        outer=DIGITS.outer,
        codec=DIGITS.codec,
        result_codec=DIGITS.result_codec,
        aggregation=DIGITS.aggregation,
        part_values=DIGITS.part_values,
        trainers_min=1,
        trainers_max=trainers,
        reward_per_round=0,
        validator_share_bps=0,
        seed=seed,
    )


def codecs() -> None:
    """MB of fp32 a second and thread, one part of the largest size; best of 200.

    Relative errors are of normally distributed values, of the same with a log-normal scale each
    (heavy tails), and of the digits' first update.
    """
    import torch

    from eigen.training.codecs.codec import Codec
    from eigen.training.codecs.levels import Levels
    from eigen.training.codecs.registry import CODECS
    from eigen.training.datasets import digits as load
    from eigen.training.datasets import split, write_shard
    from eigen.training.engine import Engine

    engine, spec = Engine(threads=1), replace(digits_spec(0, 4), codec="fp32")
    shard = write_shard(split(load(0)[0], 4, 0)[0])
    update = engine.train(spec, engine.initial_checkpoint(spec), [shard], bytes(32), b"")
    generator = torch.Generator().manual_seed(0)
    normal_P = torch.randn(PART_VALUES_MAX, generator=generator) * 1e-3
    heavy_P = normal_P * (torch.randn(PART_VALUES_MAX, generator=generator) * 0.7).exp()
    update_P = torch.frombuffer(bytearray(b"".join(update.parts)), dtype=torch.float32)

    def best(act: Callable[[], object]) -> float:
        times = []
        for _ in range(200):
            start = time.perf_counter()
            act()
            times.append(time.perf_counter() - start)
        return 4 * PART_VALUES_MAX / 1e6 / min(times)

    def error(codec: Codec, part_P: torch.Tensor) -> float:
        back_P = codec.decode(codec.encode(part_P), len(part_P))
        return float((back_P - part_P).norm() / part_P.norm())

    beside: dict[str, Codec] = {"2bit of 128": Levels(2, 128), "2bit of 512": Levels(2, 512)}
    for name, codec in {**CODECS, **beside}.items():
        data = codec.encode(normal_P)
        encoding = best(lambda codec=codec: codec.encode(normal_P))
        decoding = best(lambda codec=codec, data=data: codec.decode(data, PART_VALUES_MAX))
        sent = len(data) + len(CODECS[codec.answer].encode(normal_P))
        errors = " ".join(
            f"{error(codec, part_P):7.5f}" for part_P in (normal_P, heavy_P, update_P)
        )
        print(
            f"{name:12} {len(data) / PART_VALUES_MAX:.4f} bytes a value, H = 30 with its answer "
            f"{30 * 8 * PART_VALUES_MAX / sent:7,.0f} times less, encode {encoding:6,.0f} MB/s, "
            f"decode {decoding:6,.0f} MB/s, errors {errors}"
        )


def train_digits(spec: RunSpec, trainers: int, away: int, rounds: int) -> tuple[list[float], float]:
    """Held-out accuracy after each round, and the median seconds of one trainer's round."""
    from eigen.training.datasets import digits as load
    from eigen.training.datasets import split, write_shard
    from eigen.training.engine import Engine

    engine = Engine(threads=1)
    training, held_out = load(spec.seed)
    shards = [write_shard(shard) for shard in split(training, trainers, spec.seed)]
    judged = write_shard(held_out)
    checkpoint = engine.initial_checkpoint(spec)
    residuals = [b""] * trainers
    carried = [b""] * engine.part_count(spec)
    accuracy, seconds = [], []
    for number in range(rounds):
        updates = []
        for trainer in [(number + i) % trainers for i in range(trainers - away)]:
            order = hashlib.sha256(bytes([spec.seed, number, trainer])).digest()
            shard = shards[(trainer + number) % trainers]
            start = time.perf_counter()
            update = engine.train(spec, checkpoint, [shard], order, residuals[trainer])
            seconds.append(time.perf_counter() - start)
            residuals[trainer] = update.residual
            updates.append(update)
        results = [
            engine.aggregate(spec, part, [(u.parts[part], u.samples) for u in updates], left)
            for part, left in enumerate(carried)
        ]
        carried = [result.carried for result in results]
        checkpoint = engine.outer_step(spec, checkpoint, [result.data for result in results])
        accuracy.append(engine.evaluate(spec, checkpoint, judged).accuracy)
    return accuracy, statistics.median(seconds)


def table(title: str, trainers: int = 4, away: int = 0, **changes: object) -> None:
    """One row: held-out accuracy after each round, least and mean of ten seeds."""
    runs = [
        train_digits(replace(digits_spec(seed, trainers), **changes), trainers, away, 8)  # type: ignore[arg-type]
        for seed in range(10)
    ]
    by_round = list(zip(*(accuracy for accuracy, _ in runs), strict=True))
    least = " ".join(f"{100 * min(values):5.1f}" for values in by_round)
    mean = " ".join(f"{100 * statistics.mean(values):5.1f}" for values in by_round)
    seconds = statistics.median(taken for _, taken in runs)
    print(f"{title:32} least {least} | mean {mean} | {seconds:.3f} s", flush=True)


def digits_codecs() -> None:
    """The digits with the codecs of fewest bytes, each with its answer, momentum or none."""
    from eigen.training.codecs.registry import CODECS

    plain = OuterSpec("sgd", 1.0, 0.0)
    for name in ("2bit", "top64-2bit", "1bit", "top256-2bit"):
        for outer in (DIGITS.outer, plain):
            title = f"{name}, {outer.rule}"
            table(title, outer=outer, codec=name, result_codec=CODECS[name].answer)


def digits() -> None:
    """Held-out accuracy after each round with what docs/training.md recommends, and beside it."""

    def of_mean(title: str, trainers: int = 4, away: int = 0, **changes: object) -> None:
        table(title, trainers, away, aggregation=AggregationSpec("mean"), **changes)

    table("preset (int8, Nesterov 0.7, 0.5)")
    of_mean("mean")
    of_mean("fp32", codec="fp32", result_codec="fp32")
    of_mean("sgd 1.0", outer=OuterSpec("sgd", 1.0, 0.0))
    of_mean("nesterov 0.7, 0.9", outer=OuterSpec("nesterov", 0.7, 0.9))
    of_mean("H = 20", inner=replace(DIGITS.inner, steps=20))
    of_mean("inner lr 0.002", inner=replace(DIGITS.inner, lr=0.002))
    of_mean("inner lr 0.008", inner=replace(DIGITS.inner, lr=0.008))
    of_mean("mlp 256, inner lr 0.01", model=MLP, inner=replace(DIGITS.inner, lr=0.01))
    of_mean("one of 4 away each round", away=1)
    of_mean("two of 4 away each round", away=2)
    of_mean("8 trainers", trainers=8)


def gpt() -> None:
    """The language model's preset: held-out loss and accuracy after each round of seeds 0 1 2."""
    from eigen.training.datasets import split, write_shard
    from eigen.training.engine import Engine
    from eigen.training.text import standard_library

    engine = Engine(threads=1)
    training, held_out = standard_library(dict(CHAR_GPT.model.options)["context"], unpinned=True)
    judged = write_shard(held_out)
    for seed in map(int, sys.argv[2:] or "012"):
        spec = replace(
            digits_spec(seed, 4),
            model=CHAR_GPT.model,
            inner=CHAR_GPT.inner,
            outer=CHAR_GPT.outer,
            codec=CHAR_GPT.codec,
            result_codec=CHAR_GPT.result_codec,
            aggregation=CHAR_GPT.aggregation,
            rounds=CHAR_GPT.rounds,
            part_values=CHAR_GPT.part_values,
        )
        shards = [write_shard(shard) for shard in split(training, 4, seed)]
        checkpoint = engine.initial_checkpoint(spec)
        residuals, carried = [b""] * 4, [b""] * engine.part_count(spec)
        print(f"seed {seed}, {engine.part_count(spec)} parts:", end="", flush=True)
        for number in range(CHAR_GPT.rounds):
            updates = []
            for trainer in range(4):
                order = hashlib.sha256(bytes([seed, number, trainer])).digest()
                shard, left = shards[(trainer + number) % 4], residuals[trainer]
                update = engine.train(spec, checkpoint, [shard], order, left, number)
                residuals[trainer] = update.residual
                updates.append(update)
            results = []
            for part in range(len(carried)):
                inputs = [(update.parts[part], update.samples) for update in updates]
                average = engine.aggregate(spec, part, inputs, carried[part])
                carried[part] = average.carried
                results.append(average.data)
            checkpoint = engine.outer_step(spec, checkpoint, results)
            judgement = engine.evaluate(spec, checkpoint, judged)
            print(f" {judgement.loss:.3f}/{100 * judgement.accuracy:.1f}", end="", flush=True)
        print()


def replayed() -> None:
    """One round's pseudo-gradient as raw bytes on stdout; `replay` runs it in other ways."""
    from eigen.training.checkpoint import initial
    from eigen.training.datasets import digits as load
    from eigen.training.datasets import split
    from eigen.training.engine import Engine
    from eigen.training.inner import local_steps
    from eigen.training.models import build
    from eigen.training.spec import check
    from eigen.training.text import standard_library

    threads, architecture, precision = int(sys.argv[2]), sys.argv[3], sys.argv[4]
    model = {"cnn": DIGITS.model, "mlp": MLP, "gpt": GPT}[architecture]
    inner = replace(DIGITS.inner, precision=precision)
    spec = replace(digits_spec(0, 4), model=model, inner=inner)
    Engine(threads)
    declared = check(spec)
    theta_P = initial(spec, declared).theta_P
    samples, _ = standard_library(64, unpinned=True) if declared.sequences else load(0)
    shard = split(samples, 4, 0)[0]
    local = local_steps(build(declared), theta_P, shard, spec.inner, bytes(32))
    sys.stdout.buffer.write(local.delta_P.numpy().tobytes())


def replay() -> None:
    """Relative L2 distance of one round replayed in another process, thread count or ISA."""
    import numpy as np

    def delta(model: tuple[str, str], threads: int = 1, **settings: str) -> np.ndarray:
        command = [sys.executable, __file__, "replayed", str(threads), *model]
        environment = {**os.environ, **settings}
        done = subprocess.run(command, env=environment, capture_output=True, check=True)
        return np.frombuffer(done.stdout, "<f4").astype(np.float64)

    avx2 = {
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
    }
    for model in (("cnn", "fp32"), ("mlp", "fp32"), ("gpt", "fp32"), ("gpt", "bf16")):
        first = delta(model)
        for title, other in (
            ("another process", delta(model)),
            ("two threads", delta(model, 2)),
            ("AVX2", delta(model, **avx2)),
        ):
            distance = np.linalg.norm(other - first) / np.linalg.norm(first)
            print(f"{' '.join(model)} {title:16} {distance:.1e}", flush=True)


def worker() -> None:
    """What the worker costs its node: memory, start, calls, transfers, and stalls of the loop."""

    def resident_mib() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    async def measure() -> None:
        stalls_s, steps_s = [0.0], [0.0]

        async def canary() -> None:
            while True:
                start = time.perf_counter()
                await trio.sleep(0.001)
                stalls_s.append(time.perf_counter() - start - 0.001)

        class Steps(trio.abc.Instrument):
            """CPU time of each stretch between two looks at the loop: free of other processes."""

            start = 0.0

            def before_task_step(self, task: trio.lowlevel.Task) -> None:
                self.start = time.thread_time()

            def after_task_step(self, task: trio.lowlevel.Task) -> None:
                if self.start:  # added in the middle of a step
                    steps_s.append(time.thread_time() - self.start)

        trio.lowlevel.add_instrument(Steps())

        def longest() -> str:
            step_ms, stall_ms = max(steps_s) * 1e3, max(stalls_s) * 1e3
            stalls_s[:], steps_s[:] = [0.0], [0.0]
            return f"longest step {step_ms:.1f} ms, canary late {stall_ms:.1f} ms"

        small = digits_spec(0, 4)
        options = (("classes", 10), ("depth", 2), ("hidden", 3600), ("inputs", 64))
        large = replace(small, model=ModelSpec("mlp", options), part_values=PART_VALUES_MAX)
        async with TrainingWorker(nice=0) as remote, trio.open_nursery() as nursery:
            nursery.start_soon(canary)
            start = time.perf_counter()
            await remote.initial_checkpoint(small)
            first = time.perf_counter() - start
            print(f"first call (process and torch) {first:.2f} s, {longest()}")
            times = []
            for _ in range(50):
                start = time.perf_counter()
                with contextlib.suppress(CheckpointError):
                    await remote.evaluate(small, b"", b"")
                times.append(time.perf_counter() - start)
            print(f"a call that fails at once {statistics.median(times) * 1e3:.2f} ms")
            longest()
            start = time.perf_counter()
            checkpoint = await remote.initial_checkpoint(large)
            print(
                f"{len(checkpoint) / 1e6:.0f} MB made and received in "
                f"{time.perf_counter() - start:.2f} s, {longest()}"
            )
            start = time.perf_counter()
            with contextlib.suppress(BadInput):
                await remote.outer_step(large, checkpoint, [b""] * remote.part_count(large))
            print(
                f"{len(checkpoint) / 1e6:.0f} MB sent and parsed in "
                f"{time.perf_counter() - start:.2f} s, {longest()}"
            )
            nursery.cancel_scope.cancel()

    before = resident_mib()
    assert "torch" not in sys.modules
    print(f"node with the client imported: {before:.0f} MiB resident (pid {os.getpid()})")
    trio.run(measure)
    assert "torch" not in sys.modules


if __name__ == "__main__":
    measurements = {
        "codecs": codecs,
        "digits": digits,
        "digits_codecs": digits_codecs,
        "gpt": gpt,
        "replay": replay,
        "replayed": replayed,
        "worker": worker,
    }
    measurements[sys.argv[1]]()
