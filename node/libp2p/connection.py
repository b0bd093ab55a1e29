"""One secured, multiplexed connection to one peer, from its handshake to its end."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import trio
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from eigen.node.libp2p import multistream
from eigen.node.libp2p.bounds import NEGOTIATION_TIMEOUT_S
from eigen.node.libp2p.byte_stream import ByteStream, PlainChannel
from eigen.node.libp2p.errors import (
    ConnectionLost,
    NotSupported,
    ProtocolViolation,
    Refused,
    StreamReset,
)
from eigen.node.libp2p.identity import ID, NodeKey, address_of_peer
from eigen.node.libp2p.memory_budget import MemoryBudget
from eigen.node.libp2p.multiaddrs import Endpoint, endpoint_of
from eigen.node.libp2p.noise_channel import NoiseChannel, secure_inbound, secure_outbound
from eigen.node.libp2p.yamux import Session
from eigen.node.libp2p.yamux_stream import Lane, Stream

log = logging.getLogger(__name__)

NOISE: Final = "/noise"
YAMUX: Final = "/yamux/1.0.0"

StreamHandler = Callable[["Connection", Stream], Awaitable[None]]
"""Serves one inbound stream. What it raises is caught, logged and, where it is the peer's fault,
charged to the peer; the stream is closed afterwards in any case."""


@dataclass(frozen=True, slots=True)
class Served:
    """A protocol that peers may open streams for."""

    handler: StreamHandler
    before_admission: bool = False
    """Whether a connection that has not said hello may use it."""
    timeout_s: float = float("inf")


class Connection:
    """Streams with one peer. `run` moves the bytes; `admitted` is set once the peer said hello."""

    def __init__(
        self,
        channel: NoiseChannel,
        *,
        outbound: bool,
        served: dict[str, Served],
        budget: MemoryBudget,
        blame: Callable[["Connection", ProtocolViolation], None],
    ) -> None:
        self.peer: ID = channel.peer
        self.address = address_of_peer(channel.peer)
        self.outbound = outbound
        self.binding = channel.transcript
        """Hash of the Noise handshake: the same at both ends, of no other connection."""
        carrier = channel.stream
        self.remote: Endpoint = endpoint_of(carrier.remote_ip, carrier.remote_port, carrier.relay)
        self.local_ip = carrier.local_ip
        self.observed: Endpoint | None = None
        """Where the peer sees this node, as it says."""
        self.punched = False
        """Whether its way through two routers was opened by both sides: no other fits through."""
        self.session = Session(
            channel, initiator=outbound, budget=budget, on_stream=self._on_stream
        )
        self.admitted = trio.Event()
        self.draining = trio.Event()
        self.settled = trio.Event()
        """Set when the connection was admitted or has ended."""
        self.opened_at_s = trio.current_time()
        self._served = served
        self._blame = blame
        self._nursery: trio.Nursery | None = None

    @property
    def closed(self) -> trio.Event:
        """Set when the connection has ended."""
        return self.session.closed

    async def open(
        self, protocols: Sequence[str], *, lane: Lane = Lane.URGENT, lazily: bytes = b""
    ) -> tuple[Stream, str]:
        """Open a stream and agree on one of `protocols`; returns both.

        Raises `NotSupported`, `StreamReset`, `ConnectionLost`; `trio.TooSlowError` is never raised,
        a silent peer gives `StreamReset`. A cancel resets the stream.
        """
        stream = self.session.open(lane)
        protocol: str | None = None
        try:
            with trio.move_on_after(NEGOTIATION_TIMEOUT_S):
                protocol = await multistream.propose(stream, protocols, lazily)
        finally:
            if protocol is None:
                stream.reset("not negotiated")
        if protocol is None:
            raise StreamReset("no answer to the stream's negotiation")
        return stream, protocol

    async def run(self) -> None:
        """Serve the connection until it ends. Handlers end with it. Raises nothing."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                try:
                    await self.session.run()
                except ProtocolViolation as violation:
                    self._blame(self, violation)
                except ConnectionLost as lost:
                    log.debug("connection to %s ended: %s", self.peer, lost)
                nursery.cancel_scope.cancel()
        finally:
            self._nursery = None
            self.session.abort()

    def _on_stream(self, stream: Stream) -> None:
        if self._nursery is None:
            stream.reset("the connection is not served")
        else:
            self._nursery.start_soon(self._serve, stream)

    async def _serve(self, stream: Stream) -> None:
        """The boundary where a peer's stream may fail without harm to anything else."""
        try:
            with trio.move_on_after(NEGOTIATION_TIMEOUT_S) as negotiating:
                protocol = await multistream.answer(stream, self._served)
            if negotiating.cancelled_caught:
                stream.reset("no proposal")
                return
            served = self._served[protocol]
            if not served.before_admission:
                await self.admitted.wait()
            with trio.move_on_after(served.timeout_s) as serving:
                await served.handler(self, stream)
            if serving.cancelled_caught:
                stream.reset("the handler's deadline passed")
            else:
                stream.close()
        except ProtocolViolation as violation:
            stream.reset(str(violation))
            self._blame(self, violation)
        except (NotSupported, Refused) as refusal:
            log.debug("a stream of peer %s: %s", self.peer, refusal)
            stream.close()  # after the answer that says so
        except (StreamReset, ConnectionLost) as error:
            stream.reset(str(error))
        except Exception:
            stream.reset("internal error")
            log.exception("a stream handler failed (peer %s)", self.peer)
        except BaseException:
            stream.reset("cancelled")
            raise


async def upgrade_outbound(
    stream: ByteStream,
    key: NodeKey,
    static: X25519PrivateKey,
    *,
    expected: ID | None,
    prologue: bytes,
) -> NoiseChannel:
    """Noise and Yamux as the dialling side. Raises `Libp2pError`; close the stream then."""
    await multistream.propose(PlainChannel(stream), [NOISE])
    channel = await secure_outbound(stream, key, static, expected=expected, prologue=prologue)
    await multistream.propose(channel, [YAMUX])
    return channel


async def upgrade_inbound(
    stream: ByteStream,
    key: NodeKey,
    static: X25519PrivateKey,
    *,
    prologue: bytes,
    already_read: bytes = b"",
) -> NoiseChannel:
    """Noise and Yamux as the listening side. Raises `Libp2pError`; close the stream then.

    Only `/noise` is offered: a plaintext proposal gets `na`.
    """
    await multistream.answer(PlainChannel(stream, already_read), {NOISE})
    channel = await secure_inbound(stream, key, static, prologue=prologue)
    await multistream.answer(channel, {YAMUX})
    return channel
