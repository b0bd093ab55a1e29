"""Bounded stores: what came too early, what leaders proposed, and who is out of reach."""

from typing import Any

from eigen.protocol import limits
from eigen.protocol.messages import Attempt, SeatProposal, digest
from eigen.protocol.types import Address, Digest


class Early:
    """First statement of each kind by each sender in each attempt; where full, the oldest goes.

    A peer has at most `limits.EARLY_OF_PEER_MAX` places, so that one cannot push the others out.
    """

    __slots__ = ("_count", "_held")

    def __init__(self) -> None:
        self._held: dict[tuple[Attempt, Address, type], Any] = {}
        self._count: dict[Address, int] = {}

    def __len__(self) -> int:
        return len(self._held)

    def add(self, sender: Address, said: Any) -> None:
        """Hold a message that has an `attempt`; a repeat changes nothing."""
        key = (said.attempt, sender, type(said))
        if key in self._held:
            return
        if self._count.get(sender, 0) >= limits.EARLY_OF_PEER_MAX:
            self._drop(next(k for k in self._held if k[1] == sender))
        if len(self._held) >= limits.EARLY_MAX:
            self._drop(next(iter(self._held)))
        self._held[key] = said
        self._count[sender] = self._count.get(sender, 0) + 1

    def take(self, attempt: Attempt) -> list[tuple[Address, Any]]:
        """What was said of this attempt, in order of arrival."""
        found = [(key, said) for key, said in self._held.items() if key[0] == attempt]
        for key, _ in found:
            self._drop(key)
        return [(key[1], said) for key, said in found]

    def take_all(self) -> list[tuple[Address, Any]]:
        """Everything, in order of arrival."""
        found = [(key[1], said) for key, said in self._held.items()]
        self.clear()
        return found

    def clear(self) -> None:
        """Forget all of it."""
        self._held.clear()
        self._count.clear()

    def _drop(self, key: tuple[Attempt, Address, type]) -> None:
        del self._held[key]
        self._count[key[1]] -= 1
        if not self._count[key[1]]:
            del self._count[key[1]]


class ProposedSeats:
    """Seats by the leader who proposed them: the newest few of each, so that none crowds others."""

    __slots__ = ("_of",)

    def __init__(self) -> None:
        self._of: dict[Address, dict[Digest, SeatProposal]] = {}

    def add(self, leader: Address, seat: SeatProposal) -> bool:
        """False where this leader has already proposed another seat for the attempt."""
        own = self._of.setdefault(leader, {})
        name = digest(seat)
        if name in own:
            return True
        first = not any(s.attempt == seat.attempt for s in own.values())
        own[name] = seat
        if len(own) > limits.ATTEMPTS_REMEMBERED:
            del own[min(own, key=lambda d: own[d].attempt.number)]
        return first

    def get(self, name: Digest) -> SeatProposal | None:
        """The seat with this digest."""
        return next((own[name] for own in self._of.values() if name in own), None)

    def of(self, number: int) -> list[SeatProposal]:
        """Seats for an attempt: more than one if its leader equivocates."""
        return [s for own in self._of.values() for s in own.values() if s.attempt.number == number]

    def all(self) -> list[SeatProposal]:
        """Every seat that is held, by attempt."""
        seats = [seat for own in self._of.values() for seat in own.values()]
        return sorted(seats, key=lambda seat: seat.attempt.number)

    def clear(self) -> None:
        """The round is over."""
        self._of.clear()


class Unreachable:
    """Peers that the transport reported lost; the longest lost is forgotten when there are many."""

    __slots__ = ("_lost",)

    def __init__(self) -> None:
        self._lost: dict[Address, None] = {}

    def __contains__(self, peer: object) -> bool:
        return peer in self._lost

    def __len__(self) -> int:
        return len(self._lost)

    def add(self, peer: Address) -> None:
        """A peer went."""
        self._lost[peer] = None
        if len(self._lost) > limits.MEMBERS_MAX:
            del self._lost[next(iter(self._lost))]

    def discard(self, peer: Address) -> None:
        """A peer is back."""
        self._lost.pop(peer, None)
