"""A stock py-libp2p host in a process of its own: streams and gossip both ways."""

from pathlib import Path

import trio
from nodes import make, running, until
from programs import program, python

from eigen.node.libp2p.connection import Connection, Served
from eigen.node.libp2p.yamux_stream import Stream
from eigen.node.ports import Verdict

STOCK = str(Path(__file__).parent / "stock_peer.py")


async def echo(_connection: Connection, stream: Stream) -> None:
    while data := await stream.read():
        await stream.write(data)


async def test_we_dial_stock_and_gossip_both_ways():
    got = []

    async def handle(_peer, data):
        got.append(data)

    node = make(admit_strangers=True)
    node.subscribe("t", lambda _peer, _data: Verdict.ACCEPT, handle)
    async with running(node), program(python(STOCK)) as stock:
        peer = await node.connect(str(await stock.line("address")), timeout_s=10)
        connection = node._swarm.connection(peer)
        stream, _ = await connection.open(["/test/echo/1"])
        payload = bytes(range(256)) * 2000
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.write, payload)
            assert await stream.read_exactly(len(payload)) == payload
        stream.close()
        await until(lambda: node._gossip.router.subscribers("t"))
        await node.publish("t", b"to stock")
        assert await stock.line("gossip") == "to stock"
        await stock.tell("from stock")
        await until(lambda: got == [b"from stock"])


async def test_stock_dials_us():
    node = make(admit_strangers=True)
    node._swarm.served["/test/echo/1"] = Served(echo, before_admission=True)
    async with (
        running(node),
        program(python(STOCK, node.listen_addrs()[0])) as stock,
    ):
        assert await stock.line("echo") == "from stock"
        await until(lambda: len(node.peers()) == 1)
