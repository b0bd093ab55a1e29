"""Known peers in a file, so that a node that has been on the network needs no bootstrap list."""

import json
import logging
import os
from pathlib import Path
from typing import Any, Final

from eigen.node.libp2p.address_book import AddressBook
from eigen.node.libp2p.bounds import ADDRESSES_PER_PEER_MAX, KNOWN_PEERS_MAX
from eigen.node.libp2p.errors import Libp2pError
from eigen.node.libp2p.identity import address_of_peer, peer_from_text
from eigen.node.libp2p.multiaddrs import parse

log = logging.getLogger(__name__)

FORMAT: Final = 1
FILE_BYTES_MAX: Final = 4 * 1024 * 1024
"""2,048 peers with eight addresses of 256 bytes."""


def load(path: Path, book: AddressBook) -> int:
    """Add the peers in the file to the book; how many. A bad file is logged and passed over."""
    try:
        rows = _rows(path)
    except FileNotFoundError:
        return 0
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("known peers: %s cannot be read (%s); starting without", path, error)
        return 0
    return sum(_load_row(book, peer, addresses) for peer, addresses in rows[:KNOWN_PEERS_MAX])


def _rows(path: Path) -> list[tuple[str, Any]]:
    if path.stat().st_size > FILE_BYTES_MAX:
        raise ValueError(f"larger than {FILE_BYTES_MAX} bytes")
    document = json.loads(path.read_text())
    if document["format"] != FORMAT:
        raise ValueError(f"format {document['format']!r}, this version reads {FORMAT}")
    return list(document["peers"].items())


def _load_row(book: AddressBook, peer_text: str, addresses: Any) -> bool:
    try:
        peer = peer_from_text(peer_text)
        endpoints = [parse(text) for text in addresses[:ADDRESSES_PER_PEER_MAX]]
        return book.add(peer, address_of_peer(peer), endpoints)
    except (Libp2pError, TypeError, AttributeError) as error:
        log.warning("known peers: passing over %.60r (%s)", peer_text, error)
        return False


def snapshot(book: AddressBook) -> bytes:
    """The book's peers as the file holds them."""
    peers = {
        str(known.peer): [str(endpoint) for endpoint in known.endpoints] for known in book.all()
    }
    return json.dumps({"format": FORMAT, "peers": peers}, indent=1).encode()


def write(path: Path, data: bytes) -> None:
    """Replace the file atomically: after a crash it holds the old bytes or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
