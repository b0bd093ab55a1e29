"""Membership against a model of it: freshness, replays, lost peers, and a bound on memory."""

from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from eigen.protocol import limits
from eigen.protocol.membership import TRAINER, VALIDATOR, Membership
from eigen.protocol.messages import Heartbeat
from eigen.protocol.types import Address

ME = Address(b"\x00" * 20)
TTL_S = 10.0
BEAT = Heartbeat(1, 0, (TRAINER,), ME, b"", (), "eigen/1")
PEERS = [Address(bytes([i + 1]) * 20) for i in range(4)]


class MembershipModel(RuleBasedStateMachine):
    """Rules feed both; the invariant compares who may be seated."""

    def __init__(self) -> None:
        super().__init__()
        self.real = Membership(ME, TTL_S)
        self.now = 0.0
        self.known: dict[Address, tuple[tuple[int, int], float, tuple[str, ...]]] = {}
        self.lost: set[Address] = set()
        self.beats = 0

    @rule(dt=st.floats(0.0, 6.0))
    def wait(self, dt: float) -> None:
        self.now += dt

    @rule(
        peer=st.sampled_from(PEERS),
        incarnation=st.integers(0, 3),
        sequence=st.integers(0, 5),
        roles=st.sampled_from([(TRAINER,), (VALIDATOR,), (TRAINER, VALIDATOR), ()]),
    )
    def hear(self, peer: Address, incarnation: int, sequence: int, roles: tuple[str, ...]) -> None:
        beat = replace(BEAT, incarnation=incarnation, sequence=sequence, roles=roles)
        version = (incarnation, sequence)
        newer = peer not in self.known or version > self.known[peer][0]
        assert self.real.heard(peer, beat, self.now) is newer
        if newer:
            self.known[peer] = (version, self.now, roles)
            self.lost.discard(peer)

    @rule(peer=st.sampled_from(PEERS))
    def lose(self, peer: Address) -> None:
        self.real.down(peer)
        if peer in self.known:
            self.lost.add(peer)

    @rule(peer=st.sampled_from(PEERS))
    def regain(self, peer: Address) -> None:
        self.real.up(peer)
        self.lost.discard(peer)

    @rule()
    def beat(self) -> None:
        self.beats += 1
        mine = self.real.beat(BEAT, self.now)
        assert mine.sequence == self.beats
        self.known[ME] = ((1, self.beats), self.now, (TRAINER,))
        assert not self.real.heard(ME, replace(BEAT, sequence=9), self.now)  # only I speak for me

    @invariant()
    def agree(self) -> None:
        fresh = {
            a: roles
            for a, (_, heard, roles) in self.known.items()
            if self.now - heard <= TTL_S and a not in self.lost
        }
        assert [m.address for m in self.real.fresh(self.now)] == sorted(fresh)
        for role in (TRAINER, VALIDATOR):
            offering = tuple(sorted(a for a, roles in fresh.items() if role in roles))
            assert self.real.with_role(role, self.now) == offering
        for address, (version, heard, _) in self.known.items():
            member = self.real.member(address)
            assert member is not None
            assert (member.heartbeat.incarnation, member.heartbeat.sequence) == version
            assert member.heard_s == heard


TestMembership = MembershipModel.TestCase
TestMembership.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_flood_of_new_names_forgets_the_stalest_and_never_oneself() -> None:
    members = Membership(ME, 1e9)
    members.beat(BEAT, 0.0)
    for i in range(limits.MEMBERS_MAX + 100):
        name = Address(i.to_bytes(20, "big").replace(b"\x00", b"\x01", 1))
        members.heard(name, BEAT, 1.0 + i)
        members.down(name)
        members.down(Address(b"\xff" + i.to_bytes(19, "big")))  # never heard of
    assert members.member(ME) is not None
    assert len(members._members) <= limits.MEMBERS_MAX
    assert len(members._down) <= limits.MEMBERS_MAX
    assert [m.address for m in members.fresh(5_000.0)] == [ME]
