"""Measures what it costs to train apart: a small language model by peers, against all in one place.

`python tests/bench/losses.py --json` runs every row (hours); `--quick` a few small ones (minutes).
Flags pick rows: `--peers 4 --steps 30 --codec 2bit --seeds 1 --start warm --split iid`. With
`--into FILE` each result is a line there, and what it has already is not run again; trained models
to start from are kept beside it.

`loss_gap` is how far the validation loss lies above that of one machine which sees the same tokens
with the same number of AdamW steps and the same schedule, at the best of the rates in
`--central-lr`. `upload_reduction` compares the bytes that a peer sends and is sent with 8 bytes a
parameter and step: a gradient in fp32 up, and its mean down.

`start`: `warm` goes on from a trained model (`--warm`), the same for all seeds, `scratch` from
initial parameters.
`split`: `iid` deals the text at random and rotates shards, `dirichlet` gives each peer its own.
"""

import argparse
import hashlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eigen.protocol.cid import raw_cid
from eigen.protocol.run import AggregationSpec, InnerSpec, ModelSpec, OuterSpec, RunSpec
from eigen.training import checkpoint as checkpoints
from eigen.training.aggregation import RULES
from eigen.training.architectures import declare
from eigen.training.codecs.registry import CODECS, DEFAULT_CODEC
from eigen.training.datasets import Samples, split, write_shard
from eigen.training.engine import Engine
from eigen.training.inner import evaluate, local_steps
from eigen.training.models import build, initial_vector
from eigen.training.presets import CHAR_GPT
from eigen.training.schedule import SCHEDULES, rates
from eigen.training.spec import MOMENTS
from eigen.training.text import standard_library


def _gpt(context: int) -> ModelSpec:
    shape = (("depth", 2), ("heads", 4), ("vocabulary", 128), ("width", 64))
    return ModelSpec("gpt", (("context", context), *shape))


MODELS = {"short": _gpt(32), "small": _gpt(64), "preset": CHAR_GPT.model}
"""109k, 111k and 418k parameters."""
TOLERATED_BPS = 3_000
"""What a run file means that names a robust rule and no share of liars."""
ANSWER = "answer"
"""The result's codec that a run file means which names none."""
STARTS, SPLITS = ["warm", "scratch"], ["iid", "dirichlet"]
WARM_BATCH = 16
"""Sequences of a step of the training before a warm start."""
TOPICS, CONCENTRATION = 64, 0.5
"""The text is cut into stretches, and each is dealt in shares that Dirichlet(0.5) draws."""


@dataclass(frozen=True)
class Alone:
    """Training in one place, with the batches of all peers in each step."""

    peers: int
    start: str
    schedule: str
    warmup: int
    budget: int
    warm: int
    warm_lr: float
    model: str
    batch: int
    lr: float
    seed: int
    overlap: bool = False


@dataclass(frozen=True, kw_only=True)
class Row(Alone):
    """Training apart."""

    split: str
    steps: int
    codec: str
    result_codec: str
    rule: str
    moments: str
    outer: str


def main() -> None:
    options = _options()
    engine = Engine(options.threads, options.device)
    bench = Bench(engine, MODELS[options.model], options)
    results = []
    for row in _rows(options):
        results.append((row, bench.measure(row)))
        print(_line(*results[-1]), file=sys.stderr, flush=True)
    summary = _summary(results)
    if options.json:
        print(json.dumps({"parameters": bench.parameters, "rows": summary}))
        return
    for entry in summary:
        print("  ".join(f"{key} {value}" for key, value in entry.items()))


class Bench:
    """Trains what rows say. What several rows compare with is trained once."""

    def __init__(self, engine: Engine, model: ModelSpec, options: argparse.Namespace) -> None:
        self._engine, self._model = engine, model
        self._into: Path | None = options.into
        self._central_lrs: list[float] = options.central_lr
        context = dict(model.options)["context"]
        self._training, self._held_out = standard_library(context, unpinned=True)
        self._declared = declare(model)
        self.parameters = self._declared.layout.values
        self._warm = cache(self._train_warm)

    def measure(self, row: Row) -> dict[str, float]:
        """Validation losses, gap and reduction of one row."""
        alone = Alone(**{field.name: getattr(row, field.name) for field in fields(Alone)})
        apart = self._once(row, partial(self._apart, row))
        central_loss, central_lr = min(
            (self._once(at, partial(self._central, at))["loss"], at.lr)
            for at in [replace(alone, lr=lr) for lr in self._central_lrs or [row.lr]]
        )
        return {
            "central_lr": central_lr,
            "central_loss": central_loss,
            "loss": apart["loss"],
            "loss_gap": round(apart["loss"] / central_loss - 1.0, 5),
            "upload_reduction": apart["upload_reduction"],
            "seconds": apart["seconds"],
        }

    def _once(self, at: Alone, train: Callable[[], dict[str, float]]) -> dict[str, float]:
        """What the file says of it, or what training gives, which the file then has."""
        key = {"of": type(at).__name__} | asdict(at)
        if self._into and self._into.exists():
            for line in self._into.read_text().splitlines():
                found: dict[str, Any] = json.loads(line)
                if found.pop("at") == key:
                    return found
        began = time.perf_counter()
        result = train() | {"seconds": round(time.perf_counter() - began, 1)}
        if self._into:
            with self._into.open("a") as file:
                file.write(json.dumps({"at": key} | result) + "\n")
        return result

    def _apart(self, row: Row) -> dict[str, float]:
        loss, round_bytes = self._train_apart(row)
        reduction = round(8 * self.parameters * row.steps / round_bytes, 1)
        return {"loss": round(loss, 5), "upload_reduction": reduction}

    def _spec(self, row: Row) -> RunSpec:
        tolerated_bps = TOLERATED_BPS if RULES[row.rule].robust else 0
        answer = CODECS[row.codec].answer if row.result_codec == ANSWER else row.result_codec
        return replace(
            self._run(row, row.steps, row.batch),
            outer=_outer(row.outer),
            codec=row.codec,
            result_codec=answer,
            aggregation=AggregationSpec(row.rule, tolerated_bps),
        )

    def _run(self, at: Alone, steps: int, batch: int) -> RunSpec:
        """Training as a run of rounds of so many steps; in one place it is a single round."""
        moments = at.moments if isinstance(at, Row) else "fresh"
        overlap = isinstance(at, Row) and bool(at.overlap)
        schedule = {"schedule": at.schedule, "warmup": at.warmup}
        return RunSpec(
            name="losses",
            model=self._model,
            dataset=raw_cid(b""),
            rounds=max(1, at.budget // steps),
            inner=InnerSpec(steps, batch, at.lr, 0.01, moments=moments, **schedule),
            outer=OuterSpec("sgd", 1.0, 0.0),
            codec="fp32",
            result_codec="fp32",
            aggregation=AggregationSpec("mean"),
            part_values=CHAR_GPT.part_values,
            trainers_min=1,
            trainers_max=at.peers,
            reward_per_round=0,
            validator_share_bps=0,
            seed=at.seed,
            overlap=overlap,
        )

    def _in_one_place(self, theta_P: Tensor, spec: RunSpec, name: str) -> Tensor:
        order = hashlib.sha256(name.encode()).digest()
        model = build(self._declared)
        local = local_steps(model, theta_P, self._training, spec.inner, order, rates=rates(spec, 0))
        return theta_P - local.delta_P

    def _begin(self, at: Alone) -> Tensor:
        if at.start == "scratch":
            return initial_vector(self._declared.layout, at.seed, self._declared.scales)
        return self._warm(at.warm, at.warm_lr)

    def _train_warm(self, steps: int, lr: float) -> Tensor:
        at = Alone(1, "scratch", "constant", 0, steps, 0, lr, "", WARM_BATCH, lr, 0)
        name = f"warm-{self.parameters}-{steps}-{lr}.npy"
        kept = self._into.with_name(name) if self._into else None
        if kept and kept.exists():
            return torch.from_numpy(np.load(kept))
        theta_P = self._in_one_place(self._begin(at), self._run(at, steps, WARM_BATCH), name)
        if kept:
            np.save(kept, theta_P.numpy())
        return theta_P

    def _central(self, at: Alone) -> dict[str, float]:
        spec = self._run(at, at.budget, at.peers * at.batch)
        theta_P = self._in_one_place(self._begin(at), spec, f"central/{at.seed}")
        loss = evaluate(build(self._declared), theta_P, self._held_out).loss
        return {"loss": round(loss, 5)}

    def _train_apart(self, row: Row) -> tuple[float, float]:
        """Validation loss, and bytes that a peer sends and is sent in a round."""
        engine, spec = self._engine, self._spec(row)
        begun = checkpoints.initial(spec, self._declared)
        begun = replace(begun, theta_P=self._begin(row))
        before = checkpoint = checkpoints.write(begun, self._declared)
        shards = [write_shard(shard) for shard in self._shards(row)]
        residuals, kept = [b""] * row.peers, [b""] * row.peers
        carried = [b""] * engine.part_count(spec)
        moved, last = 0, []
        for number in range(spec.rounds):
            updates = []
            for peer in range(row.peers):
                ahead = row.overlap and number > 0
                shard = shards[self._shard(row, number - ahead, peer)]
                order = self._order(row, number, peer)
                base, own = (before, last[peer].parts) if ahead else (checkpoint, ())
                steps = engine.local_steps(spec, base, [shard], order, number, kept[peer], own)
                update = steps.encoded(engine.encode(spec, steps.delta, residuals[peer]))
                residuals[peer], kept[peer] = update.residual, update.kept
                updates.append(update)
            last, results = updates, []
            for part in range(len(carried)):
                inputs = [(update.parts[part], update.samples) for update in updates]
                average = engine.aggregate(spec, part, inputs, carried[part])
                carried[part] = average.carried
                results.append(average.data)
            moved += sum(map(len, updates[0].parts)) + sum(map(len, results))
            before, checkpoint = checkpoint, engine.outer_step(spec, checkpoint, results)
        loss = engine.evaluate(spec, checkpoint, write_shard(self._held_out)).loss
        return loss, moved / spec.rounds

    def _order(self, row: Row, number: int, peer: int) -> bytes:
        return hashlib.sha256(f"{row.seed}/{number}/{peer}".encode()).digest()

    def _shard(self, row: Row, number: int, peer: int) -> int:
        return (peer + (number if row.split == "iid" else 0)) % row.peers

    def _shards(self, row: Row) -> list[Samples]:
        if row.split == "iid":
            return split(self._training, row.peers, row.seed)
        generator = np.random.default_rng(row.seed)
        dealt: list[list[np.ndarray]] = [[] for _ in range(row.peers)]
        for topic in np.array_split(np.arange(len(self._training)), TOPICS):
            shares = generator.dirichlet([CONCENTRATION] * row.peers)
            cuts = (shares.cumsum()[:-1] * len(topic)).astype(int)
            for peer, piece in enumerate(np.split(topic, cuts)):
                dealt[peer].append(piece)
        return [self._training.take(np.concatenate(pieces)) for pieces in dealt]


def _rows(options: argparse.Namespace) -> Iterator[Row]:
    """Every combination that the flags allow."""
    fixed = ("schedule", "warmup", "budget", "warm", "warm_lr", "model", "batch", "lr")
    shared = {name: getattr(options, name) for name in fixed}
    varied = {
        "peers": options.peers,
        "start": options.start,
        "split": options.split,
        "steps": options.steps,
        "codec": options.codec,
        "result_codec": options.result_codec,
        "rule": options.rule,
        "moments": options.moments,
        "outer": options.outer,
        "overlap": options.overlap,
        "seed": range(options.seeds),
    }
    for values in product(*varied.values()):
        yield Row(**shared, **dict(zip(varied, values, strict=True)))


def _outer(name: str) -> OuterSpec:
    """`sgd/1.0` or `nesterov/0.7/0.9`: rule, learning rate, momentum."""
    rule, lr, *momentum = name.split("/")
    return OuterSpec(rule, float(lr), float(*momentum or ["0"]))


def _summary(results: list[tuple[Row, dict[str, float]]]) -> list[dict[str, object]]:
    """Rows that differ in their seed alone, as one: means, and the largest gap."""
    grouped: dict[Row, list[dict[str, float]]] = {}
    for row, found in results:
        grouped.setdefault(replace(row, seed=0), []).append(found)
    return [
        {key: value for key, value in asdict(row).items() if key != "seed"}
        | {"seeds": len(found)}
        | {key: round(statistics.mean(f[key] for f in found), 5) for key in found[0]}
        | {"loss_gap_max": max(f["loss_gap"] for f in found)}
        for row, found in grouped.items()
    ]


def _line(row: Row, found: dict[str, float]) -> str:
    return " ".join(f"{key}={value}" for key, value in {**asdict(row), **found}.items())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    names = sorted(CODECS)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="one seed, 4 peers, 60 steps in all")
    parser.add_argument("--peers", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--steps", type=int, nargs="+", default=[30], help="H")
    parser.add_argument("--codec", nargs="+", choices=names, default=[DEFAULT_CODEC])
    parser.add_argument("--result-codec", nargs="+", choices=[ANSWER, *names], default=[ANSWER])
    parser.add_argument("--rule", nargs="+", choices=sorted(RULES), default=["mean"])
    parser.add_argument("--moments", nargs="+", choices=MOMENTS, default=["shared"])
    parser.add_argument("--warm", type=int, default=10_000, help="steps before a warm start")
    parser.add_argument("--warm-lr", type=float, default=0.004, help="their learning rate")
    parser.add_argument("--outer", nargs="+", default=["sgd/2.0"], help="or nesterov/0.7/0.9")
    parser.add_argument("--schedule", choices=list(SCHEDULES), default="cosine")
    parser.add_argument("--warmup", type=int, default=0, help="steps until the rate is full")
    parser.add_argument(
        "--overlap", type=int, nargs="+", choices=[0, 1], default=[0], help="1: updates come late"
    )
    parser.add_argument("--start", nargs="+", choices=STARTS, default=STARTS)
    parser.add_argument("--split", nargs="+", choices=SPLITS, default=SPLITS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", type=int, default=300, help="AdamW steps in all")
    parser.add_argument("--batch", type=int, default=16, help="sequences of a peer's step")
    parser.add_argument("--lr", type=float, default=0.002)
    parser.add_argument("--central-lr", type=float, nargs="+", help="the best of them; or as --lr")
    parser.add_argument("--model", choices=list(MODELS), default="short")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--into", type=Path, help="file of finished rows, one a line")
    options = parser.parse_args()
    if options.quick:
        options.peers, options.steps, options.seeds = [4], [30], 1
        options.start, options.split, options.budget = ["scratch"], ["iid"], 60
    return options


if __name__ == "__main__":
    main()
