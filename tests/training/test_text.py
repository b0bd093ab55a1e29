"""The standard library as text: known by its hash, cut without overlap, refused if it is other."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from eigen.training import text
from eigen.training.text import KNOWN, MODULES, UnknownText, standard_library


def test_every_character_is_foretold_once() -> None:
    training, held_out = standard_library(64, unpinned=True)
    assert training.are_text
    assert training.x_NF.shape == (len(training), 64)
    assert int(training.x_NF.max()) < text.VOCABULARY
    first = Path(text.sysconfig.get_path("stdlib"), f"{MODULES[0]}.py").read_bytes()
    read, following = training.x_NF[:10].tobytes(), training.y_N[:10].tobytes()
    assert read.isascii()
    assert read == first[:640]
    assert following == first[1:641]
    assert 0.04 < len(held_out) / len(training) < 0.06
    rows = {row.tobytes() for row in training.x_NF}
    repeated = np.mean([row.tobytes() in rows for row in held_out.x_NF])
    assert repeated < 0.01, "what is held out was trained on"


def test_another_text_is_refused_unless_asked_for(tmp_path, monkeypatch) -> None:
    for module in MODULES:
        (tmp_path / f"{module}.py").write_text("# naïve\n" * 1000)
    monkeypatch.setattr(text.sysconfig, "get_path", {"stdlib": str(tmp_path)}.__getitem__)
    with pytest.raises(UnknownText, match=r"has SHA-256 [0-9a-f]{16}…, not that of Python 3\.11"):
        standard_library(32)
    training, _ = standard_library(32, unpinned=True)
    assert training.x_NF[0].tobytes() == b"# na?ve\n" * 4


def test_the_known_text_is_taken(monkeypatch) -> None:
    digest = hashlib.sha256(b"\0".join(text._ascii(module) for module in MODULES)).hexdigest()
    if digest not in KNOWN:
        pytest.skip("this Python's library was not measured")
    assert len(standard_library(64)[0]) > 25_000
    monkeypatch.delitem(KNOWN, digest)
    with pytest.raises(UnknownText):
        standard_library(64)
