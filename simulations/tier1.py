"""Tier 1: a scenario's nodes as protocol machines on the heap of virtual time.

Lines, devices, churn and faults are modelled; machines, rules and (with `run.model = "digits"`) all
training are the real ones. Round messages reach those to whom they mean something: validators and
seated trainers. What gossip costs the others is counted, not played.
"""

import hashlib
import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from eigen.protocol.cid import raw_cid
from eigen.protocol.context import Deadlines, RunContext
from eigen.protocol.effects import Event, GroupArrived, PartArrived
from eigen.protocol.messages import Attestation, Payout, RoundRecord, SeatProposal
from eigen.protocol.run import (
    AggregationSpec,
    InnerSpec,
    ModelSpec,
    OuterSpec,
    RunSpec,
    run_id,
)
from eigen.protocol.types import Address, Digest
from eigen.simulations.adversaries import ACTS, HONEST
from eigen.simulations.compute import Compute, Hashes
from eigen.simulations.heap import HANDLED, HeapNetwork, Item, Links, VirtualNode
from eigen.simulations.scenario import DAY_S, NodeGroup, Scenario
from eigen.training.codecs.registry import CODECS, GROUP_CODEC

MEMBERSHIP_S: Final = 10.0
"""Who came and went is told validators so often: a heartbeat's interval."""
TOLD_SHARE: Final = 4
"""Trainers are told how many there are when one in so many came or went."""
PASSED_ON_S: Final = 1.0
"""What trainers pass on has reached all of them so long after it was said."""
PROOF_BYTES: Final = 512
"""What a part carries besides its data."""


@dataclass(frozen=True, slots=True)
class Device:
    """One node's machine and line."""

    name: str
    group: NodeGroup
    region: int
    upload_bytes_s: float
    download_bytes_s: float  # 0: as much as comes
    steps_s: float
    times_s: tuple[float, ...] = ()  # when it comes, goes, comes..., where that is traced

    @property
    def late(self) -> bool:
        """Whether it is not there at first."""
        return self.group.joins_s > 0 or (bool(self.times_s) and self.times_s[0] > 0)


def payout_root(payouts: tuple[Payout, ...]) -> Digest:
    """Stands for the ledger's Merkle root: any injective digest will do here."""
    return Digest(hashlib.sha256(repr(payouts).encode()).digest())


class ScenarioNetwork(HeapNetwork):
    """The heap network of one scenario; `schedule` adds what is to come."""

    keeps_records = False

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
        self._taken_s: dict[Address, float] = {}  # when a node's line downwards is free
        self.seated: set[Address] = set()
        self._seated_round = 0
        self._in_round: list[VirtualNode] = []  # validators and who is seated
        self._passed_on: list[tuple[float, VirtualNode, Item]] = []  # in rounds not long over
        self._attesting: list[Item] = []
        self._healed_s = 0.0  # when a partition last began or ended
        self.sent_bytes: dict[Address, int] = {}
        self.received_bytes: dict[Address, int] = {}
        self.watch: Callable[[str, Address], None] = lambda what, who: None
        self.ended: Callable[[RoundRecord], None] = lambda record: None
        self._membership_due = False
        self._count_told = sum(not d.late for d in self.devices.values())
        self._ways_s = _ways(scenario)
        links = Links(loss=scenario.links.loss, down_notice_s=scenario.links.notice_s)
        trainers = [a for a in self.devices if a not in validators]
        late = {a for a, device in self.devices.items() if device.late}
        super().__init__(context, trainers, scenario.seed, links, compute=compute, absent=late)
        for address, device in self.devices.items():
            self.nodes[address].place = 2 * device.region + device.group.relayed
        self._in_round = self._validators
        self.uploads = {a: round(self.devices[a].upload_bytes_s / 1024) for a in trainers}
        self._donors = {a for a, what in self.lying.items() if what == "lying-donor"}
        if self.lying:
            self.hooks.append(self._act)
        for address, device in self.devices.items():
            self._plan(address, device)

    # who comes and goes ---------------------------------------------------------------------------
    def _plan(self, address: Address, device: Device) -> None:
        group = device.group
        if group.joins_s:
            self.schedule(group.joins_s, lambda: self._come(address))
        elif group.session_s:
            self._plan_leaving(address)
        for turn, at_s in enumerate(device.times_s):
            self.schedule(at_s, partial(self._goes if turn % 2 else self._come, address))

    def _goes(self, address: Address) -> None:
        if self.nodes[address].alive:
            self.kill(address)

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

    def _tell_membership(self, delay_s: float = 0.0) -> None:
        if self._membership_due:
            return
        self._membership_due = True
        self.schedule(self.now + max(delay_s, MEMBERSHIP_S if self.now else 0.0), self._heartbeats)

    def _heartbeats(self) -> None:
        """Validators are told of each change, trainers if there are far more of them or fewer."""
        self._membership_due = False
        self._tell_members(self._validators)
        count = sum(node.alive for node in self._by_index)
        if abs(count - self._count_told) * TOLD_SHARE > self._count_told:
            self._count_told = count
            self._tell_members([node for node in self._by_index if not node.validator])

    def _boot(self, node: VirtualNode) -> None:
        super()._boot(node)
        if not node.validator:
            self._tell_members((node,))

    # the network ----------------------------------------------------------------------------------
    def delays_s(self, sender: VirtualNode, among: Sequence[VirtualNode]) -> list[float]:
        """What is gossiped: between regions, with jitter, as often as it is passed on."""
        ways, draw = self._ways_s[sender.place], self.random.random
        hops, jitter = self.scenario.links.hops, self.scenario.links.jitter
        return [ways[node.place] * hops * (1.0 + jitter * draw()) for node in among]

    def answers(self, peer: VirtualNode) -> bool:
        """Not with anything of use where it is a lying donor: no quorum attested its head."""
        return peer.address not in self._donors

    def latency_s(self, sender: VirtualNode, to: VirtualNode) -> float:
        """Between regions, with jitter; over a relay twice."""
        jitter = self.scenario.links.jitter
        return self._ways_s[sender.place][to.place] * (1.0 + jitter * self.random.random())

    def connected(self, node: VirtualNode) -> Sequence[VirtualNode]:
        """Validators and who is seated; others have no connection that matters to the round."""
        return self._in_round

    def audience(self, sender: VirtualNode, message: object) -> Sequence[VirtualNode]:
        """Validators and who is seated, if it means anything to trainers; an attestation concerns
        everybody."""
        if isinstance(message, Attestation):
            return self._by_index
        if isinstance(message, SeatProposal):
            self._seat(message)
        return self._in_round if type(message) in HANDLED["trainer"] else self._validators

    def _seat(self, seat: SeatProposal) -> None:
        if seat.attempt.round != self._seated_round:
            self._seated_round = seat.attempt.round
            self.seated = set()
        self.seated |= {member.trainer for member in seat.members}
        seated = sorted(self.nodes[a].index for a in self.seated)
        self._in_round = [*(self._by_index[i] for i in seated), *self._validators]

    def gossip(self, sender: VirtualNode, message: Any) -> Item:
        """As in `HeapNetwork`. What trainers hear and only pass on is not played but remembered."""
        item = super().gossip(sender, message)
        if item.kind is Attestation:
            self._attesting.append(item)
        elif item.kind not in HANDLED["trainer"]:
            self._passed_on.append((self.now, sender, item))
        return item

    def evidence(self, peer: VirtualNode, asking: VirtualNode) -> Iterable[Item]:
        """What a node heard of rounds that are not over, played to it or not.

        To who waits, attestations alone mean anything.
        """
        if not asking.validator and asking.address not in self.seated:
            yield from (item for item in self._attesting if item.number in peer.heard)
            return
        yield from list(peer.heard.values())
        if peer.validator or peer.address not in self.seated:
            return
        over = peer.head.round
        for at_s, sender, item in self._passed_on:
            since_s = max(peer.up_since_s, self._healed_s)
            came = since_s <= at_s <= self.now - PASSED_ON_S and self.reachable(sender, peer)
            if came and item.round > over and not self._missed(peer, item):
                yield item

    def _missed(self, peer: VirtualNode, item: Item) -> bool:
        """Drawn once for all, as for what is played."""
        drawn = (item.number * 0x9E3779B1 + peer.index * 0x85EBCA77) % 2**32
        return drawn < self.links.loss * 2**32

    def cut_off(self, addresses: Iterable[Address]) -> None:
        """As in `HeapNetwork`."""
        super().cut_off(addresses)
        self._healed_s = self.now

    def round_over(self, record: RoundRecord) -> None:
        """As in `HeapNetwork`."""
        super().round_over(record)
        over = record.attempt.round
        self._passed_on = [kept for kept in self._passed_on if kept[2].round >= over]
        self._attesting = [item for item in self._attesting if item.round >= over]
        self.ended(record)

    def transfer_s(self, sender: VirtualNode, to: VirtualNode, event: Event) -> float:
        """After what both lines have to carry before it."""
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
        down_bytes_s = self.devices[to.address].download_bytes_s
        if down_bytes_s:  # what comes at a time shares the line
            taken_s = max(begin_s, self._taken_s.get(to.address, 0.0)) + size / down_bytes_s
            self._taken_s[to.address] = taken_s
            end_s = max(end_s, taken_s)
        return end_s - self.now + self.latency_s(sender, to)

    def _count_bytes(self, counts: dict[Address, int], address: Address, size: int) -> None:
        counts[address] = counts.get(address, 0) + size

    def train_time_s(self, node: VirtualNode) -> float:
        """By the device, give or take a twentieth."""
        pace = self.devices[node.address].steps_s * self.random.uniform(0.95, 1.05)
        return self.scenario.run.steps / pace

    def _act(self, network: HeapNetwork, node: VirtualNode, effect: object) -> bool:
        act = ACTS.get(self.lying.get(node.address, ""))
        return act(network, node, effect) if act else False  # type: ignore[arg-type]


def _ways(scenario: Scenario) -> list[list[float]]:
    """Seconds from one place to another: regions, and in each whether over a relay."""
    rows, relays = scenario.links.latency_ms, (1.0, 2.0)
    return [
        [way_ms / 1000.0 * max(ours, theirs) for way_ms in row for theirs in relays]
        for row in rows
        for ours in relays
    ]


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
            download = group.download_mbit * 125_000
            times_s = group.traces[i % len(group.traces)] if group.traces else ()
            steps_s = group.steps_per_s * faster
            made[address] = Device(name, group, region, upload, download, steps_s, times_s)
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
