"""Which way two nodes find to each other, by what stands before them. Needs root and `nft`."""

import os
from pathlib import Path

import pytest
import trio
from namespaces import PUBLIC_IP, Nat, inside, internet
from programs import program, python

SCRIPT = str(Path(__file__).with_name("node_at_home.py"))
DIRECT, PUNCHED, RELAYED = "direct", "punched", "relayed"


class Watched:
    """A node in a namespace, and its last state."""

    def __init__(self, node, nat):
        self.node = node
        self.nat = nat
        self.state = {"dialable": None, "ways": {}, "tried": 0, "opened": 0}

    async def until(self, met, timeout_s=60.0):
        """Wait until the state is as wanted."""
        with trio.fail_after(timeout_s):
            while not met(self.state):
                self.state = await self.node.line("state", timeout_s=timeout_s)

    async def stays(self, met, for_s):
        """Nothing that comes within the time changes that the state is as wanted."""
        with trio.move_on_after(for_s):
            await self.until(lambda state: not met(state))
        assert met(self.state)


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("left", "right", "way"),
    [
        (Nat.NONE, Nat.NONE, DIRECT),
        (Nat.NONE, Nat.KEEPS_PORT, DIRECT),
        (Nat.NONE, Nat.SYMMETRIC, DIRECT),
        (Nat.KEEPS_PORT, Nat.KEEPS_PORT, PUNCHED),
        (Nat.KEEPS_PORT, Nat.SYMMETRIC, RELAYED),
        (Nat.SYMMETRIC, Nat.SYMMETRIC, RELAYED),
    ],
)
async def test_the_way_between_two_homes(monkeypatch, left, right, way):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    with internet(left, right) as net:
        public = inside(net.public, python(SCRIPT, f"/ip4/{PUBLIC_IP}/tcp/4001"))
        async with program(public) as hub:
            address = str(await hub.line("address"))
            homes = [
                inside(home.space, python(SCRIPT, "/ip4/0.0.0.0/tcp/4001", address))
                for home in net.homes
            ]
            async with program(homes[0]) as alice, program(homes[1]) as bob:
                names = [str(await node.line("account")) for node in (alice, bob)]
                watched = [Watched(alice, left), Watched(bob, right)]
                for one, other in zip(watched, reversed(names), strict=True):
                    await check(one, other, way)
                if way == PUNCHED:
                    hub.process.kill()
                    for one, other in zip(watched, reversed(names), strict=True):
                        await one.until(lambda state: len(state["ways"]) == 1)
                        await one.stays(lambda s, other=other: s["ways"] == {other: DIRECT}, 2.0)


async def check(one, other, way):
    """One node finds the other by the way that is expected, and stays with it."""
    final = RELAYED if way == RELAYED else DIRECT
    tries = {DIRECT: lambda n: n == 0, PUNCHED: lambda n: n > 0, RELAYED: lambda n: n == 3}[way]

    def settled(state):
        opened = (state["opened"] > 0) == (way == PUNCHED)
        return state["ways"].get(other) == final and tries(state["tried"]) and opened

    await one.until(lambda state: state["dialable"] is not None)
    assert one.state["dialable"] is (one.nat is Nat.NONE)
    await one.until(settled)
    while True:
        used = str(await one.node.line("used", timeout_s=90))
        if used.startswith(f"{final} {other}"):
            break
    assert used == f"{final} {other} {1 << 20}"
    await one.stays(settled, 8.0)  # where punching failed it is not tried again at once
