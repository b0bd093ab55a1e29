"""What a person sets of the network. Frozen once made; checked when it is made."""

from dataclasses import dataclass, field
from pathlib import Path

from eigen.node.libp2p.errors import BadMultiaddr, HandshakeFailed
from eigen.node.libp2p.identity import address_of_peer
from eigen.node.libp2p.multiaddrs import parse, parse_peer
from eigen.protocol.limits import TEXT_BYTES_MAX
from eigen.protocol.types import Address


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of this process; each connection costs about 60 KB and two descriptors at most."""

    connections: int = 256
    """Admitted connections, both directions."""
    connections_per_ip: int = 64
    """Admitted inbound connections from one address; people share addresses behind a NAT."""
    accepts_per_ip_per_s: float = 20.0
    """New inbound connections a second from one address; a handshake costs some 3 ms."""
    accepts_per_ip_burst: float = 200.0
    """As above, at once."""
    peers_wanted: int = 64
    """Known peers are dialled until so many are connected."""

    relay_bytes_per_s: float = 2e6
    """Passed on for each peer that is relayed; 0 is no cap."""
    upload_bytes_per_s: float = 0.0
    """Bulk bytes sent, all peers together; 0 is no cap."""
    download_bytes_per_s: float = 0.0
    """Bulk bytes received, all peers together; 0 is no cap."""
    peer_upload_bytes_per_s: float = 0.0
    """Bulk bytes sent to one peer; 0 is no cap."""
    peer_download_bytes_per_s: float = 0.0
    """Bulk bytes received of one peer; 0 is no cap."""

    def __post_init__(self) -> None:
        for name in ("connections", "connections_per_ip", "accepts_per_ip_per_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"limits.{name} must be above 0")
        for name in ("relay", "upload", "download", "peer_upload", "peer_download"):
            if getattr(self, f"{name}_bytes_per_s") < 0:
                raise ValueError(f"limits.{name}_bytes_per_s must not be below 0")


@dataclass(frozen=True, slots=True)
class Libp2pConfig:
    """Where to listen, whom to know, and which network this is."""

    network_id: str
    """Peers of another network are refused after their hello."""
    listen: tuple[str, ...] = ("/ip4/0.0.0.0/tcp/4001",)
    bootstrap: tuple[str, ...] = ()
    """Multiaddrs with `/p2p/`; dialled for as long as the daemon runs."""
    announce: tuple[str, ...] = ()
    """Addresses to tell peers instead of those of the interfaces, as behind a port mapping."""
    software: str = "eigen"
    """Name and version, for `identify` and the hello."""
    mdns: bool = True
    """Find peers on the local network."""
    upnp: bool = True
    """Ask the home router to forward the port, unless this host has a public address."""
    exchange: bool = True
    """Ask connected peers for the peers that they know."""
    dht: bool = True
    """Take part in the network's DHT, which finds who provides a content."""
    dht_protocol: str = "/eigen/kad/1.0.0"
    """Its protocol id; peers with another one form a DHT of their own."""
    relay_for_others: bool = True
    """Pass connections on to peers of this network that cannot be dialled."""
    use_relays: bool = True
    """Be reached, and reach others, through relays where there is no direct way."""
    peerstore: Path | None = None
    """File of known peers; None keeps them in memory."""
    allow: frozenset[Address] = frozenset()
    """If any are given, only these peers are let in."""
    deny: frozenset[Address] = frozenset()
    """Never let in, never dialled."""
    network_key: bytes | None = field(default=None, repr=False)
    """32 bytes that all members of a private network share; strangers fail the handshake."""
    admit_strangers: bool = False
    """Whether libp2p peers that do not say `/eigen/hello/1` are let in (for interop)."""
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not self.network_id or len(self.network_id.encode()) > TEXT_BYTES_MAX:
            raise ValueError(f"network_id needs 1 to {TEXT_BYTES_MAX} bytes")
        for text in (*self.listen, *self.announce):
            parse(text)
        for text in self.bootstrap:
            _check_bootstrap(text)
        if self.network_key is not None and len(self.network_key) != 32:
            raise ValueError("network_key has 32 bytes; make one with `openssl rand 32`")


def _check_bootstrap(text: str) -> None:
    peer = parse_peer(text).peer
    assert peer is not None
    try:
        address_of_peer(peer)
    except HandshakeFailed as error:
        raise BadMultiaddr(text, f"{error}; nodes of Eigen have secp256k1 keys") from error
