"""Parts of an update on disk."""

import os
from pathlib import Path

import pytest

from eigen.node.part_file import PartFile


def test_parts_are_read_back_and_leave_nothing_behind(tmp_path: Path) -> None:
    parts = [b"first", b"", b"x" * 100_000]
    file = PartFile(parts, tmp_path / "parts")
    assert list(tmp_path.iterdir()) == []
    assert [file[i] for i in range(len(file))] == parts
    with pytest.raises(IndexError):
        file[3]
    descriptor = file._descriptor
    del file
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(descriptor)


def test_what_the_disk_does_not_give_back_is_an_error(tmp_path: Path) -> None:
    file = PartFile([b"all of it"], tmp_path / "parts")
    file._ends[1] += 1
    with pytest.raises(OSError, match="9 of 10 bytes"):
        file[0]
