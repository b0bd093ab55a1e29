"""Run files: what a member writes to propose a run, as TOML, and the spec that it stands for.

name = "digits"
description = "Handwritten digits, four trainers"
rounds = 8
reward_per_round = 100        # DAO tokens
trainers = [2, 16]            # fewest and most in a round

[model]
architecture = "mlp"
inputs = 64

[dataset]
source = "digits"             # or: manifest = "bafy…", published before
shards = 4
sealed = true

[inner]
steps = 20
batch = 32
lr = 0.002

[outer]
rule = "sgd"
lr = 1.0
"""

import tomllib
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from eigen.node.exit_codes import ExitCode, UserError
from eigen.protocol.limits import PART_VALUES_MAX
from eigen.protocol.run import InnerSpec, ModelSpec, OuterSpec, RunSpec
from eigen.protocol.types import Cid
from eigen.protocol.wire import WireError, encode_bare

TOKEN = 10**18
RUN_FILE_BYTES_MAX = 256 * 1024


class RunFileError(UserError):
    """A run file is wrong; the message names file and key, and what may stand there."""

    def __init__(self, path: Path, message: str) -> None:
        super().__init__(f"{path}: {message}", ExitCode.CONFIGURATION)


@dataclass(frozen=True, slots=True)
class DatasetSource:
    """Where a run's data comes from: a manifest that exists, or a source to seed from."""

    manifest: Cid | None
    source: str | None
    shards: int
    sealed: bool


@dataclass(frozen=True, slots=True)
class RunFile:
    """A run file that was read. `spec` gives the run once the dataset's manifest is known."""

    path: Path
    table: dict[str, Any]
    dataset: DatasetSource
    description: str

    def spec(self, manifest: Cid) -> RunSpec:
        """The run spec. Raises `RunFileError`, naming the field that is wrong."""
        reader = _Table(self.path, self.table, "")
        model, inner, outer = (reader.sub(name) for name in ("model", "inner", "outer"))
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
                    float(inner.take("lr", (float, int))),
                    float(inner.take("weight_decay", (float, int), 0.0)),
                ),
                outer=OuterSpec(
                    outer.take("rule", str, "sgd"),
                    float(outer.take("lr", (float, int), 1.0)),
                    float(outer.take("momentum", (float, int), 0.0)),
                ),
                codec=reader.take("codec", str, "int8"),
                aggregation=reader.take("aggregation", str, "mean"),
                part_values=reader.take("part_values", int, PART_VALUES_MAX),
                trainers_min=trainers[0],
                trainers_max=trainers[1],
                reward_per_round=int(
                    Decimal(str(reader.take("reward_per_round", (int, float)))) * TOKEN
                ),
                validator_share_bps=round(
                    100 * reader.take("validator_share_percent", (int, float), 10)
                ),
                seed=reader.take("seed", int, 0),
            )
            encode_bare(spec)  # every bound of the wire holds for what a person writes, too
        except (WireError, ValueError) as error:
            raise RunFileError(self.path, str(error)) from error
        self._check_trainable(spec)
        return spec

    def _check_trainable(self, spec: RunSpec) -> None:
        from eigen.training.errors import SpecError
        from eigen.training.spec import check

        try:
            check(spec)
        except SpecError as error:
            raise RunFileError(self.path, str(error)) from error


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
            wanted = " or ".join(k.__name__ for k in kinds)
            raise RunFileError(self._path, f"{name}: a {type(value).__name__}, not a {wanted}")
        return value

    def sub(self, key: str) -> "_Table":
        return _Table(self._path, self.take(key, dict), f"{key}.")

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
    "aggregation",
    "part_values",
    "seed",
    "model",
    "dataset",
    "inner",
    "outer",
}


def load_run_file(path: Path) -> RunFile:
    """Read a run file. Raises `RunFileError`."""
    try:
        with path.open("rb") as file:
            text = file.read(RUN_FILE_BYTES_MAX + 1)
        if len(text) > RUN_FILE_BYTES_MAX:
            raise RunFileError(path, f"over {RUN_FILE_BYTES_MAX} bytes: no run file")
        table = tomllib.loads(text.decode())
    except OSError as error:
        raise RunFileError(path, f"cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RunFileError(path, f"not valid TOML: {error}") from error
    top = _Table(path, table, "")
    top.refuse_unknown(_TOP)
    top.sub("inner").refuse_unknown({"steps", "batch", "lr", "weight_decay"})
    top.sub("outer").refuse_unknown({"rule", "lr", "momentum"})
    data = top.sub("dataset")
    data.refuse_unknown({"manifest", "source", "shards", "sealed"})
    if ("manifest" in table["dataset"]) == ("source" in table["dataset"]):
        raise RunFileError(path, "dataset: give either manifest or source")
    manifest = data.take("manifest", str, "") or None
    dataset = DatasetSource(
        Cid(manifest) if manifest else None,
        data.take("source", str, "") or None,
        data.take("shards", int, 4),
        data.take("sealed", bool, True),
    )
    return RunFile(path, table, dataset, top.take("description", str, ""))
