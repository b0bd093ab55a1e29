"""What a daemon costs that has nothing to do: memory, CPU, and no torch."""

import os
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from daemon_homes import NETWORK, Daemon, free_port, make_home, multiaddr, running

RSS_BYTES_MAX = 250 * 1024 * 1024
CPU_FRACTION_MAX = 0.02
WATCHED_S = 20.0
SETTLE_S = 5.0


def cpu_s(pid: int) -> float:
    """User and system time of a process, seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_an_idle_daemon_with_three_peers_costs_little(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    first = make_home(tmp_path / "first", None, p2p__listen=f"/ip4/127.0.0.1/tcp/{port}")
    times = replace(NETWORK.parameters, heartbeat_s=10.0, heartbeat_ttl_s=35.0)
    network = replace(NETWORK, bootstrap=(multiaddr(first, port),), parameters=times)
    homes = [first] + [make_home(tmp_path / f"peer-{i}", None) for i in range(3)]
    from eigen.config.network import dump_network

    for home in homes:
        (home / "network.toml").write_text(dump_network(network))
    with ExitStack() as stack:
        daemons: list[Daemon] = [stack.enter_context(running(home)) for home in homes]
        for daemon in daemons:
            daemon.answers()
            daemon.until(lambda daemon=daemon: daemon.answers()["peers"] == 3)
        pid = daemons[0].process.pid
        time.sleep(SETTLE_S)
        before = cpu_s(pid)
        time.sleep(WATCHED_S)
        used = (cpu_s(pid) - before) / WATCHED_S
        rss = rss_bytes(pid)
        maps = Path(f"/proc/{pid}/maps").read_text()
    with capsys.disabled():
        print(f"\nidle daemon, 3 peers: RSS {rss / 2**20:.0f} MiB, {100 * used:.2f} % of a core")
    assert "torch" not in maps
    assert rss < RSS_BYTES_MAX
    assert used < CPU_FRACTION_MAX
