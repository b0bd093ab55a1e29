"""Runs on the heap: contexts, faults that are drawn from a seed, and what must hold whatever fails.

A fault plan is drawn before the run, so that a test can assert that every fault in it happened.
"""

import hashlib
import random
from collections import defaultdict
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from eigen.protocol.cid import raw_cid
from eigen.protocol.context import Deadlines, RunContext
from eigen.protocol.effects import Effect, Persist, Publish
from eigen.protocol.messages import (
    Commitment,
    Outcome,
    OutcomeVote,
    ResultVote,
    SeatProposal,
    SeatVote,
    digest,
)
from eigen.protocol.pay import payouts_after
from eigen.protocol.run import (
    AggregationSpec,
    InnerSpec,
    ModelSpec,
    OuterSpec,
    PaySpec,
    RunSpec,
    run_id,
)
from eigen.protocol.types import Address, Digest
from eigen.simulations.heap import Clock, HeapNetwork, Links, VirtualNode

REWARD = 10**20
COMMITTEES = ((1, 1), (2, 2), (3, 2), (4, 3))  # validators and quorum


def payout_root(payouts: object) -> Digest:
    """Stands for the ledger's Merkle root: any injective digest will do here."""
    return Digest(hashlib.sha256(repr(payouts).encode()).digest())


def context(
    validators: int = 2,
    quorum: int = 2,
    *,
    rounds: int = 5,
    parts: int = 4,
    shards: int = 6,
    sealed: bool = False,
    trainers_min: int = 2,
    trainers_max: int = 16,
    overlap: bool = False,
    pay: PaySpec | None = None,
) -> RunContext:
    spec = RunSpec(
        "digits",
        ModelSpec("mlp", ()),
        raw_cid(b"manifest"),
        rounds,
        InnerSpec(20, 32, 1e-3, 0.0),
        OuterSpec("sgd", 1.0, 0.0),
        "int8",
        "int8",
        AggregationSpec("mean"),
        65_536,
        trainers_min,
        trainers_max,
        REWARD,
        1_000,
        1,
        overlap,
        pay or PaySpec(),
    )
    return RunContext(
        run_id(spec),
        spec,
        Digest(b"s" * 32),
        frozenset(Address(bytes([200 + i]) * 20) for i in range(validators)),
        quorum,
        raw_cid(b"genesis"),
        parts,
        shards,
        sealed,
        Deadlines(5.0, 3.0, 3.0, 2.0, 20.0, 2.0),
        payout_root,
    )


def trainers(count: int) -> list[Address]:
    return [Address(bytes([i + 1]) * 20) for i in range(count)]


def finished(network: HeapNetwork) -> bool:
    return all(node.head.finished for node in network.nodes.values() if node.alive)


def everybody_finished(network: HeapNetwork) -> bool:
    return all(node.alive and node.head.finished for node in network.nodes.values())


class Watch:
    """Sees every effect: who said what, who was dead when, and when each round was over."""

    def __init__(self, network: HeapNetwork, lying: frozenset[Address] = frozenset()) -> None:
        self.network = network
        self.lying = lying
        self.effects = 0
        self.said: dict[tuple[Address, type, object], set[Digest]] = defaultdict(set)
        self.dead: dict[Address, list[tuple[float, float]]] = defaultdict(list)
        self.adopted_s: dict[int, float] = {0: 0.0}
        network.hooks.append(self._see)

    def _see(self, network: HeapNetwork, node: VirtualNode, effect: Effect) -> bool:
        self.effects += 1
        if isinstance(effect, Publish) and node.address not in self.lying:
            message: Any = effect.message
            kind = type(message)
            if kind in (Commitment, ResultVote, SeatProposal, SeatVote, Outcome, OutcomeVote):
                self.said[node.address, kind, message.attempt].add(digest(message))
        if isinstance(effect, Persist):
            self.note_rounds()
        return False

    def note_rounds(self) -> None:
        for node in self.network.nodes.values():
            for round_ in node.records:
                self.adopted_s.setdefault(round_, self.network.now)

    def died(self, address: Address) -> None:
        self.dead[address].append((self.network.now, float("inf")))

    def came_back(self, address: Address) -> None:
        since, _ = self.dead[address].pop()
        self.dead[address].append((since, self.network.now))

    def check(self, seed: object = None) -> None:
        """Everything that holds in every run, whatever crashes, is lost or comes late."""
        network, spec = self.network, self.network.context.spec
        self.note_rounds()
        honest = [n for n in network.nodes.values() if n.address not in self.lying]
        for round_ in range(1, spec.rounds + 1):
            records = {n.records[round_] for n in honest if round_ in n.records}
            assert len(records) <= 1, f"seed {seed}: {len(records)} records of round {round_}"
            for record in records:
                paid = sum(p.cumulative for p in record.payouts)
                assert 0 < paid <= spec.reward_per_round * round_, f"seed {seed}: paid {paid}"
                for credit in record.trainers:
                    assert not self.was_dead(credit.account, round_), f"seed {seed}: dead and paid"
        self._check_chain(seed)
        for round_, roots in network.attested.items():
            for validator, said in roots.items():
                if validator not in self.lying:
                    assert len(said) == 1, f"seed {seed}: two roots attested in round {round_}"
        for (_, kind, attempt), words in self.said.items():
            assert len(words) == 1, f"seed {seed}: {len(words)} {kind.__name__} in {attempt}"
        for node in honest:
            for penalty in node.penalties:
                assert penalty.peer in self.lying, f"seed {seed}: an honest peer paid {penalty}"

    def _check_chain(self, seed: object) -> None:
        """Each record goes on from the one before, and pays exactly what it credits."""
        records = {
            r: record for n in self.network.nodes.values() for r, record in n.records.items()
        }
        for round_, record in records.items():
            before = records.get(round_ - 1)
            if before is None:
                assert round_ == 1, f"seed {seed}: nobody has the record of round {round_ - 1}"
                continue
            assert record.previous == digest(before), f"seed {seed}: round {round_ - 1} was lost"
            assert record.base == before.checkpoint, f"seed {seed}: round {round_} from elsewhere"
            earned = (*record.trainers, *record.validators)
            table = payouts_after(
                self.network.context.spec,
                round_,
                before,
                earned,
                awaited={check.trainer for check in record.checks},
                ejected=record.ejected,
            )
            assert record.payouts == table, f"seed {seed}: pay of {round_}"

    def was_dead(self, address: Address, round_: int) -> bool:
        """Whether a node was down from the round's first possible moment to its last."""
        begin, end = self.adopted_s[round_ - 1], self.adopted_s[round_]
        return any(since <= begin and until >= end for since, until in self.dead[address])


@dataclass(slots=True)
class Plan:
    """Faults of one run: which effects are a node's last, and how the network behaves."""

    kills: set[int]  # counts of effects over all nodes at which the acting node dies
    performed: bool  # whether the last effect still happens
    outage_s: tuple[float, float]
    power_cut: bool  # at the last kill everybody dies
    cuts: list[tuple[float, float, frozenset[Address]]]  # who is cut off from when to when
    freezes: list[tuple[float, float, Address]]  # who stands still from when to when
    fired: list[tuple[float, Address]] = field(default_factory=list)
    frozen: int = 0  # freezes that have begun, of nodes that were up
    cut: int = 0  # cuts that have begun


def draw(seed: int, *, overlap: bool) -> tuple[HeapNetwork, Plan, random.Random]:
    """A network and its faults."""
    rng = random.Random(seed)
    validators, quorum = rng.choice(COMMITTEES)
    count = rng.randint(2, 6)
    run = context(
        validators,
        quorum,
        rounds=rng.randint(3, 5),
        parts=rng.randint(1, 6),
        shards=rng.randint(count, 8),
        sealed=rng.random() < 0.5,
        overlap=overlap,
    )
    slowest, loss = rng.choice((0.02, 0.1, 0.5)), rng.choice((0.0, 0.0, 0.02, 0.1, 0.3))
    more = random.Random(f"more/{seed}")
    links = Links(
        0.005,
        slowest,
        loss,
        twice=more.choice((0.0, 0.05, 0.5)),
        late=more.choice((0.0, 0.1, 0.3)),
        late_s=more.choice((1.0, 10.0)),
    )
    everybody = [*trainers(count), *sorted(run.validators)]
    wrong = [a for a in everybody if more.random() < 0.3]
    clocks = {a: Clock(more.uniform(0.0, 1e4), more.uniform(0.8, 1.25)) for a in wrong}
    network = HeapNetwork(run, trainers(count), seed, links, clocks=clocks)
    busy = 8 * run.spec.rounds * (validators + count)  # effects that even a smooth run has
    kills = set(rng.sample(range(5, busy), rng.randint(1, 7)))
    outage = rng.choice(((0.1, 1.0), (0.5, 5.0), (5.0, 120.0)))
    cuts = []
    for _ in range(more.choice((0, 0, 1, 2))):
        at_s, for_s = more.uniform(0.1, 6.0), more.choice((0.3, 3.0, 30.0))
        some = frozenset(more.sample(everybody, more.randint(1, len(everybody) - 1)))
        cuts.append((at_s, at_s + for_s, some))
    freezes = []
    for _ in range(more.choice((0, 0, 1, 2))):
        at_s, for_s = more.uniform(0.1, 6.0), more.choice((0.5, 5.0, 50.0))
        freezes.append((at_s, at_s + for_s, more.choice(everybody)))
    plan = Plan(kills, rng.random() < 0.5, outage, rng.random() < 0.25, cuts, freezes)
    return network, plan, rng


def play(seed: int, limit_s: float = 4_000.0, *, overlap: bool = False) -> tuple[Watch, Plan, bool]:
    """A run under its plan of faults, then without faults. True where everybody finished."""
    network, plan, rng = draw(seed, overlap=overlap)
    watch = Watch(network)
    back_at: dict[Address, float] = {}

    def die(address: Address) -> None:
        network.kill(address)
        watch.died(address)
        back_at[address] = network.now + rng.uniform(*plan.outage_s)

    def faults(net: HeapNetwork, node: VirtualNode, effect: Effect) -> bool:
        if watch.effects not in plan.kills:
            return False
        plan.kills.discard(watch.effects)
        plan.fired.append((net.now, node.address))
        if plan.power_cut and not plan.kills:
            for other in net.nodes.values():
                if other.alive and other is not node:
                    die(other.address)
        die(node.address)
        return not plan.performed

    def cut(some: frozenset[Address]) -> None:
        plan.cut += bool(some)
        network.cut_off(some)

    for begin_s, end_s, some in plan.cuts:
        network.schedule(begin_s, partial(cut, some))
        network.schedule(end_s, partial(cut, frozenset()))

    def freeze(address: Address) -> None:
        if network.nodes[address].alive:
            plan.frozen += 1
            network.freeze(address)

    for begin_s, end_s, address in plan.freezes:
        network.schedule(begin_s, partial(freeze, address))
        network.schedule(end_s, partial(network.thaw, address))
    heals_s = max((end_s for _, end_s, _ in [*plan.cuts, *plan.freezes]), default=0.0)
    network.hooks.append(faults)
    planned = len(plan.kills)
    while network.now < limit_s:
        ahead = min([t for t in back_at.values() if t > network.now], default=network.now + 1.0)
        done = network.run(ahead, everybody_finished)
        network.now = max(network.now, ahead) if not done else network.now
        for address in [a for a, t in back_at.items() if t <= network.now]:
            del back_at[address]
            watch.came_back(address)
            network.restart(address)
        if len(plan.fired) == planned and not back_at and network.now >= heals_s:
            network.links = replace(network.links, loss=0.0, late=0.0)  # now it must finish
        if done:
            break
    assert len(plan.fired) == planned, f"seed {seed}: a planned fault did not happen"
    begun = sum(begin_s <= network.now for begin_s, _, _ in plan.cuts)
    assert plan.cut == begun, f"seed {seed}: a partition did not happen"
    return watch, plan, everybody_finished(network)


def state(network: HeapNetwork) -> list[object]:
    """Where everybody stands, for a failing test's message."""
    return [
        (
            node.address[0],
            node.alive,
            node.head.round,
            node.committee and (node.committee.stage.value, node.committee.number),
            node.trainer and node.trainer.phase.value,
        )
        for node in network.nodes.values()
    ]
