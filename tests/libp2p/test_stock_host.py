"""What ends or blocks an unmodified py-libp2p 0.8.1 host, and what the same does to a node of ours.

Each test shows the fault on the stock host first. When one of these fails after an upgrade of
libp2p, the fault is mended there, and its mend here can be looked at again.
"""

from pathlib import Path

import pytest
import trio
from nodes import make, running, until
from programs import program, python

from eigen.node.libp2p.errors import Libp2pError
from eigen.node.ports import NetworkError, PeerUnreachable, Verdict

STOCK = str(Path(__file__).parent / "stock_peer.py")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


async def attack(node, address: str, poison: bytes) -> None:
    """Send bytes on a gossip stream of a fresh connection."""
    peer = await node.connect(address, timeout_s=10)
    stream, _ = await node._swarm.connection(peer).open(["/meshsub/1.1.0"])
    await stream.write(poison)
    await trio.sleep(1)


async def answers(address: str) -> bool:
    """Whether a host at the address still does libp2p."""
    async with running(make(admit_strangers=True)) as probe:
        try:
            await probe.connect(address, timeout_s=5)
        except NetworkError:
            return False
        return True


POISON = {"garbage": b"\x05\xff\xff\xff\xff\xff", "invalid UTF-8": b"\x06\x0a\x04\x08\x01\x12\xff"}


@pytest.mark.parametrize("name", list(POISON))
async def test_one_gossip_packet(name):
    """Fault 6: one packet ends a stock node that gossips."""
    mallory = make(admit_strangers=True)
    async with running(mallory), program(python(STOCK)) as stock:
        address = str(await stock.line("address"))
        with trio.move_on_after(10):
            await attack(mallory, address, POISON[name])
        stock_lives = stock.process.poll() is None and await answers(address)

    alice, mallory = make(admit_strangers=True), make(admit_strangers=True)

    async def handle(_peer, _data):
        pass

    alice.subscribe("t", lambda _peer, _data: Verdict.ACCEPT, handle)
    async with running(alice), running(mallory):
        await attack(mallory, alice.listen_addrs()[0], POISON[name])
        await until(lambda: alice.score(mallory.local) < 0)
        assert await answers(alice.listen_addrs()[0])
    assert not stock_lives, "the stock host survives now"


async def test_a_handler_that_fails():
    """Fault 2: an exception in a stock stream handler ends the host.

    Of ours: `test_a_refusal_carries_its_reason_and_a_bug_only_says_internal_error`.
    """
    mallory = make(admit_strangers=True)
    async with running(mallory), program(python(STOCK)) as stock:
        address = str(await stock.line("address"))
        peer = await mallory.connect(address, timeout_s=10)
        await mallory._swarm.connection(peer).open(["/test/fail/1"])
        await trio.sleep(1)
        assert not await answers(address), "the stock host survives now"


async def test_the_251st_connection():
    """Fault 1: a stock host refuses everybody after 250 inbound connections in its life."""

    async def connect_often(address: str, times: int) -> int:
        done = 0
        for _ in range(times):
            async with running(make(admit_strangers=True, listen=())) as one:
                try:
                    await one.connect(address, timeout_s=3)
                except (PeerUnreachable, Libp2pError):
                    return done
                done += 1
        return done

    async with program(python(STOCK)) as stock:
        assert await connect_often(str(await stock.line("address")), 260) <= 251
    from eigen.node.libp2p.config import Limits

    limits = Limits(accepts_per_ip_per_s=1e6, accepts_per_ip_burst=1e6)
    async with running(make(admit_strangers=True, limits=limits)) as alice:
        assert await connect_often(alice.listen_addrs()[0], 260) == 260
