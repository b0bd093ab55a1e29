"""`eigen up` as a process: what it refuses, in one line and with which code, and how it ends."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from daemon_homes import (
    NETWORK,
    Daemon,
    eigen,
    free_port,
    make_home,
    multiaddr,
    running,
)

from eigen.node.blobs import DirectoryBlobs
from eigen.node.exit_codes import ExitCode
from eigen.protocol.cid import raw_cid

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon for all tests of this file that do not end theirs. Its chain is down."""
    folder = tmp_path_factory.mktemp("node")
    port = free_port()
    home = make_home(folder / "home", p2p__listen=f"/ip4/127.0.0.1/tcp/{port}")
    with running(home) as daemon:
        daemon.answers()
        yield daemon


def port_of(node: Daemon) -> int:
    status = node.status()
    assert status is not None
    return int(status["listen"][0].split("/")[4])


def refused(done: "subprocess.CompletedProcess[str]", code: ExitCode, *words: str) -> None:
    """One line on standard error, this code, and these words in the line."""
    assert done.returncode == code, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word in done.stderr
    assert "Traceback" not in done.stderr


# what is wrong with the home or the settings ---------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[p2p]\nlissten = []\n", ["p2p.lissten", "p2p.listen", "config.toml"]),
        ("[p2p]\nmdns = 3\n", ["p2p.mdns", "true", "config.toml"]),
        ('[log]\nlevel = "loud"\n', ["log.level", '"info"', '"warning"', "config.toml"]),
        ("[chain]\npoll_s = 0\n", ["chain.poll_s", "0.05", "600", "config.toml"]),
        ("[p2p\n", ["config.toml"]),
    ],
    ids=["unknown key", "wrong type", "no such choice", "out of range", "no TOML"],
)
def test_a_wrong_setting_names_key_file_and_what_is_accepted(
    tmp_path: Path, text: str, words: list[str]
) -> None:
    home = make_home(tmp_path / "home")
    (home / "config.toml").write_text(text)
    refused(eigen(home, "up"), ExitCode.CONFIGURATION, *words)


def test_a_home_that_is_not_there_or_joined_nothing_says_what_to_do(tmp_path: Path) -> None:
    refused(eigen(tmp_path / "none", "up"), ExitCode.CONFIGURATION, "eigen init")
    home = make_home(tmp_path / "home", None)
    refused(eigen(home, "up"), ExitCode.CONFIGURATION, "eigen join")


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home")
    key = home / "keys" / "node.key"
    key.chmod(0o644)
    refused(eigen(home, "up"), ExitCode.KEY_FILE, str(key), "chmod 600")
    key.chmod(0o600)
    key.unlink()
    refused(eigen(home, "up"), ExitCode.KEY_FILE, str(key))


def test_a_broken_network_file_is_named(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home")
    path = home / "network.toml"
    path.write_text(path.read_text().replace("chain_id = 31337", 'chain_id = "mainnet"'))
    refused(eigen(home, "up"), ExitCode.CONFIGURATION, str(path), "chain_id")


# beside a daemon that runs ----------------------------------------------------------------------


def test_a_home_in_use_names_the_process_at_once(node: Daemon) -> None:
    began = time.monotonic()
    done = eigen(node.home, "up")
    refused(done, ExitCode.HOME_LOCKED, f"process {node.process.pid}", "eigen stop")
    assert time.monotonic() - began < 10
    assert node.status() is not None, "the daemon that runs has lost nothing"


def test_a_port_in_use_is_named(node: Daemon, tmp_path: Path) -> None:
    address = f"/ip4/127.0.0.1/tcp/{port_of(node)}"
    home = make_home(tmp_path / "home", p2p__listen=address)
    refused_line = eigen(home, "up")
    assert refused_line.returncode == ExitCode.PORT_IN_USE, refused_line.stderr
    assert address in refused_line.stderr.splitlines()[-1]
    assert "Traceback" not in refused_line.stderr
    assert not (home / "control.sock").exists()


def test_a_chain_that_is_down_is_said_and_tried_again_while_the_node_serves(node: Daemon) -> None:
    node.until(lambda: node.log.count("chain unreachable") >= 2)
    waits = [line for line in node.log.splitlines() if "chain unreachable" in line]
    assert "in_s=1" in waits[0]
    assert "in_s=2" in waits[1], "longer each time"
    status = node.answers()
    assert status["peers"] == 0
    assert status["runs"] == []


def test_status_and_peers_answer_as_commands(node: Daemon) -> None:
    done = eigen(node.home, "status")
    assert done.returncode == 0, done.stderr
    assert f"process {node.process.pid}" in done.stdout
    assert eigen(node.home, "peers").returncode == 0


def test_only_the_owner_reaches_socket_keys_and_records(node: Daemon) -> None:
    assert stat.S_IMODE(os.stat(node.socket).st_mode) == 0o600
    for name in ("keys/node.key", "keys/sealing.key", "config.toml"):
        assert stat.S_IMODE((node.home / name).stat().st_mode) & 0o077 == 0, name
    assert stat.S_IMODE(node.home.stat().st_mode) == 0o700


def test_a_peer_of_another_network_is_kept_out_with_one_line(node: Daemon, tmp_path: Path) -> None:
    stranger = replace(NETWORK, name="othernet", bootstrap=(multiaddr(node.home, port_of(node)),))
    assert stranger.network_id != NETWORK.network_id
    with running(make_home(tmp_path / "home", stranger)) as other:
        other.answers()
        other.until_log("refused: it is of network")
        time.sleep(1)
        status, theirs = node.answers(), other.answers()
        assert status["peers"] == theirs["peers"] == 0
        lines = [line for line in other.log.splitlines() if "it is of network" in line]
        assert len(lines) == 1, other.log


def test_commands_without_a_daemon_end_with_their_code(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home")
    for command in (("status",), ("peers",), ("runs",), ("stop",), ("claim",)):
        refused(eigen(home, *command), ExitCode.NOT_RUNNING, "eigen up")


# ends ------------------------------------------------------------------------------------------


def test_the_first_signal_ends_it_cleanly_and_a_stale_lock_does_not_block(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home")
    with running(home) as first:
        first.answers()
        first.process.kill()
        first.process.wait()
    assert (home / "control.sock").exists(), "what kill -9 leaves"
    assert (home / "node.lock").read_text().strip() == str(first.process.pid)
    refused(eigen(home, "status"), ExitCode.NOT_RUNNING)
    with running(home) as second:
        second.answers()
        assert second.end(signal.SIGTERM, 10) == 0
    assert not (home / "control.sock").exists()
    assert "Traceback" not in second.log
    with running(home) as third:
        third.answers()
        done = eigen(home, "stop")
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"ended process {third.process.pid}\n"
        assert third.process.wait(1) == 0
    assert not (home / "control.sock").exists()


def test_ctrl_c_is_a_clean_end_too(tmp_path: Path) -> None:
    with running(make_home(tmp_path / "home")) as daemon:
        daemon.answers()
        assert daemon.end(signal.SIGINT, 10) == 0
        assert not daemon.socket.exists()
        assert "Traceback" not in daemon.log


SLOW_TO_CLOSE = """
import sys, trio
from eigen.node import app, cli
from eigen.node.libp2p.network import Libp2pNetwork

run = Libp2pNetwork.run

async def clings(self, *, task_status=trio.TASK_STATUS_IGNORED):
    try:
        await run(self, task_status=task_status)
    finally:
        with trio.CancelScope(shield=True):
            print("CLINGING", flush=True)
            await trio.sleep(hang_s)

Libp2pNetwork.run = clings
hang_s = float(sys.argv.pop())
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("second", "code"),
    [
        (True, ExitCode.INTERRUPTED),
        pytest.param(False, ExitCode.TIMED_OUT, marks=pytest.mark.slow),
    ],
)
def test_a_node_that_hangs_ends_at_the_second_signal_or_after_ten_seconds(
    tmp_path: Path, second: bool, code: ExitCode
) -> None:
    home = make_home(tmp_path / "home")
    command = [sys.executable, "-c", SLOW_TO_CLOSE, "--home", str(home), "up", "60"]
    with running(home, command) as daemon:
        daemon.answers()
        began = time.monotonic()
        daemon.process.send_signal(signal.SIGTERM)
        daemon.until_log("CLINGING")
        if second:
            daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(15) == code
        took_s = time.monotonic() - began
        assert took_s < 3 if second else 9 < took_s < 13


# pins -------------------------------------------------------------------------------------------


def test_what_is_pinned_is_listed_and_can_be_given_up(node: Daemon) -> None:
    cid = trio.run(DirectoryBlobs(node.home / "blobs").put, b"a checkpoint")
    assert eigen(node.home, "pin").stdout == "nothing is pinned\n"
    assert json.loads(eigen(node.home, "pin", cid, "--json").stdout) == [cid]
    assert eigen(node.home, "pin").stdout == f"{cid}\n"
    assert eigen(node.home, "pin", "--remove", cid).stdout == "nothing is pinned\n"
    missing = raw_cid(b"what nobody has")
    refused(eigen(node.home, "pin", missing), ExitCode.FAILED, missing, "not whole")
    refused(eigen(node.home, "pin", "bafyno"), ExitCode.USAGE, "contents", "bafyno")
