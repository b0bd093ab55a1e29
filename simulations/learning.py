"""Real training of a small model inside a simulation: the node's own engine, rules and codecs.

A virtual node's update is trained when the machines ask for it; averages, steps and audits are
computed from its bytes. What several nodes compute from the same inputs is computed once.

Shape legend: P parameters, H honest updates of a round.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Final, TypeVar

import numpy as np
import torch
from torch import Tensor

from eigen.crypto.merkle import CommitmentTree
from eigen.protocol.cid import raw_cid
from eigen.protocol.effects import Audit, Train
from eigen.protocol.exchange import masked
from eigen.protocol.messages import Attempt, Commitment, PartResult, RoundRecord
from eigen.protocol.run import AggregationSpec, InnerSpec, ModelSpec, OuterSpec, RunSpec
from eigen.protocol.types import Address, Cid, Digest
from eigen.simulations.adversaries import UPDATES
from eigen.simulations.compute import Named
from eigen.simulations.scenario import Rounds, Scenario
from eigen.training import checkpoint as checkpoints
from eigen.training.aggregation import RULES
from eigen.training.codecs.registry import CODECS
from eigen.training.datasets import Samples, digits, split, write_shard
from eigen.training.engine import Engine
from eigen.training.frames import whole
from eigen.training.results import Evaluation, LocalUpdate
from eigen.training.spec import check, part_sizes

BATCH: Final = 16
"""Samples of a step, and the fewest in a shard."""
HIDDEN: Final = 64
MODELS: Final = {
    "digits": ModelSpec("mlp", (("classes", 10), ("depth", 1), ("hidden", HIDDEN), ("inputs", 64))),
    "digits-cnn": ModelSpec(
        "cnn", (("channels", 8), ("classes", 10), ("hidden", HIDDEN), ("planes", 1), ("side", 8))
    ),
}
"""What learns to read 8 by 8 pictures of digits, by `run.model`."""
ROUNDS_KEPT: Final = 4
K = TypeVar("K")
V = TypeVar("V")


def digits_spec(scenario: Scenario) -> RunSpec:
    """The run that a scenario whose `run.model` trains stands for."""
    run = scenario.run
    spec = RunSpec(
        name=scenario.name,
        model=MODELS[run.model],
        dataset=raw_cid(b"digits"),
        rounds=run.rounds,
        inner=InnerSpec(run.steps, BATCH, 0.01, 0.01),
        outer=OuterSpec("nesterov", 0.7, 0.5),
        codec=run.codec,
        result_codec=CODECS[run.codec].answer or run.codec,
        aggregation=AggregationSpec(
            run.rule, round(run.tolerated * 10_000) if RULES[run.rule].robust else 0
        ),
        part_values=65_536,
        trainers_min=run.trainers_min,
        trainers_max=run.trainers_max,
        reward_per_round=10**20,
        validator_share_bps=1_000,
        seed=scenario.seed % 2**63,
    )
    values = check(spec).layout.values
    return replace(spec, part_values=max(256, -(-values // run.parts)))


@dataclass(frozen=True, slots=True)
class _Update:
    """What a trainer committed to, and the vector [P] that its bytes stand for."""

    trainer: Address
    round: int
    local: LocalUpdate
    sent_P: Tensor
    residual: bytes  # that went into it
    effect: Train


class _Recent(dict[K, V]):
    """What was made in the last rounds: a slow node may still ask for it."""

    def __init__(self, first: Mapping[K, V] | None = None) -> None:
        super().__init__()
        self._rounds: deque[list[K]] = deque([[]])
        for key, value in (first or {}).items():
            self[key] = value

    def __setitem__(self, key: K, value: V) -> None:
        if key not in self:
            self._rounds[-1].append(key)
        super().__setitem__(key, value)

    def end_round(self) -> None:
        """Forget the oldest round."""
        self._rounds.append([])
        if len(self._rounds) > ROUNDS_KEPT:
            for key in self._rounds.popleft():
                self.pop(key, None)


class Learning:
    """See `compute.Compute`. `behaviours` are adversaries' by address."""

    def __init__(
        self, scenario: Scenario, spec: RunSpec, behaviours: Mapping[Address, str]
    ) -> None:
        self.spec = spec
        self._behaviours = behaviours
        self._engine = Engine(threads=1)
        self._sizes = part_sizes(spec)
        training, held_out = digits(seed=0)
        self._held_out = write_shard(held_out)
        shards = deal(training, scenario.run, scenario.seed)
        self._shards = [write_shard(shard) for shard in shards]
        self._flipped = [write_shard(replace(s, y_N=(9 - s.y_N).astype(np.uint8))) for s in shards]
        genesis = self._engine.initial_checkpoint(spec)
        self.genesis = raw_cid(genesis)
        self._checkpoints: _Recent[str, bytes] = _Recent({self.genesis: genesis})
        self._updates: _Recent[Digest, _Update] = _Recent()  # by Merkle root
        self._residuals: dict[Address, bytes] = {}
        self._parts: _Recent[Digest, bytes] = _Recent()
        self._done: _Recent[tuple[object, ...], Digest] = _Recent()
        self._carried: _Recent[tuple[int, Digest], bytes] = _Recent()
        self._left: _Recent[str, list[bytes]] = _Recent()
        self._previous_P: Tensor | None = None
        self._round = 0
        self.contributed: dict[Address, float] = {}

    @property
    def part_count(self) -> int:
        """Parts of an update."""
        return len(self._sizes)

    def evaluate(self, checkpoint: str) -> Evaluation:
        """Loss and accuracy on digits that nobody trains on."""
        return self._engine.evaluate(self.spec, self._checkpoints[checkpoint], self._held_out)

    # updates --------------------------------------------------------------------------------------
    def train(self, trainer: Address, effect: Train) -> Commitment:
        """See `Compute`."""
        self._begin(effect.attempt)
        behaviour = self._behaviours.get(trainer, "")
        data = self._flipped if behaviour == "label-flip" else self._shards
        residual = self._residuals.get(trainer, b"")
        local = self._trained(effect, data, residual)
        sent_P = self._vector(local)
        if behaviour in DISTORTIONS:
            honest = [u.sent_P for u in self._updates.values() if self._counts(u)]
            wrong_P = DISTORTIONS[behaviour](sent_P, honest, self._previous_P)
            local = replace(local, parts=self._encoded(wrong_P), residual=b"")
            sent_P = wrong_P
        tree = CommitmentTree(local.parts)
        self._updates[tree.root] = _Update(trainer, self._round, local, sent_P, residual, effect)
        honest_norm = 0.0 if trainer in self._behaviours else float(sent_P.norm())
        self.contributed[trainer] = honest_norm
        zero = Digest(bytes(32))
        return Commitment(
            effect.attempt,
            effect.work.base,
            tree.root,
            zero,
            local.sketch,
            local.samples,
            tuple(local.loss_trace),
        )

    def _trained(self, effect: Train, data: Sequence[bytes], residual: bytes) -> LocalUpdate:
        return self._engine.train(
            self.spec,
            self._checkpoints[effect.work.base],
            [data[i] for i in effect.work.shards],
            effect.work.order_seed,
            residual,
            effect.attempt.round - 1,
        )

    def replay(self, record: RoundRecord, trainer: Address) -> float | None:
        """See `Compute`: trained once more, on the shards as they are."""
        made = next(
            (
                update
                for update in reversed(self._updates.values())
                if update.trainer == trainer and update.round == record.attempt.round
            ),
            None,
        )
        if made is None:
            return None
        honest_P = self._vector(self._trained(made.effect, self._shards, made.residual))
        return float((made.sent_P - honest_P).norm() / honest_P.norm())

    def contributions(self, audit: Audit) -> tuple[tuple[Address, int], ...]:
        """See `Compute`; the node's own arithmetic."""
        worth = dict.fromkeys((trainer for trainer, _ in audit.commitments), 0)
        made = {
            t: (self._updates[m.parts_root].local.parts, m.samples) for t, m in audit.commitments
        }
        for part, result in enumerate(audit.results):
            trainers = masked([m.trainer for m in audit.seat.members], result.included)
            inputs = [(made[t][0][part], made[t][1]) for t in trainers]
            for trainer, product in zip(
                trainers,
                self._engine.contributions(self.spec, part, inputs, self._parts[result.digest]),
                strict=True,
            ):
                worth[trainer] += product
        return tuple(worth.items())

    def _counts(self, update: _Update) -> bool:
        return update.round == self._round and update.trainer not in self._behaviours

    def _begin(self, attempt: Attempt) -> None:
        if attempt.round != self._round:
            self._round = attempt.round
            self.contributed = {}

    def _vector(self, local: LocalUpdate) -> Tensor:
        codec = CODECS[self.spec.codec]
        pairs = zip(local.parts, self._sizes, strict=True)
        return torch.cat([codec.decode(data, values) for data, values in pairs])

    def _encoded(self, sent_P: Tensor) -> list[bytes]:
        codec = CODECS[self.spec.codec]
        return [codec.encode(part_P.contiguous()) for part_P in torch.split(sent_P, self._sizes)]

    # averages -------------------------------------------------------------------------------------
    def collect(self, part: int, inputs: Named) -> Digest:
        """See `Compute`."""
        key = ("collect", part, tuple(inputs))
        return self._once(
            key, lambda: self._engine.collect(self.spec, part, self._of(part, inputs))
        )

    def aggregate(self, round_: int, part: int, inputs: Named, carried: tuple[Cid, ...]) -> Digest:
        """See `Compute`."""
        key = ("aggregate", round_, part, tuple(inputs), carried)
        given = self._of(part, inputs)

        def work() -> bytes:
            average = self._engine.aggregate(self.spec, part, given, self._old(part, carried))
            self._carried[part, _digest(average.data)] = average.carried
            return average.data

        return self._once(key, work)

    def combine(self, round_: int, part: int, groups: Named, carried: tuple[Cid, ...]) -> Digest:
        """See `Compute`."""
        key = ("combine", round_, part, tuple(groups), carried)
        given = [(self._parts[name], weight) for name, weight in groups]

        def work() -> bytes:
            average = self._engine.combine(self.spec, part, given, self._old(part, carried))
            self._carried[part, _digest(average.data)] = average.carried
            return average.data

        return self._once(key, work)

    def _of(self, part: int, inputs: Named) -> list[tuple[bytes, int]]:
        return [(self._updates[root].local.parts[part], weight) for root, weight in inputs]

    def _old(self, part: int, carried: tuple[Cid, ...]) -> bytes:
        return self._left[carried[0]][part] if carried else b""

    def _once(self, key: tuple[object, ...], work: Callable[[], bytes]) -> Digest:
        if key not in self._done:
            data = work()
            self._done[key] = _digest(data)
            self._parts[self._done[key]] = data
        return self._done[key]

    # steps ----------------------------------------------------------------------------------------
    def step(self, base: str, results: Sequence[PartResult]) -> Cid:
        """See `Compute`."""
        key = ("step", base, tuple(result.digest for result in results))
        if key not in self._done:
            parts = [self._parts[result.digest] for result in results]
            checkpoint = self._engine.outer_step(self.spec, self._checkpoints[base], parts)
            cid = raw_cid(checkpoint)
            self._checkpoints[cid] = checkpoint
            self._done[key] = Digest(cid.encode())
        return Cid(self._done[key].decode())

    def left(self, results: Sequence[PartResult]) -> tuple[Cid, ...]:
        """See `Compute`."""
        kept = [self._carried.get((i, r.digest), b"") for i, r in enumerate(results)]
        if not any(kept):
            return ()
        cid = raw_cid(b"".join(hashlib.sha256(one).digest() for one in kept))
        self._left[cid] = kept
        return (cid,)

    def adopted(self, record: RoundRecord) -> None:
        """Keep what the next round needs, and forget the rest."""
        paid = {credit.account for credit in record.trainers}
        for update in self._updates.values():
            if update.trainer in paid and update.round == record.attempt.round:
                self._residuals[update.trainer] = whole(update.local.residual)
        before, after = (self._theta(cid) for cid in (record.base, record.checkpoint))
        self._previous_P = before - after
        for recent in (
            self._updates,
            self._parts,
            self._done,
            self._carried,
            self._left,
            self._checkpoints,
        ):
            recent.end_round()

    def _theta(self, checkpoint: str) -> Tensor:
        declared = check(self.spec)
        return checkpoints.read(self._checkpoints[checkpoint], self.spec, declared).theta_P


def deal(samples: Samples, run: Rounds, seed: int) -> list[Samples]:
    """Shards: at random, or each class by shares drawn from Dirichlet(`alpha`).

    Each has at least one batch: the largest gives to those that have less.
    """
    if not run.alpha:
        return split(samples, run.shards, seed)
    drawn = np.random.default_rng(seed)
    owner_N = np.empty(len(samples), np.int64)
    for label in range(10):
        (places,) = np.nonzero(samples.y_N == label)
        shares = drawn.dirichlet([run.alpha] * run.shards)
        cuts = np.linspace(0, 1, len(places), endpoint=False)
        owner_N[drawn.permutation(places)] = np.searchsorted(np.cumsum(shares)[:-1], cuts, "right")
    counts = np.bincount(owner_N, minlength=run.shards)
    while counts.min() < BATCH:
        poor, rich = int(counts.argmin()), int(counts.argmax())
        (places,) = np.nonzero(owner_N == rich)
        owner_N[places[: BATCH - counts[poor]]] = poor
        counts = np.bincount(owner_N, minlength=run.shards)
    return [samples.take(np.nonzero(owner_N == shard)[0]) for shard in range(run.shards)]


Distortion = Callable[[Tensor, Sequence[Tensor], Tensor | None], Tensor]
"""Of an adversary's own update [P], the honest ones that it has seen, and the last outer step."""


def _alie(own_P: Tensor, honest: Sequence[Tensor], _: Tensor | None) -> Tensor:
    """A little is enough (Baruch et al., arXiv:1902.06156)."""
    if len(honest) < 2:
        return own_P
    stacked_HP = torch.stack(list(honest))
    quantile = NormalDist().inv_cdf(0.7)
    return stacked_HP.mean(0) - quantile * stacked_HP.std(0)


def _ipm(own_P: Tensor, honest: Sequence[Tensor], _: Tensor | None) -> Tensor:
    """Inner product manipulation (Xie et al., arXiv:1903.03936)."""
    return -0.6 * torch.stack(list(honest)).mean(0) if honest else -own_P


def _shuffle(values: int) -> Tensor:
    """As long as an honest update, in a direction that means nothing."""
    return torch.randperm(values, generator=torch.Generator().manual_seed(0))


DISTORTIONS: Final[dict[str, Distortion]] = {
    "sign-flip": lambda own_P, honest, last_P: -own_P,
    "scaled": lambda own_P, honest, last_P: -10.0 * own_P,
    "noise": lambda own_P, honest, last_P: own_P[_shuffle(len(own_P))],
    "zeros": lambda own_P, honest, last_P: torch.zeros_like(own_P),
    "alie": _alie,
    "ipm": _ipm,
    "copy": lambda own_P, honest, last_P: honest[0] if honest else own_P,
    "stale": lambda own_P, honest, last_P: own_P if last_P is None else last_P,
}
assert set(DISTORTIONS) | {"label-flip"} == set(UPDATES)


def _digest(data: bytes) -> Digest:
    return Digest(hashlib.sha256(data).digest())
