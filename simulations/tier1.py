"""Tier 1: a scenario's nodes as protocol machines on the heap of virtual time.

Lines, devices, churn and faults are modelled; machines, rules and (with `run.model = "digits"`) all
training are the real ones. Round messages reach those to whom they mean something: validators and
seated trainers. What gossip costs the others is counted, not played.
"""

import hashlib
import heapq
import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from eigen.protocol.cid import raw_cid
from eigen.protocol.context import Deadlines, RunContext
from eigen.protocol.effects import Event, GroupArrived, PartArrived
from eigen.protocol.messages import Attestation, Payout, SeatProposal
from eigen.protocol.run import (
    AggregationSpec,
    InnerSpec,
    ModelSpec,
    OuterSpec,
    RunSpec,
    run_id,
)
from eigen.protocol.types import Address, Digest
from eigen.protocol.wire import encode
from eigen.simulations.adversaries import ACTS, HONEST
from eigen.simulations.compute import Compute, Hashes
from eigen.simulations.heap import HeapNetwork, Links, VirtualNode
from eigen.simulations.scenario import DAY_S, NodeGroup, Scenario
from eigen.training.codecs.registry import CODECS, GROUP_CODEC

MEMBERSHIP_S: Final = 10.0
"""Who came and went is told validators so often: a heartbeat's interval."""
PROOF_BYTES: Final = 512
"""What a part carries besides its data."""


@dataclass(frozen=True, slots=True)
class Device:
    """One node's machine and line."""

    name: str
    group: NodeGroup
    region: int
    upload_bytes_s: float
    steps_s: float


def payout_root(payouts: tuple[Payout, ...]) -> Digest:
    """Stands for the ledger's Merkle root: any injective digest will do here."""
    return Digest(hashlib.sha256(repr(payouts).encode()).digest())


class ScenarioNetwork(HeapNetwork):
    """The heap network of one scenario; `schedule` adds what is to come."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.devices = devices_of(scenario)
        self.lying = {
            a: d.group.behaviour for a, d in self.devices.items() if d.group.behaviour != HONEST
        }
        spec, compute, genesis, parts = _run(scenario, self.lying)
        validators = {a for a, d in self.devices.items() if d.group.role == "validator"}
        context = RunContext(
            run_id(spec),
            spec,
            Digest(hashlib.sha256(f"seed/{scenario.seed}".encode()).digest()),
            frozenset(validators),
            scenario.run.quorum or len(validators) // 2 + 1,
            genesis,
            parts,
            scenario.run.shards,
            scenario.run.sealed,
            Deadlines(*(getattr(scenario.deadlines, f) for f in Deadlines.__dataclass_fields__)),
            payout_root,
        )
        values = -(-scenario.run.values // parts)
        self._part_bytes = CODECS[spec.codec].encoded_bytes(values) + PROOF_BYTES
        self._group_bytes = CODECS[GROUP_CODEC].encoded_bytes(values) + PROOF_BYTES
        self._result_bytes = CODECS[spec.result_codec].encoded_bytes(values)
        self._line_free_s: dict[Address, float] = {}
        self._cut: frozenset[Address] = frozenset()
        self.seated: set[Address] = set()
        self._seated_round = 0
        self.sent_bytes: dict[Address, int] = {}
        self.received_bytes: dict[Address, int] = {}
        self.gossip_bytes = 0  # that reach each node
        self.watch: Callable[[str, Address], None] = lambda what, who: None
        self._to_come: list[tuple[float, int, Callable[[], None]]] = []
        self._membership_due = False
        links = Links(loss=scenario.links.loss, down_notice_s=scenario.links.notice_s)
        trainers = [a for a in self.devices if a not in validators]
        late = {a for a in self.devices if self.devices[a].group.joins_s > 0}
        super().__init__(context, trainers, scenario.seed, links, compute=compute, absent=late)
        self.uploads = {a: round(self.devices[a].upload_bytes_s / 1024) for a in trainers}
        self.hooks.append(self._act)
        for address, device in self.devices.items():
            self._plan(address, device)

    # what is to come ------------------------------------------------------------------------------
    def schedule(self, at_s: float, do: Callable[[], None]) -> None:
        """Have something done at a virtual time."""
        heapq.heappush(self._to_come, (at_s, len(self._to_come) + self.events, do))

    def play(self, until_s: float, done: Callable[[HeapNetwork], bool]) -> bool:
        """As `run`, with all that was scheduled."""
        while True:
            ahead = self._to_come[0][0] if self._to_come else math.inf
            if self.run(min(ahead, until_s), done):
                return True
            if ahead > until_s:
                return False
            at_s, _, do = heapq.heappop(self._to_come)
            self.now = max(self.now, at_s)
            do()
            if done(self):
                return True

    def _plan(self, address: Address, device: Device) -> None:
        group = device.group
        if group.joins_s:
            self.schedule(group.joins_s, lambda: self._come(address))
        elif group.session_s:
            self._plan_leaving(address)

    def _plan_leaving(self, address: Address) -> None:
        stays_s = self.random.expovariate(1 / self.devices[address].group.session_s)
        boots = self.nodes[address].boots
        self.schedule(self.now + stays_s, lambda: self._leave(address, boots))

    def _leave(self, address: Address, boots: int) -> None:
        node = self.nodes[address]
        if not node.alive or node.boots != boots:
            return  # a fault took it meanwhile
        self.kill(address)
        back_s = self.now + away_s(self.devices[address], self.now, self.random)
        self.schedule(back_s, lambda: self._come(address))

    def _come(self, address: Address) -> None:
        if self.nodes[address].alive:
            return
        self.restart(address)
        if self.devices[address].group.session_s:
            self._plan_leaving(address)

    def kill(self, address: Address) -> None:
        """As in `HeapNetwork`."""
        super().kill(address)
        self.watch("down", address)

    def restart(self, address: Address) -> None:
        """As in `HeapNetwork`."""
        super().restart(address)
        self.watch("up", address)

    def cut_off(self, addresses: Iterable[Address]) -> None:
        """Part these from all others; nobody, to heal it."""
        self._cut = frozenset(addresses)

    def _tell_membership(self, delay_s: float = 0.0) -> None:
        if self._membership_due:
            return
        self._membership_due = True
        self.schedule(self.now + max(delay_s, MEMBERSHIP_S if self.now else 0.0), self._heartbeats)

    def _heartbeats(self) -> None:
        self._membership_due = False
        super()._tell_membership()

    # the network ----------------------------------------------------------------------------------
    def latency_s(self, sender: VirtualNode, to: VirtualNode) -> float:
        """Between regions, with jitter; over a relay twice."""
        a, b, lines = self.devices[sender.address], self.devices[to.address], self.scenario.links
        way_s = lines.latency_ms[a.region][b.region] / 1000.0
        if a.group.relayed or b.group.relayed:
            way_s *= 2.0
        return way_s * (1.0 + lines.jitter * self.random.random())

    def connected(self, node: VirtualNode) -> Iterable[VirtualNode]:
        """Validators and who is seated; others have no connection that matters to the round."""
        return [n for n in self._by_index if n.validator or n.address in self.seated]

    def audience(self, sender: VirtualNode, message: object) -> Iterable[VirtualNode]:
        """Validators and who is seated; an attestation concerns everybody."""
        self.gossip_bytes += len(encode(message))
        if isinstance(message, SeatProposal):
            if message.attempt.round != self._seated_round:
                self._seated_round = message.attempt.round
                self.seated = set()
            self.seated |= {member.trainer for member in message.members}
        among: Iterable[VirtualNode] = self._by_index
        if not isinstance(message, Attestation):
            among = self.connected(sender)
        apart = sender.address in self._cut
        return [n for n in among if (n.address in self._cut) == apart] if self._cut else among

    def transfer_s(self, sender: VirtualNode, to: VirtualNode, event: Event, part: int) -> float:
        """After what the line has to carry before it."""
        size = self._result_bytes
        if isinstance(event, PartArrived):
            size = self._part_bytes
        elif isinstance(event, GroupArrived):
            size = self._group_bytes
        self._count_bytes(self.sent_bytes, sender.address, size)
        self._count_bytes(self.received_bytes, to.address, size)
        begin_s = max(self.now, self._line_free_s.get(sender.address, 0.0))
        end_s = begin_s + size / self.devices[sender.address].upload_bytes_s
        self._line_free_s[sender.address] = end_s
        return end_s - self.now + self.latency_s(sender, to)

    def _count_bytes(self, counts: dict[Address, int], address: Address, size: int) -> None:
        counts[address] = counts.get(address, 0) + size

    def send(self, sender: VirtualNode, to: Address, event: Event, part: int) -> None:
        """As in `HeapNetwork`; nothing where a partition is between the two."""
        if (sender.address in self._cut) == (to in self._cut):
            super().send(sender, to, event, part)

    def train_time_s(self, node: VirtualNode) -> float:
        """By the device, give or take a twentieth."""
        pace = self.devices[node.address].steps_s * self.random.uniform(0.95, 1.05)
        return self.scenario.run.steps / pace

    def _act(self, network: HeapNetwork, node: VirtualNode, effect: object) -> bool:
        act = ACTS.get(self.lying.get(node.address, ""))
        return act(network, node, effect) if act else False  # type: ignore[arg-type]


def away_s(device: Device, now_s: float, draws: random.Random) -> float:
    """How long a node that leaves now stays away: longer at night, where its group says so."""
    group = device.group
    hour = (now_s / DAY_S + device.region / 3) % 1.0
    night = 1.0 + group.diurnal * 4.0 * max(0.0, math.sin(2 * math.pi * hour))
    return draws.expovariate(1 / group.away_s) * night


def devices_of(scenario: Scenario) -> dict[Address, Device]:
    """Every node's device, by a drawn address; the same on every tier."""
    made = {}
    for group in scenario.nodes:
        region = scenario.links.regions.index(group.region) if group.region else 0
        for i in range(group.count):
            name = f"{group.name}-{i}"
            drawn = hashlib.sha256(f"{scenario.seed}/{name}".encode()).digest()
            faster = 1.0 + group.spread * (drawn[20] / 127.5 - 1.0)
            upload = group.upload_mbit * 125_000 * (1.0 + group.spread * (drawn[21] / 127.5 - 1.0))
            address = Address(drawn[:20])
            made[address] = Device(name, group, region, upload, group.steps_per_s * faster)
    return made


def _run(scenario: Scenario, lying: dict[Address, str]) -> tuple[RunSpec, Compute, str, int]:
    """The spec, who computes, the first checkpoint and the number of parts."""
    run = scenario.run
    if run.model != "cost":
        from eigen.simulations.learning import Learning, digits_spec

        spec = digits_spec(scenario)
        learning = Learning(scenario, spec, lying)
        return spec, learning, learning.genesis, learning.part_count
    return cost_spec(scenario), Hashes(), raw_cid(b"genesis"), run.parts


def cost_spec(scenario: Scenario) -> RunSpec:
    """The run that a scenario with `run.model = "cost"` stands for; its model is not described."""
    run = scenario.run
    return RunSpec(
        scenario.name,
        ModelSpec("mlp", ()),
        raw_cid(b"dataset"),
        run.rounds,
        InnerSpec(run.steps, 16, 1e-3, 0.0),
        OuterSpec("sgd", 1.0, 0.0),
        run.codec,
        CODECS[run.codec].answer or run.codec,
        AggregationSpec(run.rule),
        65_536,
        run.trainers_min,
        run.trainers_max,
        10**20,
        1_000,
        scenario.seed % 2**63,
    )
