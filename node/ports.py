"""What the daemon's services need of the outside world.

Each port is a `typing.Protocol`; `node/app.py` wires the real ones, the simulator wires virtual
ones. Every coroutine here is cancel-safe: a cancelled call leaves the other side of the port in a
state from which the next call works.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

from eigen.protocol.run import RunSpec
from eigen.protocol.types import Address, Cid
from eigen.training.frames import Files
from eigen.training.replay import Claimed, Opened
from eigen.training.results import (
    Encoded,
    Evaluation,
    Gap,
    LocalDelta,
    LocalUpdate,
    PartAverage,
    Replay,
)


class Verdict(Enum):
    """What a gossip validator says of a message, in gossipsub's terms."""

    ACCEPT = "accept"
    REJECT = "reject"  # malformed or forged: not forwarded, and its sender is scored down
    IGNORE = "ignore"  # well-formed but stale or not for us: not forwarded, nobody is blamed


@dataclass(frozen=True, slots=True)
class PeerConnected:
    """A peer finished its handshake; it is now in `Network.peers()`."""

    peer: Address


@dataclass(frozen=True, slots=True)
class PeerLost:
    """The last connection to a peer closed, reset or timed out."""

    peer: Address


PeerEvent = PeerConnected | PeerLost

GossipValidator = Callable[[Address, bytes], Verdict]
"""`(forwarder, data) -> Verdict`. Synchronous, total (never raises), under 10 ms."""

GossipHandler = Callable[[Address, bytes], Awaitable[None]]
"""`(forwarder, data)`: called once for each accepted message, in arrival order for each topic."""

RequestHandler = Callable[[Address, bytes], Awaitable[bytes]]
"""`(requester, payload) -> reply`. May raise `RequestRefused` to answer with a reason.
Cancelled where the requester gives up first."""


class NetworkError(Exception):
    """Base of what a `Network` raises. `peer` is whom it concerns."""

    def __init__(self, message: str, peer: Address | None = None) -> None:
        super().__init__(message)
        self.peer = peer


class PeerUnreachable(NetworkError):
    """No connection to the peer, or it broke before the reply was whole."""


class RequestTimeout(NetworkError):
    """The reply was not whole before the deadline."""


class RequestRefused(NetworkError):
    """The peer answered with a reason instead of a reply; the reason is the message."""


class ReplyTooLarge(NetworkError):
    """The peer announced more bytes than the caller allowed; nothing was buffered."""


class Network(Protocol):
    """Peers, gossip and requests. Peers are named by `Address`; the adapter knows peer ids."""

    @property
    def local(self) -> Address:
        """This node's address."""
        ...

    def listen_addrs(self) -> Sequence[str]:
        """Multiaddrs, `/p2p/` part included, under which this node can be dialled."""
        ...

    def peers(self) -> frozenset[Address]:
        """Peers connected now."""
        ...

    async def connect(self, multiaddr: str, *, timeout_s: float) -> Address:
        """Dial one multiaddr with its `/p2p/` part. Raises `PeerUnreachable`."""
        ...

    def subscribe(self, topic: str, validate: GossipValidator, handle: GossipHandler) -> None:
        """Join a topic before or after `run` starts; once for each topic."""
        ...

    async def publish(self, topic: str, data: bytes) -> None:
        """Gossip to the topic's mesh; paced. Waits for a slot in the queue, drops nothing."""
        ...

    def serve(self, protocol: str, handle: RequestHandler, *, request_bytes_max: int) -> None:
        """Answer requests on a protocol id such as `/eigen/block/1`."""
        ...

    async def request(
        self,
        peer: Address,
        protocol: str,
        payload: bytes,
        *,
        reply_bytes_max: int,
        timeout_s: float,
    ) -> bytes:
        """One request, one reply, on a stream of its own.

        Raises `PeerUnreachable`, `RequestTimeout`, `RequestRefused` or `ReplyTooLarge`. A cancelled
        request resets its stream and harms no other.
        """
        ...

    def events(self) -> AsyncIterator[PeerEvent]:
        """Connections coming and going, from now on. Each caller gets its own bounded queue."""
        ...

    def penalize(self, peer: Address, points: float, reason: str) -> None:
        """Score a peer down for something that it did above the transport."""
        ...

    def score(self, peer: Address) -> float:
        """Zero or less; below `limits.SCORE_DISCONNECT` the peer is dropped and not dialled."""
        ...


class BulkWriter(Protocol):
    """The sending end of a bulk transfer: messages of up to 1 MiB, in order, to one peer."""

    @property
    def offset(self) -> int:
        """Where the receiver wants to start; what it counts is the application's."""
        ...

    async def send(self, message: bytes | memoryview, *, timeout_s: float) -> None:
        """Send one message; waits for rate caps and for the peer to take it.

        Raises `RequestTimeout`, `PeerUnreachable`, or `RequestRefused` where the receiver gave up.
        After an error or a cancel the transfer is over; open another at the receiver's offset.
        """
        ...

    async def finish(self, *, timeout_s: float) -> None:
        """Say that this was all, and wait until the receiver's handler has returned."""
        ...


class BulkReader(Protocol):
    """The receiving end of a bulk transfer."""

    async def accept(self, offset: int = 0) -> None:
        """Let the transfer begin, at this offset; the first `receive` does so where it was not."""
        ...

    async def receive(self, *, timeout_s: float) -> bytes | None:
        """The next message, or None at the sender's end. A transfer cut short raises instead.

        Raises `RequestTimeout` or `PeerUnreachable`.
        """
        ...


BulkHandler = Callable[[Address, bytes, BulkReader], Awaitable[None]]
"""`(sender, header, reader)`. May raise `RequestRefused`; returning confirms what was received.
Where the sender leaves first, `receive` raises, and the handler is cancelled a second later."""


class BulkNetwork(Network, Protocol):
    """A network that also streams bulk bytes beside its control traffic."""

    def open_bulk(
        self, peer: Address, protocol: str, header: bytes, *, timeout_s: float
    ) -> AbstractAsyncContextManager[BulkWriter]:
        """Open a transfer; `header`, up to 4 KiB, tells the handler what it is.

        Entering raises `PeerUnreachable`, `RequestTimeout` or `RequestRefused`. Leaving without
        `finish` gives the transfer up, and the receiver notices.
        """
        ...

    def serve_bulk(self, protocol: str, handle: BulkHandler) -> None:
        """Take transfers on a protocol id such as `/eigen/part/1`."""
        ...


class ContentRouting(Protocol):
    """Finds peers that hold a content, beyond those that are connected."""

    async def provide(self, cid: Cid) -> None:
        """Let it be known that this node holds a content, for as long as the network runs.

        Returns at once; the announcement follows in the background and is renewed. Raises
        `CidError` where `cid` is none.
        """
        ...

    async def withdraw(self, cid: Cid) -> None:
        """Announce a content no more; what peers have heard of it runs out. Returns at once."""
        ...

    async def find_providers(self, cid: Cid, *, limit: int, timeout_s: float) -> Sequence[Address]:
        """Up to `limit` peers that say they hold a content, all of them connected on return.

        What they say is only a hint: check what they send. Returns after `timeout_s` at the latest,
        with whom it has found until then; raises nothing of a peer's. A cancel keeps connections.
        """
        ...


class BlobStore(Protocol):
    """Content-addressed bytes on disk, checked against their CID on read and on write."""

    async def put(self, data: bytes) -> Cid:
        """Store bytes (split into a UnixFS DAG above one block); durable on return."""
        ...

    async def get(self, cid: Cid) -> bytes | None:
        """The whole content, or None where any block of it is missing or corrupt."""
        ...

    async def files(self, cid: Cid) -> Sequence[Path] | None:
        """The files, one after another, that a whole content lies in, for another process to read.

        None where any block of it is missing or corrupt.
        """
        ...

    def draft(self) -> AbstractContextManager[Path]:
        """A name for another process to write a file under, gone with the context."""
        ...

    async def put_file(self, path: Path) -> Cid:
        """As `put`, of what is in a file, without holding it in memory."""
        ...

    async def put_block(self, cid: Cid, block: bytes) -> None:
        """Store one block. Raises `CidMismatch` where it does not hash to its CID."""
        ...

    async def get_block(self, cid: Cid) -> bytes | None:
        """One block; a corrupt file is moved aside and reported as missing."""
        ...

    async def missing(self, cid: Cid) -> Sequence[Cid]:
        """Blocks still needed, as far as the DAG is known; empty when the content is whole."""
        ...

    async def drop(self, contents: Iterable[Cid], keep: Iterable[Cid]) -> frozenset[Cid]:
        """Delete contents, but no block that a content in `keep` has. Returns which are gone.

        What is being read, served or written stays whole, for a later call.
        """
        ...


class RecordStore(Protocol):
    """Small records that must survive `kill -9`: durable when `commit` returns."""

    async def commit(self, records: Sequence[tuple[str, bytes, bytes | None]]) -> None:
        """Write (kind, key, value) rows in one transaction; a value of None deletes."""
        ...

    async def get(self, kind: str, key: bytes) -> bytes | None:
        """One value, or None."""
        ...

    async def scan(self, kind: str, prefix: bytes = b"") -> Sequence[tuple[bytes, bytes]]:
        """Rows of a kind whose key starts with `prefix`, in key order."""
        ...


class Trainer(Protocol):
    """`eigen.training.engine.Engine`'s calls as coroutines; a cancelled one leaves nothing behind.

    All raise what the engine does, or `WorkerError` where what computes does not last.
    """

    def part_count(self, spec: RunSpec) -> int:
        """Parts of an update; known at once."""
        ...

    def carries(self, spec: RunSpec) -> bool:
        """Whether aggregating a part leaves state for the next round; known at once."""
        ...

    async def initial_checkpoint(self, spec: RunSpec) -> bytes:
        """See `Engine.initial_checkpoint`."""
        ...

    async def train(
        self,
        spec: RunSpec,
        base: bytes | Files,
        shards: Sequence[bytes],
        order_seed: bytes,
        residual: bytes | Files,
        rounds_before: int = 0,
        kept: bytes = b"",
        *,
        into: Path | None = None,
    ) -> LocalUpdate:
        """See `Engine.train`. With `into`, the residual may be written there."""
        ...

    async def local_steps(
        self,
        spec: RunSpec,
        base: bytes | Files,
        shards: Sequence[bytes],
        order_seed: bytes,
        rounds_before: int = 0,
        kept: bytes = b"",
        own: Sequence[bytes] = (),
    ) -> LocalDelta:
        """See `Engine.local_steps`. Other calls do not wait for it."""
        ...

    async def encode(
        self, spec: RunSpec, delta: bytes, residual: bytes | Files, *, into: Path | None = None
    ) -> Encoded:
        """See `Engine.encode`. With `into`, the new residual may be written there."""
        ...

    async def aggregate(
        self, spec: RunSpec, part: int, inputs: Sequence[tuple[bytes, int]], carried: bytes
    ) -> PartAverage:
        """See `Engine.aggregate`."""
        ...

    async def collect(self, spec: RunSpec, part: int, inputs: Sequence[tuple[bytes, int]]) -> bytes:
        """See `Engine.collect`."""
        ...

    async def combine(
        self, spec: RunSpec, part: int, inputs: Sequence[tuple[bytes, int]], carried: bytes
    ) -> PartAverage:
        """See `Engine.combine`."""
        ...

    async def contributions(
        self, spec: RunSpec, part: int, inputs: Sequence[tuple[bytes, int]], result: bytes
    ) -> list[int]:
        """See `Engine.contributions`."""
        ...

    async def replay(
        self,
        spec: RunSpec,
        base: bytes | Files,
        shards: Sequence[bytes],
        order_seed: bytes,
        rounds_before: int,
        own: Sequence[bytes],
        parts: Sequence[bytes],
        opened: Opened,
        claimed: Claimed,
    ) -> Replay:
        """See `Engine.replay`. Other calls do not wait for it."""
        ...

    async def gap(
        self,
        spec: RunSpec,
        base: bytes | Files,
        parts: Sequence[bytes],
        shards: Sequence[bytes],
        order_seed: bytes,
        fresh: Sequence[bytes],
        seed: bytes,
        *,
        average: Sequence[bytes],
    ) -> Gap:
        """See `Engine.gap`. Other calls do not wait for it."""
        ...

    async def outer_step(
        self,
        spec: RunSpec,
        base: bytes | Files,
        results: Sequence[bytes],
        *,
        into: Path | None = None,
    ) -> bytes:
        """See `Engine.outer_step`. With `into`, the checkpoint is written there, none returned."""
        ...

    async def evaluate(self, spec: RunSpec, checkpoint: bytes, data: bytes) -> Evaluation:
        """See `Engine.evaluate`."""
        ...
