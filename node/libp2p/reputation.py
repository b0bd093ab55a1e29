"""What peers have done wrong, fading with time, and who is kept out for it.

A score is zero or less. It outlives the connection: reconnecting does not wash it off.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from eigen.protocol.limits import SCORE_DISCONNECT
from eigen.protocol.types import Address

log = logging.getLogger(__name__)

HALF_LIFE_S: Final = 600.0
"""A penalty is half forgotten after ten minutes."""
BAN_S: Final = 600.0
"""How long a peer below the threshold is kept out at least."""
REMEMBERED_MAX: Final = 8192
"""Peers with a score; the one penalised longest ago is forgotten first."""


class Reputation:
    """Scores by address. `now` is an argument of everything, in seconds of any steady clock."""

    def __init__(self, on_ban: Callable[[Address], None]) -> None:
        self._scores: OrderedDict[Address, tuple[float, float]] = OrderedDict()
        self._banned_until: dict[Address, float] = {}
        self._on_ban = on_ban

    def penalize(self, peer: Address, points: float, reason: str, now_s: float) -> None:
        """Take points off. Below `SCORE_DISCONNECT` the peer is banned and `on_ban` called.

        Raises ValueError for points that are not above zero: nobody is scored up.
        """
        if not points > 0:
            raise ValueError(f"points: a penalty is above 0, not {points}")
        score = self.score(peer, now_s) - points
        self._scores.pop(peer, None)
        self._scores[peer] = (score, now_s)
        while len(self._scores) > REMEMBERED_MAX:
            forgotten, _ = self._scores.popitem(last=False)
            self._banned_until.pop(forgotten, None)
        log.info("peer %s: -%.1f for %s (score %.1f)", peer.hex()[:8], points, reason, score)
        if round(score) <= SCORE_DISCONNECT:  # rounded: five times 20 is 100, fading or not
            self._banned_until[peer] = now_s + BAN_S
            self._on_ban(peer)

    def score(self, peer: Address, now_s: float) -> float:
        """Zero or less."""
        score, at_s = self._scores.get(peer, (0.0, now_s))
        return float(score * 0.5 ** ((now_s - at_s) / HALF_LIFE_S))

    def is_banned(self, peer: Address, now_s: float) -> bool:
        """Whether the peer is kept out now."""
        until = self._banned_until.get(peer)
        if until is None:
            return False
        if now_s >= until:
            del self._banned_until[peer]
            return False
        return True
