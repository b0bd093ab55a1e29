"""Yamux frames: the twelve-byte header of hashicorp's specification, version 0. Does no I/O."""

import struct
from enum import IntEnum, IntFlag
from typing import Final

HEADER_BYTES: Final = 12
_HEADER: Final = struct.Struct("!BBHII")

pack_header = _HEADER.pack
"""`(version, type, flags, stream, length) -> bytes`."""
unpack_header = _HEADER.unpack_from


class Kind(IntEnum):
    """Frame types."""

    DATA = 0
    WINDOW = 1
    PING = 2
    GO_AWAY = 3


class Flag(IntFlag):
    """Frame flags."""

    SYN = 1
    ACK = 2
    FIN = 4
    RST = 8


class GoAway(IntEnum):
    """Why a session ends."""

    NORMAL = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2


def frame(kind: int, flags: int, stream: int, length: int) -> bytes:
    """A header of version 0."""
    return pack_header(0, kind, flags, stream, length)
