"""Accepting TCP connections: listeners, places for handshakes, and a rate for each address.

A place is lent while a connection shakes hands. When all are taken the *oldest* gives its place up,
so that silent connections cannot keep an honest peer out: it needs its place for milliseconds.
"""

import errno
import logging
import socket
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import trio

from eigen.node.libp2p.bounds import PENDING_MAX, PENDING_PER_IP_MAX
from eigen.node.libp2p.byte_stream import TcpStream, plain_ip
from eigen.node.libp2p.errors import BadMultiaddr, ConnectionLost, ListenError
from eigen.node.libp2p.multiaddrs import Endpoint, parse
from eigen.node.libp2p.token_bucket import TokenBucket

log = logging.getLogger(__name__)

BACKLOG: Final = 1024
RATES_MAX: Final = 4096
"""Addresses whose rate is remembered, some 200 bytes each; the one not seen longest goes."""
EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class AcceptRate:
    """A token bucket for each remote address."""

    def __init__(self, per_s: float, burst: float) -> None:
        self._per_s = per_s
        self._burst = burst
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def allows(self, ip: str, now: float) -> bool:
        """Whether this address may connect once more now."""
        bucket = self._buckets.pop(ip, None) or TokenBucket(self._per_s, self._burst, now)
        self._buckets[ip] = bucket
        if len(self._buckets) > RATES_MAX:
            self._buckets.popitem(last=False)
        return bucket.take(1.0, now)


class HandshakePlaces:
    """Cancel scopes of the handshakes under way, oldest first."""

    def __init__(self, most: int = PENDING_MAX, most_per_ip: int = PENDING_PER_IP_MAX) -> None:
        self._most = most
        self._most_per_ip = most_per_ip
        self._scopes: OrderedDict[trio.CancelScope, str] = OrderedDict()
        self._count: dict[str, int] = {}
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._scopes)

    def enter(self, ip: str) -> trio.CancelScope:
        """Take a place, evicting the oldest of this address, or of the address with most."""
        if self._count.get(ip, 0) >= self._most_per_ip:
            self._evict(ip)
        elif len(self._scopes) >= self._most:
            self._evict(max(self._count, key=lambda other: self._count[other]))
        scope = trio.CancelScope()
        self._scopes[scope] = ip
        self._count[ip] = self._count.get(ip, 0) + 1
        return scope

    def leave(self, scope: trio.CancelScope) -> None:
        """Give the place back; does nothing when it was evicted."""
        ip = self._scopes.pop(scope, None)
        if ip is not None:
            self._count[ip] -= 1
            if not self._count[ip]:
                del self._count[ip]

    def _evict(self, ip: str) -> None:
        scope = next(scope for scope, other in self._scopes.items() if other == ip)
        self.evicted += 1
        self.leave(scope)
        scope.cancel()


async def open_listeners(addresses: Sequence[str]) -> list[tuple[Endpoint, trio.SocketListener]]:
    """Bind all addresses; returns each with the port it got. Raises `ListenError`."""
    opened: list[tuple[Endpoint, trio.SocketListener]] = []
    try:
        for text in addresses:
            opened.append(await _open_one(text))
    except BaseException:
        for _, listener in opened:
            listener.socket.close()
        raise
    return opened


async def _open_one(text: str) -> tuple[Endpoint, trio.SocketListener]:
    endpoint = parse(text)
    if endpoint.kind not in ("ip4", "ip6"):
        raise BadMultiaddr(text, "listen on /ip4 or /ip6")
    family = socket.AF_INET if endpoint.kind == "ip4" else socket.AF_INET6
    bound = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        await bound.bind((endpoint.host, endpoint.port))
        bound.listen(BACKLOG)
        # After binding, so that a second node on this port still fails: for hole punching, which
        # dials from the port that is listened on.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError as error:
        bound.close()
        raise ListenError(text, error.strerror or str(error)) from error
    port = bound.getsockname()[1]
    return Endpoint(endpoint.kind, endpoint.host, port), trio.SocketListener(bound)


async def accept_for_ever(
    listener: trio.SocketListener,
    rate: AcceptRate,
    serve: Callable[[TcpStream], Awaitable[object]],
    nursery: trio.Nursery,
) -> None:
    """Hand each connection to `serve` in the nursery. Survives running out of descriptors."""
    while True:
        try:
            accepted, remote = await listener.socket.accept()
        except OSError as error:
            if error.errno in EXHAUSTED:
                log.error("out of file descriptors or buffers; accepting again in 0.1 s")
                await trio.sleep(0.1)
            continue  # anything else is about one connection that is gone already (accept(2))
        if not rate.allows(plain_ip(remote[0]), trio.current_time()):
            accepted.close()  # first of all: a flood should cost little
            continue
        try:
            stream = TcpStream(trio.SocketStream(accepted))
        except ConnectionLost:
            continue
        nursery.start_soon(serve, stream)
