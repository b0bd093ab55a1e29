"""Measures how sure validators are: cheats found, honest trainers left alone, and what it costs.

`python tests/bench/verification.py --json` prints one JSON object (minutes); `--quick` does less.

Four trainers train the digits' CNN and a character GPT. Every update is made again by other
machines: child processes with another thread count, and held to AVX2 (torch, oneDNN, MKL). Each
checks each other's updates as a validator does, and everybody checks the cheats. The gap's figures
come from the same rounds of the GPT: from more samples than one gap takes, gaps are drawn again and
again, and a trainer's moving average goes through the rounds. Seconds are CPU time.
"""

import argparse
import hashlib
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

import numpy as np
import structlog
import torch
import trio
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from eigen.crypto.merkle import CommitmentTree
from eigen.node.calibrate import AVX2, Machine, fewer_steps
from eigen.node.worker import TrainingWorker
from eigen.protocol.cid import raw_cid
from eigen.protocol.limits import RESIDUAL_CHUNK_BYTES
from eigen.protocol.run import AggregationSpec, RunSpec
from eigen.training import checkpoint as checkpoints
from eigen.training.averaging import decode_part
from eigen.training.calibration import DEFAULTS, Verdict
from eigen.training.codecs.registry import CODECS
from eigen.training.datasets import Samples, digits, read_shard, split, write_shard
from eigen.training.engine import Engine
from eigen.training.gap import FRESH_PART, ROUNDS, SAMPLES, TOLERANCE, losses, used_samples
from eigen.training.models import build
from eigen.training.presets import CHAR_GPT, DIGITS, Preset
from eigen.training.replay import chunks_to_open, compare, open_chunks
from eigen.training.results import FRESH_WEIGHT, LocalDelta, LocalUpdate, Replay
from eigen.training.sketch import sketch, sketch_seed
from eigen.training.spec import check, part_sizes
from eigen.training.text import standard_library

TRAINERS = 4
REPLAYED = 0.02
"""The share of updates that is replayed."""
MACHINES = (
    Machine("2 threads", 2),
    Machine("AVX2", 1, AVX2),
    Machine("AVX2, 2 threads", 2, AVX2),
)
"""Besides this process: one thread, and whatever the processor has."""
JUDGED = 64
"""Samples of either kind whose loss is known, from which gaps are drawn."""
DRAWN = 2_000
"""Gaps drawn for each figure."""
EJECTED_WITHIN = 10


@dataclass(frozen=True)
class Plan:
    """How much is done: rounds, in how many of them machines check each other, and cheats."""

    rounds: int
    checked: int
    gaps: bool


@dataclass
class Tally:
    """What was counted."""

    verdicts: Counter[Verdict] = field(default_factory=Counter)
    furthest: float = 0.0
    cheats: dict[str, Counter[Verdict]] = field(default_factory=dict)
    slightest: float = float("inf")
    train_s: float = 0.0
    commit_s: float = 0.0


@dataclass(frozen=True)
class Work:
    """What one trainer's round follows from, and what it claims of it."""

    number: int
    base: bytes
    shard: bytes
    order_seed: bytes
    residual: bytes
    local: LocalDelta
    update: LocalUpdate


def spec_of(preset: Preset, rounds: int) -> RunSpec:
    return RunSpec(
        name="verification",
        model=preset.model,
        dataset=raw_cid(b""),
        rounds=rounds,
        inner=preset.inner,
        outer=preset.outer,
        codec=preset.codec,
        result_codec=preset.result_codec,
        aggregation=AggregationSpec("mean"),
        part_values=preset.part_values,
        trainers_min=1,
        trainers_max=TRAINERS,
        reward_per_round=0,
        validator_share_bps=0,
        seed=1,
    )


class Bench:
    """One model, trained and checked."""

    def __init__(self, spec: RunSpec, shards: Sequence[bytes], workers: Sequence[TrainingWorker]):
        self.spec, self.shards, self.workers = spec, shards, workers
        self.engine = Engine(1)
        self.tally = Tally()
        self.gaps: list[dict[str, list[NDArray[np.float64]]]] = []
        self._declared = check(spec)
        self._model = build(self._declared)

    async def run(self, plan: Plan) -> None:
        base = self.engine.initial_checkpoint(self.spec)
        residuals = [b""] * TRAINERS
        before: list[Work] = []
        for number in range(plan.rounds):
            dealt = np.random.default_rng(number).permutation(len(self.shards))
            works = [
                self._work(number, i, base, self.shards[dealt[i]], residuals[i])
                for i in range(TRAINERS)
            ]
            if number < plan.checked:
                for i, work in enumerate(works):
                    again = await self._elsewhere(work)
                    self._honest(work, again)
                    self._cheats(work, works[(i + 1) % TRAINERS], before, again)
            average = [
                self.engine.aggregate(
                    self.spec, part, [(w.update.parts[part], w.update.samples) for w in works], b""
                ).data
                for part in range(len(works[0].update.parts))
            ]
            if plan.gaps and number:
                fresh = self.shards[dealt[TRAINERS]]
                self.gaps += [
                    self._judge(works, i, before, average, fresh) for i in range(TRAINERS)
                ]
            residuals, before = [work.update.residual for work in works], works
            base = self.engine.outer_step(self.spec, base, average)
            print(f"{self._declared.architecture} round {number}", file=sys.stderr, flush=True)

    def _work(self, number: int, i: int, base: bytes, shard: bytes, residual: bytes) -> Work:
        seed = hashlib.sha256(bytes([number, i])).digest()
        start = time.process_time()
        local = self.engine.local_steps(self.spec, base, [shard], seed, number)
        update = local.encoded(self.engine.encode(self.spec, local.delta, residual))
        trained = time.process_time()
        left = update.residual
        CommitmentTree(update.parts)
        CommitmentTree(
            [left[n : n + RESIDUAL_CHUNK_BYTES] for n in range(0, len(left), RESIDUAL_CHUNK_BYTES)]
        )
        sketch(torch.from_numpy(np.frombuffer(local.delta, "<f4").copy()), sketch_seed(base))
        self.tally.train_s += trained - start
        self.tally.commit_s += time.process_time() - trained
        return Work(number, base, shard, seed, residual, local, update)

    async def _elsewhere(self, work: Work) -> list[LocalDelta]:
        """The same steps on every machine, this one first."""
        found = [work.local]
        for worker in self.workers:
            found.append(
                await worker.local_steps(
                    self.spec, work.base, [work.shard], work.order_seed, work.number
                )
            )
        return found

    def _replay(self, work: Work, update: LocalUpdate, again: LocalDelta) -> Replay:
        chunks = chunks_to_open(self.spec, work.order_seed)
        opened = open_chunks(chunks, work.residual, update.residual)
        return compare(self.spec, again, update.parts, opened, (update.loss_trace, update.sketch))

    def _encoded(self, work: Work, local: LocalDelta) -> LocalUpdate:
        return local.encoded(self.engine.encode(self.spec, local.delta, work.residual))

    def _honest(self, work: Work, again: Sequence[LocalDelta]) -> None:
        """Every machine as a trainer, checked by every other."""
        tolerance = DEFAULTS[self.spec.inner.precision]
        for i, local in enumerate(again):
            update = self._encoded(work, local)
            for j, other in enumerate(again):
                if i != j:
                    replay = self._replay(work, update, other)
                    self.tally.verdicts[tolerance.verdict(replay, update.samples)] += 1
                    self.tally.furthest = max(self.tally.furthest, replay.furthest)

    def _cheats(
        self, work: Work, other: Work, before: Sequence[Work], again: Sequence[LocalDelta]
    ) -> None:
        tolerance = DEFAULTS[self.spec.inner.precision]
        for name, update in self._lies(work, other, before).items():
            found = self.tally.cheats.setdefault(name, Counter())
            for local in again:
                replay = self._replay(work, update, local)
                found[tolerance.verdict(replay, update.samples)] += 1
                if "steps" in name:
                    self.tally.slightest = min(self.tally.slightest, replay.furthest)

    def _lies(self, work: Work, other: Work, before: Sequence[Work]) -> dict[str, LocalUpdate]:
        """What a trainer may claim who did not do its work."""
        fewer = self._trained(work, spec=fewer_steps(self.spec, work.number))
        made = len(fewer.loss_trace)
        missing = self.spec.inner.steps - made
        fewer = replace(
            fewer,
            loss_trace=fewer.loss_trace + fewer.loss_trace[-1:] * missing,
            samples=work.local.samples,
        )
        delta_P = _vector(work.local.delta)
        drawn_P = torch.randn(len(delta_P), generator=torch.Generator().manual_seed(work.number))
        lies = {
            "a tenth of the steps left out": fewer,
            "the same, made longer": self._claiming(
                work, fewer, _vector(fewer.delta) * (self.spec.inner.steps / made)
            ),
            "another shard": self._trained(work, shard=other.shard),
            "scaled by 1.1": self._claiming(work, work.local, delta_P * 1.1),
            "random": self._claiming(work, work.local, drawn_P * (delta_P.norm() / drawn_P.norm())),
            "zeros": self._claiming(work, work.local, delta_P * 0.0),
            "another's": other.local,
        }
        if before:
            stale = self._trained(work, base=before[0].base)
            lies["a stale checkpoint"] = self._claiming(work, stale, _vector(stale.delta))
        updates = {name: self._encoded(work, local) for name, local in lies.items()}
        updates["a sample too many"] = replace(work.update, samples=work.update.samples + 1)
        updates["made up for in the residual"] = self._compensated(work)
        return updates

    def _trained(
        self,
        work: Work,
        spec: RunSpec | None = None,
        base: bytes | None = None,
        shard: bytes | None = None,
    ) -> LocalDelta:
        return self.engine.local_steps(
            spec or self.spec,
            base or work.base,
            [shard or work.shard],
            work.order_seed,
            work.number,
        )

    def _claiming(self, work: Work, local: LocalDelta, delta_P: Tensor) -> LocalDelta:
        sketched = sketch(delta_P, sketch_seed(work.base))
        return replace(local, delta=delta_P.numpy().tobytes(), sketch=sketched)

    def _compensated(self, work: Work) -> LocalUpdate:
        """Twice what is due, and a residual with which the sum is right."""
        codec, sizes = CODECS[self.spec.codec], part_sizes(self.spec)
        pairs = zip(work.update.parts, sizes, strict=False)
        sent = [decode_part(codec, 0, data, values) for data, values in pairs]
        parts = [codec.encode(part_P * 2.0) for part_P in sent]
        pairs = zip(parts, sizes, strict=True)
        again_P = torch.cat([decode_part(codec, 0, data, values) for data, values in pairs])
        left_P = torch.cat(sent) + _vector(work.update.residual) - again_P
        moments = work.update.parts[len(sizes) :]
        return replace(work.update, parts=parts + moments, residual=left_P.numpy().tobytes())

    def _judge(
        self,
        works: Sequence[Work],
        i: int,
        before: Sequence[Work],
        average: Sequence[bytes],
        fresh: bytes,
    ) -> dict[str, list[NDArray[np.float64]]]:
        """How much better than the average trainer i's update is, and what it may send instead.

        Of each, on assigned samples and on fresh ones.
        """
        work, inner = works[i], self.spec.inner
        theta_P = checkpoints.read(work.base, self.spec, self._declared).theta_P
        samples, others = self._samples(work.shard), self._samples(fresh)
        used = used_samples(work.order_seed, len(samples), inner.steps, inner.batch)
        rng = np.random.default_rng([work.number, i])
        sets = [
            samples.take(rng.permutation(used)[:JUDGED]),
            others.take(rng.permutation(len(others))[:JUDGED]),
        ]
        own_P = self._sent(work.update.parts)
        drawn_P = torch.randn(len(own_P), generator=torch.Generator().manual_seed(work.number))
        half = replace(self.spec, inner=replace(inner, steps=inner.steps // 2))
        sent = {
            "honest": own_P,
            "copy": self._sent(works[(i + 1) % TRAINERS].update.parts),
            "stale": self._sent(before[i].update.parts),
            "noise": drawn_P * (own_P.norm() / drawn_P.norm()),
            "half work": self._sent(self._encoded(work, self._trained(work, spec=half)).parts),
        }
        if i == 0:
            wrong = self._encoded(work, self._trained(work, shard=fresh))
            sets[1] = self._samples(works[1].shard).take(rng.permutation(len(samples))[:JUDGED])
            sent["wrong data"] = self._sent(wrong.parts)
        mean_P = self._sent(average, self.spec.result_codec)
        reference = [losses(self._model, theta_P - mean_P, one) for one in sets]
        return {
            name: [
                theirs - losses(self._model, theta_P - sent_P, one)
                for theirs, one in zip(reference, sets, strict=True)
            ]
            for name, sent_P in sent.items()
        }

    def _samples(self, shard: bytes) -> Samples:
        declared = self._declared
        return read_shard(
            shard, inputs=declared.inputs, classes=declared.classes, text=declared.sequences
        )

    def _sent(self, parts: Sequence[bytes], codec: str = "") -> Tensor:
        sizes = part_sizes(self.spec)
        return torch.cat(
            [
                decode_part(CODECS[codec or self.spec.codec], 0, data, values)
                for data, values in zip(parts, sizes, strict=False)
            ]
        )


def _vector(data: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(data, "<f4").copy())


class Gaps:
    """Gaps drawn from known losses, each less the median of the other trainers' in its round."""

    def __init__(self, judged: Sequence[dict[str, list[NDArray[np.float64]]]]) -> None:
        self._rng = np.random.default_rng(0)
        drawn = [{kind: self._drawn(*known) for kind, known in one.items()} for one in judged]
        self._relative: dict[str, list[NDArray[np.float64]]] = {}
        for index, gaps in enumerate(drawn):
            first = index - index % TRAINERS
            others = [drawn[i]["honest"] for i in range(first, first + TRAINERS) if i != index]
            for kind, values in gaps.items():
                relative = values - np.median(others, axis=0)
                self._relative.setdefault(kind, []).append(relative)

    def _drawn(
        self, assigned: NDArray[np.float64], fresh: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        few = -(-SAMPLES // FRESH_PART)
        return self._means(assigned, SAMPLES) - FRESH_WEIGHT * self._means(fresh, few)

    def _means(self, values: NDArray[np.float64], count: int) -> NDArray[np.float64]:
        places = self._rng.random((DRAWN, len(values))).argsort(1)[:, :count]
        means: NDArray[np.float64] = values[places].mean(1)
        return means

    def _lives(self, kind: str, rounds: int) -> NDArray[np.float64]:
        """Gaps of many trainers who do the same in so many rounds, [DRAWN, rounds]."""
        known = np.stack(self._relative[kind])
        shape = (DRAWN, rounds)
        lives: NDArray[np.float64] = known[
            self._rng.integers(len(known), size=shape), self._rng.integers(DRAWN, size=shape)
        ]
        return lives

    def caught(self, kind: str, rounds: int) -> float:
        """The share whose average is below what one honest trainer in a hundred has."""
        least = np.quantile(self._lives("honest", rounds).mean(1), 0.01)
        return float((self._lives(kind, rounds).mean(1) < least).mean())

    def rounds_until(self, kind: str, share: float) -> int | None:
        """After how many rounds so many are caught; None where it takes more than are averaged."""
        for rounds in range(1, ROUNDS + 1):
            if self.caught(kind, rounds) >= share:
                return rounds
        return None

    def suspected(self, kind: str, rounds: int) -> NDArray[np.bool_]:
        """In which rounds `MovingGaps` would name each of many trainers, [DRAWN, rounds]."""
        spread = 1.4826 * float(np.median(np.abs(np.stack(self._relative["honest"]))))
        sums = self._lives(kind, rounds).cumsum(1)
        sums[:, ROUNDS:] -= sums[:, :-ROUNDS].copy()
        count = np.minimum(np.arange(rounds) + 1, ROUNDS)
        named: NDArray[np.bool_] = sums / count < -TOLERANCE * spread / np.sqrt(count)
        return named

    def ejected(self, kind: str, within: int = 200) -> NDArray[np.int64]:
        """The round in which each of many cheats is replayed: drawn, or named."""
        found = self.suspected(kind, within) | (self._rng.random((DRAWN, within)) < REPLAYED)
        return np.where(found.any(1), found.argmax(1) + 1, within + 1)


def flops_ratio(spec: RunSpec, shards: Sequence[bytes]) -> float:
    """What all validators compute, replays and gaps, over what all trainers do."""
    engine, base = Engine(1), Engine(1).initial_checkpoint(spec)
    work = (spec, base, shards[:1], bytes(32))
    training = FlopCounterMode(display=False)
    with training:
        update = engine.train(*work, b"")
    judging = FlopCounterMode(display=False)
    with judging:
        engine.gap(spec, base, update.parts, *work[2:], shards[1:2], b"", SAMPLES, (), update.parts)
    return REPLAYED + judging.get_total_flops() / training.get_total_flops()


async def measure(quick: bool) -> dict[str, object]:
    begun = time.process_time()
    plans = {
        "digits": Plan(2, 1, False) if quick else Plan(18, 18, False),
        "gpt": Plan(2, 1, True) if quick else Plan(12, 3, True),
    }
    data = {
        "digits": [write_shard(shard) for shard in split(digits(0)[0], 8, 0)],
        "gpt": [
            write_shard(shard)
            for shard in split(standard_library(64, unpinned=True)[0], 3 * TRAINERS, 0)
        ],
    }
    presets = {"digits": DIGITS, "gpt": CHAR_GPT}
    benches = {}
    async with AsyncExitStack() as stack:
        workers = [
            await stack.enter_async_context(
                TrainingWorker(threads=machine.threads, environ=machine.environ, nice=0)
            )
            for machine in MACHINES
        ]
        for name, plan in plans.items():
            benches[name] = Bench(spec_of(presets[name], plan.rounds), data[name], workers)
            await benches[name].run(plan)
    found = _found(benches, Gaps(benches["gpt"].gaps))
    spec = benches["gpt"].spec
    found["validator_flops_ratio"] = round(flops_ratio(spec, data["gpt"]), 4)
    longer = replace(spec, inner=replace(spec.inner, steps=50))
    found["validator_flops_ratio_800"] = round(flops_ratio(longer, data["gpt"]), 4)
    found["took_cpu_s"] = round(time.process_time() - begun)
    return found


def _found(benches: dict[str, Bench], gaps: Gaps) -> dict[str, object]:
    tallies = {name: bench.tally for name, bench in benches.items()}
    verdicts = sum((tally.verdicts for tally in tallies.values()), Counter[Verdict]())
    cheats: dict[str, Counter[Verdict]] = {}
    for tally in tallies.values():
        for name, found in tally.cheats.items():
            cheats.setdefault(name, Counter()).update(found)
    out = gaps.ejected("half work")
    kinds = ("copy", "stale", "noise", "wrong data", "half work")
    return {
        "detected_when_sampled": {
            name: round(found[Verdict.REJECT] / found.total(), 4) for name, found in cheats.items()
        },
        "cheats_checked": sum(found.total() for found in cheats.values()),
        "honest_checks": verdicts.total(),
        "false_rejections": verdicts[Verdict.REJECT],
        "honest_unsure": verdicts[Verdict.UNSURE],
        "honest_furthest": {name: tally.furthest for name, tally in tallies.items()},
        "slightest_cheat": {name: tally.slightest for name, tally in tallies.items()},
        "commit_overhead_ratio": {
            name: round(tally.commit_s / tally.train_s, 5) for name, tally in tallies.items()
        },
        "gap_tpr": {kind: round(gaps.caught(kind, 1), 3) for kind in kinds},
        "gap_tpr_copy": round(gaps.caught("copy", 1), 3),
        "gap_rounds_97_percent": {kind: gaps.rounds_until(kind, 0.97) for kind in kinds},
        "gap_rounds_wrong_data": gaps.rounds_until("wrong data", 0.97),
        "gap_rounds_half_work": gaps.rounds_until("half work", 0.97),
        "gap_named_honest": round(float(gaps.suspected("honest", 50).mean()), 4),
        "rounds_to_eject_p99": int(np.quantile(out, 0.99, method="higher")),
        "ejected_within_10": round(float(np.mean([rounds <= EJECTED_WITHIN for rounds in out])), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="a few rounds only")
    arguments = parser.parse_args()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    found = trio.run(measure, arguments.quick)
    if arguments.json:
        print(json.dumps(found, indent=1))
        return
    for name, value in found.items():
        print(f"{name:28} {value}")


if __name__ == "__main__":
    main()
