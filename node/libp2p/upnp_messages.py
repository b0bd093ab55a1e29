"""What a home router is asked for a port, and how its answers are read: UPnP IGD. Does no I/O.

SSDP finds the router (UPnP Device Architecture 1.1, section 1), its description names the service
that maps ports, SOAP calls it (WANIPConnection 1 and 2, WANPPPConnection 1). Anything on the local
network may answer, so all of this is bounded: no DTD, no entities, and only the router that
answered is called.
"""

from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import urljoin, urlsplit
from xml.parsers import expat
from xml.sax.saxutils import escape

SEARCH_GROUP: Final = ("239.255.255.250", 1900)
GATEWAYS: Final = tuple(
    f"urn:schemas-upnp-org:device:InternetGatewayDevice:{version}" for version in (1, 2)
)
SERVICES: Final = (
    "urn:schemas-upnp-org:service:WANIPConnection:2",
    "urn:schemas-upnp-org:service:WANIPConnection:1",
    "urn:schemas-upnp-org:service:WANPPPConnection:1",
)
"""That map ports, the most wanted first."""
XML_BYTES_MAX: Final = 64 * 1024
"""Descriptions of routers have some 10 KB."""
XML_ELEMENTS_MAX: Final = 2000
SEARCH_REPLY_BYTES_MAX: Final = 2048
"""One datagram of headers."""
NO_SUCH_LEASE: Final = 725
"""OnlyPermanentLeasesSupported."""
CONFLICT: Final = 718
"""ConflictInMappingEntry: the port is forwarded to somebody else."""


class BadAnswer(Exception):
    """A router's answer that cannot be used."""


class Refused(BadAnswer):
    """The router says no; `code` is UPnP's."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"the router refuses: {code} {reason[:80]}")
        self.code = code


def search(target: str) -> bytes:
    """The datagram that asks for devices of a kind."""
    lines = (
        "M-SEARCH * HTTP/1.1",
        f"HOST: {SEARCH_GROUP[0]}:{SEARCH_GROUP[1]}",
        'MAN: "ssdp:discover"',
        "MX: 1",
        f"ST: {target}",
    )
    return "\r\n".join((*lines, "", "")).encode()


def location(reply: bytes, sender_ip: str) -> str:
    """Where the description of the device is that answered; it must be at the device itself.

    Raises `BadAnswer`.
    """
    head, *lines = reply[:SEARCH_REPLY_BYTES_MAX].decode("latin-1").split("\r\n")
    if not head.startswith("HTTP/1.1 200"):
        raise BadAnswer("not an answer to a search")
    headers = {
        key.strip().lower(): value.strip() for key, _, value in (s.partition(":") for s in lines)
    }
    if headers.get("st") not in GATEWAYS:
        raise BadAnswer("not a router")
    return _at(headers.get("location", ""), sender_ip)


def _at(url: str, ip: str) -> str:
    try:
        parts = urlsplit(url)
        if parts.scheme == "http" and parts.hostname == ip and parts.port != 0:
            return url
    except ValueError:
        pass
    raise BadAnswer(f"{url[:80]!r} is not at the device that answered")


def service(description: bytes, url: str) -> tuple[str, str]:
    """The type of the mapping service in a description found at `url`, and where to call it.

    Raises `BadAnswer`.
    """
    found: dict[str, str] = {}
    kind = ""
    for name, text in _elements(description):
        if name == "serviceType":
            kind = text
        elif name == "controlURL" and kind:
            found.setdefault(kind, text)
            kind = ""
    for wanted in SERVICES:
        if wanted in found:
            host = urlsplit(url).hostname or ""
            try:
                return wanted, _at(urljoin(url, found[wanted]), host)
            except ValueError as error:
                raise BadAnswer(str(error)) from error
    raise BadAnswer("the router maps no ports")


def call(
    kind: str, action: str, arguments: Mapping[str, str | int]
) -> tuple[dict[str, str], bytes]:
    """Headers and body of a SOAP call."""
    inner = "".join(f"<{name}>{escape(str(value))}</{name}>" for name, value in arguments.items())
    body = (
        '<?xml version="1.0"?>'
        '<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" '
        's:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/"><s:Body>'
        f'<u:{action} xmlns:u="{kind}">{inner}</u:{action}></s:Body></s:Envelope>'
    )
    headers = {"Content-Type": 'text/xml; charset="utf-8"', "SOAPAction": f'"{kind}#{action}"'}
    return headers, body.encode()


def answer(body: bytes) -> dict[str, str]:
    """The values in an answer. Raises `Refused` for a fault, `BadAnswer` for other bytes."""
    values = dict(_elements(body))
    if "errorCode" in values:
        code = values["errorCode"]
        known = code.isascii() and code.isdigit() and len(code) < 6
        raise Refused(int(code) if known else 0, values.get("errorDescription", ""))
    return values


def _elements(body: bytes) -> Iterator[tuple[str, str]]:
    """(local name, text) of each element, in the order in which they end. Raises `BadAnswer`."""
    if len(body) > XML_BYTES_MAX:
        raise BadAnswer(f"more than {XML_BYTES_MAX} bytes of XML")
    found: list[tuple[str, str]] = []
    text: list[str] = []

    def refuse(*_: object) -> None:
        raise BadAnswer("XML with a document type")

    def start(_name: str, _attributes: dict[str, str]) -> None:
        if len(found) > XML_ELEMENTS_MAX:
            raise BadAnswer("too many XML elements")
        text.clear()

    def end(name: str) -> None:
        found.append((name.rpartition(":")[2], "".join(text).strip()))
        text.clear()

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text.append
    try:
        parser.Parse(body, True)
    except (expat.ExpatError, ValueError, LookupError) as error:  # a bad encoding is the last
        raise BadAnswer(f"not XML: {error}") from error
    yield from found
