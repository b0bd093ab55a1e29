"""Multiaddrs of TCP over IP or DNS, with or without `/p2p/`, as text."""

import ipaddress
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from eigen.node.libp2p.errors import BadMultiaddr
from eigen.node.libp2p.identity import ID, peer_from_text
from eigen.protocol.limits import MULTIADDR_BYTES_MAX

HOST_PROTOCOLS: Final = frozenset({"ip4", "ip6", "dns", "dns4", "dns6"})

IP4_CODE: Final = 0x04
IP6_CODE: Final = 0x29
TCP_CODE: Final = 0x06
"""Of the multicodec table."""


PARSED_MAX: Final = 1024
"""Addresses remembered: peers that come up together hear each address from all the others."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to dial or listen: `host` as `kind` says, a TCP port, and whom to expect there."""

    kind: str
    host: str
    port: int
    peer: ID | None = None
    relay: ID | None = None
    """Who listens at `host` and passes the bytes on to `peer` (circuit relay v2)."""

    def __str__(self) -> str:
        tail = "" if self.peer is None else f"/p2p/{self.peer}"
        return self.bare + tail

    @property
    def bare(self) -> str:
        """The multiaddr without the `/p2p/` of the peer itself."""
        through = "" if self.relay is None else f"/p2p/{self.relay}/p2p-circuit"
        return f"/{self.kind}/{self.host}/tcp/{self.port}{through}"

    @property
    def anonymous(self) -> "Endpoint":
        """The same place, whoever is expected there."""
        return replace(self, peer=None)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can dial it."""
        return self.kind in ("ip4", "ip6") and ipaddress.ip_address(self.host).is_loopback

    @property
    def is_global(self) -> bool:
        """Whether it is a public IP address of one host."""
        if self.kind not in ("ip4", "ip6"):
            return False
        address = ipaddress.ip_address(self.host)
        return address.is_global and not address.is_multicast

    @property
    def is_unspecified(self) -> bool:
        """`0.0.0.0` or `::`: good to listen on, not to dial."""
        return self.kind in ("ip4", "ip6") and ipaddress.ip_address(self.host).is_unspecified


@lru_cache(maxsize=PARSED_MAX)
def parse(text: str) -> Endpoint:
    """Read `/ip4/…/tcp/…[/p2p/…]`. Raises `BadMultiaddr` for anything else."""
    if len(text.encode(errors="replace")) > MULTIADDR_BYTES_MAX:
        raise BadMultiaddr(text, f"longer than {MULTIADDR_BYTES_MAX} bytes")
    parts = text.split("/")
    if len(parts) < 5 or parts[0] or parts[1] not in HOST_PROTOCOLS or parts[3] != "tcp":
        raise BadMultiaddr(text, "give /ip4|ip6|dns/HOST/tcp/PORT with or without /p2p/PEER")
    kind, host = parts[1], parts[2]
    if not parts[4].isascii() or not parts[4].isdigit() or not 0 <= int(parts[4]) <= 65_535:
        raise BadMultiaddr(text, "the port lies between 0 and 65535")
    _check_host(text, kind, host)
    relay, rest = _split_relay(parts[5:])
    if rest and (len(rest) != 2 or rest[0] != "p2p"):
        raise BadMultiaddr(text, f"/{rest[0][:20]} is not supported here, only /p2p")
    peer = peer_from_text(rest[1]) if rest else None
    return Endpoint(kind, host, int(parts[4]), peer, relay)


def _split_relay(parts: list[str]) -> tuple[ID | None, list[str]]:
    """`p2p/RELAY/p2p-circuit` at the front, and what follows."""
    if len(parts) >= 3 and parts[0] == "p2p" and parts[2] == "p2p-circuit":
        return peer_from_text(parts[1]), parts[3:]
    return None, parts


def parse_peer(text: str) -> Endpoint:
    """As `parse`, for an address to dial: it needs `/p2p/PEER`, a port, and a real host."""
    endpoint = parse(text)
    if endpoint.peer is None:
        raise BadMultiaddr(text, "add /p2p/PEER-ID: a peer is dialled by its identity")
    if endpoint.port == 0 or endpoint.is_unspecified:
        raise BadMultiaddr(text, "that host or port can be listened on, not dialled")
    return endpoint


def to_bytes(endpoint: Endpoint) -> bytes:
    """The binary multiaddr of an IP address and a TCP port (`multiformats/multiaddr`)."""
    code = bytes([IP4_CODE if endpoint.kind == "ip4" else IP6_CODE])
    host = ipaddress.ip_address(endpoint.host).packed
    return code + host + bytes([TCP_CODE]) + endpoint.port.to_bytes(2, "big")


def from_bytes(data: bytes) -> Endpoint | None:
    """What `to_bytes` makes; None for any other multiaddr, and for bytes that are none."""
    size = {IP4_CODE: 4, IP6_CODE: 16}.get(data[0]) if data else None
    if size is None or len(data) != size + 4 or data[size + 1] != TCP_CODE:
        return None
    host = ipaddress.ip_address(data[1 : size + 1])
    return endpoint_of(str(host), int.from_bytes(data[size + 2 :], "big"))


def endpoint_of(ip: str, port: int, relay: ID | None = None) -> Endpoint:
    """The endpoint of a socket address."""
    return Endpoint("ip6" if ":" in ip else "ip4", ip, port, relay=relay)


def _check_host(text: str, kind: str, host: str) -> None:
    if kind in ("ip4", "ip6"):
        try:
            address = ipaddress.ip_address(host)
        except ValueError as error:
            raise BadMultiaddr(text, f"{host[:60]!r} is not an IP address") from error
        if address.version != (4 if kind == "ip4" else 6):
            raise BadMultiaddr(text, f"{host} is not an /{kind} address")
    elif not host or len(host) > 253 or not host.isascii() or any(c.isspace() for c in host):
        raise BadMultiaddr(text, "not a host name")
