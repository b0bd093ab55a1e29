"""The blob store: what is read is what was written, or it is missing."""

import os
import secrets
import signal
import sys
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from eigen.node.blobs import DirectoryBlobs
from eigen.protocol.cid import CidError, CidMismatch, blocks_of, content_cid, raw_cid
from eigen.protocol.limits import BLOCK_BYTES_MAX
from eigen.protocol.types import Cid

LARGE = secrets.token_bytes(2 * BLOCK_BYTES_MAX + 5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "blobs"


@pytest.fixture
def blobs(folder: Path) -> DirectoryBlobs:
    return DirectoryBlobs(folder)


def files(folder: Path, cid: str) -> list[Path]:
    return [p for p in folder.rglob(cid) if p.parent.name != "corrupt"]


def everything(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file()]


def the_file(folder: Path, cid: str) -> Path:
    [found] = files(folder, cid)
    return found


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("data", [b"", b"x", LARGE[:BLOCK_BYTES_MAX], LARGE])
async def test_content_comes_back_whole(blobs: DirectoryBlobs, data: bytes) -> None:
    cid = await blobs.put(data)
    assert cid == content_cid(data)
    assert await blobs.get(cid) == data
    assert await blobs.missing(cid) == []
    found = await blobs.files(cid)
    assert found is not None
    assert b"".join(path.read_bytes() for path in found) == data


@pytest.mark.parametrize("data", [b"", b"x", LARGE[:BLOCK_BYTES_MAX], LARGE])
async def test_what_another_process_has_drafted_is_stored_under_the_same_name(
    blobs: DirectoryBlobs, folder: Path, data: bytes
) -> None:
    with blobs.draft() as path:
        path.write_bytes(data)
        assert await blobs.put_file(path) == content_cid(data)
    assert await blobs.get(content_cid(data)) == data
    assert list((folder / "partial").iterdir()) == []


async def test_a_content_above_one_block_is_a_dag_of_blocks_that_can_be_had_alone(
    blobs: DirectoryBlobs, folder: Path
) -> None:
    root = await blobs.put(LARGE)
    blocks = dict(blocks_of(LARGE))
    assert len(blocks) == 4
    for cid, block in blocks.items():
        assert await blobs.get_block(cid) == block
    other = DirectoryBlobs(folder.with_name("other"))
    await other.put_block(root, blocks[root])
    leaves = set(blocks) - {root}
    assert set(await other.missing(root)) == leaves
    assert await other.files(root) is None
    assert await other.get(root) is None
    for cid in leaves:
        await other.put_block(cid, blocks[cid])
    assert await other.get(root) == LARGE


async def test_what_is_not_there_is_missing(blobs: DirectoryBlobs) -> None:
    cid = raw_cid(b"nobody has this")
    assert await blobs.get(cid) is None
    assert await blobs.get_block(cid) is None
    assert await blobs.missing(cid) == [cid]


async def test_a_block_under_another_name_is_refused_and_leaves_nothing(
    blobs: DirectoryBlobs, folder: Path
) -> None:
    with pytest.raises(CidMismatch):
        await blobs.put_block(raw_cid(b"one"), b"two")
    block = bytes(BLOCK_BYTES_MAX + 1)
    with pytest.raises(CidError):
        await blobs.put_block(raw_cid(block), block)
    assert everything(folder) == []


async def test_a_corrupt_file_is_put_aside_and_reported_missing(
    blobs: DirectoryBlobs, folder: Path
) -> None:
    root = await blobs.put(LARGE)
    leaf = raw_cid(LARGE[:BLOCK_BYTES_MAX])
    flip(the_file(folder, leaf))
    assert await blobs.get(root) is None
    assert await blobs.missing(root) == [leaf]
    assert files(folder, leaf) == []
    assert (folder / "corrupt" / leaf).exists(), "kept for whoever looks into the disk"
    await blobs.put_block(leaf, LARGE[:BLOCK_BYTES_MAX])
    assert await blobs.get(root) == LARGE


@pytest.mark.parametrize("harm", [flip, lambda p: os.truncate(p, 3), lambda p: os.truncate(p, 0)])
async def test_putting_a_content_again_mends_a_corrupt_file(
    blobs: DirectoryBlobs, folder: Path, harm: object
) -> None:
    cid = await blobs.put(b"a checkpoint")
    harm(the_file(folder, cid))  # type: ignore[operator]
    assert await blobs.put(b"a checkpoint") == cid
    assert await blobs.get(cid) == b"a checkpoint"


async def test_several_readers_of_one_corrupt_file_all_find_it_missing(
    blobs: DirectoryBlobs, folder: Path
) -> None:
    for turn in range(20):
        data = b"read by four at once %d" % turn
        cid = await blobs.put(data)
        flip(the_file(folder, cid))
        found: list[bytes | None] = []

        async def read(cid: object = cid, found: list[bytes | None] = found) -> None:
            found.append(await blobs.get_block(cid))  # type: ignore[arg-type]

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(read)
        assert found == [None] * 4


async def test_a_full_disk_leaves_nothing_behind(
    blobs: DirectoryBlobs, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fired = []

    def no_space(_fd: int) -> None:
        fired.append(True)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("eigen.node.durable.os.fsync", no_space)
        with pytest.raises(OSError, match="No space left"):
            await blobs.put(b"too much")
    assert fired
    assert everything(folder) == []
    assert await blobs.get(await blobs.put(b"too much")) == b"too much"


DYING_WRITE = """
import os, signal, sys
from pathlib import Path
import trio
from eigen.node import blobs, durable

def die(fd):
    os.kill(os.getpid(), signal.SIGKILL)

durable.os.fsync = die
trio.run(blobs.DirectoryBlobs(Path(sys.argv[1])).put, b"half of it")
"""


async def test_a_write_cut_by_kill_nine_leaves_no_block_and_its_rest_is_cleared(
    folder: Path,
) -> None:
    done = await trio.run_process([sys.executable, "-c", DYING_WRITE, str(folder)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(everything(folder)) == 1, "the kill came after the write and before the rename"
    blobs = DirectoryBlobs(folder)
    assert await blobs.get(raw_cid(b"half of it")) is None
    blobs.clear_partial()
    assert everything(folder) == [], "or every crash costs disk"
    assert await blobs.get(await blobs.put(b"half of it")) == b"half of it"


@settings(max_examples=25, deadline=None)
@given(data=st.binary(max_size=200), at=st.integers(0, 199), cut=st.booleans())
def test_no_harm_to_a_file_gives_wrong_bytes(data: bytes, at: int, cut: bool) -> None:
    import tempfile

    async def play(folder: Path) -> None:
        blobs = DirectoryBlobs(folder)
        cid = await blobs.put(data)
        path = the_file(folder, cid)
        if cut:
            os.truncate(path, min(at, len(data)))
        elif data:
            harmed = bytearray(data)
            harmed[at % len(data)] ^= 0x80
            path.write_bytes(harmed)
        whole = path.read_bytes() == data
        assert await blobs.get(cid) == (data if whole else None)

    with tempfile.TemporaryDirectory() as name:
        trio.run(play, Path(name))


def test_blocks_are_for_their_owner_alone(tmp_path: Path) -> None:
    blobs = DirectoryBlobs(tmp_path / "blobs")
    cid = trio.run(blobs.put, b"mine")
    assert the_file(tmp_path / "blobs", cid).stat().st_mode & 0o077 == 0


# dropping ---------------------------------------------------------------------------------------
@pytest.fixture
def idle(folder: Path) -> DirectoryBlobs:
    return DirectoryBlobs(folder, in_use_s=0.0)


async def test_a_dropped_content_leaves_no_file_and_can_be_put_again(
    idle: DirectoryBlobs, folder: Path
) -> None:
    kept, cid = await idle.put(b"something else"), await idle.put(LARGE)
    assert await idle.drop([cid], []) == {cid}
    assert [path.name for path in everything(folder)] == [kept]
    assert await idle.get(cid) is None
    assert await idle.drop([cid], []) == {cid}, "there is nothing to do"
    assert await idle.put(LARGE) == cid
    assert await idle.get(cid) == LARGE


async def test_blocks_that_a_kept_content_shares_stay(idle: DirectoryBlobs, folder: Path) -> None:
    changed = LARGE[:-1] + bytes([LARGE[-1] ^ 1])
    old, new = await idle.put(LARGE), await idle.put(changed)
    before = len(everything(folder))
    assert await idle.drop([old], [new]) == {old}
    assert await idle.get(new) == changed
    assert len(everything(folder)) == before - 2, "the old root and its last leaf"
    assert await idle.drop([new], [new]) == {new}
    assert await idle.get(new) == changed


async def test_what_was_read_written_or_served_a_moment_ago_stays_whole(
    idle: DirectoryBlobs, folder: Path
) -> None:
    cid, twin = await idle.put(LARGE), await idle.put(LARGE[:BLOCK_BYTES_MAX] + b"twin")
    store = DirectoryBlobs(folder, in_use_s=1.0)
    for cid_of_block, _ in list(blocks_of(LARGE))[1:2]:  # as a peer that fetches asks for it
        assert await store.get_block(Cid(cid_of_block)) is not None
    assert await store.drop([cid, twin], []) == {twin}
    assert await idle.get(cid) == LARGE, "with the blocks that it shares with what went"
    await trio.sleep(1.1)
    assert await store.drop([cid], []) == {cid}


async def test_a_drop_that_was_cut_short_is_done_by_the_next(
    idle: DirectoryBlobs, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cid = await idle.put(LARGE)
    deleted: list[str] = []
    delete = idle._delete

    def cut(block: str) -> bool:
        if len(deleted) == 2:
            raise OSError("power cut")
        deleted.append(block)
        return delete(block)

    monkeypatch.setattr(idle, "_delete", cut)
    with pytest.raises(OSError, match="power cut"):
        await idle.drop([cid], [])
    assert files(folder, cid), "the root goes last: it names the rest"
    again = DirectoryBlobs(folder, in_use_s=0.0)
    assert await again.drop([cid], []) == {cid}
    assert everything(folder) == []
