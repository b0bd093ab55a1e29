"""What a libp2p host meets outside itself: the way bytes go, the calendar, and chance.

A daemon has TCP and the system's; a simulation has virtual ones, and the host cannot tell.
"""

import os
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import trio

from eigen.node.libp2p.accept import AcceptRate, accept_for_ever, open_listeners
from eigen.node.libp2p.byte_stream import ByteStream
from eigen.node.libp2p.multiaddrs import Endpoint
from eigen.node.libp2p.tcp import connect_tcp


class Listening(Protocol):
    """One address that is listened on."""

    @property
    def endpoint(self) -> Endpoint:
        """With the port that it got."""
        ...

    async def serve(
        self,
        rate: AcceptRate,
        serve: Callable[[ByteStream], Awaitable[object]],
        nursery: trio.Nursery,
    ) -> None:
        """Hand each connection that `rate` allows to `serve` in the nursery, until cancelled."""
        ...

    def close(self) -> None:
        """Accept no more; may be called twice."""
        ...


class Transport(Protocol):
    """Connects hosts. Every coroutine is cancel-safe: a cancelled dial leaves nothing open."""

    async def dial(self, endpoint: Endpoint) -> ByteStream:
        """A connection to an endpoint. Raises `ConnectionLost`."""
        ...

    async def listen(self, addresses: Sequence[str]) -> Sequence[Listening]:
        """Listen on all of these multiaddrs or on none. Raises `ListenError`, `BadMultiaddr`."""
        ...


@dataclass(frozen=True, slots=True)
class TcpListening:
    """See `Listening`."""

    endpoint: Endpoint
    listener: trio.SocketListener

    async def serve(
        self,
        rate: AcceptRate,
        serve: Callable[[ByteStream], Awaitable[object]],
        nursery: trio.Nursery,
    ) -> None:
        """See `Listening.serve`."""
        await accept_for_ever(self.listener, rate, serve, nursery)

    def close(self) -> None:
        """See `Listening.close`."""
        self.listener.socket.close()


class TcpTransport:
    """TCP of this machine."""

    async def dial(self, endpoint: Endpoint) -> ByteStream:
        """See `Transport.dial`."""
        return await connect_tcp(endpoint)

    async def listen(self, addresses: Sequence[str]) -> Sequence[Listening]:
        """See `Transport.listen`."""
        opened = await open_listeners(addresses)
        return [TcpListening(endpoint, listener) for endpoint, listener in opened]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a host is handed; the defaults are a daemon's."""

    transport: Transport = field(default_factory=TcpTransport)
    unix_s: Callable[[], float] = time.time
    """The calendar: for hellos and for numbers that must grow from start to start."""
    entropy: Callable[[int], bytes] = os.urandom
    """So many random bytes, unpredictable: keys are made of them."""

    def draws(self) -> random.Random:
        """A source of jitter and of choices that guard nothing."""
        return random.Random(int.from_bytes(self.entropy(16)))  # noqa: S311
