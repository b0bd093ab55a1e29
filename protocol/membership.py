"""Who is here: signed heartbeats, and the reachability that the transport reports.

It does not know how heartbeats travel. Time is an argument.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from eigen.protocol import limits
from eigen.protocol.messages import Heartbeat
from eigen.protocol.types import Address

TRAINER = "trainer"
VALIDATOR = "validator"
RELAYER = "relayer"


@dataclass(frozen=True, slots=True)
class Member:
    """The latest heartbeat of a node and when it was heard."""

    address: Address
    heartbeat: Heartbeat
    heard_s: float


class Membership:
    """Members by address; the stalest is forgotten when there are too many."""

    def __init__(self, me: Address, ttl_s: float) -> None:
        self.me = me
        self.ttl_s = ttl_s
        self._members: dict[Address, Member] = {}
        self._down: set[Address] = set()
        self._sequence = 0

    def beat(self, template: Heartbeat, now: float) -> Heartbeat:
        """This node's next heartbeat, already counted as heard."""
        self._sequence += 1
        mine = replace(template, sequence=self._sequence)
        self._members[self.me] = Member(self.me, mine, now)
        return mine

    def heard(self, sender: Address, heartbeat: Heartbeat, now: float) -> bool:
        """Take a heartbeat in. False where it is not newer than what is known (a replay)."""
        known = self._members.get(sender)
        if sender == self.me:
            return False
        if known is not None:
            was = (known.heartbeat.incarnation, known.heartbeat.sequence)
            if (heartbeat.incarnation, heartbeat.sequence) <= was:
                return False
        elif len(self._members) >= limits.MEMBERS_MAX:
            others = (a for a in self._members if a != self.me)
            stalest = min(others, key=lambda a: self._members[a].heard_s)
            del self._members[stalest]
            self._down.discard(stalest)
        self._members[sender] = Member(sender, heartbeat, now)
        self._down.discard(sender)
        return True

    def down(self, peer: Address) -> None:
        """The transport lost a peer: it is not seated until it is heard or reachable again."""
        if peer in self._members:  # of others there is nothing to forget
            self._down.add(peer)

    def up(self, peer: Address) -> None:
        """The transport has the peer again."""
        self._down.discard(peer)

    def member(self, address: Address) -> Member | None:
        """The latest that is known of a node, fresh or not."""
        return self._members.get(address)

    def fresh(self, now: float) -> Iterator[Member]:
        """Members heard within the time to live and not reported lost, by address."""
        for address in sorted(self._members):
            member = self._members[address]
            if now - member.heard_s <= self.ttl_s and address not in self._down:
                yield member

    def lines_of(self, role: str, now: float) -> tuple[tuple[Address, ...], tuple[int, ...]]:
        """Fresh members that offer a role, by address, and what each says of its line."""
        found = [m for m in self.fresh(now) if role in m.heartbeat.roles]
        return tuple(m.address for m in found), tuple(m.heartbeat.upload for m in found)

    def with_role(self, role: str, now: float) -> tuple[Address, ...]:
        """Fresh members that offer a role, by address."""
        return tuple(m.address for m in self.fresh(now) if role in m.heartbeat.roles)
