"""What a run is seeded from: samples that its model can read, or an error that says why not."""

from pathlib import Path
from typing import Any

import pytest

from eigen.node.commands.propose import load_source
from eigen.node.exit_codes import ExitCode, UserError
from eigen.node.run_file import RunFile, load_run_file
from eigen.protocol.cid import raw_cid
from eigen.training import text

RUN = """
name = "run"
rounds = 8
reward_per_round = 1
[model]
{model}
[dataset]
source = "{source}"
[inner]
steps = 20
batch = 32
lr = 0.002
[outer]
"""
MLP = 'architecture = "mlp"\ninputs = 64\nhidden = 8\ndepth = 1\nclasses = 10'
GPT = 'architecture = "gpt"\ncontext = 48\ndepth = 1\nheads = 2\nvocabulary = 128\nwidth = 32'


def load(run_file: RunFile) -> Any:
    model = run_file.spec(raw_cid(b"")).model
    return load_source(run_file.path, run_file.dataset, model, 0)


@pytest.fixture
def write(tmp_path: Path):
    def write(model: str, source: str) -> RunFile:
        path = tmp_path / "run.toml"
        path.write_text(RUN.format(model=model, source=source))
        return load_run_file(path)

    return write


def test_a_classifier_learns_digits_and_a_language_model_the_standard_library(write) -> None:
    run_file = write(MLP, "digits")
    training, held_out = load(run_file)
    assert (len(training), len(held_out)) == (1437, 360)
    run_file = write(GPT, 'stdlib"\nunpinned = true\n#')
    training, held_out = load(run_file)
    assert training.x_NF.shape[1] == held_out.y_N.shape[1] == 48


@pytest.mark.parametrize(
    ("model", "source", "reason"),
    [
        (MLP, "cifar", "there are digits and stdlib, not 'cifar'"),
        (GPT, "digits", "the model cannot read digits: not a file of tokens"),
        (MLP, 'stdlib"\nunpinned = true\n#', "the model cannot read stdlib: not a file of x and y"),
        (MLP.replace("64", "63"), "digits", r"the model cannot read digits: x has shape"),
        (
            GPT.replace("128", "64"),
            'stdlib"\nunpinned = true\n#',
            "the model cannot read stdlib: there is a token",
        ),
    ],
)
def test_what_the_model_cannot_read_is_not_seeded(write, model, source, reason: str) -> None:
    run_file = write(model, source)
    with pytest.raises(UserError, match=rf"run\.toml: dataset\.source: {reason}") as refused:
        load(run_file)
    assert refused.value.exit_code == ExitCode.CONFIGURATION


def test_an_unknown_library_is_taken_only_when_asked_for(write, monkeypatch) -> None:
    monkeypatch.setattr(text, "KNOWN", {})
    run_file = write(GPT, "stdlib")
    with pytest.raises(UserError, match=r"dataset\.unpinned = true takes it as it is"):
        load(run_file)
