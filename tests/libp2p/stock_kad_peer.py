"""An unmodified py-libp2p host with its KadDHT as a program, as a server of the DHT.

Run as `python stock_kad_peer.py`, or with multiaddrs to dial. It takes `provide CID` and `find CID`
on standard input; each line that it prints is JSON.
"""

import json
import secrets
import sys

import trio
from libp2p import new_host
from libp2p.crypto.secp256k1 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_x25519
from libp2p.custom_types import TProtocol
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.security.noise.transport import Transport as Noise
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr


def say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


async def main() -> None:
    keys = create_new_key_pair(secrets.token_bytes(32))
    noise = Noise(keys, noise_privkey=create_x25519().private_key)
    host = new_host(key_pair=keys, sec_opt={TProtocol("/noise"): noise})
    dht = KadDHT(host, DHTMode.SERVER)
    async with host.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]), background_trio_service(dht):
        say(address=str(host.get_addrs()[0]))
        for address in sys.argv[1:]:
            info = info_from_p2p_addr(Multiaddr(address))
            await host.connect(info)
            say(added=await dht.add_peer(info.peer_id))
        while True:
            line = await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
            if not line:
                return
            command, cid = line.split()
            if command == "provide":
                say(provided=await dht.provide(cid))
            else:
                found = await dht.find_providers(cid)
                say(found=[[str(p.peer_id), [str(a) for a in p.addrs]] for p in found])


trio.run(main)
