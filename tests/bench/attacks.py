"""Measures what malicious trainers can do: held-out accuracy for every rule under every attack.

`python tests/bench/attacks.py --json` prints one JSON object: for each setting and rule, each
attack's [mean, least] accuracy in percent over the seeds, and what a part costs each rule; without
`--json`, tables. `--quick` takes one seed and the default rule; other options choose.

Ten peers train the digits in one process on one thread: local steps all at once (the first are
compared with the engine's), everything from encoded parts on through the engine. In each round the
shards go to the next peer. Liars see all honest updates before they send theirs.

Shape legend: P parameters, H honest peers, N peers, B samples of a batch, F features, C classes.
"""

import argparse
import hashlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from eigen.node.run_file import DEFAULT_AGGREGATION
from eigen.protocol.limits import PART_VALUES_MAX
from eigen.protocol.run import AggregationSpec, InnerSpec, ModelSpec, OuterSpec, RunSpec
from eigen.protocol.types import Cid
from eigen.training import checkpoint as checkpoints
from eigen.training.adamw import BETAS, EPSILON
from eigen.training.aggregation import RULES
from eigen.training.codecs.codec import encode_with_feedback
from eigen.training.codecs.registry import CODECS
from eigen.training.datasets import Samples, digits, split, write_shard
from eigen.training.engine import Engine
from eigen.training.errors import BadInput, CodecError, Diverged
from eigen.training.models import build, unflatten
from eigen.training.spec import check, part_sizes
from eigen.training.streams import batch_indices

PEERS, ROUNDS, SEEDS = 10, 10, 3
LEAST_SHARD = 32
"""Samples of the smallest shard: one batch."""


@dataclass(frozen=True)
class Setting:
    """How the data is dealt (Dirichlet's `alpha`, or at random), and how many of the peers lie."""

    name: str
    liars: int
    alpha: float | None


SETTINGS = (Setting("iid", 3, None), Setting("dirichlet_0.5", 2, 0.5))


def base_spec(rule: str, codecs: tuple[str, str], parts: int, seed: int) -> RunSpec:
    spec = RunSpec(
        name="attacks",
        model=ModelSpec("mlp", (("classes", 10), ("depth", 1), ("hidden", 64), ("inputs", 64))),
        dataset=Cid("bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"),
        rounds=ROUNDS,
        inner=InnerSpec(steps=10, batch=LEAST_SHARD, lr=0.01, weight_decay=0.01),
        outer=OuterSpec("nesterov", 0.7, 0.5),
        codec=codecs[0],
        result_codec=codecs[1],
        aggregation=AggregationSpec(
            rule, DEFAULT_AGGREGATION.tolerated_bps if RULES[rule].robust else 0
        ),
        part_values=PART_VALUES_MAX,
        trainers_min=1,
        trainers_max=PEERS,
        reward_per_round=0,
        validator_share_bps=0,
        seed=seed,
    )
    return replace(spec, part_values=-(-part_sizes(spec)[0] // parts))


def deal(samples: Samples, setting: Setting, seed: int) -> list[Samples]:
    """Ten shards: at random, or each class by shares drawn from a Dirichlet distribution."""
    if setting.alpha is None:
        return split(samples, PEERS, seed)
    drawn = np.random.default_rng(seed)
    while True:
        owner_N = np.empty(len(samples), np.int64)
        for label in range(10):
            (places,) = np.nonzero(samples.y_N == label)
            shares = drawn.dirichlet([setting.alpha] * PEERS)
            owner_N[drawn.permutation(places)] = np.searchsorted(
                np.cumsum(shares)[:-1], np.linspace(0, 1, len(places), endpoint=False), "right"
            )
        if np.bincount(owner_N, minlength=PEERS).min() >= LEAST_SHARD:
            return [samples.take(np.nonzero(owner_N == peer)[0]) for peer in range(PEERS)]


def train_together(
    spec: RunSpec, base: bytes, shards: Sequence[Samples], orders: Sequence[bytes]
) -> Tensor:
    """Pseudo-gradients [N, P] as `Engine.train` makes them, all peers' steps at once.

    AdamW is elementwise, so stacked parameters are stepped as each peer's would be alone.
    """
    declared, inner, count = check(spec), spec.inner, len(shards)
    theta_P = checkpoints.read(base, spec, declared).theta_P
    model = build(declared)
    stacked = {
        name: view.expand(count, *view.shape).clone().requires_grad_()
        for name, view in unflatten(declared.layout, theta_P).items()
    }
    optimizer = torch.optim.AdamW(
        stacked.values(), inner.lr, BETAS, EPSILON, inner.weight_decay, foreach=False
    )
    batches = (
        batch_indices(order, len(shard), inner.steps, inner.batch)
        for shard, order in zip(shards, orders, strict=True)
    )
    for indices in zip(*batches, strict=True):
        taken = [shard.take(index_B) for shard, index_B in zip(shards, indices, strict=True)]
        x_NBF = torch.from_numpy(np.stack([batch.x_NF for batch in taken])).float() / 255.0
        y_NB = torch.from_numpy(np.stack([batch.y_N for batch in taken])).long()
        logits_NBC = torch.vmap(model.logits)(stacked, x_NBF)
        loss = cross_entropy(logits_NBC.flatten(0, 1), y_NB.flatten()) * count
        if not bool(loss.isfinite()):
            raise Diverged("a loss is not finite")
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    with torch.no_grad():
        names = declared.layout.names
        return theta_P - torch.cat([stacked[name].reshape(count, -1) for name in names], 1)


# Attacks: what each liar sends, from all honest updates and what it trained itself ----------------

Craft = Callable[[Tensor, Tensor, torch.Generator], Tensor]


def _noise(honest_HP: Tensor, _own_P: Tensor, drawn: torch.Generator) -> Tensor:
    values_P = torch.randn(honest_HP.shape[1], generator=drawn)
    return values_P * float(honest_HP.norm(dim=1).mean() / values_P.norm())


ATTACKS: dict[str, Craft] = {
    "none": lambda _honest_HP, own_P, _drawn: own_P,
    "flip x1": lambda _honest_HP, own_P, _drawn: -own_P,
    "flip x10": lambda _honest_HP, own_P, _drawn: -10.0 * own_P,
    # Inner product manipulation (Xie et al., arXiv:1903.03936), small and large
    "ipm 0.1": lambda honest_HP, _own_P, _drawn: -0.1 * honest_HP.mean(0),
    "ipm 2": lambda honest_HP, _own_P, _drawn: -2.0 * honest_HP.mean(0),
    # "A little is enough" (Baruch et al., arXiv:1902.06156)
    "alie 1.5": lambda honest_HP, _own_P, _drawn: honest_HP.mean(0) - 1.5 * honest_HP.std(0),
    "label flip": lambda _honest_HP, own_P, _drawn: own_P,  # trained on 9 - label
    "copy": lambda honest_HP, _own_P, _drawn: honest_HP[0],
    "zeros": lambda honest_HP, _own_P, _drawn: torch.zeros_like(honest_HP[0]),
    "noise": _noise,
    "nan": lambda _honest_HP, own_P, _drawn: own_P,  # its bytes are spoilt
    "x 10^6": lambda _honest_HP, own_P, _drawn: 1e6 * own_P,
    "minus twice": lambda honest_HP, own_P, _drawn: own_P - 2.0 * honest_HP.mean(0),
}
OWN_TRAINING = {"none", "flip x1", "flip x10", "label flip", "nan", "x 10^6", "minus twice"}


class Bench:
    """Runs with the data of one setting and seed."""

    def __init__(self, setting: Setting, seed: int) -> None:
        self.setting, self.seed = setting, seed
        self._engine = Engine(threads=1)
        training, held_out = digits(seed)
        shards = deal(training, setting, seed)
        self._shards = shards
        self._flipped = [Samples(s.x_NF, (9 - s.y_N).astype(np.uint8)) for s in shards]
        self._held_out = write_shard(held_out)
        self._first_updates: dict[tuple[bool, int], Tensor] = {}

    def _train(self, spec: RunSpec, base: bytes, number: int, peers: int, flipped: bool) -> Tensor:
        """The pseudo-gradients [N, P] of so many peers; the liars' labels may be flipped."""
        key = (flipped, peers)
        if number == 0 and key in self._first_updates:
            return self._first_updates[key]
        liars_from = PEERS - self.setting.liars
        shards = [
            (self._flipped if flipped and peer >= liars_from else self._shards)[
                (peer + number) % PEERS
            ]
            for peer in range(peers)
        ]
        orders = [self._order(number, peer) for peer in range(peers)]
        delta_NP = train_together(spec, base, shards, orders)
        if number == 0:
            self._check_training(spec, base, delta_NP[0])
            self._first_updates[key] = delta_NP
        return delta_NP

    def _order(self, number: int, peer: int) -> bytes:
        return hashlib.sha256(bytes([self.seed, number, peer])).digest()

    def _check_training(self, spec: RunSpec, base: bytes, delta_P: Tensor) -> None:
        """That peers trained together do as one does whom the engine trains."""
        exact = replace(spec, codec="fp32")
        alone = self._engine.train(
            exact, base, [write_shard(self._shards[0])], self._order(0, 0), b""
        )
        alone_P = torch.cat([CODECS["fp32"].decode(d, len(d) // 4) for d in alone.parts])
        if (alone_P - delta_P).norm() > 1e-3 * alone_P.norm():
            raise AssertionError("this is not how the engine trains")

    def accuracy(self, spec: RunSpec, attack: str) -> float:
        """Held-out accuracy in percent after all rounds; 0 where values left every bound."""
        try:
            return self._accuracy(spec, attack)
        except (Diverged, CodecError):
            return 0.0

    def _accuracy(self, spec: RunSpec, attack: str) -> float:
        engine, codec, sizes = self._engine, CODECS[spec.codec], part_sizes(spec)
        drawn = torch.Generator().manual_seed(self.seed)
        honest = PEERS - self.setting.liars
        checkpoint = engine.initial_checkpoint(spec)
        residual_NP, carried = torch.zeros(PEERS, sum(sizes)), [b""] * len(sizes)
        samples = spec.inner.steps * spec.inner.batch
        for number in range(spec.rounds):
            trained = PEERS if attack in OWN_TRAINING else honest
            delta_NP = self._train(spec, checkpoint, number, trained, attack == "label flip")
            sent, vectors = [], []
            for peer, delta_P in enumerate(delta_NP):
                pairs = [
                    encode_with_feedback(codec, part_P, left_P)
                    for part_P, left_P in zip(
                        torch.split(delta_P, sizes),
                        torch.split(residual_NP[peer], sizes),
                        strict=True,
                    )
                ]
                sent.append([data for data, _ in pairs])
                residual_NP[peer] = torch.cat([left_P for _, left_P in pairs])
                decoded = [codec.decode(d, n) for d, n in zip(sent[-1], sizes, strict=True)]
                vectors.append(torch.cat(decoded))
            honest_HP = torch.stack(vectors[:honest])
            del sent[honest:]
            for liar in range(honest, PEERS):
                own_P = vectors[liar] if liar < trained else vectors[0]
                crafted_P = ATTACKS[attack](honest_HP, own_P, drawn)
                parts = [codec.encode(part_P) for part_P in torch.split(crafted_P, sizes)]
                if attack == "nan":  # as a scale or a value, whatever the codec
                    parts = [b"\xff" * len(data) for data in parts]
                sent.append(parts)
            results = []
            for part in range(len(sizes)):
                inputs = [(parts[part], samples) for parts in sent]
                if attack == "nan":
                    inputs = self._refuse_liars(spec, part, inputs, honest)
                average = engine.aggregate(spec, part, inputs, carried[part])
                results.append(average.data)
                carried[part] = average.carried
            checkpoint = engine.outer_step(spec, checkpoint, results)
        return 100.0 * engine.evaluate(spec, checkpoint, self._held_out).accuracy

    def _refuse_liars(
        self, spec: RunSpec, part: int, inputs: list[tuple[bytes, int]], honest: int
    ) -> list[tuple[bytes, int]]:
        while len(inputs) > honest:
            try:
                self._engine.aggregate(spec, part, inputs, b"")
            except BadInput as error:
                if error.index < honest:
                    raise
                del inputs[error.index]
            else:
                raise AssertionError("an input that is not finite was aggregated")
        return inputs


def table(
    rules: Sequence[str], attacks: Sequence[str], codecs: tuple[str, str], parts: int, seeds: int
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for setting in SETTINGS:
        benches = [Bench(setting, seed) for seed in range(seeds)]
        rows = found[setting.name] = {}
        for rule in rules:
            row = rows[rule] = {}
            for attack in attacks:
                reached = [
                    bench.accuracy(base_spec(rule, codecs, parts, bench.seed), attack)
                    for bench in benches
                ]
                print(setting.name, rule, attack, reached, file=sys.stderr, flush=True)
                row[attack] = [round(statistics.mean(reached), 1), round(min(reached), 1)]
    return found


def cost_ms(inputs: int, quick: bool) -> dict[str, float]:
    """CPU time of one part of the largest size of so many trainers: best of some."""
    torch.set_num_threads(1)
    drawn = torch.Generator().manual_seed(0)
    common_P = torch.randn(PART_VALUES_MAX, generator=drawn)
    parts = [common_P + torch.randn(PART_VALUES_MAX, generator=drawn) for _ in range(inputs)]
    found = {}
    for name, rule in RULES.items():
        spec = AggregationSpec(name, DEFAULT_AGGREGATION.tolerated_bps if rule.robust else 0)
        times = []
        for _ in range(3 if quick else 10):
            start = time.process_time()
            rule(parts, [1] * inputs, spec, parts[0] if rule.keeps_history else None)
            times.append(time.process_time() - start)
        found[name] = round(1000 * min(times), 1)
    return found


def tables(found: dict[str, Any], attacks: Sequence[str]) -> None:
    """Mean and least accuracy, attacks down and rules across."""
    for setting in (setting.name for setting in SETTINGS):
        rows = found[setting]
        print(f"\n| {setting} | {' | '.join(rows)} |\n|---|{'---|' * len(rows)}")
        for attack in attacks:
            cells = (f"{rows[rule][attack][0]} / {rows[rule][attack][1]}" for rule in rows)
            print(f"| {attack} | {' | '.join(cells)} |")
    for name in ("part_ms_10_trainers", "part_ms_64_trainers", "took_s"):
        print(name, found[name])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="one seed, the default rule")
    parser.add_argument("--rules", default="", help="names, with commas")
    parser.add_argument("--attacks", default=",".join(ATTACKS), help="names, with commas")
    parser.add_argument("--codec", default="int8", help="of updates")
    parser.add_argument("--result-codec", default="int8", help="of results")
    parser.add_argument("--parts", type=int, default=3, help="parts of the vector")
    parser.add_argument("--seeds", type=int, default=0, help="runs of each kind")
    arguments = parser.parse_args()
    rules = [DEFAULT_AGGREGATION.rule] if arguments.quick else list(RULES)
    if arguments.rules:
        rules = arguments.rules.split(",")
    attacks = arguments.attacks.split(",")
    seeds = arguments.seeds or (1 if arguments.quick else SEEDS)
    codecs = (arguments.codec, arguments.result_codec)
    start = time.perf_counter()
    found = table(rules, attacks, codecs, arguments.parts, seeds)
    for trainers in (10, 64):
        found[f"part_ms_{trainers}_trainers"] = cost_ms(trainers, arguments.quick)
    found["took_s"] = round(time.perf_counter() - start)
    if arguments.json:
        print(json.dumps(found, indent=1))
    else:
        tables(found, attacks)


if __name__ == "__main__":
    main()
