"""Measures what it costs to train apart: a small language model by peers, against all in one place.

`python tests/bench/losses.py --json` runs every row (hours); `--quick` a few small ones (minutes).
Flags pick rows: `--peers 4 --steps 25 --codec int8 --seeds 1 --start warm --split iid`. With
`--into FILE` each finished row is a line there, and rows that it has already are not run again.

`loss_gap` is how far the validation loss lies above that of one machine which sees the same tokens
with the same number of AdamW steps. `upload_reduction` compares the bytes that a peer sends and is
sent with 8 bytes a parameter and step: a gradient in fp32 up, and its mean down.

`start`: `warm` goes on from a trained model (`--warm`), `scratch` from initial parameters.
`split`: `iid` deals the text at random and rotates shards, `dirichlet` gives each peer its own.
"""

import argparse
import hashlib
import json
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
from torch import Tensor

from eigen.protocol.cid import raw_cid
from eigen.protocol.run import AggregationSpec, InnerSpec, ModelSpec, OuterSpec, RunSpec
from eigen.training import checkpoint as checkpoints
from eigen.training.architectures import declare
from eigen.training.codecs.registry import CODECS
from eigen.training.datasets import Samples, split, write_shard
from eigen.training.engine import Engine
from eigen.training.inner import evaluate, local_steps
from eigen.training.models import build, initial_vector
from eigen.training.presets import CHAR_GPT
from eigen.training.spec import MOMENTS
from eigen.training.text import standard_library

SMALL = ModelSpec(
    "gpt", (("context", 64), ("depth", 2), ("heads", 4), ("vocabulary", 128), ("width", 64))
)
"""111k parameters; `--model preset` takes the preset's."""
DEFAULT_CODEC, DEFAULT_STEPS = CHAR_GPT.codec, 25
STARTS, SPLITS = ["warm", "scratch"], ["iid", "dirichlet"]
TOPICS, CONCENTRATION = 64, 0.5
"""The text is cut into stretches, and each is dealt in shares that Dirichlet(0.5) draws."""
OUTER = {
    "sgd": OuterSpec("sgd", 1.0, 0.0),
    "sgd/0.7": OuterSpec("sgd", 0.7, 0.0),
    "nesterov": OuterSpec("nesterov", 0.7, 0.9),
}


@dataclass(frozen=True)
class Row:
    """One way to train; what it is compared with has the same peers, start, budget and seed."""

    peers: int
    start: str
    split: str
    steps: int
    codec: str
    moments: str
    outer: str
    budget: int
    warm: int
    model: str
    batch: int
    lr: float
    seed: int
    overlap: bool = False


def main() -> None:
    options = _options()
    engine = Engine(options.threads, options.device)
    model = CHAR_GPT.model if options.model == "preset" else SMALL
    done = {}
    if options.into and options.into.exists():
        for line in options.into.read_text().splitlines():
            found = json.loads(line)
            done[Row(**found.pop("row"))] = found
    bench = Bench(engine, model, options.batch, options.lr, options.warm)
    results = []
    for row in _rows(options):
        if row not in done:
            done[row] = bench.measure(row)
            if options.into:
                with options.into.open("a") as file:
                    file.write(json.dumps({"row": asdict(row), **done[row]}) + "\n")
        results.append((row, done[row]))
        print(_line(row, done[row]), file=sys.stderr, flush=True)
    summary = _summary(results)
    if options.json:
        print(json.dumps({"parameters": bench.parameters, "rows": summary}))
        return
    for entry in summary:
        print("  ".join(f"{key} {value}" for key, value in entry.items()))


class Bench:
    """Trains what rows say. What several rows compare with is trained once."""

    def __init__(
        self, engine: Engine, model: ModelSpec, batch: int, lr: float, warm_steps: int
    ) -> None:
        self._engine, self._model, self._batch, self._lr = engine, model, batch, lr
        self._warm_steps = warm_steps
        context = dict(model.options)["context"]
        self._training, self._held_out = standard_library(context, unpinned=True)
        self._declared = declare(model)
        self.parameters = self._declared.layout.values
        self._central = cache(self._train_central)
        self._warm = cache(self._train_warm)

    def measure(self, row: Row) -> dict[str, float]:
        """Validation losses, gap and reduction of one row."""
        began = time.perf_counter()
        central = self._central(row.peers, row.start, row.budget, row.seed)
        loss, round_bytes = self._train_apart(row)
        return {
            "central_loss": round(central, 4),
            "loss": round(loss, 4),
            "loss_gap": round(loss / central - 1.0, 5),
            "upload_reduction": round(8 * self.parameters * row.steps / round_bytes, 1),
            "seconds": round(time.perf_counter() - began, 1),
        }

    def _spec(self, row: Row) -> RunSpec:
        return RunSpec(
            name="losses",
            model=self._model,
            dataset=raw_cid(b""),
            rounds=max(1, row.budget // row.steps),
            inner=InnerSpec(row.steps, self._batch, self._lr, 0.01, moments=row.moments),
            outer=OUTER[row.outer],
            codec=row.codec,
            result_codec=row.codec,
            aggregation=AggregationSpec("mean"),
            part_values=CHAR_GPT.part_values,
            trainers_min=1,
            trainers_max=row.peers,
            reward_per_round=0,
            validator_share_bps=0,
            seed=row.seed,
            overlap=bool(row.overlap),
        )

    def _in_one_place(self, theta_P: Tensor, steps: int, batch: int, name: str) -> Tensor:
        inner = InnerSpec(steps, batch, self._lr, 0.01)
        order = hashlib.sha256(name.encode()).digest()
        local = local_steps(build(self._declared), theta_P, self._training, inner, order)
        return theta_P - local.delta_P

    def _begin(self, start: str, seed: int) -> Tensor:
        return self._warm(seed) if start == "warm" else self._initial(seed)

    def _initial(self, seed: int) -> Tensor:
        return initial_vector(self._declared.layout, seed, self._declared.scales)

    def _train_warm(self, seed: int) -> Tensor:
        name, batch = f"warm/{seed}", 2 * self._batch
        return self._in_one_place(self._initial(seed), self._warm_steps, batch, name)

    def _train_central(self, peers: int, start: str, budget: int, seed: int) -> float:
        theta_P = self._begin(start, seed)
        theta_P = self._in_one_place(theta_P, budget, peers * self._batch, f"central/{seed}")
        return evaluate(build(self._declared), theta_P, self._held_out).loss

    def _train_apart(self, row: Row) -> tuple[float, float]:
        """Validation loss, and bytes that a peer sends and is sent in a round."""
        engine, spec = self._engine, self._spec(row)
        begun = checkpoints.initial(spec, self._declared)
        begun = replace(begun, theta_P=self._begin(row.start, row.seed))
        before = checkpoint = checkpoints.write(begun, self._declared)
        shards = [write_shard(shard) for shard in self._shards(row)]
        residuals, kept = [b""] * row.peers, [b""] * row.peers
        carried = [b""] * engine.part_count(spec)
        moved, last = 0, []
        for number in range(spec.rounds):
            updates = []
            for peer in range(row.peers):
                ahead = row.overlap and number > 0
                order, shard = (
                    self._order(row, number, peer),
                    shards[self._shard(row, number - ahead, peer)],
                )
                base, own = (before, last[peer].parts) if ahead else (checkpoint, ())
                steps = engine.local_steps(spec, base, [shard], order, kept[peer], own)
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
    """Every codec with the default number of steps, every number with the default codec."""
    for peers, start, dealt, steps, codec, moments, outer, overlap, seed in product(
        options.peers,
        options.start,
        options.split,
        options.steps,
        options.codec,
        options.moments,
        options.outer,
        options.overlap,
        range(options.seeds),
    ):
        if options.all or steps == DEFAULT_STEPS or codec == DEFAULT_CODEC:
            fixed = (options.budget, options.warm, options.model, options.batch, options.lr)
            yield Row(peers, start, dealt, steps, codec, moments, outer, *fixed, seed, overlap)


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
    parser.add_argument("--quick", action="store_true", help="one seed, 4 peers, 50 steps in all")
    parser.add_argument("--peers", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 25, 50, 100], help="H")
    parser.add_argument("--codec", nargs="+", choices=names, default=names)
    parser.add_argument("--moments", nargs="+", choices=MOMENTS, default=[CHAR_GPT.inner.moments])
    parser.add_argument("--warm", type=int, default=1000, help="steps before a warm start")
    parser.add_argument("--outer", nargs="+", choices=list(OUTER), default=["sgd"])
    parser.add_argument(
        "--overlap", type=int, nargs="+", choices=[0, 1], default=[0], help="1: updates come late"
    )
    parser.add_argument("--start", nargs="+", choices=STARTS, default=STARTS)
    parser.add_argument("--split", nargs="+", choices=SPLITS, default=SPLITS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--all", action="store_true", help="every codec with every H")
    parser.add_argument("--budget", type=int, default=1000, help="AdamW steps in all")
    parser.add_argument("--batch", type=int, default=16, help="sequences of a peer's step")
    parser.add_argument("--lr", type=float, default=0.001)
    parser.add_argument("--model", choices=["small", "preset"], default="small")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--into", type=Path, help="file of finished rows, one a line")
    options = parser.parse_args()
    if options.quick:
        options.peers, options.steps, options.seeds = [4], [DEFAULT_STEPS], 1
        options.start, options.split, options.budget = ["scratch"], ["iid"], 50
    return options


if __name__ == "__main__":
    main()
