"""Measures the network in separate processes over loopback, beside stock py-libp2p and raw TCP.

`python tests/bench/network.py --json` prints every figure; `--quick` takes a tenth of the time;
`--only streams,bulk` picks. Figures depend on the machine: quote them as ratios.
"""

import argparse
import contextlib
import json
import os
import resource
import secrets
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

MIB = 1024 * 1024
ECHO, SINK, PARTS = "/bench/echo/1", "/bench/sink/1", "/bench/parts/1"


def say(**fields: Any) -> None:
    print(json.dumps(fields), flush=True)


def cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def rss_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


class Meter:
    """Seconds and CPU seconds from its making on."""

    def __init__(self) -> None:
        self._cpu, self._start = cpu_s(), time.perf_counter()

    def rates(self, count: int) -> dict[str, float]:
        took = time.perf_counter() - self._start
        return {
            "mib_s": count / MIB / took,
            "cpu_s_gib": (cpu_s() - self._cpu) / (count / MIB / 1024),
        }


# Roles: each runs in a process of its own ---------------------------------------------------------


def make_node(**changes: Any) -> Any:
    from eigen.node.libp2p.config import Libp2pConfig, Limits
    from eigen.node.libp2p.network import Libp2pNetwork

    changes.setdefault("listen", (f"/ip4/{os.environ.get('BENCH_IP', '127.0.0.1')}/tcp/0",))
    unlimited = Limits(accepts_per_ip_per_s=1e6, accepts_per_ip_burst=1e6)
    settings = {"network_id": "bench", "mdns": False, "limits": unlimited} | changes
    return Libp2pNetwork(Libp2pConfig(**settings), secrets.token_bytes(32))


async def role_server(limits: str = "none") -> None:
    """A node with an echo, a sink and bulk parts; says what it measured."""
    from eigen.node.libp2p.config import Limits
    from eigen.node.libp2p.connection import Served

    node = make_node(**({} if limits == "none" else {"limits": Limits()}))

    async def echo(_peer: Any, payload: bytes) -> bytes:
        return payload

    async def sink(_connection: Any, stream: Any) -> None:
        meter, count = Meter(), 0
        while data := await stream.read():
            count += len(data)
        say(received=meter.rates(count))
        await stream.write(b"done")

    async def parts(_peer: Any, _header: bytes, reader: Any) -> None:
        await reader.accept()
        meter, count = Meter(), 0
        while (part := await reader.receive(timeout_s=30)) is not None:
            count += len(part)
        say(received=meter.rates(count))

    node.serve(ECHO, echo, request_bytes_max=1024)
    node.serve_bulk(PARTS, parts)
    node._swarm.served[SINK] = Served(sink)
    async with trio.open_nursery() as nursery:
        await nursery.start(node.run)
        say(address=node.listen_addrs()[0])
        async for line in lines_of_stdin():
            if line == "state":
                tasks = trio.lowlevel.current_statistics().tasks_living
                say(state={"tasks": tasks, "descriptors": descriptors(), "rss": rss_bytes()})
        nursery.cancel_scope.cancel()


async def role_pour(address: str, mebibytes: str) -> None:
    """Pours bytes into a node's sink over a libp2p stream."""
    async with trio.open_nursery() as nursery:
        node = make_node()
        await nursery.start(node.run)
        peer = await node.connect(address, timeout_s=10)
        stream, _ = await node._swarm.connection(peer).open([SINK])
        data, meter = os.urandom(MIB), Meter()
        for _ in range(int(mebibytes)):
            await stream.write(data)
        stream.close_write()
        await stream.read()
        say(sent=meter.rates(int(mebibytes) * MIB))
        nursery.cancel_scope.cancel()


async def role_bulk(address: str, mebibytes: str) -> None:
    """Pours parts of 512 KiB into a node over the bulk lane."""
    async with trio.open_nursery() as nursery:
        node = make_node()
        await nursery.start(node.run)
        peer = await node.connect(address, timeout_s=10)
        part, meter = os.urandom(512 * 1024), Meter()
        async with node.open_bulk(peer, PARTS, b"", timeout_s=10) as out:
            for _ in range(2 * int(mebibytes)):
                await out.send(part, timeout_s=30)
            await out.finish(timeout_s=30)
        assert node._bulk.lanes == 1
        say(sent=meter.rates(int(mebibytes) * MIB))
        nursery.cancel_scope.cancel()


async def role_echo(address: str, count: str) -> None:
    """Times echoes, idle and then while parts pour over the bulk lane."""
    async with trio.open_nursery() as nursery:
        node = make_node()
        await nursery.start(node.run)
        peer = await node.connect(address, timeout_s=10)

        async def measure() -> float:
            times = []
            for _ in range(int(count)):
                start = time.perf_counter()
                await node.request(peer, ECHO, b"x" * 64, reply_bytes_max=64, timeout_s=10)
                times.append(time.perf_counter() - start)
                await trio.sleep(0.01)
            return 1000 * statistics.quantiles(times, n=20)[-1]

        sent = 0

        async def pour() -> None:
            nonlocal sent
            part = os.urandom(512 * 1024)
            async with node.open_bulk(peer, PARTS, b"", timeout_s=10) as out:
                while True:
                    await out.send(part, timeout_s=30)
                    sent += len(part)

        idle = await measure()
        nursery.start_soon(pour)
        await trio.sleep(2)
        start, before = time.perf_counter(), sent
        busy = await measure()
        bulk = (sent - before) / MIB / (time.perf_counter() - start)
        say(echo={"idle_p95_ms": idle, "busy_p95_ms": busy, "bulk_mib_s": bulk})
        nursery.cancel_scope.cancel()


async def role_connects(address: str, count: str, pause_s: str = "0") -> None:
    """Connects and leaves, again and again, each time as another peer."""
    from eigen.node.libp2p.byte_stream import TcpStream
    from eigen.node.libp2p.multiaddrs import parse_peer

    endpoint = parse_peer(address)
    times = []
    async with trio.open_nursery() as nursery:
        for _ in range(int(count)):
            node = make_node(listen=())
            await nursery.start(node._swarm.run)
            await trio.sleep(float(pause_s))
            start = time.perf_counter()
            stream = TcpStream(await trio.open_tcp_stream(endpoint.host, endpoint.port))
            connection = await node._swarm.dial(stream, endpoint.peer)
            times.append(time.perf_counter() - start)
            connection.session.abort()
            node._swarm._nursery.cancel_scope.cancel()
        say(connected=len(times), p95_ms=1000 * statistics.quantiles(times, n=20)[-1])
        nursery.cancel_scope.cancel()


async def role_loris(address: str, count: str) -> None:
    """Holds connections that say a little and then nothing; opens a new one for each that ends."""
    from eigen.node.libp2p.multiaddrs import parse_peer

    endpoint = parse_peer(address)
    held = 0

    async def hold(number: int) -> None:
        nonlocal held
        while True:
            held += 1
            with contextlib.suppress(OSError, trio.BrokenResourceError):
                stream = await connect_from("127.0.0.2", endpoint)
                await stream.send_all(b"\x13/multistream/1.0.0\n"[: number % 20])
                while await stream.receive_some():
                    pass
            held -= 1
            await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        for number in range(int(count)):
            nursery.start_soon(hold, number)
        await trio.sleep(2)
        say(holding=held)


async def role_flood(address: str) -> None:
    """Connects from one address as fast as it can, with some garbage each time."""
    from eigen.node.libp2p.multiaddrs import parse_peer

    endpoint = parse_peer(address)
    say(flooding=True)
    while True:
        with contextlib.suppress(OSError, trio.BrokenResourceError):
            stream = await connect_from("127.0.0.3", endpoint)
            await stream.send_all(os.urandom(64))
            await stream.aclose()


async def connect_from(ip: str, endpoint: Any) -> trio.SocketStream:
    sock = trio.socket.socket()
    await sock.bind((ip, 0))
    await sock.connect((endpoint.host, endpoint.port))
    return trio.SocketStream(sock)


async def role_gossip(number: str, per_s: str, seconds: str, *bootstrap: str) -> None:
    """Publishes time stamps at a rate and notes what arrives of the others."""
    from eigen.node.ports import Verdict

    node = make_node(bootstrap=bootstrap)
    got: dict[bytes, int] = {}
    delays: list[float] = []

    async def handle(_peer: Any, data: bytes) -> None:
        got[data] = got.get(data, 0) + 1
        delays.append(time.time() - float(data.split(b" ")[1]))

    node.subscribe("bench", lambda _peer, _data: Verdict.ACCEPT, handle)
    async with trio.open_nursery() as nursery:
        await nursery.start(node.run)
        say(address=node.listen_addrs()[0])
        commands = lines_of_stdin()
        await anext(commands)
        before, sent = cpu_s(), 0
        deadline = trio.current_time() + float(seconds)
        step = 1 / float(per_s)
        due = trio.current_time() + secrets.randbelow(1000) / 1000 * step
        while due < deadline:
            await trio.sleep_until(due)
            await node.publish("bench", b"%s/%d %f" % (number.encode(), sent, time.time()))
            sent += 1
            due += step
        await trio.sleep(3)
        say(
            sent=sent,
            delivered=len(got),
            twice=sum(times > 1 for times in got.values()),
            delays=[
                round(1000 * delay, 1) for delay in sorted(delays)[:: max(1, len(delays) // 500)]
            ],
            cpu_s=cpu_s() - before,
        )
        await anext(commands, None)
        nursery.cancel_scope.cancel()


async def role_watch(address: str) -> None:
    """Follows one peer, and says when it is lost and when it is back."""
    from eigen.node.ports import PeerConnected

    node = make_node(bootstrap=(address,), listen=("/ip4/127.0.0.1/tcp/0",))
    events = node.events()
    async with trio.open_nursery() as nursery:
        await nursery.start(node.run)
        async for event in events:
            name = "connected" if isinstance(event, PeerConnected) else "lost"
            say(**{name: time.time()})


async def role_still(secret: str, address: str) -> None:
    """A node with a given key on a given address, and nothing else."""
    from eigen.node.libp2p.config import Libp2pConfig
    from eigen.node.libp2p.network import Libp2pNetwork

    config = Libp2pConfig("bench", listen=(address,), mdns=False)
    node = Libp2pNetwork(config, bytes.fromhex(secret))
    async with trio.open_nursery() as nursery:
        await nursery.start(node.run)
        say(address=node.listen_addrs()[0], at=time.time())


async def role_raw_server() -> None:
    """A plain TCP sink."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    say(address=str(listener.socket.getsockname()[1]))
    stream = await listener.accept()
    buffer, count, meter = bytearray(MIB), 0, Meter()
    while received := await stream.socket.recv_into(buffer):
        count += received
    say(received=meter.rates(count))


async def role_raw_pour(port: str, mebibytes: str) -> None:
    """Pours bytes into a plain TCP sink."""
    stream = await trio.open_tcp_stream("127.0.0.1", int(port))
    data, meter = os.urandom(MIB), Meter()
    for _ in range(int(mebibytes)):
        await stream.send_all(data)
    say(sent=meter.rates(int(mebibytes) * MIB))


def stock_host() -> Any:
    from libp2p import new_host
    from libp2p.crypto.secp256k1 import create_new_key_pair
    from libp2p.crypto.x25519 import create_new_key_pair as create_x25519
    from libp2p.security.noise.transport import Transport

    keys = create_new_key_pair(secrets.token_bytes(32))
    noise = Transport(keys, noise_privkey=create_x25519().private_key)
    return new_host(key_pair=keys, sec_opt={"/noise": noise})  # type: ignore[dict-item]


async def role_stock_server(mebibytes: str) -> None:
    """A sink on an unmodified py-libp2p host."""
    from multiaddr import Multiaddr

    host, total = stock_host(), int(mebibytes) * MIB

    async def sink(stream: Any) -> None:
        meter, count = Meter(), 0
        while count < total:
            count += len(await stream.read(MIB))
        say(received=meter.rates(count))
        await stream.write(b"done")

    host.set_stream_handler(SINK, sink)
    async with host.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        say(address=str(host.get_addrs()[0]))
        await trio.sleep_forever()


async def role_stock_pour(address: str, mebibytes: str) -> None:
    """Pours bytes from an unmodified py-libp2p host."""
    from libp2p.peer.peerinfo import info_from_p2p_addr
    from multiaddr import Multiaddr

    host = stock_host()
    async with host.run([]):
        info = info_from_p2p_addr(Multiaddr(address))
        await host.connect(info)
        stream = await host.new_stream(info.peer_id, [SINK])
        data, meter = os.urandom(MIB), Meter()
        for _ in range(int(mebibytes)):
            await stream.write(data)
        await stream.read(4)
        say(sent=meter.rates(int(mebibytes) * MIB))


async def lines_of_stdin() -> Any:
    """Commands from the process that started this one; ends with it."""
    while line := await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
        yield line.strip()


# Measurements -------------------------------------------------------------------------------------


class Child:
    """A role in a process of its own."""

    def __init__(self, role: str, *arguments: object, prefix: tuple[str, ...] = ()) -> None:
        command = [*prefix, sys.executable, __file__, "role", role, *map(str, arguments)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None, text=True
        )

    def hear(self, key: str) -> Any:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            fields = json.loads(line)
            if key in fields:
                return fields[key] if len(fields) == 1 else fields
        raise RuntimeError(f"a child ended before it said {key!r}")

    def address(self) -> str:
        fields = self.hear("address")
        return str(fields["address"] if isinstance(fields, dict) else fields)

    def tell(self, text: str) -> None:
        assert self.process.stdin is not None
        print(text, file=self.process.stdin, flush=True)

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


def transfer(server: str, client: str, mebibytes: int, *server_arguments: object) -> dict[str, Any]:
    with Child(server, *server_arguments) as sink:
        address = sink.address()
        with Child(client, address, mebibytes) as source:
            sent = source.hear("sent")
        received = sink.hear("received")
    return {
        "mib_s": min(sent["mib_s"], received["mib_s"]),
        "cpu_s_gib": max(sent["cpu_s_gib"], received["cpu_s_gib"]),
    }


def best(times: int, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The fastest of several runs: others share this machine."""
    return max((measure() for _ in range(times)), key=lambda result: result["mib_s"])


def measure_streams(quick: bool) -> dict[str, Any]:
    size, runs = (256, 2) if quick else (1024, 3)
    stock_size = size // 8
    stock = best(runs, lambda: transfer("stock_server", "stock_pour", stock_size, stock_size))
    ours = best(runs, lambda: transfer("server", "pour", size))
    return {
        "stock_stream": stock,
        "stream": ours,
        "stream_over_stock": ours["mib_s"] / stock["mib_s"],
        "stream_cpu_s_gib": ours["cpu_s_gib"],
    }


def measure_bulk(quick: bool) -> dict[str, Any]:
    size, runs = (1024, 1) if quick else (4096, 3)
    pairs = []
    for _ in range(runs):  # side by side, so that both see the same machine
        raw = transfer("raw_server", "raw_pour", size)
        pairs.append((raw, transfer("server", "bulk", size)))
    pairs.sort(key=lambda pair: pair[1]["mib_s"] / pair[0]["mib_s"])
    raw, bulk = pairs[len(pairs) // 2]
    return {
        "raw_tcp": raw,
        "bulk": bulk,
        "bulk_over_raw_tcp": bulk["mib_s"] / raw["mib_s"],
        "bulk_cpu_s_gib": bulk["cpu_s_gib"],
    }


def measure_echo(quick: bool) -> dict[str, Any]:
    with (
        Child("server") as server,
        Child("echo", server.address(), 100 if quick else 500) as client,
    ):
        echo = client.hear("echo")
    return {
        "echo": echo,
        "echo_p95_ms_during_bulk_minus_idle": echo["busy_p95_ms"] - echo["idle_p95_ms"],
    }


def measure_shaped(quick: bool) -> dict[str, Any]:
    """Echoes beside bulk on a line of 12 MB/s and 20 ms, with a queue of 100 ms before it."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "libp2p"))
    import line

    if reason := line.available():
        return {"shaped": f"skipped: {reason}"}
    name = f"bench{os.getpid() % 10_000}"
    command = [sys.executable, line.__file__, name, "12e6", "0.01", "1200000"]
    relay = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert relay.stdout is not None
        near, far = json.loads(relay.stdout.readline())["line"]
        os.environ["BENCH_IP"] = "10.77.0.2"
        inside = ("ip", "netns", "exec")
        with Child("server", prefix=(*inside, far)) as server:
            os.environ["BENCH_IP"] = "10.77.0.1"
            count = 100 if quick else 300
            with Child("echo", server.address(), count, prefix=(*inside, near)) as client:
                echo = client.hear("echo")
    finally:
        os.environ.pop("BENCH_IP", None)
        assert relay.stdin is not None
        relay.stdin.close()
        relay.wait(10)
    extra = echo["busy_p95_ms"] - echo["idle_p95_ms"]
    return {"echo_shaped": echo, "echo_shaped_p95_ms_during_bulk_minus_idle": extra}


def measure_connects(quick: bool) -> dict[str, Any]:
    total = 500 if quick else 10_000
    states = []
    with Child("server") as server:
        address = server.address()
        for count in (100, total - 100):
            with Child("connects", address, count) as client:
                result = client.hear("connected")
            time.sleep(0.5)
            server.tell("state")
            states.append(server.hear("state"))
    return {
        "inbound_connects": total,
        "inbound_connect_p95_ms": result["p95_ms"],
        "state_after_100": states[0],
        "state_at_end": states[1],
    }


def measure_attack(quick: bool) -> dict[str, Any]:
    count = 40 if quick else 200
    with Child("server", "default") as server:
        address = server.address()

        def honest() -> float:
            with Child("connects", address, count, 0.06) as client:
                return float(client.hear("connected")["p95_ms"])

        calm = honest()
        time.sleep(5)
        with Child("loris", address, 500) as loris:
            loris.hear("holding")
            during_loris = honest()
        time.sleep(5)
        with Child("flood", address) as flood:
            flood.hear("flooding")
            during_flood = honest()
        server.tell("state")
        state = server.hear("state")
    return {
        "honest_connect_p95_ms": calm,
        "honest_connect_p95_ms_with_500_silent": during_loris,
        "honest_connect_p95_ms_under_flood": during_flood,
        "state_after_attack": state,
    }


def measure_gossip(quick: bool) -> dict[str, Any]:
    processes, per_s, seconds = 8, 20.0, 10 if quick else 60
    children: list[Child] = []
    bootstrap: list[str] = []
    try:
        for number in range(processes):
            child = Child("gossip", number, per_s / processes, seconds, *bootstrap[:1])
            children.append(child)
            bootstrap.append(child.address())
        time.sleep(4)
        for child in children:
            child.tell("go")
        results = [child.hear("sent") for child in children]
    finally:
        for child in children:
            child.__exit__(None)
    sent = sum(result["sent"] for result in results)
    expected = sum(sent - result["sent"] for result in results)
    delays = sorted(delay for result in results for delay in result["delays"])
    return {
        "gossip_messages": sent,
        "gossip_delivery": sum(result["delivered"] for result in results) / expected,
        "gossip_twice": sum(result["twice"] for result in results),
        "gossip_p95_ms": delays[int(0.95 * len(delays))],
        "gossip_cpu_percent_a_process": 100
        * statistics.mean(result["cpu_s"] for result in results)
        / (seconds + 3),
    }


def measure_links(_quick: bool) -> dict[str, Any]:
    secret = secrets.token_hex(32)
    with Child("still", secret, "/ip4/127.0.0.1/tcp/0") as still:
        address = still.address()
        with Child("watch", address) as watch:
            watch.hear("connected")
            killed = time.time()
            still.process.kill()
            lost = watch.hear("lost")
            time.sleep(5)
            with Child("still", secret, address.rpartition("/p2p/")[0]) as again:
                started = again.hear("address")["at"]
                back = watch.hear("connected")
                frozen = time.time()
                os.kill(again.process.pid, signal.SIGSTOP)
                noticed = watch.hear("lost")
    return {
        "killed_detect_s": lost - killed,
        "reconnect_s": max(0.0, back - started),
        "frozen_detect_s": noticed - frozen,
    }


MEASUREMENTS = {
    "streams": measure_streams,
    "bulk": measure_bulk,
    "echo": measure_echo,
    "shaped": measure_shaped,
    "connects": measure_connects,
    "attack": measure_attack,
    "gossip": measure_gossip,
    "links": measure_links,
}


def main() -> None:
    if sys.argv[1:2] == ["role"]:
        role = globals()[f"role_{sys.argv[2]}"]
        trio.run(role, *sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="smaller sizes, shorter times")
    parser.add_argument("--only", default=",".join(MEASUREMENTS), help="names, with commas")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {}
    for name in arguments.only.split(","):
        found = MEASUREMENTS[name](arguments.quick)
        figures |= found
        if not arguments.json:
            for key, value in found.items():
                print(f"{key:40} {value}")
    if arguments.json:
        print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
