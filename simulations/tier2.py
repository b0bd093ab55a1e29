"""Tier 2: the daemon's own services on virtual time, over a network in memory.

A node is what `eigen up` runs: the same composition root, with libp2p's wire, stores on a disk in
memory, gossip, requests and bulk transfers. Lines, the chain and what trainers compute are virtual.
"""

import hashlib
import random
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import trio

from eigen.config.network import ContractAddresses, NetworkFile, Parameters
from eigen.config.paths import Paths
from eigen.config.schema import (
    NodeConfig,
    P2pSection,
    RelaySection,
    TrainingSection,
    ValidatorSection,
)
from eigen.crypto.identity import Identity
from eigen.crypto.sealing_key import SealingKeyPair
from eigen.node.app import Home, Node, World, run_node
from eigen.node.datasets import Dataset
from eigen.node.libp2p.surroundings import Surroundings
from eigen.protocol.effects import Adopted, Effect, Event, Penalize, Publish, Received
from eigen.protocol.messages import RoundRecord, SeatProposal
from eigen.protocol.run import AggregationSpec, ModelSpec, RunSpec
from eigen.protocol.types import Address
from eigen.protocol.wire import encode
from eigen.simulations import virtual_time
from eigen.simulations.ledger import CHAIN_ID, Ledger, LedgerAccount
from eigen.simulations.lines import Lines
from eigen.simulations.outcome import Answer, Outcome, Record, attempt_of, kind_of
from eigen.simulations.play import LOOK_S, SETTLE_S
from eigen.simulations.scenario import Fault, Scenario
from eigen.simulations.tier1 import Device, away_s, cost_spec, devices_of
from eigen.simulations.virtual_network import PORT, VirtualNetwork
from eigen.simulations.virtual_trainer import Arithmetic, Costed, Remembered, VirtualTrainer
from eigen.training.aggregation import RULES
from eigen.training.spec import check

EPOCH_S: Final = 1_800_000_000.0
"""The calendar at virtual time 0."""
MEET_S: Final = 120.0
"""Nodes have so long to find each other before the run is proposed all the same."""
SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 (only where nodes' disks are put)
INPUTS: Final = 64
CLASSES: Final = 10
"""Of a model that costs: digits' own, with as wide a layer as makes its parameters."""


@dataclass(slots=True)
class VirtualNode:
    """One node: its home, and what runs there while it is up."""

    name: str
    device: Device
    home: Home
    world: World
    scope: trio.CancelScope | None = None
    node: Node | None = None
    round: int = 0

    @property
    def address(self) -> Address:
        """The node's account."""
        return self.home.identity.address


class ServicesPlay:
    """One run of one scenario on tier 2. Times are counted from when the run is opened."""

    def __init__(self, scenario: Scenario, record: Record | None = None) -> None:
        self.scenario = scenario
        self._record = record
        self._random = random.Random(scenario.seed)
        devices = {device.name: device for device in devices_of(scenario).values()}
        self.lines = Lines(scenario, devices, scenario.seed)
        self.events = 0
        self._trace = hashlib.blake2b(digest_size=32)
        self._devices = devices
        self.nodes: dict[Address, VirtualNode] = {}
        self.outcome = Outcome(scenario, lambda a: self.nodes[a].device.group.name)
        self._opened_s = 0.0
        self._adopted = 0
        self._progress: Callable[[float, int], None] | None = None
        self._seated: dict[int, set[Address]] = {}
        self._finished: trio.Event

    @property
    def adversaries(self) -> dict[str, str]:
        """Nobody lies on this tier."""
        return {}

    def run(self, progress: Callable[[float, int], None] | None = None) -> Answer:
        """Play until the run has ended or `until_s`. `progress` gets virtual time and round."""
        self._progress = progress
        parent = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
        disks = Path(tempfile.mkdtemp(prefix="eigen-sim-", dir=parent))
        try:
            return virtual_time.run(partial(self._main, disks), self.scenario.seed)
        finally:
            shutil.rmtree(disks, ignore_errors=True)

    # the network ----------------------------------------------------------------------------------
    async def _main(self, disks: Path) -> Answer:
        self._finished = trio.Event()
        self.network = VirtualNetwork(self.lines, list(self._devices))
        self._make_nodes(disks)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            late = {n.address for n in self.nodes.values() if n.device.group.joins_s}
            for node in self.nodes.values():
                if node.address not in late:
                    nursery.start_soon(self._live, node)
            await self._meet(len(self.nodes) - len(late))
            await self._open_run()
            for node in self.nodes.values():
                nursery.start_soon(self._come_and_go, node)
            for fault in self.scenario.faults:
                nursery.start_soon(self._fault, fault)
            with trio.move_on_after(self.scenario.until_s):
                await self._finished.wait()
                await self._settle()
            answer = self._answer()
            nursery.cancel_scope.cancel()
        return answer

    def _make_nodes(self, disks: Path) -> None:
        scenario, names = self.scenario, list(self._devices)
        identities = {name: _identity(scenario.seed, name) for name in names}
        validators = [n for n in names if self._devices[n].group.role == "validator"]
        ledger_address = _identity(scenario.seed, "the ledger").address
        self.ledger = Ledger(
            (identities[name].address for name in validators),
            scenario.run.quorum or len(validators) // 2 + 1,
            scenario.seed,
            _unix_s,
            ledger_address,
        )
        from eigen.node.libp2p.identity import NodeKey

        first = validators[0]
        bootstrap = (
            f"/ip4/{self.network.ip_of(first)}/tcp/{PORT}"
            f"/p2p/{NodeKey(identities[first].secret).peer_id}"
        )
        times = scenario.deadlines
        file = NetworkFile(
            name=scenario.name,
            chain_id=CHAIN_ID,
            rpc_urls=(),
            contracts=ContractAddresses(*[ledger_address] * 4),
            bootstrap=(bootstrap,),
            parameters=Parameters(
                commit_s=times.commit_s,
                inputs_s=times.inputs_s,
                owner_s=times.owner_s,
                notices_s=times.notices_s,
                attempt_s=times.attempt_s,
                resend_s=times.resend_s,
            ),
        )
        arithmetic, remembered = self._arithmetic(), Remembered()
        for name, device in self._devices.items():
            folder = disks / name
            folder.mkdir()
            home = Home(
                Paths(folder),
                _config(device, self.network.ip_of(name)),
                file,
                identities[name],
                SealingKeyPair(_secret(scenario.seed, f"{name}/sealing")),
            )
            draws = random.Random(f"{scenario.seed}/{name}")

            def trainer(
                _: Home, device: Device = device, draws: random.Random = draws
            ) -> VirtualTrainer:
                return VirtualTrainer(arithmetic, remembered, device.steps_s, draws)

            world = World(
                Surroundings(self.network.transport(name), _unix_s, draws.randbytes),
                lambda home: LedgerAccount(self.ledger, home.identity.address),
                trainer,
                draws,
                self._see,
            )
            self.nodes[home.identity.address] = VirtualNode(name, device, home, world)

    def _arithmetic(self) -> Arithmetic:
        if self.scenario.run.model == "cost":
            return Costed()
        from eigen.training.engine import Engine

        return Engine(threads=1)

    async def _live(self, node: VirtualNode) -> None:
        """A node's process, until it is killed."""
        with trio.CancelScope() as scope:
            node.scope = scope
            async with trio.open_nursery() as nursery:
                node.node = await nursery.start(run_node, node.home, node.world)
        node.node = None
        node.scope = None

    async def _meet(self, expected: int) -> None:
        """Wait until everybody has heard of everybody, or for `MEET_S`."""
        with trio.move_on_after(MEET_S):
            while not self._met(expected):  # noqa: ASYNC110 (many nodes are looked at)
                await trio.sleep(LOOK_S)

    def _met(self, expected: int) -> bool:
        up = [node.node for node in self.nodes.values() if node.node is not None]
        now = trio.current_time()
        known = (sum(1 for _ in node.members.membership.fresh(now)) for node in up)
        return len(up) >= expected and all(count >= expected for count in known)

    async def _open_run(self) -> None:
        """The first validator seeds the dataset and proposes the run."""
        first = next(n for n in self.nodes.values() if n.device.group.role == "validator")
        assert first.node is not None
        spec, dataset = _work(self.scenario)
        manifest = await first.node.datasets.seed(dataset)
        await first.node.governance.propose(replace(spec, dataset=manifest), self.scenario.name)
        self._opened_s = trio.current_time()

    async def _settle(self) -> None:
        """Whoever is up has a while to catch up."""
        with trio.move_on_after(SETTLE_S):
            while any(  # noqa: ASYNC110 (many nodes are looked at)
                n.node and n.round < self._adopted for n in self.nodes.values()
            ):
                await trio.sleep(LOOK_S)

    # churn and faults -----------------------------------------------------------------------------
    async def _come_and_go(self, node: VirtualNode) -> None:
        group = node.device.group
        if group.joins_s:
            await trio.sleep_until(self._opened_s + group.joins_s)
            self._start(node)
        while group.session_s:
            await trio.sleep(self._random.expovariate(1 / group.session_s))
            if node.node is None:
                continue  # a fault took it meanwhile
            self._kill(node)
            await trio.sleep(away_s(node.device, self._now(), self._random))
            self._start(node)

    def _start(self, node: VirtualNode) -> None:
        if node.scope is None:
            self._came_or_went("up", node)
            self._nursery.start_soon(self._live, node)

    def _kill(self, node: VirtualNode) -> None:
        if node.scope is not None:
            self._came_or_went("down", node)
            node.scope.cancel()

    async def _fault(self, fault: Fault) -> None:
        await trio.sleep_until(self._opened_s + fault.at_s)
        group = [n for n in self.nodes.values() if n.device.group.name == fault.nodes]
        hit = self._random.sample(group, round(len(group) * fault.share))
        names = [n.name for n in hit]
        self._note(f"{fault.what} {len(hit)} of {fault.nodes} for {fault.for_s:g} s")
        match fault.what:
            case "partition":
                self.lines.cut_off(names)
                await trio.sleep(fault.for_s)
                self.lines.cut_off(())
            case "freeze":
                self.lines.hold(names)
                await trio.sleep(fault.for_s)
                self.lines.release(names)
            case _:
                for node in hit:
                    self._kill(node)
                await trio.sleep(fault.for_s)
                for node in hit:
                    self._start(node)
        self.network.changed()

    # what is seen ---------------------------------------------------------------------------------
    def _now(self) -> float:
        return trio.current_time() - self._opened_s

    def _name(self, address: Address) -> str:
        node = self.nodes.get(address)
        return node.name if node else address.hex()

    def _see(self, address: Address, what: Event | Effect) -> None:
        node, now = self.nodes[address], self._now()
        self.events += 1
        self._add_to_trace(now, node, what)
        if isinstance(what, Adopted):
            node.round = max(node.round, what.record.attempt.round)
            if node.round > self._adopted:
                self._end_round(what.record)
        if isinstance(what, Publish) and isinstance(what.message, SeatProposal):
            members = {member.trainer for member in what.message.members}
            self._seated.setdefault(what.message.attempt.round, set()).update(members)
        kind = kind_of(what)
        if self._record is None or not kind:
            return
        detail = f"{self._name(what.peer)}: {what.reason}" if isinstance(what, Penalize) else ""
        at = attempt_of(what)
        round_, number = (at.round, at.number) if at else (node.round + 1, 0)
        self._record.event(now, node.name, kind, round_, number, detail)

    def _add_to_trace(self, now: float, node: VirtualNode, what: Event | Effect) -> None:
        said = what.message if isinstance(what, Publish | Received) else None
        line = f"{now!r} {node.name} {type(what).__name__} {type(said).__name__}"
        self._trace.update(line.encode())
        if isinstance(what, Publish):
            self._trace.update(encode(what.message))

    def _came_or_went(self, what: str, node: VirtualNode) -> None:
        if self._record is not None:
            self._record.event(self._now(), node.name, what, node.round, 0)

    def _note(self, detail: str) -> None:
        if self._record is not None:
            self._record.event(self._now(), "", "fault", 0, 0, detail)

    def _end_round(self, record: RoundRecord) -> None:
        """A round is attested: what it took and who was paid."""
        last, now = record.attempt.round, self._now()
        before = max(self.outcome.ended_s)
        self.outcome.ended_s[last] = now
        self.outcome.records[last] = record
        self._adopted = last
        if self._progress is not None:
            self._progress(now, last)
        if last >= self.scenario.run.rounds:
            self._finished.set()
        if self._record is None:
            return
        out = self._record.metric
        out(now, "round_s", now - self.outcome.ended_s[before], "", last)
        out(now, "attempts", record.attempt.number + 1.0, "", last)
        out(now, "alive", float(sum(n.node is not None for n in self.nodes.values())), "", last)
        out(now, "seated", float(len(self._seated.get(last, ()))), "", last)
        whole = sum(credit.amount for credit in record.trainers) or 1
        for credit in record.trainers:
            out(now, "credited", credit.amount / whole, self._name(credit.account), last)
        for figure, counts in (
            ("bytes_sent", self.lines.sent_bytes),
            ("bytes_received", self.lines.received_bytes),
        ):
            for name, size in counts.items():
                out(now, figure, float(size), name, last)
            counts.clear()

    def _answer(self) -> Answer:
        now = self._now()
        self.outcome.held = tuple(
            (n.device.group.name, n.round) for n in self.nodes.values() if n.node is not None
        )
        self._take_figures()
        held = tuple(self.outcome.judge(wanted) for wanted in self.scenario.expect)
        if self._record is not None:
            for what, true, detail in held:
                self._record.event(now, "", "assert", 0, 0, f"{what}: {detail}; {true}")
        return Answer(held, self._adopted, now, self.events, self._trace.hexdigest())

    def _take_figures(self) -> None:
        """What validators found that each checkpoint is worth."""
        if self.scenario.run.model == "cost":
            return
        for node in self.nodes.values():
            for rounds in node.node.evaluations.figures.values() if node.node else ():
                for round_, figures in rounds.items():
                    if round_ in self.outcome.accuracy or round_ not in self.outcome.ended_s:
                        continue
                    self.outcome.accuracy[round_] = figures.accuracy
                    if self._record is not None and round_:
                        at_s = self.outcome.ended_s[round_]
                        self._record.metric(at_s, "loss", figures.loss, "", round_)
                        self._record.metric(at_s, "accuracy", figures.accuracy, "", round_)


def _unix_s() -> float:
    return EPOCH_S + trio.current_time()


def _secret(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"secret/{seed}/{name}".encode()).digest()


def _identity(seed: int, name: str) -> Identity:
    return Identity.from_secret(_secret(seed, name))


def _config(device: Device, ip: str) -> NodeConfig:
    validates = device.group.role == "validator"
    return NodeConfig(
        p2p=P2pSection(listen=(f"/ip4/{ip}/tcp/{PORT}",), mdns=False, upnp=False),
        training=TrainingSection(enabled=not validates),
        validator=ValidatorSection(enabled=validates),
        relay=RelaySection(enabled=validates),
    )


def _work(scenario: Scenario) -> tuple[RunSpec, Dataset]:
    """What is trained, and on what."""
    run = scenario.run
    if run.model == "digits":
        from eigen.simulations.learning import deal, digits_spec
        from eigen.training.datasets import digits, write_shard

        training, held_out = digits(seed=0)
        shards = [(write_shard(s), len(s)) for s in deal(training, run, scenario.seed)]
        return digits_spec(scenario), Dataset("digits", shards, write_shard(held_out), run.sealed)
    hidden = max(1, round((run.values - CLASSES) / (INPUTS + 1 + CLASSES)))
    fields = {"classes": CLASSES, "depth": 1, "hidden": hidden, "inputs": INPUTS}
    model = ModelSpec("mlp", tuple(sorted(fields.items())))
    tolerated = round(run.tolerated * 10_000) if RULES[run.rule].robust else 0
    spec = replace(
        cost_spec(scenario), model=model, aggregation=AggregationSpec(run.rule, tolerated)
    )
    spec = replace(spec, part_values=-(-check(spec).layout.values // run.parts))
    named = [(f"shard {i} of {scenario.seed}".encode(), 100) for i in range(run.shards)]
    return spec, Dataset("cost", named, b"held out", run.sealed)
