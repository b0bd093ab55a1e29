"""Run files: what a person may write, and that every mistake is named with its file and key."""

from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eigen.node.exit_codes import ExitCode
from eigen.node.run_file import (
    DEFAULT_AGGREGATION,
    RUN_FILE_BYTES_MAX,
    TOKEN,
    RunFileError,
    load_run_file,
)
from eigen.protocol.cid import raw_cid
from eigen.protocol.run import AggregationSpec
from eigen.protocol.wire import encode_bare

GOOD = """
name = "digits"
rounds = 8
reward_per_round = 0.1
trainers = [2, 16]
[model]
architecture = "mlp"
inputs = 64
hidden = 128
depth = 1
classes = 10
[dataset]
source = "digits"
[inner]
steps = 20
batch = 32
lr = 0.002
[aggregation]
[outer]
"""
MANIFEST = raw_cid(b"a manifest")
DIGITS = "1" + "0" * 400


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(text)
    return path


def test_a_good_file_gives_the_spec_that_it_says(tmp_path: Path) -> None:
    run_file = load_run_file(write(tmp_path, GOOD))
    spec = run_file.spec(MANIFEST)
    assert (spec.name, spec.rounds, spec.dataset) == ("digits", 8, MANIFEST)
    assert (spec.trainers_min, spec.trainers_max) == (2, 16)
    assert spec.reward_per_round == TOKEN // 10, "a tenth, without float's dust"
    assert spec.validator_share_bps == 1000
    assert dict(spec.model.options) == {"inputs": 64, "hidden": 128, "depth": 1, "classes": 10}
    assert list(spec.model.options) == sorted(spec.model.options)
    assert (run_file.dataset.source, run_file.dataset.manifest) == ("digits", None)
    assert (run_file.dataset.shards, run_file.dataset.sealed) == (4, True)
    assert encode_bare(spec) == encode_bare(load_run_file(run_file.path).spec(MANIFEST))


def test_an_answer_travels_as_its_codec_says_unless_the_file_does(tmp_path: Path) -> None:
    for line, codecs in (
        ("", ("2bit", "2bit")),
        ('codec = "int8"', ("int8", "int8")),
        ('codec = "top64-2bit"', ("top64-2bit", "top256-2bit")),
        ('codec = "top64-2bit"\nresult_codec = "fp16"', ("top64-2bit", "fp16")),
        ('result_codec = "int8"', ("2bit", "int8")),
    ):
        spec = load_run_file(write(tmp_path, f"{line}\n{GOOD}")).spec(MANIFEST)
        assert (spec.codec, spec.result_codec) == codecs


def test_rounds_overlap_where_the_file_says_so(tmp_path: Path) -> None:
    for line, overlap in (("", False), ("overlap = true", True), ("overlap = false", False)):
        spec = load_run_file(write(tmp_path, f"{line}\n{GOOD}")).spec(MANIFEST)
        assert spec.overlap is overlap


def test_three_in_ten_may_lie_unless_the_file_says_otherwise(tmp_path: Path) -> None:
    def aggregation(lines: str) -> AggregationSpec:
        text = GOOD.replace("[aggregation]", "[aggregation]\n" + lines)
        return load_run_file(write(tmp_path, text)).spec(MANIFEST).aggregation

    assert aggregation("") == DEFAULT_AGGREGATION == AggregationSpec("cosine-filter", 3_000)
    assert aggregation("tolerated_percent = 12.5") == AggregationSpec("cosine-filter", 1_250)
    assert aggregation('rule = "median"') == AggregationSpec("median", 3_000)
    assert aggregation('rule = "mean"') == AggregationSpec("mean", 0)
    with pytest.raises(RunFileError, match="mean tolerates none"):
        aggregation('rule = "mean"\ntolerated_percent = 30')


def test_a_schedule_is_what_the_file_says(tmp_path: Path) -> None:
    plain = load_run_file(write(tmp_path, GOOD)).spec(MANIFEST).inner
    assert (plain.schedule, plain.warmup) == ("constant", 0)
    text = GOOD.replace("lr = 0.002", 'lr = 0.002\nschedule = "cosine"\nwarmup = 16')
    inner = load_run_file(write(tmp_path, text)).spec(MANIFEST).inner
    assert (inner.schedule, inner.warmup) == ("cosine", 16)


def test_a_manifest_may_stand_for_the_source(tmp_path: Path) -> None:
    text = GOOD.replace('source = "digits"', f'manifest = "{MANIFEST}"')
    run_file = load_run_file(write(tmp_path, text))
    assert (run_file.dataset.manifest, run_file.dataset.source) == (MANIFEST, None)


WRONG = {
    "name": [("", "missing"), ("3", "text"), ('""', "empty"), (f'"{"x" * 300}"', "300")],
    "rounds": [
        ("", "missing"),
        ("0", "1 to"),
        ("8.0", "whole"),
        ("true", "whole"),
        (DIGITS, "1 to"),
    ],
    "reward_per_round": [
        ("", "missing"),
        ("inf", "finite"),
        ("nan", "finite"),
        ("-1", "amount"),
        ("1e40", "uint128"),
        ('"100"', "number"),
        ("2026-01-01", "date"),
    ],
    "trainers": [
        ("[2]", "fewest"),
        ('["a", 3]', "fewest"),
        ("[16, 2]", "above"),
        ("[0, 2]", "1 to 128"),
        ("[2, 999]", "1 to 128"),
        ("2", "list"),
    ],
    "validator_share_percent": [("inf", "finite"), ("101", "10000"), ("-1", "10000")],
    "seed": [("-1", "0 to"), (DIGITS, "0 to"), ("1.5", "whole")],
    "overlap": [("1", "true or false"), ('"yes"', "true or false")],
    "part_values": [("3", "256"), ("1000000000", "131072")],
    "codec": [('"zip"', "int8")],
    "result_codec": [('"zip"', "int8")],
    "aggregation": [('"mean"', "table")],
    "aggregation.rule": [('"max"', "mean")],
    "aggregation.tolerated_percent": [
        ("51", "5000"),
        ("50", "4999"),
        ("0", "1 to"),
        ("inf", "fin"),
    ],
    "aggregation.colour": [("1", "rule")],
    "description": [("7", "text"), (f'"{"ä" * 2100}"', "4096")],
    "colour": [("1", "rounds")],
    "model.architecture": [("", "missing"), ('"gpt9"', "mlp")],
    "model.inputs": [("64.5", "whole"), ("-64", "within"), (DIGITS, "within")],
    "model.colour": [("1", "hidden")],
    "dataset.source": [("3", "text"), ('""', "empty")],
    "dataset.manifest": [('"bafy"', "CID")],
    "dataset.shards": [('"4"', "whole")],
    "dataset.sealed": [("1", "true or false")],
    "dataset.unpinned": [("1", "true or false")],
    "dataset.colour": [("1", "sealed")],
    "inner.steps": [("0", "1 to"), ("100000", "1024"), ("", "missing")],
    "inner.batch": [("0", "1 to")],
    "inner.lr": [("inf", "finite"), ("nan", "finite"), (DIGITS, "finite"), ("-1.0", "above 0")],
    "inner.weight_decay": [(DIGITS, "finite"), ("-1.0", "at least 0")],
    "inner.momentum": [("1", "batch")],
    "inner.schedule": [('"steps"', "constant, cosine, linear"), ("3", "text")],
    "inner.warmup": [("160", "0 to 159"), ("-1", "0 to"), ("0.5", "whole")],
    "outer.rule": [('"adam"', "nesterov"), ("1", "text")],
    "outer.lr": [("0.0", "lr: 0.0"), ("nan", "finite")],
    "outer.momentum": [("2.0", "sgd")],
    "model": [("3", "missing|table")],
    "inner": [("3", "missing|table")],
}
CASES = [(key, value, hint) for key, values in WRONG.items() for value, hint in values]


def changed(key: str, value: str) -> str:
    """The good file with one key set to something else, or left out."""
    table, _, name = key.rpartition(".")
    lines, inside, done = [], "", False
    if "." not in key and f"[{key}]" in GOOD:
        kept = GOOD.split(f"[{key}]")
        rest = kept[1].partition("\n[")
        return f"{key} = {value}\n{kept[0]}\n[{rest[2]}"
    if key == "dataset.manifest":
        return GOOD.replace('source = "digits"', f"manifest = {value}")
    for line in GOOD.splitlines():
        if line.startswith("["):
            if inside == table and not done:
                lines.append(f"{name} = {value}")
                done = True
            inside = line.strip("[]")
        if inside == table and line.startswith(f"{name} ="):
            done = True
            if value:
                lines.append(f"{name} = {value}")
            continue
        lines.append(line)
    if not done:
        lines.append(f"{name} = {value}")
    return "\n".join(lines)


@pytest.mark.parametrize(("key", "value", "hint"), CASES, ids=[f"{k}={v[:9]}" for k, v, _ in CASES])
def test_a_mistake_names_file_key_and_what_may_stand_there(
    tmp_path: Path, key: str, value: str, hint: str
) -> None:
    path = write(tmp_path, changed(key, value))
    with pytest.raises(RunFileError, match=hint) as caught:
        load_run_file(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert key in message
    assert "\n" not in message
    assert caught.value.exit_code == ExitCode.CONFIGURATION


@pytest.mark.parametrize("name", ["model", "inner", "outer", "dataset"])
def test_a_missing_table_is_named(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, GOOD.replace(f"[{name}]", f"[other_{name}]"))
    with pytest.raises(RunFileError, match=name):
        load_run_file(path)


@pytest.mark.parametrize("both", [True, False])
def test_a_dataset_has_a_source_or_a_manifest(tmp_path: Path, both: bool) -> None:
    line = f'source = "digits"\nmanifest = "{MANIFEST}"' if both else "shards = 4"
    with pytest.raises(RunFileError, match="dataset: give either manifest or source"):
        load_run_file(write(tmp_path, GOOD.replace('source = "digits"', line)))


def test_what_is_no_file_no_text_or_no_toml_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunFileError, match=r"nowhere.toml: cannot be read: No such file"):
        load_run_file(tmp_path / "nowhere.toml")
    with pytest.raises(RunFileError, match="cannot be read: Is a directory"):
        load_run_file(tmp_path)
    with pytest.raises(RunFileError, match="not valid TOML"):
        load_run_file(write(tmp_path, GOOD.replace("[inner]", "[inner")))
    path = tmp_path / "latin.toml"
    path.write_bytes(GOOD.replace("digits", "Zahlen für").encode("latin-1"))
    with pytest.raises(RunFileError, match="not valid TOML"):
        load_run_file(path)
    with pytest.raises(RunFileError, match=str(RUN_FILE_BYTES_MAX)):
        load_run_file(write(tmp_path, GOOD + "#" * RUN_FILE_BYTES_MAX))
    with pytest.raises(RunFileError, match="not valid TOML"):
        load_run_file(write(tmp_path, "x = " + "[" * 5000))


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.decimals(0, 10**9, places=6))
def test_rewards_are_exact(tmp_path: Path, tokens: Decimal) -> None:
    text = GOOD.replace("reward_per_round = 0.1", f"reward_per_round = {tokens:f}")
    spec = load_run_file(write(tmp_path, text)).spec(MANIFEST)
    assert spec.reward_per_round == tokens * TOKEN
