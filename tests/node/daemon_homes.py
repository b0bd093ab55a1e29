"""Homes of nodes and their daemons as processes of their own: `eigen up` as its user runs it."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from eigen.config.network import ContractAddresses, NetworkFile, Parameters, dump_network
from eigen.crypto.keystore import load_identity
from eigen.node import cli
from eigen.node.control import call_daemon
from eigen.node.exit_codes import UserError
from eigen.node.libp2p.identity import NodeKey
from eigen.node.local_network import free_ports
from eigen.protocol.types import Address

EIGEN = (sys.executable, "-P", "-m", "eigen.node")
NOBODY = "http://127.0.0.1:1"
"""Refuses every connection: an endpoint that is down."""
NETWORK = NetworkFile(
    name="testnet",
    chain_id=31337,
    rpc_urls=(NOBODY,),
    contracts=ContractAddresses(*(Address(bytes([i]) * 20) for i in (1, 2, 3, 4))),
    parameters=Parameters(heartbeat_s=2.0, heartbeat_ttl_s=8.0),
)


def environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("EIGEN_")}


def free_port() -> int:
    [port] = free_ports(1)
    return port


def make_home(home: Path, network: NetworkFile | None = NETWORK, **settings: str) -> Path:
    """`eigen init`, and the network file put where `eigen join` puts it."""
    chosen = {"p2p.listen": "/ip4/127.0.0.1/tcp/0", "p2p.mdns": "false", "chain.poll_s": "0.2"}
    chosen |= {key.replace("__", "."): value for key, value in settings.items()}
    flags = [f"--set={key}={value}" for key, value in chosen.items()]
    assert cli.main(["--home", str(home), *flags, "init"]) == 0
    if network is not None:
        (home / "network.toml").write_text(dump_network(network))
    return home


def with_chain(url: str, **changes: Any) -> NetworkFile:
    return replace(NETWORK, rpc_urls=(url,), **changes)


def multiaddr(home: Path, port: int) -> str:
    identity = load_identity(home / "keys" / "node.key", None)
    return f"/ip4/127.0.0.1/tcp/{port}/p2p/{NodeKey(identity.secret).peer_id}"


def eigen(home: Path, *arguments: str, timeout_s: float = 30) -> subprocess.CompletedProcess[str]:
    """One command, to its end."""
    return subprocess.run(
        [*EIGEN, "--home", str(home), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        stdin=subprocess.DEVNULL,
        env=environment(),
    )


class Daemon:
    """`eigen up` in a home, with its log."""

    def __init__(self, home: Path, command: Sequence[str] = ()) -> None:
        self.home = home
        self.log_path = home / "up.log"
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                command or [*EIGEN, "--home", str(home), "up"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(),
            )

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    @property
    def socket(self) -> Path:
        return self.home / "control.sock"

    def call(self, method: str, timeout_s: float = 10, **params: Any) -> Any:
        return call_daemon(self.socket, method, timeout_s, **params)

    def status(self) -> dict[str, Any] | None:
        try:
            return dict(self.call("status"))
        except UserError:
            return None

    def answers(self) -> dict[str, Any]:
        """Its status, once it answers."""
        return dict(self.until(self.status, 30))

    def until(self, condition: Callable[[], Any], timeout_s: float = 15) -> Any:
        deadline = time.monotonic() + timeout_s
        while not (found := condition()):
            assert self.process.poll() is None, f"it ended: {self.log}"
            assert time.monotonic() < deadline, self.log
            time.sleep(0.05)
        return found

    def until_log(self, pattern: str, timeout_s: float = 15) -> re.Match[str]:
        return self.until(lambda: re.search(pattern, self.log), timeout_s)  # type: ignore[no-any-return]

    def end(self, number: signal.Signals, timeout_s: float) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout_s)


@contextmanager
def running(home: Path, command: Sequence[str] = ()) -> Iterator[Daemon]:
    daemon = Daemon(home, command)
    try:
        yield daemon
    finally:
        if daemon.process.poll() is None:
            daemon.process.kill()
        daemon.process.wait()
