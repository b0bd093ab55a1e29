"""A whole network on one machine: a devnet chain, a DAO, and nodes as separate processes.

Every step is what people do by hand: `eigen init`, `join`, `up`, `propose`, `vote`, `claim`, each
in a process of its own. The demo shows it, and the end-to-end tests kill parts of it.
"""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import trio

from eigen.chain.deploy import DaoSpec, deploy_dao, fund
from eigen.chain.devnet.anvil import AnvilConfig, AnvilProcess, run_anvil
from eigen.chain.outbox import OutboxSettings
from eigen.chain.port import Contracts
from eigen.chain.provider import TrioHTTPProvider
from eigen.config.network import NetworkFile, Parameters, dump_network
from eigen.crypto.identity import Identity
from eigen.crypto.keystore import load_identity
from eigen.node.control import call_daemon
from eigen.node.exit_codes import ExitCode, UserError
from eigen.node.libp2p.identity import NodeKey
from eigen.node.networks import addresses_of
from eigen.node.run_file import TOKEN
from eigen.protocol.types import Address

if TYPE_CHECKING:
    from trio_typing import TaskStatus

POLL_S = 0.25
"""How often nodes are asked what they do."""
GAS_MONEY_WEI = 10**18
FOUNDER_TOKENS = 1000

FAST = Parameters(
    heartbeat_s=3.0,
    heartbeat_ttl_s=12.0,
    commit_s=20.0,
    inputs_s=4.0,
    owner_s=4.0,
    notices_s=4.0,
    attempt_s=40.0,
    resend_s=2.0,
    relay_delay_s=1.0,
    confirmations=1,
)
"""Deadlines for nodes that share one machine."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node runs: `command` comes before `eigen`, as `ip netns exec …` does."""

    host: str = "127.0.0.1"
    command: Sequence[str] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    front: str = ""
    """Multiaddr at which others reach it, where something stands between."""


@dataclass(slots=True)
class LocalNode:
    """One node: its home, and its process while it runs."""

    name: str
    home: Path
    validator: bool
    identity: Identity
    port: int
    place: Place = Place()
    process: subprocess.Popen[bytes] | None = None
    log: IO[bytes] | None = None
    status: dict[str, Any] = field(default_factory=dict)

    @property
    def address(self) -> Address:
        """The node's account."""
        return self.identity.address

    @property
    def multiaddr(self) -> str:
        """Where it is dialled."""
        reached = self.place.front or f"/ip4/{self.place.host}/tcp/{self.port}"
        return f"{reached}/p2p/{NodeKey(self.identity.secret).peer_id}"

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self.process is not None and self.process.poll() is None

    def up(self, command: Sequence[str] = ()) -> None:
        """`eigen up`; logs to the home's `node.log`. `command` takes the place of `eigen`."""
        assert not self.running
        if self.log is not None:
            self.log.close()
        self.log = (self.home / "node.log").open("ab")
        self.process = subprocess.Popen(
            [*self.place.command, *(command or EIGEN), "--home", str(self.home), "up"],
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            env=_environment(),
        )

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the daemon's process."""
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> int:
        """`kill -9`, and wait until the process is gone. Returns its pid."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        return self.process.pid

    def close(self) -> None:
        """End the process if it still runs, first politely."""
        if self.process is not None:
            if self.running:
                self.process.terminate()
                try:
                    self.process.wait(12.0)
                except subprocess.TimeoutExpired:
                    self.process.kill()
                    self.process.wait()
            self.process = None
        if self.log is not None:
            self.log.close()


EIGEN = (sys.executable, "-P", "-m", "eigen.node")
"""The `eigen` command of this very installation."""


def _environment() -> dict[str, str]:
    """Ours, less what would override a node's own settings."""
    return {k: v for k, v in os.environ.items() if not k.startswith("EIGEN_")}


async def eigen(home: Path, *arguments: str) -> str:
    """Run one command in a home and return what it prints. Raises `UserError` where it fails."""
    done = await trio.run_process(
        [*EIGEN, "--home", str(home), *arguments],
        capture_stdout=True,
        capture_stderr=True,
        check=False,
        env=_environment(),
    )
    if done.returncode != 0:
        text = done.stderr.decode(errors="replace").strip()
        raise UserError(f"eigen {arguments[0]}: {text}", ExitCode.FAILED)
    return done.stdout.decode()


@dataclass(frozen=True, slots=True)
class LocalNetworkConfig:
    """How many of what."""

    root: Path
    trainers: int = 4
    validators: int = 2
    block_time_s: float = 0.5
    voting_period_s: int = 12
    parameters: Parameters = FAST
    places: Mapping[str, Place] = field(default_factory=dict)
    """Of nodes that run elsewhere than on loopback, by name (`trainer-1`, `validator-1`, …)."""
    quorum: int = 0
    """Validators that must attest; 0 is a majority."""
    name: str = "digits"


class LocalNetwork:
    """A running network. Use `run` in a nursery; everything ends when it is cancelled."""

    def __init__(self, config: LocalNetworkConfig) -> None:
        self.config = config
        self.nodes: list[LocalNode] = []
        self.chain: AnvilProcess | None = None
        self.file: NetworkFile | None = None

    @property
    def trainers(self) -> list[LocalNode]:
        """Nodes that train."""
        return [n for n in self.nodes if not n.validator]

    @property
    def validators(self) -> list[LocalNode]:
        """Nodes that validate."""
        return [n for n in self.nodes if n.validator]

    async def run(
        self, *, task_status: "TaskStatus[LocalNetwork]" = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Start chain, DAO and nodes; `started` when every node answers commands."""
        config = self.config
        async with trio.open_nursery() as nursery:
            anvil = AnvilConfig(
                config.root / "anvil.log",
                block_time_s=config.block_time_s,
                accounts=1,
                keep_history=True,
            )
            async with trio.open_nursery() as making:
                making.start_soon(self._make_homes)
                self.chain = await nursery.start(run_anvil, anvil)
            try:
                await self._found_dao()
                await self._join_all()
                for node in self.nodes:
                    node.up()
                for node in self.nodes:
                    await self.answers(node)
                task_status.started(self)
                await trio.sleep_forever()
            finally:
                for node in self.nodes:
                    if node.running:
                        node.signal(signal.SIGTERM)
                for node in self.nodes:
                    node.close()

    async def _make_homes(self) -> None:
        names = [f"trainer-{i + 1}" for i in range(self.config.trainers)]
        names += [f"validator-{i + 1}" for i in range(self.config.validators)]
        ports = free_ports(len(names))

        async def make(name: str, port: int) -> None:
            home = self.config.root / name
            validator = name.startswith("validator")
            place = self.config.places.get(name, Place())
            settings = {
                "p2p.listen": f"/ip4/{place.host}/tcp/{port}",
                "p2p.mdns": "false",
                "validator.enabled": str(validator).lower(),
                "training.enabled": str(not validator).lower(),
                "training.nice": "0",  # the nodes are what this machine is for
                "relay.enabled": str(validator).lower(),
                "chain.poll_s": "0.5",
                **place.settings,
            }
            if place.front:
                settings["p2p.announce"] = place.front
            flags = [f"--set={key}={value}" for key, value in settings.items()]
            await eigen(home, *flags, "init")
            identity = load_identity(home / "keys" / "node.key", None)
            self.nodes.append(LocalNode(name, home, validator, identity, port, place))

        async with trio.open_nursery() as nursery:
            for name, port in zip(names, ports, strict=True):
                nursery.start_soon(make, name, port)
        self.nodes.sort(key=lambda node: node.name)

    async def _found_dao(self) -> None:
        """Deploy the contracts, give every node votes and gas money."""
        assert self.chain is not None
        async with TrioHTTPProvider([self.chain.url], chain_id=self.chain.chain_id) as provider:
            contracts = await self._deploy(provider, self.chain.accounts[0].secret)
        self.file = NetworkFile(
            name=self.config.name,
            chain_id=self.chain.chain_id,
            rpc_urls=(self.chain.url,),
            contracts=addresses_of(contracts),
            bootstrap=(self.validators[0].multiaddr,),
            parameters=self.config.parameters,
        )

    async def _deploy(self, provider: TrioHTTPProvider, secret: bytes) -> Contracts:
        config = self.config
        settings = OutboxSettings(poll_s=0.05)
        spec = DaoSpec(
            token_name="Digits DAO",  # noqa: S106 - a name, no password
            token_symbol="DIGITS",  # noqa: S106
            founders=[(node.address, FOUNDER_TOKENS * TOKEN) for node in self.nodes],
            validators=[node.address for node in self.validators],
            quorum=config.quorum or config.validators // 2 + 1,
            voting_delay_s=0,
            voting_period_s=config.voting_period_s,
            timelock_delay_s=1,
            proposal_threshold=TOKEN,
            quorum_percent=10,
        )
        contracts = await deploy_dao(provider, secret, spec, settings=settings)
        money = {node.address: GAS_MONEY_WEI for node in self.nodes}
        await fund(provider, secret, money, settings=settings)
        return contracts

    async def _join_all(self) -> None:
        assert self.file is not None
        path = self.config.root / "network.toml"
        path.write_text(dump_network(self.file))
        async with trio.open_nursery() as nursery:
            for node in self.nodes:
                nursery.start_soon(eigen, node.home, "join", str(path))

    async def answers(self, node: LocalNode, timeout_s: float = 60.0) -> dict[str, Any]:
        """Wait until a node answers commands; its status."""
        with trio.fail_after(timeout_s):
            while True:
                if not node.running:
                    raise UserError(
                        f"{node.name} ended: see {node.home / 'node.log'}", ExitCode.FAILED
                    )
                status = await self.ask(node)
                if status is not None:
                    return status
                await trio.sleep(POLL_S)

    async def ask(self, node: LocalNode) -> dict[str, Any] | None:
        """A node's status, or None where it does not answer now."""
        socket_path = node.home / "control.sock"
        try:
            node.status = await trio.to_thread.run_sync(call_daemon, socket_path, "status", 5.0)
        except UserError:
            return None
        return node.status

    async def until(self, met: Any, timeout_s: float, nodes: Sequence[LocalNode] = ()) -> None:
        """Ask nodes (all that run) again and again until `met()` is true of their statuses."""
        with trio.fail_after(timeout_s):
            while True:
                for node in nodes or [n for n in self.nodes if n.running]:
                    await self.ask(node)
                if met():
                    return
                await trio.sleep(POLL_S)

    def run_of(self, node: LocalNode) -> dict[str, Any]:
        """The node's only run, as its last status tells; empty before it is open."""
        runs = node.status.get("runs", [])
        return dict(runs[0]) if runs else {}

    async def propose(self, node: LocalNode, run_file: Path) -> dict[str, Any]:
        """`eigen propose` in a node's home."""
        return dict(json.loads(await eigen(node.home, "propose", str(run_file), "--json")))

    async def vote_all(self, proposal: str) -> None:
        """`eigen vote --for` in every home."""
        async with trio.open_nursery() as nursery:
            for node in self.nodes:
                nursery.start_soon(eigen, node.home, "vote", proposal, "--for")


PORTS = range(10_000, 32_000)
"""Below those that systems give to connections that go out, any of which might take one of ours."""


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, all different."""
    found: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        if len(found) == count:
            break
        with contextlib.suppress(OSError), socket.socket() as sock:
            sock.bind(("127.0.0.1", port))
            found.append(port)
    return found
