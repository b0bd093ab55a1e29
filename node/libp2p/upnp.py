"""Has the home router forward this node's port (UPnP IGD), for as long as the node runs.

What the router promises is not believed: AutoNAT has peers dial the address first (`autonat.py`).
"""

import contextlib
import logging
import random
from dataclasses import dataclass
from typing import Final

import httpx
import trio

from eigen.node.libp2p import upnp_messages as messages
from eigen.node.libp2p.errors import BadMultiaddr
from eigen.node.libp2p.multiaddrs import Endpoint, parse
from eigen.node.libp2p.own_addresses import routed_ip
from eigen.node.libp2p.swarm import Swarm
from eigen.node.libp2p.upnp_messages import BadAnswer, Refused

log = logging.getLogger(__name__)

SEARCH_S: Final = 2.0
"""Devices answer within the second that the search names; a datagram may be lost."""
ANSWERS_MAX: Final = 16
"""Answers of one search that are looked at."""
CALL_TIMEOUT_S: Final = 5.0
LEASE_S: Final = 3600
"""A node that is killed leaves its port open for no longer than that."""
RENEW_S: Final = 1200.0
RETRY_S: Final = 600.0
"""After no router answered: it may be restarting."""
OTHER_PORTS: Final = 3
"""Outer ports that are tried where that of the node is forwarded to somebody else."""
DELETE_TIMEOUT_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Gateway:
    """A router that maps ports."""

    kind: str
    url: str

    async def call(self, action: str, **arguments: str | int) -> dict[str, str]:
        """One SOAP call. Raises `BadAnswer`."""
        headers, body = messages.call(self.kind, action, arguments)
        return messages.answer(await _fetch("POST", self.url, headers, body))


class PortMapper:
    """Keeps `Swarm.mapped` true of the router."""

    def __init__(self, swarm: Swarm) -> None:
        self._swarm = swarm
        self._outer: dict[int, int] = {}  # the router's ports by those of this node

    async def run(self) -> None:
        """Map and renew until cancelled; then the mappings are taken back."""
        inner = [e for e in self._swarm.listening if e.kind == "ip4" and not e.is_loopback]
        own_ip = routed_ip("ip4")
        if not inner or own_ip is None or Endpoint("ip4", own_ip, 0).is_global:
            self._swarm.mapping_tried.set()
            return  # nothing to forward, or no translation in between
        gateway: Gateway | None = None
        try:
            while True:
                mapped: list[Endpoint] = []
                try:
                    gateway = gateway or await find()
                    mapped = [await self._map(gateway, own_ip, e.port) for e in inner]
                except (BadAnswer, OSError) as error:
                    log.info("no router forwards a port to this node: %s", error)
                    gateway = None
                if mapped != self._swarm.mapped:
                    self._swarm.mapped = mapped
                    self._swarm.reach.forget()
                    log.info("the router forwards %s", ", ".join(map(str, mapped)) or "nothing")
                self._swarm.mapping_tried.set()
                await trio.sleep(RENEW_S if mapped else RETRY_S)
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(DELETE_TIMEOUT_S):
                for outer in self._outer.values():
                    if gateway is not None:
                        await _unmap(gateway, outer)

    async def _map(self, gateway: Gateway, own_ip: str, port: int) -> Endpoint:
        """Forward an outer port to `port`; where it is dialled then. Raises `BadAnswer`."""
        others = [random.randrange(20_000, 60_000) for _ in range(OTHER_PORTS)]  # noqa: S311
        for outer in (self._outer.get(port, port), *others):
            try:
                await _add(gateway, own_ip, port, outer)
            except Refused as refusal:
                if refusal.code != messages.CONFLICT:
                    raise
                continue
            self._outer[port] = outer
            answer = await gateway.call("GetExternalIPAddress")
            try:
                endpoint = parse(f"/ip4/{answer.get('NewExternalIPAddress', '')}/tcp/{outer}")
            except BadMultiaddr as error:
                raise BadAnswer(f"no outer address: {error}") from error
            if not endpoint.is_global:
                await _unmap(gateway, outer)
                raise BadAnswer("the router is behind another router")
            return endpoint
        raise BadAnswer("all ports are forwarded to others")


async def find() -> Gateway:
    """The first router on the local network that maps ports. Raises `BadAnswer`, OSError."""
    reasons = ["none answers"]
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as sock:
        for target in messages.GATEWAYS:
            await sock.sendto(messages.search(target), messages.SEARCH_GROUP)
        seen: set[str] = set()
        with trio.move_on_after(SEARCH_S):
            for _ in range(ANSWERS_MAX):
                reply, sender = await sock.recvfrom(messages.SEARCH_REPLY_BYTES_MAX)
                try:
                    url = messages.location(reply, sender[0])
                    if url not in seen:
                        seen.add(url)
                        kind, control = messages.service(await _fetch("GET", url), url)
                        return Gateway(kind, control)
                except BadAnswer as error:
                    reasons.append(str(error))
    raise BadAnswer(reasons[-1])


async def _add(gateway: Gateway, own_ip: str, port: int, outer: int) -> None:
    arguments: dict[str, str | int] = {
        "NewRemoteHost": "",
        "NewExternalPort": outer,
        "NewProtocol": "TCP",
        "NewInternalPort": port,
        "NewInternalClient": own_ip,
        "NewEnabled": 1,
        "NewPortMappingDescription": "eigen",
        "NewLeaseDuration": LEASE_S,
    }
    try:
        await gateway.call("AddPortMapping", **arguments)
    except Refused as refusal:
        if refusal.code != messages.NO_SUCH_LEASE:
            raise
        await gateway.call("AddPortMapping", **(arguments | {"NewLeaseDuration": 0}))


async def _unmap(gateway: Gateway, outer: int) -> None:
    with contextlib.suppress(BadAnswer):
        await gateway.call(
            "DeletePortMapping", NewRemoteHost="", NewExternalPort=outer, NewProtocol="TCP"
        )


async def _fetch(
    method: str, url: str, headers: dict[str, str] | None = None, content: bytes | None = None
) -> bytes:
    """The body of an answer, faults (status 500) included. Raises `BadAnswer`."""
    headers = (headers or {}) | {"Accept-Encoding": "identity"}
    client = httpx.AsyncClient(trust_env=False, timeout=CALL_TIMEOUT_S)
    body = b""
    try:
        with trio.fail_after(CALL_TIMEOUT_S):
            async with (
                client,
                client.stream(method, url, headers=headers, content=content) as reply,
            ):
                if reply.status_code not in (200, 500):
                    raise BadAnswer(f"the router answers with status {reply.status_code}")
                async for part in reply.aiter_raw():
                    body += part
                    if len(body) > messages.XML_BYTES_MAX:
                        raise BadAnswer(f"more than {messages.XML_BYTES_MAX} bytes")
    except (httpx.HTTPError, httpx.InvalidURL, trio.TooSlowError) as error:
        raise BadAnswer(f"the router does not answer: {error!r}") from error
    return body
