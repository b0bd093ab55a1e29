"""Many hosts in one process, and many bytes between two."""

import os
import time

import pytest
import trio
from nodes import make, until

from eigen.node.libp2p.connection import Served
from eigen.node.ports import Verdict

MEBIBYTES = int(os.environ.get("EIGEN_POUR_MIB", "1024"))


async def test_twenty_hosts_mesh_within_seconds():
    nodes = [make() for _ in range(20)]
    got: list[bytes] = []

    async def handle(_peer, data):
        got.append(data)

    for node in nodes:
        node.subscribe("t", lambda _peer, _data: Verdict.ACCEPT, handle)
    async with trio.open_nursery() as nursery:
        for node in nodes:
            await nursery.start(node.run)
        started = time.perf_counter()
        for node in nodes[1:]:
            nursery.start_soon(connect, node, nodes[0].listen_addrs()[0])
        meshes = [node._gossip.router.mesh for node in nodes]
        await until(lambda: all(len(mesh["t"]) >= 5 for mesh in meshes), timeout_s=20)
        took_s = time.perf_counter() - started
        await nodes[3].publish("t", b"to all")
        await until(lambda: len(got) == 19)
        print(f"20 hosts meshed in {took_s:.2f} s")
        nursery.cancel_scope.cancel()


async def connect(node, address):
    await node.connect(address, timeout_s=20)


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_gigabytes_both_ways_with_stream_churn_never_stall(nursery):
    """`EIGEN_POUR_MIB=10240` pours 10 GiB each way. Stock stops at about 2 MB."""
    alice, bob = make(), make()
    received = {alice.local: 0, bob.local: 0}

    def sink(node):
        async def serve(_connection, stream):
            while data := await stream.read():
                received[node.local] += len(data)

        return Served(serve)

    async def echo(_peer, payload):
        return payload

    for node in (alice, bob):
        node._swarm.served["/test/sink/1"] = sink(node)
        node.serve("/test/echo/1", echo, request_bytes_max=100)
        await nursery.start(node.run)
    await bob.connect(alice.listen_addrs()[0], timeout_s=5)
    await until(alice.peers)
    piece = bytes(1 << 20)

    async def pour(node, peer):
        stream, _ = await node._swarm.connection(peer).open(["/test/sink/1"])
        for _ in range(MEBIBYTES):
            with trio.fail_after(30):
                await stream.write(piece)
        stream.close_write()

    async def churn(node, peer):
        while True:
            with trio.fail_after(30):
                await node.request(peer, "/test/echo/1", b"x", reply_bytes_max=100, timeout_s=20)

    nursery.start_soon(churn, alice, bob.local)
    nursery.start_soon(churn, bob, alice.local)
    async with trio.open_nursery() as pouring:
        pouring.start_soon(pour, alice, bob.local)
        pouring.start_soon(pour, bob, alice.local)
    await until(lambda: set(received.values()) == {MEBIBYTES << 20}, timeout_s=60)
    nursery.cancel_scope.cancel()
