"""Run files: what a member writes to propose a run, as TOML, and the spec that it stands for.

name = "digits"
description = "Handwritten digits, four trainers"
rounds = 8
reward_per_round = 100        # DAO tokens
trainers = [2, 16]            # fewest and most in a round
overlap = false               # train on while an update is exchanged

[model]
architecture = "mlp"
inputs = 64

[dataset]
source = "digits"             # or "stdlib"; or: manifest = "bafy…", published before
shards = 4
sealed = true

[inner]
steps = 20
batch = 32
lr = 0.002

[outer]
rule = "sgd"
lr = 1.0

[aggregation]
rule = "cosine-filter"
tolerated_percent = 30        # of the trainers, who may lie

[pay]
by = "contribution"           # or "samples"
share_max_percent = 50        # of a round's reward, to one trainer
held_rounds = 64              # over which pay is released
replay_percent = 5            # of credited rounds
"""

import tomllib
from dataclasses import dataclass, fields
from decimal import Decimal
from pathlib import Path
from typing import Any

from eigen.node.exit_codes import ExitCode, UserError
from eigen.protocol.cid import raw_cid
from eigen.protocol.limits import DESCRIPTION_BYTES_MAX, PART_VALUES_MAX
from eigen.protocol.run import AggregationSpec, InnerSpec, ModelSpec, OuterSpec, PaySpec, RunSpec
from eigen.protocol.types import Cid
from eigen.protocol.wire import WireError, encode_bare

TOKEN = 10**18
RUN_FILE_BYTES_MAX = 256 * 1024
DEFAULT_AGGREGATION = AggregationSpec("cosine-filter", 3_000)
"""The rule that no attack of docs/aggregation.md's tables broke, and the share of liars there."""
DEFAULT_PAY = PaySpec("contribution", share_max_bps=5_000, held_rounds=64, replay_bps=500)
"""With these no way of not doing the work pays: see docs/contribution-proofs.md."""
NUMBER_MAX = 1e300
"""Larger ones are infinite, or too large for a float: no setting comes near."""


class RunFileError(UserError):
    """A run file is wrong; the message names file and key, and what may stand there."""

    def __init__(self, path: Path, message: str) -> None:
        super().__init__(f"{path}: {message}", ExitCode.CONFIGURATION)


@dataclass(frozen=True, slots=True)
class DatasetSource:
    """Where a run's data comes from: a manifest that exists, or a source to seed from.

    `unpinned` takes a source's text as this machine has it, whatever its hash.
    """

    manifest: Cid | None
    source: str | None
    shards: int
    sealed: bool
    unpinned: bool


@dataclass(frozen=True, slots=True)
class RunFile:
    """A run file that was read. `spec` gives the run once the dataset's manifest is known."""

    path: Path
    table: dict[str, Any]
    dataset: DatasetSource
    description: str

    def spec(self, manifest: Cid) -> RunSpec:
        """The run spec. Raises `RunFileError`, naming the field that is wrong."""
        from eigen.training.codecs.registry import CODECS, DEFAULT_CODEC

        reader = _Table(self.path, self.table, "")
        model, inner, outer = (reader.sub(name) for name in ("model", "inner", "outer"))
        aggregation = reader.sub("aggregation", {})
        codec = reader.take("codec", str, DEFAULT_CODEC)
        answer = CODECS[codec].answer if codec in CODECS else codec  # checked with the spec
        options = tuple(
            (name, model.take(name, int)) for name in sorted(model.rest({"architecture"}))
        )
        trainers = reader.take("trainers", list, [2, 16])
        if len(trainers) != 2 or not all(type(n) is int for n in trainers):
            raise RunFileError(self.path, "trainers: give the fewest and the most, as [2, 16]")
        try:
            spec = RunSpec(
                name=reader.take("name", str),
                model=ModelSpec(model.take("architecture", str), options),
                dataset=manifest,
                rounds=reader.take("rounds", int),
                inner=InnerSpec(
                    inner.take("steps", int),
                    inner.take("batch", int),
                    inner.number("lr"),
                    inner.number("weight_decay", 0.0),
                    inner.take("micro_batches", int, 1),
                    inner.take("moments", str, "fresh"),
                    inner.take("precision", str, "fp32"),
                    inner.take("schedule", str, "constant"),
                    inner.take("warmup", int, 0),
                ),
                outer=OuterSpec(
                    outer.take("rule", str, "sgd"),
                    outer.number("lr", 1.0),
                    outer.number("momentum", 0.0),
                ),
                codec=codec,
                result_codec=reader.take("result_codec", str, answer),
                aggregation=_aggregation(aggregation),
                part_values=reader.take("part_values", int, PART_VALUES_MAX),
                trainers_min=trainers[0],
                trainers_max=trainers[1],
                reward_per_round=int(Decimal(repr(reader.number("reward_per_round"))) * TOKEN),
                validator_share_bps=round(100 * reader.number("validator_share_percent", 10.0)),
                seed=reader.take("seed", int, 0),
                overlap=reader.take("overlap", bool, False),
                pay=_pay(reader),
            )
            encode_bare(spec)  # every bound of the wire holds for what a person writes, too
        except (WireError, ValueError) as error:
            raise RunFileError(self.path, _in_file_terms(str(error), options)) from error
        self._check_trainable(spec)
        return spec

    def _check_trainable(self, spec: RunSpec) -> None:
        from eigen.training.errors import SpecError
        from eigen.training.spec import check

        try:
            check(spec)
        except SpecError as error:
            raise RunFileError(self.path, _in_file_terms(str(error), ())) from error


def _aggregation(table: "_Table") -> AggregationSpec:
    rule = table.take("rule", str, DEFAULT_AGGREGATION.rule)
    usual_bps = 0 if rule == "mean" else DEFAULT_AGGREGATION.tolerated_bps
    share_bps = round(100 * table.number("tolerated_percent", usual_bps / 100))
    return AggregationSpec(rule, share_bps)


def _pay(reader: "_Table") -> PaySpec:
    """Replays are the default where rounds can be replayed."""
    pay, overlap = reader.sub("pay", {}), reader.take("overlap", bool, False)
    kept = reader.sub("inner").take("moments", str, "fresh") == "kept"
    usual_bps = 0 if overlap or kept else DEFAULT_PAY.replay_bps
    return PaySpec(
        pay.take("by", str, DEFAULT_PAY.by),
        round(100 * pay.number("share_max_percent", DEFAULT_PAY.share_max_bps / 100)),
        pay.take("held_rounds", int, DEFAULT_PAY.held_rounds),
        round(100 * pay.number("replay_percent", usual_bps / 100)),
    )


_FILE_TERMS = {
    "RunSpec.": "",
    "aggregation.tolerated_bps": "aggregation.tolerated_percent (in hundredths)",
    "model.options.": "model.",
    "trainers_min": "trainers",
    "trainers_max": "trainers",
    "trainers is above trainers": "trainers: the fewest is above the most",
    "pay.share_max_bps": "pay.share_max_percent (in hundredths)",
    "pay.replay_bps": "pay.replay_percent (in hundredths)",
    "validator_share_bps": "validator_share_percent (in hundredths)",
    "dataset: not a CID": "dataset.manifest: not a CID",
}
"""What the wire calls a field, and what a person wrote."""


def _in_file_terms(message: str, options: tuple[tuple[str, int], ...]) -> str:
    for index, (name, _) in enumerate(options):
        for place in ("[0]", "[1]"):
            message = message.replace(f"RunSpec.model.options[{index}]{place}", f"model.{name}")
    for wire, file in _FILE_TERMS.items():
        message = message.replace(wire, file)
    return message


_NAMES = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "a table",
}


class _Table:
    """A TOML table that says where a key is missing, unknown or of the wrong type."""

    def __init__(self, path: Path, table: dict[str, Any], prefix: str) -> None:
        self._path = path
        self._table = table
        self._prefix = prefix

    def take(self, key: str, kind: Any, default: Any = None) -> Any:
        value = self._table.get(key, default)
        name = self._prefix + key
        if value is None:
            raise RunFileError(self._path, f"{name} is missing")
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if type(value) not in kinds:
            wanted = " or ".join(_NAMES[k] for k in kinds)
            given = _NAMES.get(type(value), "a date or time")
            raise RunFileError(self._path, f"{name}: {given}, not {wanted}")
        if value == "" and default is None:
            raise RunFileError(self._path, f"{name} is empty")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.take(key, (float, int), default)
        if not abs(value) <= NUMBER_MAX:  # NaN is not, either
            raise RunFileError(self._path, f"{self._prefix}{key}: not a finite number")
        return float(value)

    def sub(self, key: str, default: dict[str, Any] | None = None) -> "_Table":
        return _Table(self._path, self.take(key, dict, default), f"{key}.")

    def rest(self, known: set[str]) -> list[str]:
        return [key for key in self._table if key not in known]

    def refuse_unknown(self, known: set[str]) -> None:
        for key in self.rest(known):
            accepted = ", ".join(sorted(known))
            raise RunFileError(
                self._path, f"{self._prefix}{key}: no such key; there are {accepted}"
            )


_TOP = {
    "name",
    "description",
    "rounds",
    "reward_per_round",
    "validator_share_percent",
    "trainers",
    "codec",
    "result_codec",
    "aggregation",
    "part_values",
    "seed",
    "overlap",
    "pay",
    "model",
    "dataset",
    "inner",
    "outer",
}


_INNER = {field.name for field in fields(InnerSpec)}


def load_run_file(path: Path) -> RunFile:
    """Read a run file and check all of it, the run spec too. Raises `RunFileError`."""
    try:
        with path.open("rb") as file:
            text = file.read(RUN_FILE_BYTES_MAX + 1)
        if len(text) > RUN_FILE_BYTES_MAX:
            raise RunFileError(path, f"over {RUN_FILE_BYTES_MAX} bytes: no run file")
        table = tomllib.loads(text.decode())
    except OSError as error:
        raise RunFileError(path, f"cannot be read: {error.strerror}") from error
    except RecursionError as error:
        raise RunFileError(path, "not valid TOML: nested too deeply") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RunFileError(path, f"not valid TOML: {error}") from error
    top = _Table(path, table, "")
    top.refuse_unknown(_TOP)
    top.sub("inner").refuse_unknown(_INNER)
    top.sub("outer").refuse_unknown({"rule", "lr", "momentum"})
    top.sub("aggregation", {}).refuse_unknown({"rule", "tolerated_percent"})
    top.sub("pay", {}).refuse_unknown({"by", "share_max_percent", "held_rounds", "replay_percent"})
    data = top.sub("dataset")
    data.refuse_unknown({"manifest", "source", "shards", "sealed", "unpinned"})
    if ("manifest" in table["dataset"]) == ("source" in table["dataset"]):
        raise RunFileError(path, "dataset: give either manifest or source")
    manifest = data.take("manifest", str) if "manifest" in table["dataset"] else None
    dataset = DatasetSource(
        Cid(manifest) if manifest else None,
        None if manifest else data.take("source", str),
        data.take("shards", int, 4),
        data.take("sealed", bool, True),
        data.take("unpinned", bool, False),
    )
    description = top.take("description", str, "")
    if (size := len(description.encode())) > DESCRIPTION_BYTES_MAX:
        raise RunFileError(path, f"description: {size} bytes, at most {DESCRIPTION_BYTES_MAX}")
    run_file = RunFile(path, table, dataset, description)
    run_file.spec(dataset.manifest or raw_cid(b""))  # before anything is stored or sent for it
    return run_file
