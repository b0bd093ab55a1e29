"""What rounds leave on disk, and when it goes."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from service_peers import KEEP_CHECKPOINTS, Peer, peer

from eigen.node.datasets import Dataset
from eigen.node.retention import NOTED, ONCE_UNNAMED
from eigen.protocol.messages import Attempt, RoundRecord
from eigen.protocol.types import Cid, Digest, RunId

RUN, OTHER = RunId(b"r" * 32), RunId(b"o" * 32)


@pytest.fixture
async def one(tmp_path: Path) -> AsyncIterator[Peer]:
    async with peer(tmp_path) as made:
        yield made


def checkpoint(number: int, run: RunId = RUN) -> bytes:
    return run + number.to_bytes(8, "big")


def record(number: int, cid: Cid, left: tuple[Cid, ...] = (), run: RunId = RUN) -> RoundRecord:
    at = Attempt(run, number, 0)
    return RoundRecord(at, Digest(bytes(32)), Cid(""), cid, left, (), (), (), ())


async def play(one: Peer, rounds: int, run: RunId = RUN, last: int = 0) -> list[Cid]:
    """Rounds that leave a checkpoint each, collected as they end. `last` is the run's last."""
    cids = []
    for number in range(1, rounds + 1):
        cid = await one.blobs.put(checkpoint(number, run))
        await one.retention.note(run, number, cid)
        await one.retention.collect(record(number, cid, run=run), finished=number == last)
        cids.append(cid)
    return cids


async def here(one: Peer, *cids: Cid) -> list[bool]:
    return [await one.blobs.get(cid) is not None for cid in cids]


async def test_the_last_checkpoints_stay_and_older_ones_go(one: Peer) -> None:
    cids = await play(one, 6)
    assert await here(one, *cids) == [False] * 3 + [True] * KEEP_CHECKPOINTS
    assert len(await one.records.scan(NOTED)) == KEEP_CHECKPOINTS


async def test_of_a_finished_run_the_last_checkpoint_stays(one: Peer) -> None:
    cids = await play(one, 6, last=6)
    assert await here(one, *cids) == [False] * 5 + [True]


async def test_what_the_head_a_pin_or_another_run_names_stays(one: Peer) -> None:
    shared, pinned, left = [
        await one.blobs.put(data) for data in (checkpoint(1), checkpoint(2), b"left over")
    ]
    await one.retention.note(OTHER, 1, shared)
    await one.retention.note(RUN, 4, left)
    await one.retention.pin(pinned)
    cids = await play(one, 5)
    await one.retention.collect(record(5, cids[4], (left,)), finished=True)
    assert cids[:2] == [shared, pinned]
    assert await here(one, shared, pinned, left, *cids[2:]) == [True] * 3 + [False, False, True]
    assert await one.retention.pins() == [pinned]
    assert await one.retention.unpin(pinned)
    assert not await one.retention.unpin(pinned)
    await one.retention.collect(record(5, cids[4]), finished=True)
    assert await here(one, shared, pinned, left) == [True, False, False]
    await play(one, 5, OTHER)
    assert await here(one, shared) == [False]


async def test_a_residual_goes_when_another_takes_its_place(one: Peer) -> None:
    async def keep(data: bytes) -> Cid:
        cid = await one.blobs.put(data)
        rows = one.retention.rows(RUN, ONCE_UNNAMED, [cid])
        await one.records.commit([*rows, ("residual", RUN, cid.encode())])
        return cid

    first = await keep(b"first residual")
    cids = await play(one, 2)
    assert await here(one, first) == [True]
    second = await keep(b"second residual")
    await one.retention.collect(record(2, cids[1]), finished=False)
    assert await here(one, first, second) == [False, True]


async def test_what_nobody_noted_is_never_deleted(one: Peer) -> None:
    stray = await one.blobs.put(b"put by something else")
    manifest = await one.datasets.seed(Dataset("data", [(b"shard", 5)], b"held out", False))
    shard = (await one.datasets.manifest(manifest)).shards[0].cid
    await one.retention.note(RUN, 1, shard, manifest)  # as if a round had left the same bytes
    await play(one, 9, last=9)
    assert await here(one, stray, manifest, shard) == [True] * 3


async def test_what_was_half_collected_before_a_restart_is_collected_after_it(
    one: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    cids = await play(one, 3)

    async def cut(*_: object) -> frozenset[Cid]:
        raise OSError("power cut")

    with monkeypatch.context() as patched:
        patched.setattr(one.blobs, "drop", cut)
        with pytest.raises(OSError, match="power cut"):
            await one.retention.collect(record(3, cids[2]), finished=True)
    assert await here(one, *cids) == [True] * 3
    await one.retention.collect(record(3, cids[2]), finished=True)
    assert await here(one, *cids) == [False, False, True]
