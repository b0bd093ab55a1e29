"""Dialling TCP: one endpoint, one deadline of our own, no delay before the first packet."""

import contextlib
import socket
from collections.abc import Iterable, Sequence
from typing import Final

import trio

from eigen.node.libp2p.bounds import DIAL_TIMEOUT_S, PUNCH_TIMEOUT_S
from eigen.node.libp2p.byte_stream import TcpStream
from eigen.node.libp2p.errors import ConnectionLost
from eigen.node.libp2p.multiaddrs import Endpoint

PUNCH_PAUSE_S: Final = 0.1
"""Before a refused packet of hole punching is sent again."""


async def connect_tcp(endpoint: Endpoint) -> TcpStream:
    """A TCP connection to an endpoint. Raises `ConnectionLost`; a cancel closes the socket."""
    family = {"ip4": 4, "dns4": 4, "ip6": 6, "dns6": 6}.get(endpoint.kind)
    try:
        with trio.move_on_after(DIAL_TIMEOUT_S):
            if endpoint.kind in ("ip4", "ip6"):
                return TcpStream(await _connect_ip(endpoint.host, endpoint.port, family))
            stream = await trio.open_tcp_stream(endpoint.host, endpoint.port)
            return TcpStream(stream)
    except OSError as error:
        raise ConnectionLost(f"{endpoint.bare}: {error.strerror or error}") from error
    raise ConnectionLost(f"{endpoint.bare}: no answer in {DIAL_TIMEOUT_S:.0f} s")


async def connect_at_once(
    listening: Iterable[Endpoint], remotes: Sequence[Endpoint]
) -> TcpStream | None:
    """Dial all `remotes` from the ports listened on, while they dial here; the first that answers.

    A router that has no mapping yet may refuse; that side is then tried again until the deadline.
    None where nobody answers within `PUNCH_TIMEOUT_S`. A cancel closes all sockets.
    """
    won: list[trio.SocketStream] = []

    async def attempt(local: Endpoint, remote: Endpoint) -> None:
        while True:
            with contextlib.suppress(OSError):
                stream = await _connect_from(local, remote)
                won.append(stream)
                nursery.cancel_scope.cancel()
                return
            await trio.sleep(PUNCH_PAUSE_S)

    used: trio.SocketStream | None = None
    try:
        with trio.move_on_after(PUNCH_TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                for local in listening:
                    for remote in remotes:
                        if local.kind == remote.kind:
                            nursery.start_soon(attempt, local, remote)
        used = won[0] if won else None
    finally:
        for stream in won:
            if stream is not used:
                stream.socket.close()
    return None if used is None else TcpStream(used)


async def _connect_from(local: Endpoint, remote: Endpoint) -> trio.SocketStream:
    """Connect from a port that this process listens on. Raises OSError."""
    family = trio.socket.AF_INET if local.kind == "ip4" else trio.socket.AF_INET6
    sock = trio.socket.socket(family, trio.socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        await sock.bind((local.host, local.port))
        await sock.connect((remote.host, remote.port))
        return trio.SocketStream(sock)
    except BaseException:
        sock.close()
        raise


async def _connect_ip(host: str, port: int, version: int | None) -> trio.SocketStream:
    family = trio.socket.AF_INET if version == 4 else trio.socket.AF_INET6
    sock = trio.socket.socket(family, trio.socket.SOCK_STREAM)
    try:
        await sock.connect((host, port))
        return trio.SocketStream(sock)
    except BaseException:
        sock.close()
        raise
