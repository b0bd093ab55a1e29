"""A node and its training worker: calls, crashes, cancels, limits, and the end of the node."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import trio
import trio.testing

from eigen.node.worker import TrainingWorker, WorkerClosed, WorkerCrashed, WorkerTimedOut
from eigen.protocol.run import InnerSpec, RunSpec
from eigen.protocol.wire import encode_bare
from eigen.training.errors import BadInput, CheckpointError, EngineFault, OutOfMemory
from eigen.training.frames import Files

ORDER = b"order".ljust(32)


@pytest.fixture
def endless(make_spec) -> RunSpec:
    """A run whose local steps take minutes."""
    return make_spec(
        mlp={"hidden": 1000, "depth": 8},
        inner=InnerSpec(steps=1024, batch=256, lr=0.001, weight_decay=0.0),
        part_values=131_072,
    )


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0]
    except FileNotFoundError:
        return False
    return state != "Z"


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what the system does without telling us."""
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.02)


async def test_a_round_through_the_worker_equals_the_engines(
    engine, make_spec, shards, held_out, tmp_path
) -> None:
    spec = make_spec()
    async with TrainingWorker(nice=0) as worker:
        assert worker.pid is None, "the process starts at the first call"
        assert worker.part_count(spec) == engine.part_count(spec)
        assert worker.pid is None
        base = await worker.initial_checkpoint(spec)
        assert base == engine.initial_checkpoint(spec)
        pid = worker.pid
        assert pid is not None
        update = await worker.train(spec, base, shards[:1], ORDER, b"")
        assert update == engine.train(spec, base, shards[:1], ORDER, b"")
        results = []
        for part, data in enumerate(update.parts):
            average = await worker.aggregate(spec, part, [(data, 64), (data, 32)], b"")
            assert average == engine.aggregate(spec, part, [(data, 64), (data, 32)], b"")
            results.append(average.data)
        inputs = [(update.parts[0], 64), (update.parts[0], 32)]
        paid = await worker.contributions(spec, 0, inputs, results[0])
        assert paid == engine.contributions(spec, 0, inputs, results[0])
        work, chunk = (spec, base, shards[:1], ORDER), update.residual[:4096]
        claimed = (update.loss_trace, update.sketch)
        replay = await worker.replay(*work, 0, [], update.parts, [(0, b"", chunk)], claimed)
        assert replay == engine.replay(*work, 0, [], update.parts, [(0, b"", chunk)], claimed)
        assert replay.furthest < 1e-6
        judged = (spec, base, update.parts, shards[:1], ORDER, shards[1:], b"seed")
        assert await worker.gap(*judged) == engine.gap(*judged)
        after = await worker.outer_step(spec, base, results)
        assert after == engine.outer_step(spec, base, results)
        on_disk, into = tmp_path / "base", tmp_path / "after"
        on_disk.write_bytes(base)
        assert await worker.outer_step(spec, Files((str(on_disk),)), results, into=into) == b""
        assert into.read_bytes() == after
        evaluation = await worker.evaluate(spec, after, held_out)
        assert evaluation == engine.evaluate(spec, after, held_out)

        # Errors come through as they are and end nothing.
        with pytest.raises(BadInput, match="3 bytes where 812 are expected") as refused:
            await worker.aggregate(spec, 0, [(update.parts[0], 64), (b"bad", 64)], b"")
        assert refused.value.index == 1
        with pytest.raises(CheckpointError):
            await worker.train(spec, b"bad", shards[:1], ORDER, b"")
        assert worker.pid == pid
    await until(lambda: not alive(pid))
    with pytest.raises(WorkerClosed):
        await worker.initial_checkpoint(spec)


async def test_a_killed_worker_fails_its_call_and_the_next_call_works(
    make_spec, endless, shards
) -> None:
    spec = make_spec()
    async with TrainingWorker(nice=0) as worker:
        base = await worker.initial_checkpoint(endless)
        first = worker.pid
        assert first is not None
        crashed = trio.Event()

        async def train() -> None:
            with pytest.raises(WorkerCrashed, match="SIGKILL"):
                await worker.train(endless, base, shards, ORDER, b"")
            crashed.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(train)
            await trio.testing.wait_all_tasks_blocked(0.2)
            assert not crashed.is_set()
            os.kill(first, signal.SIGKILL)
        assert crashed.is_set()
        assert len(await worker.initial_checkpoint(spec)) > 0
        second = worker.pid
        assert second not in {None, first}

        # One that dies between calls is replaced without anybody noticing.
        os.kill(second, signal.SIGKILL)
        await until(lambda: worker.pid is None)
        assert len(await worker.initial_checkpoint(spec)) > 0
        assert worker.pid not in {None, first, second}


async def test_a_late_or_cancelled_call_is_killed_and_the_next_works(
    make_spec, endless, shards
) -> None:
    spec = make_spec()
    async with TrainingWorker(nice=0) as worker:
        base = await worker.initial_checkpoint(endless)
        first = worker.pid
        assert first is not None
        with pytest.raises(WorkerTimedOut, match=r"train: no answer within 0\.3 s"):
            await worker.train(endless, base, shards, ORDER, b"", timeout_s=0.3)
        assert not alive(first)

        # The call that waits for its turn is not harmed by the one that is cancelled.
        served: list[bytes] = []

        async def wait_for_turn() -> None:
            served.append(await worker.initial_checkpoint(spec))

        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(worker.train, endless, base, shards, ORDER, b"")
                await trio.testing.wait_all_tasks_blocked(0.2)
                second = worker.pid
                assert second is not None
                scope.cancel()
        assert scope.cancelled_caught
        await until(lambda: not alive(second))

        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:
                nursery.start_soon(wait_for_turn)
                await trio.testing.wait_all_tasks_blocked(0.1)
        assert len(served) == 1
        assert worker.pid not in {None, first, second}


async def test_closing_ends_a_call_under_way(endless, shards) -> None:
    worker = TrainingWorker(nice=0)
    base = await worker.initial_checkpoint(endless)
    pid = worker.pid
    assert pid is not None
    closed = trio.Event()

    async def train() -> None:
        with pytest.raises(WorkerClosed):
            await worker.train(endless, base, shards, ORDER, b"")
        closed.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(train)
        await trio.testing.wait_all_tasks_blocked(0.2)
        await worker.aclose()
    assert closed.is_set()
    assert not alive(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA covers mappings on Linux only")
async def test_work_that_does_not_fit_is_refused_and_the_worker_stays(make_spec) -> None:
    spec = make_spec()
    large = make_spec(mlp={"hidden": 8192, "depth": 2}, part_values=131_072)  # 270 MB a vector
    async with TrainingWorker(nice=0, memory_bytes=768 << 20) as worker:
        await worker.initial_checkpoint(spec)
        pid = worker.pid
        with pytest.raises(OutOfMemory, match="memory limit does not suffice"):
            await worker.initial_checkpoint(large)
        await worker.initial_checkpoint(spec)
        assert worker.pid == pid


async def test_a_limit_too_low_for_torch_is_said_at_each_call(make_spec) -> None:
    async with TrainingWorker(nice=0, memory_bytes=256 << 20) as worker:
        for _ in range(2):
            with pytest.raises(OutOfMemory, match=r"256 MiB do not suffice.* at least 512 MiB"):
                await worker.initial_checkpoint(make_spec())


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device")
async def test_a_device_that_is_not_there_is_said_at_each_call(make_spec) -> None:
    async with TrainingWorker(nice=0, device="cuda") as worker:
        for _ in range(2):
            with pytest.raises(EngineFault, match="torch finds no device 'cuda' on this machine"):
                await worker.initial_checkpoint(make_spec())


async def test_a_worker_that_ends_by_itself_is_reported_with_its_status(
    make_spec, monkeypatch
) -> None:
    async with TrainingWorker(nice=0) as worker:
        with monkeypatch.context() as patched:
            patched.setattr(worker, "_command", [sys.executable, "-c", "raise SystemExit(7)"])
            with pytest.raises(WorkerCrashed, match="exited with 7"):
                await worker.initial_checkpoint(make_spec())
            patched.setattr(worker, "_command", ["/nonexistent/python"])
            with pytest.raises(WorkerCrashed, match="cannot be started"):
                await worker.initial_checkpoint(make_spec())
            patched.setattr(worker, "_command", [sys.executable, "-c", "print('x' * 99)"])
            with pytest.raises(WorkerCrashed, match="blobs, at most"):
                await worker.initial_checkpoint(make_spec())
        assert await worker.initial_checkpoint(make_spec())


PARENT = """
import sys, trio
from eigen.node.worker import TrainingWorker
from eigen.protocol.run import RunSpec
from eigen.protocol.wire import decode_bare

async def main():
    spec = decode_bare(bytes.fromhex(sys.argv[1]), RunSpec, bytes_max=10_000)
    shard = open(sys.argv[2], "rb").read()
    worker = TrainingWorker(nice=0)
    base = await worker.initial_checkpoint(spec)
    assert "torch" not in sys.modules, "the node must not load torch"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.train, spec, base, [shard], bytes(32), b"")
        await trio.sleep(0.3)
        print("busy:", worker.pid, flush=True)

trio.run(main)
"""


async def test_the_worker_dies_with_its_node_even_when_busy(endless, shards, tmp_path) -> None:
    (tmp_path / "shard").write_bytes(shards[0])
    spec = replace(endless, inner=replace(endless.inner, batch=128))
    node = await trio.lowlevel.open_process(
        [sys.executable, "-c", PARENT, encode_bare(spec).hex(), str(tmp_path / "shard")],
        stdout=subprocess.PIPE,
    )
    assert node.stdout is not None
    said = b""
    with trio.fail_after(60):
        while not (busy := re.search(rb"busy: (\d+)\n", said)):
            said += await node.stdout.receive_some()
    pid = int(busy[1])
    assert alive(pid)
    assert node.poll() is None
    node.kill()
    await node.wait()
    await node.stdout.aclose()
    await until(lambda: not alive(pid))
