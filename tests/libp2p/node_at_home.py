"""A node for tests in namespaces: `python node_at_home.py LISTEN [PEER…]`.

Prints its address, then its state whenever that changes: whether peers can dial it, its relays, and
by which way each peer is connected. Each time a way opens, 1 MiB goes there and back on it, and
1 MiB of bulk.
"""

import json
import sys

import trio
from nodes import make

from eigen.node.libp2p import exchange, relay
from eigen.node.ports import NetworkError

exchange.FEW_ASK_EVERY_S = relay.LOOK_EVERY_S = 1.0
PAYLOAD = bytes(1 << 20)


def say(**fields):
    print(json.dumps(fields), flush=True)


async def main():
    async def echo(_peer, payload):
        return payload

    async def take(_peer, _header, reader):
        while await reader.receive(timeout_s=20) is not None:
            pass

    async def use(peer, way):
        for _ in range(3):  # the first may end with a connection that another one replaces
            try:
                reply = await node.request(
                    peer, "/test/echo/1", PAYLOAD, reply_bytes_max=1 << 20, timeout_s=20
                )
                async with node.open_bulk(peer, "/test/bulk/1", b"", timeout_s=20) as out:
                    await out.send(PAYLOAD, timeout_s=20)
                    await out.finish(timeout_s=20)
            except NetworkError as error:
                say(failed=str(error))
            else:
                say(used=f"{way} {peer.hex()} {len(reply)}")
                return

    node = make(listen=(sys.argv[1],), bootstrap=tuple(sys.argv[2:]))
    node.serve("/test/echo/1", echo, request_bytes_max=1 << 20)
    node.serve_bulk("/test/bulk/1", take)
    ways = {}
    said = None
    async with trio.open_nursery() as nursery:
        await nursery.start(node.run)
        say(address=node.listen_addrs()[0], account=node.local.hex())
        while True:
            for peer in node.peers():
                info = node.describe(peer)
                way = "relayed" if info.relayed else "direct"
                if ways.get(peer) != way:
                    ways[peer] = way
                    nursery.start_soon(use, peer, way)
            reach = node.reach()
            state = {
                "dialable": reach.dialable,
                "relays": len(reach.relays),
                "ways": {p.hex(): ways[p] for p in node.peers()},
                "tried": node._puncher.tried,
                "opened": node._puncher.opened,
            }
            if state != said:
                said = state
                say(state=state)
            await trio.sleep(0.05)


trio.run(main)
