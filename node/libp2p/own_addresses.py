"""Under which addresses this node can be dialled: what it listens on, as a peer would see it."""

import contextlib
import socket
from collections.abc import Iterable
from typing import Final

from eigen.node.libp2p.multiaddrs import Endpoint, endpoint_of, parse

ROUTED_PROBES: Final = {"ip4": ("198.51.100.1", 9), "ip6": ("2001:db8::1", 9)}
"""Documentation addresses (RFC 5737, RFC 3849): asking for a route to them sends nothing."""


def routed_ip(kind: str) -> str | None:
    """The local address of the default route, or None without one. Sends no packet."""
    family = socket.AF_INET if kind == "ip4" else socket.AF_INET6
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(ROUTED_PROBES[kind])
        ip: str = probe.getsockname()[0]
        return ip
    return None


def expand(listening: Iterable[Endpoint], used_ip: str | None = None) -> list[Endpoint]:
    """Listening endpoints with `0.0.0.0` and `::` replaced by addresses that can be dialled.

    `used_ip` is a local address over which a peer is connected already: the surest of all.
    """
    out: list[Endpoint] = []
    for endpoint in listening:
        if not endpoint.is_unspecified:
            out.append(endpoint)
            continue
        loopback = "127.0.0.1" if endpoint.kind == "ip4" else "::1"
        for ip in (used_ip, routed_ip(endpoint.kind), loopback):
            if ip is not None and endpoint_of(ip, 0).kind == endpoint.kind:
                out.append(endpoint_of(ip, endpoint.port))
    return list(dict.fromkeys(out))


def seen(
    listening: Iterable[Endpoint], announce: Iterable[str], observed: Endpoint | None
) -> list[Endpoint]:
    """IP addresses under which a peer that sees this node at `observed` might dial it.

    Most routers let a port that is forwarded keep its number, and keep it when they choose one.
    """
    out = [e for e in map(parse, announce) if e.kind in ("ip4", "ip6")]
    if observed is not None and observed.relay is None:
        for endpoint in listening:
            if endpoint.kind == observed.kind:
                out.append(Endpoint(observed.kind, observed.host, endpoint.port))
    return list(dict.fromkeys(out))


def reachable(
    listening: Iterable[Endpoint],
    announce: Iterable[str],
    peer: Endpoint,
    used_ip: str | None = None,
) -> list[Endpoint]:
    """What to tell a peer: loopback addresses only to one on this machine."""
    announced = [parse(text) for text in announce]
    own = announced or expand(listening, used_ip)
    return [endpoint for endpoint in own if peer.is_loopback or not endpoint.is_loopback]
