"""The few lines of protobuf that identify, Noise payloads, relays and AutoNAT need."""

from collections.abc import Iterator

from eigen.node.libp2p.multistream import encode_varint


def field(key: int, value: bytes) -> bytes:
    """One length-delimited field."""
    return encode_varint(key << 3 | 2) + encode_varint(len(value)) + value


def number(key: int, value: int) -> bytes:
    """One field that holds a number (wire type 0)."""
    return encode_varint(key << 3) + encode_varint(value)


def fixed64(key: int, value: int) -> bytes:
    """One field that holds a number in eight bytes (wire type 1)."""
    return encode_varint(key << 3 | 1) + value.to_bytes(8, "little")


def fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """(number, value) of each length-delimited field. Raises ValueError on other bytes."""
    for key, value in _parse(message):
        if isinstance(value, bytes):
            yield key, value


def numbers(message: bytes) -> Iterator[tuple[int, int]]:
    """(number, value) of each field that holds a number. Raises ValueError on other bytes."""
    for key, value in _parse(message):
        if isinstance(value, int):
            yield key, value


def _parse(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    offset = 0
    while offset < len(message):
        tag, offset = _varint(message, offset)
        if tag & 7 == 1:
            if offset + 8 > len(message):
                raise ValueError("truncated")
            yield tag >> 3, int.from_bytes(message[offset : offset + 8], "little")
            offset += 8
            continue
        value, offset = _varint(message, offset)
        if tag & 7 == 0:
            yield tag >> 3, value
            continue
        if tag & 7 != 2:
            raise ValueError("an unexpected wire type")
        if offset + value > len(message):
            raise ValueError("truncated")
        yield tag >> 3, message[offset : offset + value]
        offset += value


def _varint(data: bytes, offset: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if offset >= len(data):
            break
        byte = data[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, offset
    raise ValueError("a bad number")
