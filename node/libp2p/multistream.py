"""multistream-select 1.0: agreeing on a protocol by its name.

Knows no stream type but `Channel`. The dialling side writes the header and its first proposal
together, which the specification allows and which saves a round trip.
"""

from collections.abc import Container, Sequence
from typing import Final, Protocol

from eigen.node.libp2p.bounds import MULTISTREAM_LINE_BYTES_MAX, MULTISTREAM_LINES_MAX
from eigen.node.libp2p.errors import NotSupported, ProtocolViolation

HEADER: Final = "/multistream/1.0.0"
NOT_AVAILABLE: Final = "na"


class Channel(Protocol):
    """What is negotiated on."""

    async def read_exactly(self, count: int) -> bytes:
        """That many bytes, or an error."""
        ...

    async def write(self, data: bytes) -> None:
        """Send the bytes in order."""
        ...


def encode_varint(value: int) -> bytes:
    """Unsigned LEB128, as protobuf and multiformats have it."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


async def read_varint(channel: Channel, most: int) -> int:
    """An unsigned LEB128 number up to `most`. Raises `ProtocolViolation` above it."""
    value = shift = 0
    while True:
        byte = (await channel.read_exactly(1))[0]
        value |= (byte & 0x7F) << shift
        if value > most or shift > 56:
            raise ProtocolViolation(f"a length above {most}")
        if not byte & 0x80:
            return value
        shift += 7


def line(text: str) -> bytes:
    """One negotiation message: length, text, newline."""
    body = text.encode() + b"\n"
    return encode_varint(len(body)) + body


async def read_line(channel: Channel) -> str:
    """Read one negotiation message. Raises `ProtocolViolation` on anything else."""
    length = await read_varint(channel, MULTISTREAM_LINE_BYTES_MAX)
    body = await channel.read_exactly(length)
    if not body.endswith(b"\n"):
        raise ProtocolViolation("a negotiation message without a newline")
    try:
        return body[:-1].decode()
    except UnicodeDecodeError as error:
        raise ProtocolViolation("a negotiation message that is not UTF-8") from error


async def propose(channel: Channel, protocols: Sequence[str], lazily: bytes = b"") -> str:
    """Agree on one of `protocols`, most wanted first; returns its name.

    `lazily` is sent together with the first proposal, before the answer: only for a protocol that
    nearly every peer speaks. Raises `NotSupported` where the peer wants none of them.
    """
    await channel.write(line(HEADER) + line(protocols[0]) + lazily)
    if await read_line(channel) != HEADER:
        raise ProtocolViolation("the peer does not speak multistream-select")
    for index, protocol in enumerate(protocols):
        if index:
            await channel.write(line(protocol))
        answer = await read_line(channel)
        if answer == protocol:
            return protocol
        if answer != NOT_AVAILABLE:
            raise ProtocolViolation("an answer that is neither the protocol nor `na`")
    raise NotSupported(f"the peer does not speak {', '.join(protocols)}")


async def answer(channel: Channel, protocols: Container[str]) -> str:
    """Let the peer choose one of `protocols`; returns its name.

    Raises `NotSupported` after too many proposals, `ProtocolViolation` on other bytes.
    """
    await channel.write(line(HEADER))
    if await read_line(channel) != HEADER:
        raise ProtocolViolation("the peer does not speak multistream-select")
    for attempt in range(MULTISTREAM_LINES_MAX):
        try:
            wanted = await read_line(channel)
        except ProtocolViolation as violation:
            if attempt == 0:
                raise
            # What was sent lazily for the protocol that we just declined.
            raise NotSupported("the peer proposed only unknown protocols") from violation
        if wanted in protocols:
            await channel.write(line(wanted))
            return wanted
        await channel.write(line(NOT_AVAILABLE))
    raise NotSupported("the peer proposed only unknown protocols")
