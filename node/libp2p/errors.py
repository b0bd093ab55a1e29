"""What can go wrong on the wire, and whose fault it is.

Libp2pError
├── ListenError         ours: an address cannot be listened on
├── BadMultiaddr        ours: a configured or given address does not parse or cannot be dialled
├── StreamClosed        ours: a write after closing
├── ConnectionLost      nobody's: the connection ended before the bytes were whole
├── StreamReset         nobody's: the peer gave up one stream
├── NotSupported        nobody's: the peer does not speak the protocol
├── Refused             the peer's choice or ours: a limit, a deny list, a ban
│   └── WrongNetwork    the peer belongs to another network
└── ProtocolViolation   the peer's: bytes that no honest node sends; `cost` is what it pays
    └── HandshakeFailed the peer's: it did not prove who it is
        └── WrongPeer   it proved to be somebody else than was dialled
"""

from eigen.protocol.limits import PENALTY_MALFORMED


class Libp2pError(Exception):
    """Base of everything that this folder raises below the `Network` port."""


class ListenError(Libp2pError):
    """An address cannot be listened on; `address` is the multiaddr."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"cannot listen on {address}: {reason}")
        self.address = address


class BadMultiaddr(Libp2pError, ValueError):
    """A multiaddr that does not parse or that no transport here can dial."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"multiaddr {address[:200]!r}: {reason}")
        self.address = address


class StreamClosed(Libp2pError):
    """This side has already closed the stream for writing."""


class ConnectionLost(Libp2pError):
    """The connection ended; what was not received whole is lost."""


class StreamReset(Libp2pError):
    """The peer reset the stream, or the connection under it ended."""


class NotSupported(Libp2pError):
    """The peer speaks none of the protocols that were offered."""


class Refused(Libp2pError):
    """A connection that a limit, a deny list or a score keeps out."""


class WrongNetwork(Refused):
    """The peer is not of this network; `theirs` is what it said, shortened."""

    def __init__(self, theirs: str) -> None:
        super().__init__(f"the peer belongs to network {theirs[:80]!r}")
        self.theirs = theirs[:80]


class ProtocolViolation(Libp2pError):
    """The peer sent what no honest node sends. `cost` is in score points."""

    def __init__(self, message: str, cost: float = PENALTY_MALFORMED) -> None:
        super().__init__(message)
        self.cost = cost


class HandshakeFailed(ProtocolViolation):
    """The peer did not finish a valid handshake."""


class WrongPeer(HandshakeFailed):
    """The address answers, but with another peer id than was asked for."""
