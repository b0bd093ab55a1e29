"""`eigen validator calibrate`: what it measures, stores and refuses, and how the store is read."""

import json
from pathlib import Path

import pytest
import structlog

from eigen.node import cli
from eigen.node.calibrate import Machine, fewer_steps, machines, measure
from eigen.node.calibrations import CalibrationFileError, load, save, tolerance
from eigen.node.exit_codes import ExitCode
from eigen.node.run_file import load_run_file
from eigen.protocol.cid import raw_cid
from eigen.protocol.run import RunSpec
from eigen.training.calibration import DEFAULTS, Tolerance
from eigen.training.datasets import drawn, write_shard
from eigen.training.errors import SpecError

RUN_FILE = """\
name = "small"
rounds = 2
reward_per_round = 1
[model]
architecture = "mlp"
inputs = 16
hidden = 8
depth = 1
classes = 4
[dataset]
manifest = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"
[inner]
steps = {steps}
batch = 8
lr = 0.01
moments = "{moments}"
[outer]
"""


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(RUN_FILE.format(steps=10, moments="fresh"))
    return path


@pytest.fixture
def spec(run_file: Path) -> RunSpec:
    return load_run_file(run_file).spec(raw_cid(b""))


def test_what_is_stored_is_found_again(tmp_path: Path, spec: RunSpec) -> None:
    path = tmp_path / "calibration.toml"
    assert tolerance(path, spec) == DEFAULTS["fp32"], "nothing was measured"
    save(path, spec, Tolerance(1e-3, 1e-2))
    assert tolerance(path, spec) == Tolerance(1e-3, 1e-2)
    save(path, spec, Tolerance(2e-3, 1e-2))
    assert list(load(path).values()) == [Tolerance(2e-3, 1e-2)]
    assert 'name = "small"' in path.read_text()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("accept =", "not valid TOML"),
        ("\xff", "not valid TOML"),
        ("[a]\naccept = 1e-3", r"\[a\] has no reject"),
        ("[a]\naccept = 1e-2\nreject = 1e-3", r"\[a\]: accept = 0.01, reject = 0.001"),
        ("[a]\naccept = 'x'\nreject = 1e-3", r"\[a\]: could not convert"),
        ("a = 1", r"\[a\]: "),
        ("#" * (1 << 20) + "#", "over 1048576 bytes"),
    ],
)
def test_a_damaged_store_is_said_so(tmp_path: Path, spec: RunSpec, text: str, why: str) -> None:
    path = tmp_path / "calibration.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(CalibrationFileError, match=why):
        tolerance(path, spec)


async def test_kept_moments_and_rounds_of_one_step_cannot_be_measured(
    tmp_path: Path, spec: RunSpec
) -> None:
    for steps, moments, why in [(1, "fresh", "inner.steps: 1"), (5, "kept", "inner.moments")]:
        path = tmp_path / "run.toml"
        path.write_text(RUN_FILE.format(steps=steps, moments=moments))
        other = load_run_file(path).spec(raw_cid(b""))
        with pytest.raises(SpecError, match=why):
            await measure(other, [], machines(other), 1, print)
    assert fewer_steps(spec, 1).inner.steps == 9


@pytest.mark.slow
async def test_machines_are_measured_against_each_other(spec: RunSpec) -> None:
    shard = write_shard(drawn(200, inputs=16, classes=4))
    told: list[str] = []
    among = [Machine("one"), Machine("two pieces", pieces=2)]
    measured = await measure(spec, [shard], among, 2, told.append)
    assert told == ["one", "two pieces"]
    assert measured.honest.keys() == {("one", "two pieces"), ("two pieces", "one")}
    distances = [check.furthest for checks in measured.honest.values() for check in checks]
    assert len(distances) == 4
    assert max(distances) < 1e-4
    assert len(measured.cheats) == 2
    assert measured.tolerance().accept < measured.tolerance().reject < 0.05


@pytest.mark.slow
def test_the_command_stores_what_it_measured(
    tmp_path: Path, run_file: Path, spec: RunSpec, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    words = ["--home", str(home), "validator", "calibrate", str(run_file), "--rounds"]
    assert cli.main([*words, "2", "--json"]) == ExitCode.OK
    found = json.loads(capsys.readouterr().out)
    structlog.reset_defaults()
    stored = tolerance(home / "calibration.toml", spec)
    assert (stored.accept, stored.reject) == (found["accept"], found["reject"])
    assert max(found["honest"].values()) < stored.accept
    assert cli.main([*words, "3"]) == ExitCode.USAGE
    assert "the run has 2" in capsys.readouterr().err


def test_without_a_home_nothing_is_measured(
    tmp_path: Path, run_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--home", str(tmp_path / "none"), "validator", "calibrate", str(run_file)]
    assert cli.main(words) == ExitCode.CONFIGURATION
    assert "give --dry-run" in capsys.readouterr().err
