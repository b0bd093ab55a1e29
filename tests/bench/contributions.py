"""Measures how well pay follows what trainers are worth: contributions against Shapley values.

`python tests/bench/contributions.py --json` prints one JSON object; `--quick` takes one seed.

Six trainers train the digits. The true Shapley value of each is exact: every one of the 64 groups
of trainers trains from the start, and what a trainer is worth is how much lower the loss on digits
that nobody trains on is with it, averaged over the orders in which they may join (Shapley 1953).
Scores come from one run of all six. `spearman` is the rank correlation, its mean and its least.

`paid` is what one cheat among four trainers earns by contribution, of an honest trainer's pay, with
the digits' preset: its mean over the rounds.
"""

import argparse
import hashlib
import json
import time
from dataclasses import replace
from itertools import combinations
from math import comb

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from eigen.protocol.cid import raw_cid
from eigen.protocol.run import AggregationSpec, InnerSpec, ModelSpec, OuterSpec, RunSpec
from eigen.training.codecs.registry import CODECS
from eigen.training.datasets import Samples, digits, split, write_shard
from eigen.training.engine import Engine
from eigen.training.presets import DIGITS
from eigen.training.results import LocalUpdate
from eigen.training.spec import part_sizes

TRAINERS, SEEDS = 6, 5
NOISE = (0.0, 0.1, 0.2, 0.4, 0.6, 0.8)
"""Shares of labels drawn at random, by trainer."""
ALPHA = 0.4
"""Each class is dealt in shares that Dirichlet(0.4) draws."""
SETTINGS = ("label noise", "dirichlet", "both")
SCORES = ("contribution", "loss alone", "length", "samples")


def spec_of(seed: int) -> RunSpec:
    return RunSpec(
        name="contributions",
        model=ModelSpec("mlp", (("classes", 10), ("depth", 1), ("hidden", 32), ("inputs", 64))),
        dataset=raw_cid(b""),
        rounds=6,
        inner=InnerSpec(steps=8, batch=16, lr=0.01, weight_decay=0.0),
        outer=OuterSpec("sgd", 1.0, 0.0),
        codec="int8",
        result_codec="int8",
        aggregation=AggregationSpec("mean"),
        part_values=65_536,
        trainers_min=1,
        trainers_max=TRAINERS,
        reward_per_round=0,
        validator_share_bps=0,
        seed=seed,
    )


def deal(samples: Samples, setting: str, rng: np.random.Generator) -> list[Samples]:
    """One shard for each trainer, of 16 samples at least."""
    labels, hands = samples.y_N.copy(), list[NDArray[np.int64]]()
    if setting == "label noise":
        hands = list(np.array_split(rng.permutation(len(labels)), TRAINERS))
    else:
        dealt: list[list[int]] = [[] for _ in range(TRAINERS)]
        for digit in range(10):
            places = rng.permutation(np.flatnonzero(labels == digit))
            cuts = np.cumsum(rng.dirichlet([ALPHA] * TRAINERS))[:-1] * len(places)
            for hand, piece in zip(dealt, np.split(places, cuts.astype(int)), strict=True):
                hand.extend(piece)
        spare = rng.permutation(len(labels))
        hands = [np.array(hand + list(spare[: max(0, 16 - len(hand))])) for hand in dealt]
    shards = []
    for share, hand in zip(NOISE, hands, strict=True):
        label_N = labels[hand]
        if setting != "dirichlet":
            wrong = rng.random(len(hand)) < share
            label_N[wrong] = rng.integers(0, 10, wrong.sum())
        shards.append(Samples(samples.x_NF[hand], label_N))
    return shards


class Game:
    """What groups of trainers come to, and what scores say of each trainer."""

    def __init__(self, setting: str, seed: int) -> None:
        training, held_out = digits(seed)
        shards = deal(training, setting, np.random.default_rng(seed))
        self._shards = [write_shard(shard) for shard in shards]
        self._held_out = write_shard(held_out)
        self._spec, self._engine = spec_of(seed), Engine(1)
        self.scores = {name: np.zeros(TRAINERS) for name in SCORES}
        self.scores["samples"] += [len(shard) for shard in shards]

    def shapley(self) -> NDArray[np.float64]:
        """Exact values, by all groups."""
        everybody = tuple(range(TRAINERS))
        worth = {
            group: -self._train(group, scored=group == everybody)
            for size in range(TRAINERS + 1)
            for group in combinations(everybody, size)
        }
        values = np.zeros(TRAINERS)
        for group, value in worth.items():
            for i in everybody:
                if i in group:
                    values[i] += value / comb(TRAINERS - 1, len(group) - 1) / TRAINERS
                else:
                    values[i] -= value / comb(TRAINERS - 1, len(group)) / TRAINERS
        return values

    def _train(self, group: tuple[int, ...], *, scored: bool) -> float:
        """The loss on held-out digits after all rounds."""
        engine, spec = self._engine, self._spec
        base = engine.initial_checkpoint(spec)
        residuals = dict.fromkeys(group, b"")
        for number in range(spec.rounds if group else 0):
            updates = {
                i: engine.train(
                    spec, base, [self._shards[i]], _order(number, i), residuals[i], number
                )
                for i in group
            }
            residuals = {i: update.residual for i, update in updates.items()}
            inputs = [(update.parts[0], update.samples) for update in updates.values()]
            result = engine.aggregate(spec, 0, inputs, b"").data
            if scored:
                self._score(base, list(updates.values()), result)
            base = engine.outer_step(spec, base, [result])
        return engine.evaluate(spec, base, self._held_out).loss

    def _score(self, base: bytes, updates: list[LocalUpdate], result: bytes) -> None:
        engine, spec = self._engine, self._spec
        inputs = [(update.parts[0], update.samples) for update in updates]
        self.scores["contribution"] += np.maximum(engine.contributions(spec, 0, inputs, result), 0)
        before = engine.evaluate(spec, base, self._held_out).loss
        for i, (part, _) in enumerate(inputs):
            alone = engine.evaluate(
                spec, engine.outer_step(spec, base, [part]), self._held_out
            ).loss
            self.scores["loss alone"][i] += before - alone
            sent_P = CODECS[spec.codec].decode(part, part_sizes(spec)[0])
            self.scores["length"][i] += float(sent_P.norm())


def _order(number: int, trainer: int) -> bytes:
    return hashlib.sha256(bytes([number, trainer])).digest()


def paid() -> dict[str, float]:
    """What attacks earn, before anybody replays them."""
    preset, engine = DIGITS, Engine(1)
    spec = replace(
        spec_of(1),
        rounds=preset.rounds,
        model=preset.model,
        inner=preset.inner,
        part_values=preset.part_values,
    )
    shards = [write_shard(shard) for shard in split(digits(1)[0], 8, 1)]
    base, before = engine.initial_checkpoint(spec), list[bytes]()
    shares: dict[str, list[float]] = {}

    def train(shard: int, number: int, steps: int = 0) -> list[bytes]:
        inner = replace(spec.inner, steps=steps or spec.inner.steps)
        work = (base, [shards[shard]], _order(number, shard), b"", number)
        return engine.train(replace(spec, inner=inner), *work).parts

    for number in range(spec.rounds):
        dealt = np.random.default_rng(number).permutation(8)[:5]
        own, *others = [train(shard, number) for shard in dealt[:4]]
        sent = {
            "honest": own,
            "a tenth left out": train(dealt[0], number, spec.inner.steps * 9 // 10),
            "half left out": train(dealt[0], number, spec.inner.steps // 2),
            "one update twice": others[0],
            "random": _random(spec, own, number),
            "other data": train(dealt[4], number),
        } | ({"the last one again": before} if before else {})
        for name, parts in sent.items():
            shares.setdefault(name, []).append(_share(engine, spec, [parts, *others]))
        base = engine.outer_step(spec, base, _results(engine, spec, [own, *others]))
        before = own
    return {name: round(float(np.mean(found)), 2) for name, found in shares.items()}


def _results(engine: Engine, spec: RunSpec, sent: list[list[bytes]]) -> list[bytes]:
    return [
        engine.aggregate(spec, part, [(data, 1) for data in inputs], b"").data
        for part, inputs in enumerate(zip(*sent, strict=True))
    ]


def _share(engine: Engine, spec: RunSpec, sent: list[list[bytes]]) -> float:
    """The first one's pay, in an equal share."""
    results = _results(engine, spec, sent)
    total = np.zeros(len(sent))
    for part, inputs in enumerate(zip(*sent, strict=True)):
        total += engine.contributions(spec, part, [(data, 1) for data in inputs], results[part])
    pay = np.maximum(total, 0)
    return float(pay[0] / pay.mean())


def _random(spec: RunSpec, own: list[bytes], number: int) -> list[bytes]:
    """Noise as long as the own parts."""
    codec, rng = CODECS[spec.codec], np.random.default_rng(number)
    parts = []
    for data, values in zip(own, part_sizes(spec), strict=True):
        noise_P = torch.from_numpy(rng.standard_normal(values, np.float32))
        parts.append(codec.encode(noise_P * (codec.decode(data, values).norm() / noise_P.norm())))
    return parts


def measure(seeds: int) -> dict[str, object]:
    begun = time.process_time()
    found: dict[str, object] = {}
    for setting in SETTINGS:
        correlations: dict[str, list[float]] = {name: [] for name in SCORES}
        for seed in range(seeds):
            game = Game(setting, seed)
            values = game.shapley()
            for name, score in game.scores.items():
                if np.ptp(score):
                    correlations[name].append(float(spearmanr(values, score).statistic))
        found[setting] = {
            name: {"spearman": round(float(np.mean(rho)), 2), "least": round(min(rho), 2)}
            for name, rho in correlations.items()
            if rho
        }
    found["paid"] = paid()
    found["took_cpu_s"] = round(time.process_time() - begun)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="one seed")
    arguments = parser.parse_args()
    found = measure(1 if arguments.quick else SEEDS)
    if arguments.json:
        print(json.dumps(found, indent=1))
        return
    for setting, rows in found.items():
        print(f"{setting:16} {rows}")


if __name__ == "__main__":
    main()
