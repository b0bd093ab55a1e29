"""Who provides what: records that peers announced of themselves, held for a day. Does no I/O."""

from dataclasses import dataclass, field

from eigen.node.libp2p.bounds import (
    PROVIDER_KEYS_PER_PEER_MAX,
    PROVIDER_LIFE_S,
    PROVIDER_RECORDS_MAX,
    PROVIDER_RENEW_S,
    PROVIDERS_PER_KEY_MAX,
)
from eigen.node.libp2p.kad_contact import Contact
from eigen.protocol.types import Address


@dataclass(slots=True)
class _Provider:
    contact: Contact
    keys: dict[bytes, None] = field(default_factory=dict)  # least recently announced first


class ProviderStore:
    """Records by key and by peer. The caller has checked that a provider speaks for itself.

    A peer's newest announcement gives its addresses in all of its records. Who asks for too much
    displaces itself: a peer's own oldest record goes first, and when the store is full, one of the
    peer that holds most.
    """

    def __init__(self, *, records_max: int = PROVIDER_RECORDS_MAX) -> None:
        self._records_max = records_max
        self._expires_s: dict[bytes, dict[Address, float]] = {}
        self._providers: dict[Address, _Provider] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, key: bytes, provider: Contact, now_s: float) -> bool:
        """A peer announces a content; false where there is no place for it.

        A key with 20 providers takes another only for one whose renewal is overdue.
        """
        held = self._providers.get(provider.address)
        if held is not None:
            held.contact = provider
        holders = self._expires_s.get(key, {})
        if provider.address not in holders:
            if len(holders) >= PROVIDERS_PER_KEY_MAX:
                oldest = min(holders, key=lambda peer: holders[peer])
                if holders[oldest] - now_s > PROVIDER_LIFE_S - 1.1 * PROVIDER_RENEW_S:
                    return False
                self._drop(key, oldest)
            if held is not None and len(held.keys) >= PROVIDER_KEYS_PER_PEER_MAX:
                self._drop(next(iter(held.keys)), provider.address)
            if self._count >= self._records_max and not self._make_room(provider.address):
                return False
        # The steps above may have emptied what was looked up: look again.
        holders = self._expires_s.setdefault(key, {})
        held = self._providers.setdefault(provider.address, _Provider(provider))
        self._count += provider.address not in holders
        holders[provider.address] = now_s + PROVIDER_LIFE_S
        held.keys.pop(key, None)
        held.keys[key] = None
        return True

    def get(self, key: bytes, now_s: float) -> list[Contact]:
        """Providers of a key whose records stand, most recently announced first."""
        holders = self._expires_s.get(key, {})
        fresh = [peer for peer, until in holders.items() if until > now_s]
        return [self._providers[p].contact for p in sorted(fresh, key=lambda p: -holders[p])]

    def prune(self, now_s: float) -> None:
        """Forget what has expired; looks at every record, so call it now and then."""
        expired = [
            (key, peer)
            for key, holders in self._expires_s.items()
            for peer, until in holders.items()
            if until <= now_s
        ]
        for key, peer in expired:
            self._drop(key, peer)

    def _make_room(self, newcomer: Address) -> bool:
        greediest = max(self._providers.values(), key=lambda held: len(held.keys))
        own = self._providers.get(newcomer)
        if own is not None and len(own.keys) >= len(greediest.keys):
            greediest = own
        elif len(greediest.keys) <= 1:
            return False
        self._drop(next(iter(greediest.keys)), greediest.contact.address)
        return True

    def _drop(self, key: bytes, peer: Address) -> None:
        holders, held = self._expires_s[key], self._providers[peer]
        del holders[peer], held.keys[key]
        self._count -= 1
        if not holders:
            del self._expires_s[key]
        if not held.keys:
            del self._providers[peer]
