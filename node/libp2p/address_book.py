"""Peers that this node knows of: where they listen, and when to try them next. Does no I/O."""

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from eigen.node.libp2p.bounds import ADDRESSES_PER_PEER_MAX, KNOWN_PEERS_MAX
from eigen.node.libp2p.identity import ID
from eigen.node.libp2p.multiaddrs import Endpoint
from eigen.protocol.types import Address

RETRY_FIRST_S: Final = 0.25
"""A peer that restarts is back within two seconds: try soon and often at first."""
RETRY_FACTOR: Final = 1.6
RETRY_MAX_S: Final = 60.0
RETRY_QUICK_S: Final = 1.0
"""Never wait longer than this in the first `QUICK_FOR_S` after losing a peer."""
QUICK_FOR_S: Final = 20.0
RETRY_FOREIGN_S: Final = 600.0
"""A peer of another network, or another peer at the address: not worth asking often."""
FORGET_AFTER_FAILURES: Final = 20
"""About ten minutes of trying; then a peer that nobody configured is forgotten."""
FORGET_STRANGER_AFTER_FAILURES: Final = 8
"""The same for a peer that was never met: half a minute."""


@dataclass(slots=True)
class Known:
    """One peer. `endpoints` maps to whether the peer itself, or the configuration, gave it."""

    peer: ID
    address: Address
    endpoints: dict[Endpoint, bool] = field(default_factory=dict)  # most recent last
    permanent: bool = False  # from the configuration
    met: bool = False  # a connection has stood since the start
    failures: int = 0
    next_try_s: float = 0.0
    lost_at_s: float | None = None

    def in_order(self) -> list[Endpoint]:
        """Endpoints to try: direct before relayed, certain before hearsay, recent before old."""
        newest_first = list(reversed(self.endpoints))
        return sorted(newest_first, key=lambda e: (e.relay is not None, not self.endpoints[e]))


class AddressBook:
    """Known peers by address. `now_s` is of any steady clock."""

    def __init__(self, local: ID, rng: random.Random | None = None) -> None:
        self._local = local
        self._known: dict[Address, Known] = {}
        self._rng = rng or random.Random()  # noqa: S311 (jitter)
        self.changed = False

    def __len__(self) -> int:
        return len(self._known)

    def add(
        self, peer: ID, address: Address, endpoints: Iterable[Endpoint], *, permanent: bool = False
    ) -> bool:
        """Somebody says that a peer is there; true if that is new.

        What a third peer says never displaces what the peer itself or the configuration said.
        """
        known = self._entry(peer, address, permanent=permanent)
        if known is None:
            return False
        known.permanent = known.permanent or permanent
        new = False
        for endpoint in map(_bare, endpoints):
            certain = permanent or known.endpoints.get(endpoint, False)
            new = new or endpoint not in known.endpoints
            known.endpoints.pop(endpoint, None)
            known.endpoints[endpoint] = certain
            _trim(known.endpoints)
        if new:
            known.next_try_s = 0.0
            self.changed = True
        return new

    def announced(self, peer: ID, address: Address, endpoints: Iterable[Endpoint]) -> None:
        """The peer itself says where it listens: forget what others said."""
        known = self._entry(peer, address, permanent=False)
        if known is None:
            return
        fresh = dict.fromkeys(map(_bare, endpoints), True)
        if known.permanent:  # the configured addresses stay
            fresh = known.endpoints | fresh
        _trim(fresh)
        if fresh and fresh != known.endpoints:
            known.endpoints = fresh
            self.changed = True

    def drop(self, address: Address, endpoint: Endpoint) -> None:
        """Somebody else answers at this endpoint: forget it, unless it is certain."""
        known = self._known.get(address)
        if known is not None and not known.endpoints.get(_bare(endpoint), True):
            del known.endpoints[_bare(endpoint)]
            self.changed = True

    def _entry(self, peer: ID, address: Address, *, permanent: bool) -> Known | None:
        if peer == self._local:
            return None
        known = self._known.get(address)
        if known is None:
            if len(self._known) >= KNOWN_PEERS_MAX and not permanent and not self._forget_worst():
                return None
            known = self._known[address] = Known(peer, address)
        return known

    def get(self, address: Address) -> Known | None:
        """What is known of a peer."""
        return self._known.get(address)

    def all(self) -> list[Known]:
        """Everybody."""
        return list(self._known.values())

    def succeeded(self, address: Address) -> None:
        """A connection to the peer is up."""
        if known := self._known.get(address):
            known.failures = 0
            known.lost_at_s = None
            known.met = True

    def lost(self, address: Address, now_s: float) -> None:
        """The connection ended: try again at once."""
        if known := self._known.get(address):
            known.failures = 0
            known.lost_at_s = now_s
            known.next_try_s = now_s + RETRY_FIRST_S * self._jitter()

    def failed(self, address: Address, now_s: float, *, foreign: bool = False) -> None:
        """A dial failed: wait longer, or forget the peer."""
        known = self._known.get(address)
        if known is None:
            return
        known.failures += 1
        wait_s = min(RETRY_MAX_S, RETRY_FIRST_S * RETRY_FACTOR**known.failures)
        if known.lost_at_s is not None and now_s - known.lost_at_s < QUICK_FOR_S:
            wait_s = min(wait_s, RETRY_QUICK_S)
        if foreign:
            wait_s = RETRY_FOREIGN_S
        known.next_try_s = now_s + wait_s * self._jitter()
        patience = FORGET_AFTER_FAILURES if known.met else FORGET_STRANGER_AFTER_FAILURES
        if known.failures >= patience and not known.permanent:
            del self._known[address]
            self.changed = True

    def _jitter(self) -> float:
        return self._rng.uniform(0.7, 1.3)

    def _forget_worst(self) -> bool:
        candidates = [k for k in self._known.values() if not k.permanent and k.failures]
        if not candidates:
            return False
        del self._known[max(candidates, key=lambda k: k.failures).address]
        return True


def _bare(endpoint: Endpoint) -> Endpoint:
    return endpoint.anonymous


def _trim(endpoints: dict[Endpoint, bool]) -> None:
    """Keep the bound, giving up first what is oldest and not certain."""
    while len(endpoints) > ADDRESSES_PER_PEER_MAX:
        uncertain = (endpoint for endpoint, certain in endpoints.items() if not certain)
        del endpoints[next(uncertain, next(iter(endpoints)))]
