"""Parameter changes as members write them: what becomes of a run's spec, and what is refused."""

from dataclasses import replace
from pathlib import Path

import pytest

from eigen.node.member_file import MemberFileError
from eigen.node.proposal_file import changed_spec, load_proposal_file
from eigen.node.run_file import load_run_file
from eigen.protocol.changes import check_change
from eigen.protocol.cid import raw_cid
from eigen.protocol.run import AggregationSpec, RunSpec

RUN = """
name = "digits"
rounds = 8
reward_per_round = 100
[model]
architecture = "mlp"
inputs = 64
classes = 10
hidden = 32
depth = 1
[dataset]
source = "digits"
[inner]
steps = 20
batch = 32
lr = 0.002
[outer]
rule = "sgd"
"""
HEAD = 'kind = "parameters"\nrun = "3fa2"\nfrom_round = 4\n'
OTHER = raw_cid(b"other")


@pytest.fixture
def spec(tmp_path: Path) -> RunSpec:
    path = tmp_path / "run.toml"
    path.write_text(RUN)
    return load_run_file(path).spec(raw_cid(b""))


def change(folder: Path, text: str, spec: RunSpec) -> RunSpec:
    path = folder / "change.toml"
    path.write_text(HEAD + text)
    return changed_spec(load_proposal_file(path), spec, spec.dataset)


def test_what_is_named_changes_and_the_rest_stays(tmp_path: Path, spec: RunSpec) -> None:
    after = change(tmp_path, "[inner]\nlr = 0.001\nsteps = 30\n[outer]\nlr = 0.5\n", spec)
    inner = replace(spec.inner, lr=0.001, steps=30)
    assert after == replace(spec, inner=inner, outer=replace(spec.outer, lr=0.5))
    median = change(tmp_path, '[aggregation]\nrule = "median"\n', spec)
    assert median.aggregation == AggregationSpec("median", spec.aggregation.tolerated_bps)
    mean = change(tmp_path, '[aggregation]\nrule = "mean"\n', spec)
    assert mean.aggregation == AggregationSpec("mean", 0)
    check_change(spec, replace(after, dataset=OTHER))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[inner]\nmoments = 'kept'\n", "moments: no such key; there are batch, lr"),
        ("[inner]\nlr = '1'\n", "lr: text, not a number"),
        ("[inner]\nsteps = 5000\n", r"inner\.steps"),
        ("[outer]\nrule = 'nesterov'\n", "rule: no such key; there are lr"),
        ("[aggregation]\nrule = 'vote'\n", r"aggregation\.rule"),
        ("[inner]\nschedule = 'wavy'\n", r"schedule"),
        ("inner = 3\n", "inner: a whole number, not a table"),
        ("[dataset]\nshards = 3\n", "dataset: give either manifest or source"),
    ],
    ids=["moments", "text", "steps", "outer rule", "no rule", "schedule", "no table", "dataset"],
)
def test_a_change_that_nobody_could_train_is_named(
    tmp_path: Path, spec: RunSpec, text: str, told: str
) -> None:
    with pytest.raises(MemberFileError, match=told):
        change(tmp_path, text, spec)


def test_runs_whose_rounds_overlap_keep_their_settings(tmp_path: Path, spec: RunSpec) -> None:
    overlapping = replace(spec, overlap=True)
    with pytest.raises(MemberFileError, match="overlap: where rounds overlap"):
        change(tmp_path, "[inner]\nlr = 0.001\n", overlapping)
