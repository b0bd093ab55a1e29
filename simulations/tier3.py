"""Tier 3: real processes, a devnet chain and real time; proxies make the lines of a scenario.

Every node is `eigen up` in a home of its own, with the process that trains for it. What happens is
read from outside: from control sockets, four times a second, and from the nodes' databases.
"""

import signal
import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from eigen.config.network import Parameters
from eigen.node.control import call_daemon
from eigen.node.exit_codes import ExitCode, UserError
from eigen.node.local_network import (
    POLL_S,
    LocalNetwork,
    LocalNetworkConfig,
    LocalNode,
    Place,
    free_ports,
)
from eigen.protocol.messages import RoundRecord
from eigen.protocol.requests import HEAD_REPLY_BYTES_MAX, HeadReply
from eigen.protocol.run import RunSpec
from eigen.protocol.types import Address, Cid
from eigen.protocol.wire import decode, encode_bare
from eigen.simulations.happenings import Happenings
from eigen.simulations.lines import Lines
from eigen.simulations.outcome import Answer, Chronicle, Outcome, Record
from eigen.simulations.play import SETTLE_S
from eigen.simulations.proxies import BEHIND, HOST, Fronted, Proxies
from eigen.simulations.scenario import Scenario
from eigen.simulations.services import work
from eigen.simulations.tier1 import devices_of

MEET_S: Final = 180.0
"""Nodes have so long to find each other."""
VOTE_S: Final = 240.0
"""The DAO has so long to accept the run."""
VOTING_PERIOD_S: Final = 10
HEARTBEAT_S_MAX: Final = 3.0
"""Real time is waited for: nodes that are few may announce themselves often."""
KINDS: Final = {
    "training": "train",
    "committed": "commit",
    "exchanging": "exchange",
    "agreed": "vote",
    "stepping": "step",
    "seating": "seat",
    "auditing": "audit",
    "attested": "attest",
}
"""What phases of nodes are called in a record."""


class ProcessesPlay:
    """One run of one scenario on tier 3. Times are counted from when the run is opened."""

    def __init__(self, scenario: Scenario, record: Record | None = None) -> None:
        self.scenario = scenario
        self._devices = {device.name: device for device in devices_of(scenario).values()}
        self.lines = Lines(scenario, self._devices, scenario.seed)
        self._local_names = _local_names(scenario, list(self._devices))
        self._nodes: dict[str, LocalNode] = {}
        self.names: dict[Address, str] = {}
        self.outcome = Outcome(scenario, self._group)
        self.chronicle = Chronicle(self.outcome, self._name, record)
        self._opened_s = 0.0
        self._seen: dict[str, tuple[int, str]] = {}
        self._events = 0
        self._progress: Callable[[float, int], None] | None = None

    @property
    def adversaries(self) -> dict[str, str]:
        """Nobody lies on this tier."""
        return {}

    def run(self, progress: Callable[[float, int], None] | None = None) -> Answer:
        """Play until the run has ended or `until_s`. `progress` gets seconds and round.

        Raises `UserError` where a process or the chain does not start, or the vote fails.
        """
        self._progress = progress
        with tempfile.TemporaryDirectory(prefix="eigen-sim-") as root:
            return trio.run(self._main, Path(root))

    async def _main(self, root: Path) -> Answer:
        async with trio.open_nursery() as nursery:
            self._proxies = Proxies(self.lines, fronts := self._fronts())
            await nursery.start(self._proxies.run)
            self._network = LocalNetwork(self._config(root, fronts))
            await nursery.start(self._network.run)
            await self._open_run(root)
            happenings = Happenings(
                self.scenario, self._devices, self, self._opened_s, self._note_fault
            )
            nursery.start_soon(happenings.run)
            with trio.move_on_after(self.scenario.until_s):
                await self._watch()
            answer = self._answer()
            nursery.cancel_scope.cancel()
        return answer

    # the network ----------------------------------------------------------------------------------
    def _fronts(self) -> dict[str, Fronted]:
        ports = free_ports(len(self._devices))
        return {
            name: Fronted(port, partial(self._port, name), partial(self._pid, name))
            for name, port in zip(self._devices, ports, strict=True)
        }

    def _node(self, name: str) -> LocalNode:
        if name not in self._nodes:
            local = self._local_names[name]
            self._nodes[name] = next(n for n in self._network.nodes if n.name == local)
        return self._nodes[name]

    def _port(self, name: str) -> int:
        return self._node(name).port

    def _pid(self, name: str) -> int | None:
        process = self._node(name).process
        return process.pid if process is not None and process.poll() is None else None

    def _config(self, root: Path, fronts: dict[str, Fronted]) -> LocalNetworkConfig:
        times, roles = self.scenario.deadlines, [d.group.role for d in self._devices.values()]
        return LocalNetworkConfig(
            root,
            trainers=roles.count("trainer"),
            validators=roles.count("validator"),
            voting_period_s=VOTING_PERIOD_S,
            parameters=Parameters(
                heartbeat_s=min(HEARTBEAT_S_MAX, times.heartbeat_s),
                heartbeat_ttl_s=3.5 * min(HEARTBEAT_S_MAX, times.heartbeat_s),
                commit_s=times.commit_s,
                inputs_s=times.inputs_s,
                owner_s=times.owner_s,
                notices_s=times.notices_s,
                attempt_s=times.attempt_s,
                resend_s=times.resend_s,
                relay_delay_s=1.0,
                confirmations=1,
            ),
            places={
                self._local_names[name]: Place(BEHIND, front=f"/ip4/{HOST}/tcp/{fronted.front}")
                for name, fronted in fronts.items()
            },
            quorum=self.scenario.run.quorum,
            name=self.scenario.name,
        )

    async def _open_run(self, root: Path) -> None:
        """The first validator seeds the dataset and proposes the run; everybody votes."""
        network = self._network
        self.names = {self._node(name).address: name for name in self._devices}
        others = len(self._devices) - 1
        await network.until(lambda: all(n.status["peers"] == others for n in network.nodes), MEET_S)
        first = network.validators[0]
        spec = await self._seed(first, root)
        told = await self._call(
            first, "propose", spec=encode_bare(spec).hex(), description=self.scenario.name
        )
        await network.until(lambda: all(n.status["proposals"] for n in network.nodes), MEET_S)
        await network.vote_all(told["run"])
        for name, device in self._devices.items():
            if device.late:
                self.kill(name)

        def opened() -> bool:
            stages = [n.status["proposals"][0]["stage"] for n in network.nodes if n.running]
            if "failed" in stages:
                raise UserError("the DAO did not accept the run", ExitCode.FAILED)
            return any(n.status["runs"] for n in network.nodes)

        await network.until(opened, VOTE_S)
        self._opened_s = trio.current_time()

    async def _seed(self, node: LocalNode, root: Path) -> RunSpec:
        spec, dataset = work(self.scenario)
        shards = []
        for number, (data, samples) in enumerate(dataset.shards):
            path = root / f"shard-{number}"
            await trio.Path(path).write_bytes(data)
            shards.append({"path": str(path), "samples": samples})
        await trio.Path(root / "holdout").write_bytes(dataset.holdout)
        told = await self._call(
            node,
            "seed",
            name=dataset.name,
            shards=shards,
            holdout=str(root / "holdout"),
            sealed=dataset.sealed,
        )
        return replace(spec, dataset=Cid(told["manifest"]))

    async def _call(self, node: LocalNode, method: str, **params: Any) -> Any:
        call = partial(call_daemon, node.home / "control.sock", method, **params)
        return await trio.to_thread.run_sync(call)

    # what is seen ---------------------------------------------------------------------------------
    async def _watch(self) -> None:
        """Look at every node again and again, until all hold the last round."""
        ended_s = float("inf")
        while trio.current_time() < ended_s + SETTLE_S:
            for name in self._devices:
                node = self._node(name)
                if self.is_up(name) and await self._network.ask(node) is not None:
                    self._look(name, node)
            last = self.scenario.run.rounds
            if self.chronicle.adopted >= last:
                ended_s = min(ended_s, trio.current_time())
                if all(self._round(name) >= last for name in self._devices if self.is_up(name)):
                    return
            await trio.sleep(POLL_S)

    def _round(self, name: str) -> int:
        return int(self._network.run_of(self._node(name)).get("round", 0))

    def _look(self, name: str, node: LocalNode) -> None:
        run = self._network.run_of(node)
        if not run:
            return
        now_s, round_ = self._now(), int(run["round"])
        before, phase_before = self._seen.get(name, (0, ""))
        self._seen[name] = (round_, run["phase"])
        for number in range(before + 1, round_ + 1):
            record = _record(node, bytes.fromhex(run["run"]), number)
            if record is None:
                continue  # it has come by another node's head
            if number > self.chronicle.adopted:
                self._end_round(now_s, record)
            self.chronicle.adopt(name, number, record.checkpoint)
            self._tell(now_s, name, "adopt", number)
        if run["phase"] != phase_before and run["phase"] in KINDS:
            self._tell(now_s, name, KINDS[run["phase"]], round_ + 1)
        for number, figures in run.get("figures", {}).items():
            self.chronicle.judged(int(number), figures["loss"], figures["accuracy"])

    def _end_round(self, now_s: float, record: RoundRecord) -> None:
        counts = {"bytes_sent": self.lines.sent_bytes, "bytes_received": self.lines.received_bytes}
        self.chronicle.end_round(now_s, record, sum(map(self.is_up, self._devices)), counts)
        if self._progress is not None:
            self._progress(now_s, record.attempt.round)

    def _answer(self) -> Answer:
        self.outcome.held = tuple(
            (device.group.name, self._round(name))
            for name, device in self._devices.items()
            if self.is_up(name)
        )
        return self.chronicle.answer(self._now(), self._events, "")

    def _now(self) -> float:
        return trio.current_time() - self._opened_s

    def _name(self, address: Address) -> str:
        return self.names.get(address, address.hex())

    def _group(self, address: Address) -> str:
        name = self._name(address)
        return self._devices[name].group.name if name in self._devices else ""

    def _tell(self, now_s: float, name: str, kind: str, round_: int) -> None:
        self._events += 1
        self.chronicle.event(now_s, name, kind, round_)

    def _note_fault(self, detail: str) -> None:
        self.chronicle.event(self._now(), "", "fault", 0, 0, detail)

    # hands: see `happenings.Hands` ----------------------------------------------------------------
    def start(self, name: str) -> None:
        """See `Hands.start`."""
        if not self.is_up(name):
            self._tell(self._now(), name, "up", self._seen.get(name, (0, ""))[0])
            self._node(name).up()

    def kill(self, name: str) -> None:
        """See `Hands.kill`."""
        if self.is_up(name):
            self._tell(self._now(), name, "down", self._seen.get(name, (0, ""))[0])
            self._node(name).kill()

    def is_up(self, name: str) -> bool:
        """See `Hands.is_up`."""
        return self._node(name).running

    def freeze(self, names: Sequence[str]) -> None:
        """See `Hands.freeze`."""
        for name in filter(self.is_up, names):
            self._node(name).signal(signal.SIGSTOP)

    def thaw(self, names: Sequence[str]) -> None:
        """See `Hands.thaw`."""
        for name in filter(self.is_up, names):
            self._node(name).signal(signal.SIGCONT)

    def cut_off(self, names: Sequence[str]) -> None:
        """See `Hands.cut_off`."""
        self.lines.cut_off(names)
        self._proxies.changed()


def _local_names(scenario: Scenario, names: Sequence[str]) -> dict[str, str]:
    """What `LocalNetwork` calls each node of the scenario."""
    roles = {f"{g.name}-{i}": g.role for g in scenario.nodes for i in range(g.count)}
    counts = dict.fromkeys(("trainer", "validator"), 0)
    found = {}
    for name in names:
        role = roles[name]
        counts[role] += 1
        found[name] = f"{role}-{counts[role]}"
    return found


def _record(node: LocalNode, run: bytes, number: int) -> RoundRecord | None:
    """The record of a round that a node holds, from its database."""
    path = node.home / "node.sqlite3"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        row = database.execute(
            "SELECT value FROM record WHERE kind='round' AND key=?",
            (run + number.to_bytes(8, "big"),),
        ).fetchone()
    if row is None:
        return None
    reply = decode(bytes(row[0]), HeadReply, bytes_max=HEAD_REPLY_BYTES_MAX)
    return reply.records[0]
