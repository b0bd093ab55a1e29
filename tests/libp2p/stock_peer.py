"""An unmodified py-libp2p host as a program: prints its address, echoes, sinks, gossips.

Run as `python stock_peer.py`, or with a multiaddr to dial. Each line that it prints is JSON.
"""

import contextlib
import json
import secrets
import sys
import time

import trio
from libp2p import new_host
from libp2p.crypto.secp256k1 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_x25519
from libp2p.custom_types import TProtocol
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pubsub import Pubsub
from libp2p.security.noise.transport import Transport as Noise
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

NOISE = TProtocol("/noise")


def say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


def host():
    keys = create_new_key_pair(secrets.token_bytes(32))
    noise = Noise(keys, noise_privkey=create_x25519().private_key)
    return new_host(key_pair=keys, sec_opt={NOISE: noise})


async def echo(stream) -> None:
    with contextlib.suppress(StreamError):  # a handler that raises would end the whole host
        while data := await stream.read(65536):
            await stream.write(data)
        await stream.close()


async def fail(_stream) -> None:
    raise RuntimeError("a bug in a handler")


async def sink(stream) -> None:
    count = int.from_bytes(await stream.read(8))
    got, start = 0, time.perf_counter()
    while got < count:
        data = await stream.read(1 << 20)
        if not data:
            break
        got += len(data)
    say(sink=got, seconds=time.perf_counter() - start)
    await stream.write(b"done")
    await stream.close()


async def main() -> None:
    node = host()
    router = GossipSub(
        protocols=[TProtocol("/meshsub/1.1.0")],
        degree=6,
        degree_low=5,
        degree_high=12,
        heartbeat_interval=1,
        spam_protection_enabled=False,
    )
    pubsub = Pubsub(node, router)
    node.set_stream_handler(TProtocol("/test/echo/1"), echo)
    node.set_stream_handler(TProtocol("/test/sink/1"), sink)
    node.set_stream_handler(TProtocol("/test/fail/1"), fail)
    async with (
        node.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]),
        background_trio_service(pubsub),
        background_trio_service(router),
        trio.open_nursery() as nursery,
    ):
        await pubsub.wait_until_ready()
        subscription = await pubsub.subscribe("t")
        say(address=str(node.get_addrs()[0]))

        async def listen() -> None:
            while True:
                message = await subscription.get()
                say(gossip=message.data.decode())

        nursery.start_soon(listen)
        if len(sys.argv) > 1:
            info = info_from_p2p_addr(Multiaddr(sys.argv[1]))
            await node.connect(info)
            stream = await node.new_stream(info.peer_id, [TProtocol("/test/echo/1")])
            await stream.write(b"from stock")
            say(echo=(await stream.read(100)).decode())
        while True:
            line = await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
            if not line:
                nursery.cancel_scope.cancel()
                return
            await pubsub.publish("t", line.strip().encode())


trio.run(main)
