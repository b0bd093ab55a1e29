"""Tier 2: the daemon's own services on virtual time, over a network in memory.

A node is what `eigen up` runs: the same composition root, with libp2p's wire, stores on a disk in
memory, gossip, requests and bulk transfers. Lines, the chain and what trainers compute are virtual.
"""

import hashlib
import random
import shutil
import tempfile
from collections.abc import Callable, Sequence
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
from eigen.node.governance import open_run
from eigen.node.libp2p.surroundings import Surroundings
from eigen.protocol.effects import Adopted, Effect, Event, Penalize, Publish, Received
from eigen.protocol.messages import RoundRecord, SeatProposal
from eigen.protocol.types import Address
from eigen.protocol.wire import encode
from eigen.simulations import virtual_time
from eigen.simulations.happenings import Happenings
from eigen.simulations.ledger import CHAIN_ID, Ledger, LedgerAccount
from eigen.simulations.lines import Lines
from eigen.simulations.outcome import Answer, Chronicle, Outcome, Record, attempt_of, kind_of
from eigen.simulations.play import LOOK_S, SETTLE_S
from eigen.simulations.scenario import Scenario
from eigen.simulations.services import work
from eigen.simulations.tier1 import Device, devices_of
from eigen.simulations.virtual_network import PORT, VirtualNetwork
from eigen.simulations.virtual_trainer import Arithmetic, Costed, Remembered, VirtualTrainer

EPOCH_S: Final = 1_800_000_000.0
"""The calendar at virtual time 0."""
MEET_S: Final = 120.0
"""Nodes have so long to find each other before the run is proposed all the same."""
SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 (only where nodes' disks are put)


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
        devices = {device.name: device for device in devices_of(scenario).values()}
        self.lines = Lines(scenario, devices, scenario.seed)
        self.events = 0
        self._trace = hashlib.blake2b(digest_size=32)
        self._devices = devices
        self.nodes: dict[Address, VirtualNode] = {}
        self.outcome = Outcome(scenario, lambda a: self.nodes[a].device.group.name)
        self._by_name: dict[str, VirtualNode] = {}
        self.chronicle = Chronicle(self.outcome, self._name, record)
        self._opened_s = 0.0
        self._progress: Callable[[float, int], None] | None = None
        self._seated: dict[int, set[Address]] = {}
        self._finished: trio.Event
        self.states: list[str] = []
        """Where each node stands at the end, a line each."""

    @property
    def adversaries(self) -> dict[str, str]:
        """Nobody lies on this tier."""
        return {}

    def run(
        self,
        progress: Callable[[float, int], None] | None = None,
        *,
        until_s: float | None = None,
    ) -> Answer:
        """Play until the run has ended or `until_s`. `progress` gets virtual time and round."""
        self._progress = progress
        self._until_s = self.scenario.until_s if until_s is None else until_s
        parent = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
        disks = Path(tempfile.mkdtemp(prefix="eigen-sim-", dir=parent))
        try:
            return virtual_time.run(partial(self._main, disks), self.scenario.seed)
        finally:
            shutil.rmtree(disks, ignore_errors=True)

    # the network ----------------------------------------------------------------------------------
    async def _main(self, disks: Path, clock: virtual_time.VirtualClock) -> Answer:
        self._finished = trio.Event()
        self.network = VirtualNetwork(self.lines, list(self._devices), clock)
        self._make_nodes(disks)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            late = {n.address for n in self.nodes.values() if n.device.late}
            for node in self.nodes.values():
                if node.address not in late:
                    nursery.start_soon(self._live, node)
            await self._meet(len(self.nodes) - len(late))
            await self._open_run()
            happenings = Happenings(
                self.scenario, self._devices, self, self._opened_s, self._note_fault
            )
            nursery.start_soon(happenings.run)
            with trio.move_on_after(self._until_s):
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
        first = validators[0]
        times = scenario.deadlines
        file = NetworkFile(
            name=scenario.name,
            chain_id=CHAIN_ID,
            rpc_urls=(),
            contracts=ContractAddresses(*[ledger_address] * 4),
            bootstrap=(self.network.multiaddr(first, identities[first].secret),),
            parameters=Parameters(
                heartbeat_s=times.heartbeat_s,
                heartbeat_ttl_s=3.5 * times.heartbeat_s,
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
            node = VirtualNode(name, device, home, world)
            self.nodes[node.address] = self._by_name[name] = node

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
        spec, dataset = work(self.scenario)
        manifest = await first.node.datasets.seed(dataset)
        spec = replace(spec, dataset=manifest)
        await first.node.governance.propose([open_run(spec)], self.scenario.name, (spec,))
        self._opened_s = trio.current_time()

    async def _settle(self) -> None:
        """Whoever is up has a while to catch up."""
        with trio.move_on_after(SETTLE_S):
            while any(  # noqa: ASYNC110 (many nodes are looked at)
                n.node and n.round < self.chronicle.adopted for n in self.nodes.values()
            ):
                await trio.sleep(LOOK_S)

    # hands: see `happenings.Hands` ----------------------------------------------------------------
    def start(self, name: str) -> None:
        """See `Hands.start`."""
        node = self._by_name[name]
        if node.scope is None:
            self._tell("up", node)
            self._nursery.start_soon(self._live, node)

    def kill(self, name: str) -> None:
        """See `Hands.kill`."""
        node = self._by_name[name]
        if node.scope is not None:
            self._tell("down", node)
            node.scope.cancel()

    def is_up(self, name: str) -> bool:
        """See `Hands.is_up`."""
        return self._by_name[name].scope is not None

    def freeze(self, names: Sequence[str]) -> None:
        """See `Hands.freeze`: their lines stand still, which is all that others see of it."""
        self.lines.hold(names)
        self.network.changed()

    def thaw(self, names: Sequence[str]) -> None:
        """See `Hands.thaw`."""
        self.lines.release(names)
        self.network.changed()

    def cut_off(self, names: Sequence[str]) -> None:
        """See `Hands.cut_off`."""
        self.lines.cut_off(names)
        self.network.changed()

    # what is seen ---------------------------------------------------------------------------------
    def _now(self) -> float:
        return trio.current_time() - self._opened_s

    def _name(self, address: Address) -> str:
        node = self.nodes.get(address)
        return node.name if node else address.hex()

    def _note_fault(self, detail: str) -> None:
        self.chronicle.event(self._now(), "", "fault", 0, 0, detail)

    def _tell(self, what: str, node: VirtualNode) -> None:
        self.chronicle.event(self._now(), node.name, what, node.round)

    def _see(self, address: Address, what: Event | Effect) -> None:
        node, now = self.nodes[address], self._now()
        self.events += 1
        self._add_to_trace(now, node, what)
        if isinstance(what, Adopted):
            node.round = max(node.round, what.record.attempt.round)
            self.chronicle.adopt(node.name, what.record.attempt.round, what.record.checkpoint)
            if node.round > self.chronicle.adopted:
                self._end_round(now, what.record)
        if isinstance(what, Publish) and isinstance(what.message, SeatProposal):
            members = {member.trainer for member in what.message.members}
            self._seated.setdefault(what.message.attempt.round, set()).update(members)
        kind = kind_of(what)
        if kind:
            reason = f"{self._name(what.peer)}: {what.reason}" if isinstance(what, Penalize) else ""
            at = attempt_of(what)
            round_, number = (at.round, at.number) if at else (node.round + 1, 0)
            self.chronicle.event(now, node.name, kind, round_, number, reason)

    def _add_to_trace(self, now: float, node: VirtualNode, what: Event | Effect) -> None:
        said = what.message if isinstance(what, Publish | Received) else None
        line = f"{now!r} {node.name} {type(what).__name__} {type(said).__name__}"
        self._trace.update(line.encode())
        if isinstance(what, Publish):
            self._trace.update(encode(what.message))

    def _end_round(self, now: float, record: RoundRecord) -> None:
        counts = {"bytes_sent": self.lines.sent_bytes, "bytes_received": self.lines.received_bytes}
        alive = sum(node.node is not None for node in self.nodes.values())
        self.chronicle.end_round(now, record, alive, counts)
        last = record.attempt.round
        self.chronicle.seated(last, len(self._seated.pop(last, ())))
        if self._progress is not None:
            self._progress(now, last)
        if last >= self.scenario.run.rounds:
            self._finished.set()

    def _answer(self) -> Answer:
        up = [node for node in self.nodes.values() if node.node is not None]
        self.states = [f"{n.name:<16} round {n.round:>4}  {_doing(n)}" for n in self.nodes.values()]
        self.outcome.held = tuple((node.device.group.name, node.round) for node in up)
        if self.scenario.run.model != "cost":
            for node in up:
                assert node.node is not None
                for rounds in node.node.evaluations.figures.values():
                    for round_, figures in rounds.items():
                        self.chronicle.judged(round_, figures.loss, figures.accuracy)
        return self.chronicle.answer(self._now(), self.events, self._trace.hexdigest())


def _doing(node: VirtualNode) -> str:
    if node.node is None:
        return "down"
    return ", ".join(driver.phase for driver in node.node.rounds.drivers.values()) or "up"


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
