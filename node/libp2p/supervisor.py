"""Dials: the peers that should be connected are, again and again, and one dial a peer at a time."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final

import trio

from eigen.node.libp2p import peerstore
from eigen.node.libp2p.address_book import Known
from eigen.node.libp2p.byte_stream import ByteStream
from eigen.node.libp2p.connection import Connection
from eigen.node.libp2p.errors import (
    ConnectionLost,
    HandshakeFailed,
    Libp2pError,
    NotSupported,
    Refused,
    WrongNetwork,
    WrongPeer,
)
from eigen.node.libp2p.identity import ID, address_of_peer
from eigen.node.libp2p.multiaddrs import Endpoint, parse_peer
from eigen.node.libp2p.swarm import Swarm
from eigen.protocol.types import Address

log = logging.getLogger(__name__)

DIALS_MAX: Final = 16
"""Dials at a time."""
NEXT_ADDRESS_S: Final = 0.5
"""How long one address is tried before the next is tried beside it (RFC 8305 in spirit; the first
is tried at once)."""
RELAYED_TIMEOUT_S: Final = 15.0
"""To reach a relay and be passed on by it."""
IDLE_CHECK_S: Final = 5.0
"""How often to look for work when nothing happens."""
SAVE_EVERY_S: Final = 15.0
"""How often known peers are written, if any changed."""


class Supervisor:
    """Keeps the configured and the known peers connected."""

    def __init__(self, swarm: Swarm) -> None:
        self._swarm = swarm
        self._book = swarm.book
        self._in_flight: dict[Address, trio.Event] = {}
        self._wake = trio.Event()
        self._said: dict[Address, str] = {}
        self.dial_relayed: Callable[[Endpoint], Awaitable[ByteStream]] | None = None
        """Reaches an endpoint through its relay."""

    def learn(self, peer: ID, endpoints: Sequence[Endpoint], *, permanent: bool = False) -> None:
        """Somebody says that the peer is there. It is dialled if more peers are wanted."""
        if self._book.add(peer, address_of_peer(peer), endpoints, permanent=permanent):
            self.wake()

    def wake(self) -> None:
        """Something changed: look for peers to dial."""
        self._wake.set()

    async def run(self) -> None:
        """Dial whoever is due, for ever."""
        config = self._swarm.config
        if config.peerstore is not None:
            peerstore.load(config.peerstore, self._book)
        for text in config.bootstrap:
            endpoint = parse_peer(text)
            assert endpoint.peer is not None
            self.learn(endpoint.peer, [endpoint], permanent=True)
        self._book.changed = False
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._save_for_ever)
                while True:
                    self._wake = trio.Event()
                    wait_s = self._dial_due(nursery)
                    with trio.move_on_after(wait_s):
                        await self._wake.wait()
        finally:
            self._save_now()

    def _dial_due(self, nursery: trio.Nursery) -> float:
        """Start the dials that are due; how long until the next one is."""
        now = trio.current_time()
        wait_s = IDLE_CHECK_S
        connected = set(self._swarm.peers())
        wanted = self._swarm.config.limits.peers_wanted - len(connected)
        candidates = sorted(self._book.all(), key=lambda k: (not k.permanent, k.next_try_s))
        for known in candidates:
            if known.address in connected or known.address in self._in_flight:
                continue
            if self._swarm.reputation.is_banned(known.address, now):
                continue
            if not self._swarm.is_listed(known.address) or not known.endpoints:
                continue
            if not known.permanent and wanted <= 0:
                continue
            if known.next_try_s > now:
                wait_s = min(wait_s, known.next_try_s - now)
                continue
            if len(self._in_flight) >= DIALS_MAX:
                break
            wanted -= 1
            done = self._in_flight[known.address] = trio.Event()
            nursery.start_soon(self._dial_known, known, done)
        return max(wait_s, 0.02)

    async def _dial_known(self, known: Known, done: trio.Event) -> None:
        try:
            await self.dial(known.peer, known.in_order())
            self._said.pop(known.address, None)
        except Libp2pError as error:
            self._say_once(known, error)
            foreign = isinstance(error, WrongNetwork | NotSupported)
            self._book.failed(known.address, trio.current_time(), foreign=foreign)
        finally:
            del self._in_flight[known.address]
            done.set()
            self.wake()

    def _say_once(self, known: Known, error: Libp2pError) -> None:
        """One line in the log for each way in which a peer cannot be reached."""
        kind = type(error).__name__
        if self._said.get(known.address) != kind and not isinstance(error, WrongNetwork):
            level = logging.WARNING if known.permanent else logging.INFO
            if isinstance(error, HandshakeFailed):
                level = logging.WARNING
            log.log(level, "peer %s cannot be reached: %s; trying again", known.peer, error)
        if len(self._said) > 4096:
            self._said.clear()
        self._said[known.address] = kind

    async def connect(self, endpoint: Endpoint) -> Connection:
        """Be connected to the peer of this endpoint: at once if it is, else by dialling it.

        Raises `Libp2pError`. A cancel gives the dial up.
        """
        assert endpoint.peer is not None
        return await self.reach(endpoint.peer, [endpoint])

    async def reach(self, peer: ID, endpoints: Sequence[Endpoint]) -> Connection:
        """As `connect`, over whichever of a peer's endpoints answers first."""
        address = address_of_peer(peer)
        while True:
            connection = self._swarm.connection(address)
            if connection is not None:
                return connection
            in_flight = self._in_flight.get(address)
            if in_flight is None:
                break
            await in_flight.wait()
        done = self._in_flight[address] = trio.Event()
        try:
            connection = await self.dial(peer, endpoints)
            answered = endpoints if len(endpoints) == 1 else [connection.remote]
            self._book.add(peer, address, answered)
            self._book.succeeded(address)
            return connection
        finally:
            del self._in_flight[address]
            done.set()

    async def dial(self, peer: ID, endpoints: Sequence[Endpoint]) -> Connection:
        """Connect to the first endpoint that answers as the peer, connected or not.

        Raises `Libp2pError`. A cancel gives the dials up.
        """
        errors: list[Libp2pError] = []
        winner: list[Connection] = []

        async def attempt(endpoint: Endpoint, failed: trio.Event) -> None:
            try:
                connection = await self._swarm.dial(await self._reach(peer, endpoint), peer)
            except Libp2pError as error:
                if isinstance(error, WrongPeer):
                    self._book.drop(address_of_peer(peer), endpoint)
                errors.append(error)
                failed.set()
                return
            winner.append(connection)
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for endpoint in endpoints:
                failed = trio.Event()
                nursery.start_soon(attempt, endpoint, failed)
                with trio.move_on_after(NEXT_ADDRESS_S):
                    await failed.wait()
        if winner:
            return winner[0]
        raise _most_telling(errors)

    async def _reach(self, peer: ID, endpoint: Endpoint) -> ByteStream:
        if endpoint.relay is None:
            return await self._swarm.around.transport.dial(endpoint)
        if self.dial_relayed is None or endpoint.relay == self._swarm.key.peer_id:
            raise ConnectionLost("no relays are used")
        carrier: ByteStream | None = None
        with trio.move_on_after(RELAYED_TIMEOUT_S):  # two peers may name each other as relays
            carrier = await self.dial_relayed(replace(endpoint, peer=peer))
        if carrier is None:
            raise ConnectionLost(f"no way through the relay {endpoint.relay}")
        return carrier

    async def _save_for_ever(self) -> None:
        while True:
            await trio.sleep(SAVE_EVERY_S)
            path = self._swarm.config.peerstore
            if self._book.changed and path is not None:
                self._book.changed = False
                data = peerstore.snapshot(self._book)
                try:
                    await trio.to_thread.run_sync(peerstore.write, path, data)
                except OSError as error:
                    log.warning("known peers cannot be written to %s: %s", path, error)

    def _save_now(self) -> None:
        path = self._swarm.config.peerstore
        if path is not None and self._book.changed:
            try:
                peerstore.write(path, peerstore.snapshot(self._book))
            except OSError as error:
                log.warning("known peers cannot be written to %s: %s", path, error)


def _most_telling(errors: Sequence[Libp2pError]) -> Libp2pError:
    """Of several failures the one that says most: who is wrong, rather than what is silent."""
    for kind in (WrongNetwork, WrongPeer, Refused, HandshakeFailed):
        for error in errors:
            if isinstance(error, kind):
                return error
    return errors[0] if errors else ConnectionLost("no address of the peer is known")
