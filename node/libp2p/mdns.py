"""Finding peers on the local network: libp2p's `discovery/mdns.md`, service `_p2p._udp.local`.

zeroconf runs its own thread; what it finds is handed over to Trio. Where there is no multicast the
service ends with one line in the log.
"""

import logging
import secrets
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import trio

from eigen.node.libp2p.errors import BadMultiaddr
from eigen.node.libp2p.multiaddrs import Endpoint, parse_peer

if TYPE_CHECKING:
    from zeroconf import Zeroconf

log = logging.getLogger(__name__)

SERVICE: Final = "_p2p._udp.local."
KEY: Final = b"dnsaddr="
TEXT_BYTES_MAX: Final = 4096
"""A TXT record of eight addresses."""
LOOKUP_TIMEOUT_MS: Final = 3000


def encode_text(addresses: Sequence[str]) -> bytes:
    """A TXT record with one `dnsaddr=` string an address; those above 255 bytes are left out."""
    out = bytearray()
    for address in addresses:
        entry = KEY + address.encode()
        if len(entry) <= 255:
            out.append(len(entry))
            out += entry
    return bytes(out)


def decode_text(text: bytes) -> list[Endpoint]:
    """Endpoints of a TXT record; whatever else it holds is passed over."""
    out = []
    offset = 0
    text = text[:TEXT_BYTES_MAX]
    while offset < len(text):
        entry = text[offset + 1 : offset + 1 + text[offset]]
        offset += 1 + text[offset]
        if entry.startswith(KEY):
            try:
                out.append(parse_peer(entry[len(KEY) :].decode()))
            except (BadMultiaddr, UnicodeDecodeError):
                continue
    return out


class _Listener:
    """What zeroconf calls, on its own thread."""

    def __init__(self, found: Callable[[bytes], None]) -> None:
        self._found = found

    def add_service(self, zeroconf: "Zeroconf", kind: str, name: str) -> None:
        from zeroconf import ServiceInfo

        info = ServiceInfo(kind, name)
        info.request(zeroconf, LOOKUP_TIMEOUT_MS)  # false without an A record, which libp2p omits
        if info.text:
            self._found(info.text)

    def update_service(self, zeroconf: "Zeroconf", kind: str, name: str) -> None:
        self.add_service(zeroconf, kind, name)

    def remove_service(self, zeroconf: "Zeroconf", kind: str, name: str) -> None:
        """Its connection tells better whether a peer is gone."""


async def run(addresses: Sequence[str], port: int, learn: Callable[[Endpoint], None]) -> None:
    """Announce `addresses` and report others' until cancelled; returns where multicast fails."""
    token = trio.lowlevel.current_trio_token()

    def found(text: bytes) -> None:
        for endpoint in decode_text(text):
            try:
                token.run_sync_soon(learn, endpoint)
            except trio.RunFinishedError:
                return

    service: Any = None
    try:
        service = await trio.to_thread.run_sync(_start, addresses, port, found)
    except Exception as error:  # zeroconf raises whatever the sockets do
        log.info("no peers will be found by multicast: %s", error)
        return
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(service.close)


def _start(addresses: Sequence[str], port: int, found: Callable[[bytes], None]) -> Any:
    from zeroconf import IPVersion, ServiceBrowser, ServiceInfo, Zeroconf

    service = Zeroconf(ip_version=IPVersion.V4Only)
    try:
        name = f"{secrets.token_hex(16)}.{SERVICE}"
        info = ServiceInfo(
            SERVICE,
            name,
            port=port,
            properties=encode_text(addresses),
            parsed_addresses=[parse_peer(address).host for address in addresses[:1]],
            server=f"{secrets.token_hex(8)}.local.",
        )
        service.register_service(info)
        ServiceBrowser(service, SERVICE, listener=_Listener(found))  # type: ignore[arg-type]
    except BaseException:
        service.close()
        raise
    return service
