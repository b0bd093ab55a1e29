"""Job files: what is read, and that each mistake is told with its field."""

from pathlib import Path

import pytest

from eigen.node import cli, job_file
from eigen.node.exit_codes import ExitCode
from eigen.node.job_file import load_job_file
from eigen.node.member_file import MemberFileError

GOOD = """
name = "visits"
[data]
source = "visits.csv"
label = "readmitted"
[head]
kind = "logistic"
"""


TOKEN = 'token = "0x5FbDB2315678afecb367f032d93F642f64180aa3"\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "job.toml"
    path.write_text(text)
    return path


def test_a_short_file_has_the_documented_defaults(tmp_path: Path) -> None:
    made = load_job_file(write(tmp_path, GOOD))
    assert made.plan.data == str(tmp_path / "visits.csv"), "paths are relative to the file"
    assert made.plan.encrypted_weights, "the safe choice is the default"
    assert (made.plan.shards, made.plan.rounds, made.audit_bps) == (4, 20, 500)
    assert made.payment is None, "nobody is paid unless the file says so"


def test_the_example_in_the_documentation_is_one(tmp_path: Path) -> None:
    assert job_file.__doc__ is not None
    example = job_file.__doc__.split("\n", 2)[2]
    made = load_job_file(write(tmp_path, example))
    assert (made.name, made.round_s, made.plan.l2) == ("readmissions", 120, 0.01)
    assert made.payment is not None
    assert (str(made.payment.amount), made.payment.deadline_s) == ("250.5", 48 * 3600)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name = "visits"', "", "name is missing"),
        ('"visits"', '"' + "v" * 300 + '"', "name: over 256 bytes"),
        ('source = "visits.csv"', "", "data.source is missing"),
        ('"logistic"', '"deep"', "head.kind: 'deep', there are logistic, softmax, linear"),
        ('kind = "logistic"', "", "head.kind is missing"),
        ("[head]", "[heads]", "heads: no such key"),
        ("[data]", "[data]\nfoo = 1", "data.foo: no such key"),
        ("[data]", "[data]\nholdout_percent = 0", "data.holdout_percent: 0, give 1 to 90"),
        ("", '[encoder]\nkind = "resnet"', "encoder.kind: 'resnet', there are standard"),
        ("", '[encoder]\nkind = "file"', "encoder.file is missing"),
        ("", "[encoder]\ndimension = 9999", "encoder.dimension: 9999, give 2 to 4096"),
        ("", "[training]\nrounds = 0", "training.rounds: 0, give 1 to 10000"),
        ("", "[training]\nlr = -1.0", "training.lr: -1, give 0 to 1000"),
        *(
            ("", f"[payment]\n{text}", f"payment.{said}")
            for text, said in (
                ('amount = "1"', "token is missing"),
                ('token = "0x12"\namount = "1"', "token: an address is 0x and 40"),
                (TOKEN, "amount is missing"),
                (TOKEN + 'amount = "much"', "amount: 'much' is no number of tokens"),
                (TOKEN + 'amount = "-1"', "amount: '-1', give a positive"),
                (TOKEN + 'amount = "NaN"', "amount: 'NaN', give a positive"),
                (TOKEN + "amount = 1.5", "amount: a number, not"),
                (TOKEN + "amount = 1", "deadline_hours is missing"),
                (TOKEN + "amount = 1\ndeadline_hours = 0", "deadline_hours: 0, give 0.0002"),
                (TOKEN + "amount = 1\ndeadline_hours = 9000", "deadline_hours: 9000, give"),
                (
                    TOKEN + "amount = 1\ndeadline_hours = 1\ndispute_hours = -1",
                    "dispute_hours: -1, give 0 to 8760",
                ),
                ("foo = 1", "foo: no such key"),
            )
        ),
        (
            "",
            f"[training]\nrounds = 1001\n[payment]\n{TOKEN}amount = 1\ndeadline_hours = 1",
            "training.rounds: 1001, a job that pays has at most 1000",
        ),
        ("", "[training]\nlr = nan", "training.lr: not a finite number"),
        ("", '[training]\nlr = "fast"', "training.lr: text, not"),
        ("", '[training]\nweights = "hidden"', "there are encrypted, plain"),
        ("", "[trainers]\nshards = 33", "trainers.shards: 33, give 1 to 32"),
        ("", "[trainers]\nround_s = 0", "trainers.round_s: 0, give 1 to 86400"),
        ("", "[trainers]\naudit_percent = 101", "trainers.audit_percent: 101, give 0 to 100"),
        ("", "= 1", "not valid TOML"),
    ],
    ids=lambda value: "" if len(str(value)) > 12 else None,
)
def test_a_mistake_is_told_with_its_field(tmp_path: Path, old: str, new: str, said: str) -> None:
    text = GOOD.replace(old, new, 1) if old else GOOD + new
    with pytest.raises(MemberFileError) as caught:
        load_job_file(write(tmp_path, text))
    assert said in str(caught.value)
    assert str(tmp_path / "job.toml") in str(caught.value)
    assert caught.value.exit_code is ExitCode.CONFIGURATION


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MemberFileError, match=r"gone\.toml: cannot be read"):
        load_job_file(tmp_path / "gone.toml")


def test_the_command_tells_a_mistake_before_it_looks_for_a_daemon(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, GOOD.replace("logistic", "deep"))
    assert cli.main(["--home", str(tmp_path), "job", "create", str(path)]) == 3
    assert "head.kind: 'deep'" in capsys.readouterr().err
    path.write_text(GOOD)
    assert cli.main(["--home", str(tmp_path), "job", "create", str(path)]) == 9
    assert "eigen up" in capsys.readouterr().err
    sealed = ["job", "create", str(path), "--mode", "sealed"]
    assert cli.main(["--home", str(tmp_path), *sealed]) == 2, "there is one mode"
