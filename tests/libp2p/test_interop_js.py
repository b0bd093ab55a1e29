"""js-libp2p in a process of its own: dial, identify, ping, gossip, DHT and 100 MB, each both ways.

Needs npm once, to install the packages that `js/package-lock.json` pins.
"""

import shutil
import subprocess
import time
from pathlib import Path

import pytest
import trio
from nodes import make, running, until
from programs import program

from eigen.node.libp2p.connection import Connection, Served
from eigen.node.libp2p.yamux_stream import Stream
from eigen.node.ports import Verdict
from eigen.protocol.cid import multihash_of, raw_cid

FOLDER = Path(__file__).parent / "js"
BYTES = 100 * 1024 * 1024

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def js() -> list[str]:
    """The command that starts a js-libp2p peer; skips where it cannot be had."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("Node.js and npm are needed for js-libp2p")
    if not (FOLDER / "node_modules" / "@libp2p" / "kad-dht").is_dir():
        command = [npm, "ci", "--no-audit", "--no-fund"]
        install = subprocess.run(
            command, check=False, cwd=FOLDER, capture_output=True, text=True, timeout=240
        )
        if install.returncode:
            pytest.skip(f"npm cannot install js-libp2p here: {install.stderr[-300:]}")
    return [node, str(FOLDER / "peer.mjs")]


class Sink:
    """Counts what a peer pours into `/test/sink/1`."""

    def __init__(self, node):
        self.count = 0
        self.done = False
        node._swarm.served["/test/sink/1"] = Served(self._serve, before_admission=True)

    async def _serve(self, _connection: Connection, stream: Stream) -> None:
        while data := await stream.read():
            self.count += len(data)
        self.done = True


def follow(node):
    got = []

    async def handle(_peer, data):
        got.append(data)

    node.subscribe("t", lambda _peer, _data: Verdict.ACCEPT, handle)
    return got


async def test_js_dials_us(js):
    node = make(admit_strangers=True)
    got = follow(node)
    sink = Sink(node)
    async with running(node):
        address = node.listen_addrs()[0]
        async with program([*js, address]) as peer:
            assert await peer.line("dialled") == address.rpartition("/")[2]
            await peer.tell(f"protocols {address}")
            protocols = await peer.line("protocols")
            assert {"/ipfs/id/1.0.0", "/ipfs/ping/1.0.0", "/meshsub/1.1.0"} <= set(protocols)
            await peer.tell(f"ping {address}")
            assert float(await peer.line("ping")) < 1000
            await until(lambda: node._gossip.router.subscribers("t"))
            await node.publish("t", b"to js")
            assert await peer.line("gossip") == "to js"
            await peer.tell("publish from_js")
            assert await peer.line("published") == 1
            await until(lambda: got == [b"from_js"])
            await peer.tell(f"pour {address} 100")
            await until(lambda: sink.done, timeout_s=100)
            assert sink.count == BYTES


async def test_we_dial_js(js):
    node = make(admit_strangers=True)
    got = follow(node)
    async with running(node), program(js) as peer:
        address = await node.connect(str(await peer.line("address")), timeout_s=10)
        await until(lambda: node._gossip.router.subscribers("t"))
        await node.publish("t", b"hello")
        assert await peer.line("gossip") == "hello"
        await peer.tell("publish back")
        await until(lambda: got == [b"back"])
        stream, _ = await node._swarm.connection(address).open(["/test/sink/1"])
        start = time.perf_counter()
        piece = bytes(1 << 20)
        for _ in range(100):
            await stream.write(piece)
        stream.close_write()
        assert await peer.line("sink", timeout_s=100) == BYTES
        print(f"to js: {100 / (time.perf_counter() - start):.0f} MiB/s")
        assert await stream.read() == b""


async def test_js_behind_our_relay(js):
    """It reserves a place at a node of ours, and another node of ours dials it through that."""
    hub, node = make(admit_strangers=True), make(admit_strangers=True, listen=())
    async with (
        running(hub),
        running(node),
        program([*js, "behind", hub.listen_addrs()[0]]) as peer,
    ):
        through = str(await peer.line("address"))
        assert through.startswith(f"{hub.listen_addrs()[0]}/p2p-circuit/p2p/")
        address = await node.connect(through, timeout_s=10)
        assert node.describe(address).relayed
        stream, _ = await node._swarm.connection(address).open(["/ipfs/ping/1.0.0"])
        await stream.write(bytes(range(32)))
        assert await stream.read_exactly(32) == bytes(range(32))
        stream.reset()


async def test_js_finds_what_we_provide_and_we_what_js_provides(js):
    ours, theirs = raw_cid(b"ours"), raw_cid(b"theirs")
    hub, node = (make(admit_strangers=True, exchange=False) for _ in range(2))
    async with running(hub), running(node):
        await node.connect(hub.listen_addrs()[0], timeout_s=10)
        await until(lambda: hub._kad.is_server)
        async with program([js[0], str(FOLDER / "kad.mjs"), hub.listen_addrs()[0]]) as peer:
            address = str(await peer.line("address"))
            await until(lambda: len(hub.peers()) == 2)
            await node.provide(ours)
            await until(lambda: hub._kad.store.get(multihash_of(ours), trio.current_time()))
            await peer.tell(f"find {ours}")
            found = dict(await peer.line("found"))
            assert str(node._swarm.key.peer_id) in found
            await peer.tell(f"provide {theirs}")
            assert await peer.line("provided") == theirs
            [provider] = await node.find_providers(theirs, limit=4, timeout_s=20)
            assert address.endswith(str(node._swarm.connection(provider).peer))
