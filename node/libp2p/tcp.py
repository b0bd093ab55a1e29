"""Dialling TCP: one endpoint, one deadline of our own, no delay before the first packet."""

import trio

from eigen.node.libp2p.bounds import DIAL_TIMEOUT_S
from eigen.node.libp2p.byte_stream import TcpStream
from eigen.node.libp2p.errors import ConnectionLost
from eigen.node.libp2p.multiaddrs import Endpoint


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


async def _connect_ip(host: str, port: int, version: int | None) -> trio.SocketStream:
    family = trio.socket.AF_INET if version == 4 else trio.socket.AF_INET6
    sock = trio.socket.socket(family, trio.socket.SOCK_STREAM)
    try:
        await sock.connect((host, port))
        return trio.SocketStream(sock)
    except BaseException:
        sock.close()
        raise
