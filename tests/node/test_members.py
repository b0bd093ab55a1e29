"""Membership over real connections: heard, lost after the grace, and back."""

from dataclasses import replace
from pathlib import Path

import trio
from service_peers import peer, peers, until

from eigen.crypto.identity import Identity
from eigen.node.members import LOST_GRACE_S
from eigen.protocol.effects import PeerDown, PeerUp
from eigen.protocol.messages import Heartbeat


async def test_a_peer_is_a_member_once_its_heartbeat_is_heard(tmp_path: Path) -> None:
    async with peer(tmp_path) as alice, peer(tmp_path, roles=("validator",)) as bob:
        changes: list[object] = []
        alice.members.watch(changes.append)
        assert bob.address not in alice.members.with_role("validator")
        await alice.meet(bob)
        await until(lambda: bob.address in alice.members.with_role("validator"))
        await until(lambda: alice.address in bob.members.with_role("trainer"))
        assert PeerUp(bob.address) in changes
        assert None in changes, "who may be seated has changed"
        heard = alice.members.membership.member(bob.address)
        assert heard is not None
        assert heard.heartbeat.addrs == tuple(bob.network.listen_addrs())
        assert heard.heartbeat.sealing_key == bob.datasets._sealing.public_bytes


async def test_a_peer_whose_process_ended_is_down_at_once(tmp_path: Path) -> None:
    """Its addresses refuse a new connection: the grace is for lines that drop."""
    async with peer(tmp_path) as alice, peer(tmp_path) as bob:
        await alice.meet(bob)
        await until(lambda: bob.address in alice.members.with_role("trainer"))
        changes: list[tuple[float, object]] = []
        alice.members.watch(lambda change: changes.append((trio.current_time(), change)))
        bob.stop()
        await until(lambda: bob.address not in alice.network.peers())
        lost_s = trio.current_time()
        await until(lambda: bob.address not in alice.members.with_role("trainer"))
        [down_s] = [at for at, change in changes if change == PeerDown(bob.address)]
        assert down_s < lost_s + LOST_GRACE_S / 2


async def test_a_lost_peer_that_cannot_be_dialled_is_down_after_the_grace(tmp_path: Path) -> None:
    async with peer(tmp_path) as alice, peer(tmp_path) as bob:
        await alice.meet(bob)
        await until(lambda: bob.address in alice.members.with_role("trainer"))
        member = alice.members.membership.member(bob.address)
        assert member is not None
        hidden = replace(member, heartbeat=replace(member.heartbeat, addrs=()))
        alice.members.membership._members[bob.address] = hidden
        changes: list[tuple[float, object]] = []
        alice.members.watch(lambda change: changes.append((trio.current_time(), change)))
        bob.stop()
        await until(lambda: bob.address not in alice.network.peers())
        lost_s = trio.current_time()
        await until(lambda: bob.address not in alice.members.with_role("trainer"))
        [down_s] = [at for at, change in changes if change == PeerDown(bob.address)]
        assert down_s >= lost_s + LOST_GRACE_S - 0.1


async def test_a_connection_that_is_back_within_the_grace_was_never_gone(tmp_path: Path) -> None:
    async with peer(tmp_path) as alice, peer(tmp_path) as bob:
        await alice.meet(bob)
        await until(lambda: bob.address in alice.members.with_role("trainer"))
        changes: list[object] = []
        alice.members.watch(changes.append)
        first = alice.network._swarm.connection(bob.address)
        assert first is not None
        first.session.abort()  # as when a line drops; nothing is said to the other side
        await first.closed.wait()
        await alice.network.connect(bob.network.listen_addrs()[0], timeout_s=5)
        await until(lambda: alice.network._swarm.connection(bob.address) not in (None, first))
        await trio.sleep(LOST_GRACE_S + 0.5)
        assert PeerDown(bob.address) not in changes
        assert bob.address in alice.members.with_role("trainer")


async def test_a_peer_that_restarts_is_a_member_again(tmp_path: Path) -> None:
    identity = Identity.generate()
    async with peer(tmp_path) as alice:
        async with peer(tmp_path, identity=identity) as bob:
            await alice.meet(bob)
            await until(lambda: identity.address in alice.members.with_role("trainer"))
        await until(lambda: identity.address not in alice.members.with_role("trainer"))
        async with peer(tmp_path, identity=identity) as again:
            await again.meet(alice)
            await until(lambda: identity.address in alice.members.with_role("trainer"))


async def test_a_silent_member_expires_although_it_is_connected(tmp_path: Path) -> None:
    async with peers(tmp_path, 2) as (alice, bob):
        await until(lambda: bob.address in alice.members.with_role("trainer"))
        changes: list[object] = []
        alice.members.watch(changes.append)
        ghost = Identity.generate()
        beat = Heartbeat(1, 1, ("trainer",), ghost.address, b"", (), "once")
        alice.members.membership.heard(ghost.address, beat, trio.current_time())
        assert ghost.address in alice.members.with_role("trainer")
        await until(lambda: PeerDown(ghost.address) in changes)
        assert ghost.address not in alice.members.with_role("trainer")
        assert bob.address in alice.members.with_role("trainer"), "who beats stays"


async def test_an_old_heartbeat_changes_nothing(tmp_path: Path) -> None:
    async with peer(tmp_path) as alice:
        ghost = Identity.generate().address
        membership, now = alice.members.membership, trio.current_time()
        new = Heartbeat(2, 1, ("trainer",), ghost, b"", (), "new")
        assert membership.heard(ghost, new, now)
        for incarnation, sequence in ((1, 99), (2, 0), (2, 1)):
            old = Heartbeat(incarnation, sequence, (), ghost, b"", (), "old")
            assert not membership.heard(ghost, old, now)
        assert ghost in alice.members.with_role("trainer")
