"""The layout is what pyproject.toml says, and the README's commands are there."""

import os
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("config", "protocol", "crypto", "training", "chain", "node", "simulations")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def packages_on_disk() -> set[str]:
    """Folders with Python code below the seven, as sub-packages of `eigen`."""
    found = set()
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("__init__.py"):
            parts = path.parent.relative_to(ROOT).parts
            if "node_modules" not in parts:
                found.add(".".join(("eigen", *parts)))
    return found


def test_packages_on_disk_equal_the_packages_declared() -> None:
    setuptools = PROJECT["tool"]["setuptools"]
    assert set(setuptools["packages"]) == packages_on_disk()
    folders = {name: path.replace("/", ".") for name, path in setuptools["package-dir"].items()}
    assert folders == {name: name.removeprefix("eigen.") for name in setuptools["packages"]}


BENCHES = """
import runpy, sys
for script in sys.argv[1:]:
    sys.argv = [script, "--help"]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as ended:
        if ended.code:
            raise SystemExit(f"{script}: {ended.code}")
    else:
        raise SystemExit(f"{script} has no --help")
"""


def test_every_benchmark_starts() -> None:
    folder = ROOT / "tests" / "bench"
    scripts = [path for path in sorted(folder.glob("*.py")) if '"--json"' in path.read_text()]
    assert len(scripts) > 5
    environment = os.environ | {"PYTHONPATH": str(folder)}
    command = [sys.executable, "-c", BENCHES, *map(str, scripts)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_folder_of_modules_is_a_package() -> None:
    for folder in FOLDERS:
        for module in (ROOT / folder).rglob("*.py"):
            if "node_modules" in module.parts or "contracts" in module.parts:
                continue
            assert (module.parent / "__init__.py").exists(), module


def test_links_show_type_checkers_the_same_packages() -> None:
    links = {path.name: path.resolve() for path in (ROOT / ".links" / "eigen").iterdir()}
    assert links == {folder: ROOT / folder for folder in FOLDERS}


def test_constraints_pin_every_dependency_exactly() -> None:
    pinned = {
        re.split("==", line)[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    }
    project = PROJECT["project"]
    wanted = [*project["dependencies"]]
    for extra in ("devnet", "dev", "sim", "homomorphic"):
        wanted += project["optional-dependencies"][extra]
    for requirement in wanted:
        name = re.match(r"[A-Za-z0-9-]+", requirement)
        assert name is not None
        assert name[0].lower() in pinned, requirement


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = "import sys; from eigen.node.cli import main; main(['-h']); print(sorted(sys.modules))"
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert time.monotonic() - began < 5  # the real figure is 0.1 s; this is no timed test
    for heavy in ("'torch'", "'web3'", "'libp2p'", "'trio'", "'numpy'"):
        assert heavy not in done.stdout
