"""The record store: atomic, durable when acknowledged, also after SIGKILL."""

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from eigen.node.records import SqliteRecords

CHILD = Path(__file__).with_name("committing_child.py")
ROWS = 7
PREFIX_ENDS = [b"", b"\x00", b"a", b"ab", b"ab\xff", b"b", b"\xff", b"\xff\xff"]


@pytest.fixture
def records(tmp_path: Path) -> Iterator[SqliteRecords]:
    with closing(SqliteRecords(tmp_path / "node.sqlite3")) as store:
        yield store


async def test_rows_are_written_replaced_and_deleted_in_one_transaction(
    records: SqliteRecords,
) -> None:
    await records.commit([("head", b"run", b"one"), ("round", b"run1", b"x")])
    await records.commit([("head", b"run", b"two"), ("round", b"run1", None)])
    assert await records.get("head", b"run") == b"two"
    assert await records.get("round", b"run1") is None
    assert await records.get("other", b"run") is None, "kinds do not mix"


async def test_a_bad_row_takes_the_whole_transaction_back(records: SqliteRecords) -> None:
    await records.commit([("head", b"run", b"one")])
    rows = [("head", b"run", b"two"), ("head", b"new", b"x"), ("head", b"bad", object())]
    with pytest.raises(Exception, match="type"):
        await records.commit(rows)  # type: ignore[arg-type]
    assert await records.scan("head") == [(b"run", b"one")]
    await records.commit([("head", b"run", b"three")])
    assert await records.get("head", b"run") == b"three", "the store works on"


async def test_scan_gives_a_prefix_in_key_order(records: SqliteRecords) -> None:
    await records.commit([("k", key, key) for key in reversed(PREFIX_ENDS)])
    await records.commit([("other", b"ab", b"")])
    for prefix in PREFIX_ENDS:
        expected = [(k, k) for k in sorted(PREFIX_ENDS) if k.startswith(prefix)]
        assert await records.scan("k", prefix) == expected


async def test_a_cancelled_commit_is_whole_or_absent(records: SqliteRecords) -> None:
    rows = [("row", i.to_bytes(2, "big"), bytes(64)) for i in range(2000)]
    with trio.move_on_after(0.001) as scope:
        await records.commit(rows)
    assert len(await records.scan("row")) in (0, 2000)
    assert scope.cancel_called or len(await records.scan("row")) == 2000
    await records.commit([("row", b"after", b"x")])
    assert await records.get("row", b"after") == b"x"


def test_every_acknowledged_row_survives_kill_nine_and_no_half_transaction(tmp_path: Path) -> None:
    path = tmp_path / "node.sqlite3"
    first = 0
    for kill_after in (1, 23, 60):  # the same file again: recovery on top of recovery
        with subprocess.Popen([sys.executable, CHILD, path], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            said = [int(child.stdout.readline()) for _ in range(kill_after)]
            child.kill()
            said += [int(line) for line in child.stdout.read().splitlines()]
        assert child.returncode == -9, "the kill must have come in the middle"
        first = max(first, said[-1])
        with closing(SqliteRecords(path)) as store:
            rows = trio.run(store.scan, "row")
        batches = Counter(int.from_bytes(key[:4], "big") for key, _ in rows)
        assert set(range(first + 1)) <= set(batches), "an acknowledged batch is gone"
        assert set(batches.values()) == {ROWS}, "half a transaction"
        assert all(value == key[:4] * 64 for key, value in rows)


def test_the_database_is_synced_before_a_commit_returns(tmp_path: Path) -> None:
    """SIGKILL leaves the page cache alone; loss of power does not. Only the setting can tell."""
    with closing(SqliteRecords(tmp_path / "node.sqlite3")) as store:
        assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
        assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


KEYS = st.sampled_from(PREFIX_ENDS)
COMMITS = st.lists(st.lists(st.tuples(KEYS, st.none() | st.binary(max_size=8)), max_size=4))


@settings(max_examples=20, deadline=None)
@given(COMMITS)
def test_the_store_is_a_dictionary(commits: list[list[tuple[bytes, bytes | None]]]) -> None:
    async def play() -> None:
        model: dict[bytes, bytes] = {}
        with closing(SqliteRecords(Path(":memory:"))) as store:
            for commit in commits:
                await store.commit([("k", key, value) for key, value in commit])
                for key, value in commit:
                    model.pop(key, None)
                    if value is not None:
                        model[key] = value
                assert dict(await store.scan("k")) == model

    trio.run(play)
