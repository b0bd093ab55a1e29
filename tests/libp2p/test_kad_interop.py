"""The DHT with a stock py-libp2p KadDHT in a process of its own, under the public protocol id."""

from pathlib import Path

from nodes import make, running, until
from programs import program, python

from eigen.node.libp2p import kad_messages
from eigen.node.libp2p.kad_messages import Kind, Message
from eigen.node.libp2p.multiaddrs import parse_peer
from eigen.protocol.cid import multihash_of, raw_cid

STOCK = str(Path(__file__).parent / "stock_kad_peer.py")
KAD = "/ipfs/kad/1.0.0"
OURS, THEIRS = raw_cid(b"ours"), raw_cid(b"theirs")


def host(**changes):
    return make(admit_strangers=True, exchange=False, dht_protocol=KAD, **changes)


async def test_stock_finds_what_we_provide_and_we_what_stock_provides():
    hub, node = host(), host()
    async with running(hub), running(node):
        await node.connect(hub.listen_addrs()[0], timeout_s=10)
        await until(lambda: hub._kad.is_server)
        async with program(python(STOCK, hub.listen_addrs()[0])) as stock:
            address = str(await stock.line("address"))
            assert await stock.line("added") is True, "it saw by identify that the hub is a server"
            await until(lambda: len(hub.peers()) == 2)

            await node.provide(OURS)
            await until(lambda: node._kad._own[multihash_of(OURS)] > 0, timeout_s=20)
            await stock.tell(f"find {OURS}")
            found = dict(await stock.line("found"))
            assert list(found) == [str(node._swarm.key.peer_id)]
            assert any(a in node.listen_addrs()[0] for a in found[str(node._swarm.key.peer_id)])

            await stock.tell(f"provide {THEIRS}")
            assert await stock.line("provided") is True
            [provider] = await node.find_providers(THEIRS, limit=4, timeout_s=20)
            assert str(node._swarm.connection(provider).peer) == str(parse_peer(address).peer)


async def test_we_announce_to_stock_and_ask_it():
    """The stock host alone holds the record: nodes of ours that nobody has dialled are clients."""
    teller, asker = host(), host()
    async with running(teller), program(python(STOCK)) as stock:
        address = str(await stock.line("address"))
        await teller.connect(address, timeout_s=10)
        await until(lambda: len(teller._kad.table) == 1)
        await teller.provide(OURS)
        await until(lambda: teller._kad._gaps_s, timeout_s=20)
        assert not teller._kad.is_server
        async with running(asker):
            stock_address = await asker.connect(address, timeout_s=10)
            stream, _ = await asker._swarm.connection(stock_address).open([KAD])
            request = Message(Kind.GET_PROVIDERS, multihash_of(OURS))
            await stream.write(kad_messages.encode(request))
            answer = await kad_messages.read(stream)
            stream.close()
            assert [p.peer for p in answer.providers] == [teller._swarm.key.peer_id.to_bytes()]
            assert await asker.find_providers(OURS, limit=4, timeout_s=20) == [teller.local]
