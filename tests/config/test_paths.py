"""One home moves every file."""

from pathlib import Path

import pytest

from eigen.config.errors import HomeError
from eigen.config.paths import HOME_DEFAULT, Paths, find_paths


def test_everything_lies_in_the_home(tmp_path: Path) -> None:
    items = Paths(tmp_path).items()
    assert all(path.is_relative_to(tmp_path) for path in items.values())
    assert len(set(items.values())) == len(items) == 16


def test_flag_over_variable_over_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert find_paths("a", {"EIGEN_HOME": "/b"}).home == tmp_path / "a"
    assert find_paths(None, {"EIGEN_HOME": "~/b"}).home == Path("/home/somebody/b")
    assert find_paths(None, {}).home == Path("/home/somebody/.eigen")
    assert HOME_DEFAULT == "~/.eigen"


@pytest.mark.parametrize("flag", ["", "  ", "a\0b"])
def test_an_empty_home_is_refused(flag: str) -> None:
    with pytest.raises(HomeError, match="--home is empty"):
        find_paths(flag, {})
    with pytest.raises(HomeError, match="EIGEN_HOME is empty"):
        find_paths(None, {"EIGEN_HOME": flag})


def test_a_file_is_no_home(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(HomeError, match="is not a folder"):
        find_paths(str(file), {})


def test_a_path_too_long_for_a_socket_is_said_so() -> None:
    assert len(bytes(Paths(Path("/" + "x" * 89)).control_socket)) == 103
    with pytest.raises(HomeError, match="1 bytes too long"):
        _ = Paths(Path("/" + "x" * 90)).control_socket
