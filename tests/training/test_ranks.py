"""Two processes under torchrun are one worker: the same round, shared errors, one end."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trio

from eigen.node.worker import TrainingWorker, WorkerCrashed
from eigen.protocol.run import RunSpec
from eigen.training.codecs.registry import CODECS
from eigen.training.datasets import Samples, write_shard
from eigen.training.errors import CheckpointError, Diverged
from eigen.training.ranks import Ranks
from eigen.training.results import LocalUpdate
from eigen.training.spec import part_sizes

ORDER = b"order".ljust(32)


def test_pieces_are_dealt_so_that_each_is_done_once() -> None:
    pieces = list(range(7))
    dealt = [Ranks(index, 3).mine(pieces) for index in range(3)]
    assert sorted(piece for mine in dealt for piece in mine) == pieces
    assert Ranks().mine(pieces) == pieces


def delta(spec: RunSpec, update: LocalUpdate) -> np.ndarray:
    codec = CODECS[spec.codec]
    pairs = zip(update.parts, part_sizes(spec), strict=True)
    return np.concatenate([codec.decode(data, count).numpy() for data, count in pairs])


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] != "Z"
    except FileNotFoundError:
        return False


async def test_two_processes_train_as_one(engine, make_spec, shards) -> None:
    spec = make_spec(codec="fp32", result_codec="fp32")
    spec = replace(spec, inner=replace(spec.inner, micro_batches=4))
    base = engine.initial_checkpoint(spec)
    alone = engine.train(spec, base, shards[:1], ORDER, b"")
    async with TrainingWorker(nice=0, processes=2) as worker:
        together = await worker.train(spec, base, shards[:1], ORDER, b"")
        again = await worker.train(spec, base, shards[:1], ORDER, b"")
        assert together == again
        difference = delta(spec, together) - delta(spec, alone)
        assert 0 < np.linalg.norm(difference) < 1e-4 * np.linalg.norm(delta(spec, alone))
        assert np.allclose(together.loss_trace, alone.loss_trace, rtol=1e-5)

        # An error is both processes' own, and ends neither.
        pid = worker.pid
        assert pid is not None
        ranks = children(pid)
        assert len(ranks) == 2
        with pytest.raises(CheckpointError):
            await worker.train(spec, b"bad", shards[:1], ORDER, b"")
        huge = Samples(np.full((64, 64), 3e38, np.float32), np.zeros(64, np.uint8))
        with pytest.raises(Diverged, match="inner step"):
            await worker.train(spec, base, [write_shard(huge)], ORDER, b"")
        assert await worker.train(spec, base, shards[:1], ORDER, b"") == together
        assert (worker.pid, children(pid)) == (pid, ranks)

        # Whichever process is lost, the worker is, and the next call starts another.
        os.kill(ranks[1], signal.SIGKILL)
        with pytest.raises(WorkerCrashed):
            await worker.train(spec, base, shards[:1], ORDER, b"")
        assert await worker.train(spec, base, shards[:1], ORDER, b"") == together
        assert worker.pid is not None
        ranks += children(worker.pid)
        assert len(ranks) == 4
    with trio.fail_after(20):
        while any(map(alive, ranks)):  # noqa: ASYNC110
            await trio.sleep(0.05)
