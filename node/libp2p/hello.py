"""`/eigen/hello/1`: before anything else, two peers say which network they are of.

The dialling side writes its hello with the stream's proposal and reads the other's; each side
judges for itself. Both are `wire` arrays behind a length.
"""

import logging
from dataclasses import dataclass
from typing import Annotated, Final

from eigen.node.libp2p.bounds import CLOCK_SKEW_WARN_S, HELLO_BYTES_MAX
from eigen.node.libp2p.errors import BadMultiaddr, ProtocolViolation, WrongNetwork
from eigen.node.libp2p.multiaddrs import Endpoint, parse
from eigen.node.libp2p.multistream import Channel, encode_varint, read_varint
from eigen.protocol import wire
from eigen.protocol.limits import MULTIADDR_BYTES_MAX, MULTIADDRS_MAX

log = logging.getLogger(__name__)

PROTOCOL: Final = "/eigen/hello/1"

Multiaddr = Annotated[str, wire.Length(MULTIADDR_BYTES_MAX)]


@dataclass(frozen=True, slots=True)
class Hello:
    """What a peer says of itself. `observed` is where it sees the other side."""

    network: wire.Text
    software: wire.Text
    time_s: wire.U64
    listen: Annotated[tuple[Multiaddr, ...], wire.Length(MULTIADDRS_MAX)]
    observed: Multiaddr

    def endpoints(self) -> list[Endpoint]:
        """Listening addresses that parse; others are passed over."""
        out = []
        for text in self.listen:
            try:
                endpoint = parse(text)
            except BadMultiaddr:
                continue
            if endpoint.port and not endpoint.is_unspecified:
                out.append(endpoint)
        return out

    def observed_endpoint(self) -> Endpoint | None:
        """Where the peer sees the other side; None where it makes no sense."""
        try:
            return parse(self.observed)
        except BadMultiaddr:
            return None


def frame(hello: Hello) -> bytes:
    """A hello with its length."""
    body = wire.encode_bare(hello)
    return encode_varint(len(body)) + body


async def read(channel: Channel) -> Hello:
    """Read one hello. Raises `ProtocolViolation` on other bytes."""
    size = await read_varint(channel, HELLO_BYTES_MAX)
    try:
        body = await channel.read_exactly(size)
        return wire.decode_bare(body, Hello, bytes_max=HELLO_BYTES_MAX)
    except wire.WireError as error:
        raise ProtocolViolation(f"hello: {error}") from error


def judge(hello: Hello, network_id: str, peer: object, unix_s: float) -> None:
    """Raises `WrongNetwork`; logs a clock that is far from ours, `unix_s`."""
    if hello.network != network_id:
        raise WrongNetwork(hello.network)
    skew_s = hello.time_s - unix_s
    if abs(skew_s) > CLOCK_SKEW_WARN_S:
        log.warning(
            "the clock of peer %s is %+.0f s from ours; one of the two is wrong", peer, skew_s
        )
