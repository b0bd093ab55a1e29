"""Commits batches of rows until it is killed; says of each batch when it is acknowledged."""

import os
import sys
from pathlib import Path

import trio

from eigen.node.records import SqliteRecords

ROWS = 7


async def main(path: Path) -> None:
    records = SqliteRecords(path)
    for batch in range(1_000_000):
        mark = batch.to_bytes(4, "big")
        await records.commit([("row", mark + bytes([i]), mark * 64) for i in range(ROWS)])
        os.write(1, b"%d\n" % batch)


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]))
