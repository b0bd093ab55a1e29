"""The few lines of protobuf that identify and Noise payloads need: length-delimited fields."""

from collections.abc import Iterator

from eigen.node.libp2p.multistream import encode_varint


def field(number: int, value: bytes) -> bytes:
    """One length-delimited field."""
    return encode_varint(number << 3 | 2) + encode_varint(len(value)) + value


def fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """(number, value) of each length-delimited field, numbers (wire type 0) skipped.

    Raises ValueError on anything that is not such a message.
    """
    offset = 0
    while offset < len(message):
        tag, offset = _varint(message, offset)
        length, offset = _varint(message, offset)
        if tag & 7 == 0:
            continue  # what was read as a length is the number itself
        if tag & 7 != 2:
            raise ValueError("an unexpected wire type")
        if offset + length > len(message):
            raise ValueError("truncated")
        yield tag >> 3, message[offset : offset + length]
        offset += length


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
