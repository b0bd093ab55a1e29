"""What a node believes of its own reach: can peers dial it? Does no I/O.

Several peers are asked to dial this node back; their latest answers are counted.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

import trio

from eigen.node.libp2p.multiaddrs import Endpoint
from eigen.protocol.types import Address

ANSWERS_WANTED: Final = 3
"""Fresh answers after which nobody is asked until they grow old."""
ANSWERS_MAX: Final = 16
"""Answers remembered, one a peer; the oldest goes."""
VERIFIED_MAX: Final = 2
"""Verified endpoints that peers are told: one for each IP version."""
ANSWER_LASTS_S: Final = 900.0
"""A router is restarted, a laptop moves: older answers say nothing."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one peer found; `far` where it is not of our own network."""

    reachable: bool
    far: bool
    at_s: float


class Reach:
    """Answers of peers, and what they come to. `now_s` is of any steady clock."""

    def __init__(self) -> None:
        self._answers: OrderedDict[Address, Answer] = OrderedDict()
        self.verified: list[Endpoint] = []
        """Public endpoints at which peers have dialled this node when asked to."""
        self.known = trio.Event()
        """Set by the first answer."""

    def heard(
        self, peer: Address, endpoint: Endpoint, *, reachable: bool, far: bool, now_s: float
    ) -> None:
        """A peer has tried to dial this node at the endpoint."""
        self._answers.pop(peer, None)
        self._answers[peer] = Answer(reachable, far, now_s)
        if len(self._answers) > ANSWERS_MAX:
            self._answers.popitem(last=False)
        if endpoint in self.verified:
            self.verified.remove(endpoint)
        if reachable and endpoint.is_global:
            self.verified = [*self.verified, endpoint][-VERIFIED_MAX:]
        self.known.set()

    def forget(self) -> None:
        """Something has changed before this node: ask anew."""
        self._answers.clear()
        self.verified.clear()

    def has_asked(self, peer: Address, now_s: float) -> bool:
        """Whether the peer's answer is fresh."""
        answer = self._answers.get(peer)
        return answer is not None and now_s - answer.at_s < ANSWER_LASTS_S

    def counted(self, now_s: float) -> list[Answer]:
        """The answers that count: fresh ones, and of neighbours only where nobody else answered."""
        fresh = [a for a in self._answers.values() if now_s - a.at_s < ANSWER_LASTS_S]
        return [a for a in fresh if a.far] or fresh

    def verdict(self, now_s: float) -> bool | None:
        """Whether most could dial this node; None where nobody has tried.

        One peer that lies can at most make a node use relays that it does not need: it cannot
        claim to have dialled, as the nonce must have come (see `autonat.py`).
        """
        counted = self.counted(now_s)
        if not counted:
            return None
        return 2 * sum(a.reachable for a in counted) > len(counted)
