"""AutoNAT v2, both roles: peers dial each other back to learn whether they can be dialled.

Knows nothing of what the answers are used for: see `reach.py`.
"""

import logging
from typing import Final

import trio

from eigen.node.libp2p import autonat_messages as messages
from eigen.node.libp2p.accept import AcceptRate
from eigen.node.libp2p.autonat_messages import (
    DIAL_BACK,
    DIAL_REQUEST,
    Dial,
    DialDataRequest,
    DialDataResponse,
    DialRequest,
    DialResponse,
    Status,
)
from eigen.node.libp2p.bounds import (
    DIAL_BACK_TIMEOUT_S,
    DIAL_BACKS_BURST,
    DIAL_BACKS_MAX,
    DIAL_BACKS_PER_S,
    DIAL_DATA_BYTES,
    DIAL_DATA_BYTES_MAX,
    DIAL_DATA_CHUNK_BYTES,
    DIAL_DATA_TIMEOUT_S,
    REACH_ADDRESSES_MAX,
)
from eigen.node.libp2p.connection import Connection, Served
from eigen.node.libp2p.errors import Libp2pError, ProtocolViolation, StreamReset
from eigen.node.libp2p.identity import ID
from eigen.node.libp2p.multiaddrs import Endpoint
from eigen.node.libp2p.reach import ANSWERS_WANTED
from eigen.node.libp2p.swarm import Swarm
from eigen.node.libp2p.yamux_stream import Stream
from eigen.protocol.types import Address

log = logging.getLogger(__name__)

FIRST_ASK_S: Final = 5.0
"""After the start: by then the first peers are connected, and their hellos said."""
MAPPING_WAIT_S: Final = 5.0
"""How long to wait for the router's answer before peers are asked."""
ASK_EVERY_S: Final = 2.0
"""Between two peers that are asked, while answers are wanted."""
ASK_AGAIN_S: Final = 120.0
"""A peer that did not answer is not asked again for so long."""
ASK_TIMEOUT_S: Final = DIAL_DATA_TIMEOUT_S + DIAL_BACK_TIMEOUT_S + 5.0


class AutoNatServer:
    """Dials those back who ask: where they come from, or elsewhere once they have paid."""

    def __init__(self, swarm: Swarm) -> None:
        self._swarm = swarm
        self._rate = AcceptRate(DIAL_BACKS_PER_S, DIAL_BACKS_BURST)
        self._busy = 0
        swarm.served[DIAL_REQUEST] = Served(self._serve, timeout_s=ASK_TIMEOUT_S)

    async def _serve(self, connection: Connection, stream: Stream) -> None:
        request = messages.decode(await messages.read(stream))
        if not isinstance(request, DialRequest):
            raise ProtocolViolation("autonat: no request")
        response = DialResponse(Status.REQUEST_REJECTED)
        direct = connection.remote.relay is None  # else nobody knows where the asker is
        if direct and self._busy < DIAL_BACKS_MAX:
            self._busy += 1
            try:
                if self._rate.allows(connection.remote.host, trio.current_time()):
                    response = await self._answer(connection, stream, request)
            finally:
                self._busy -= 1
        await stream.write(messages.frame(messages.encode(response)))

    async def _answer(
        self, connection: Connection, stream: Stream, request: DialRequest
    ) -> DialResponse:
        seen = connection.remote.host
        for index, endpoint in enumerate(request.addresses):
            if endpoint is None or not endpoint.port:
                continue
            if endpoint.host != seen:
                if not endpoint.is_global:
                    continue
                await _take_payment(stream, index)
            dial = await self._dial_back(endpoint, connection.peer, request.nonce)
            if dial is Dial.OK:  # now this node knows it for sure, and may tell others
                self._swarm.book.add(connection.peer, connection.address, [endpoint])
            return DialResponse(Status.OK, index, dial)
        return DialResponse(Status.DIAL_REFUSED)

    async def _dial_back(self, endpoint: Endpoint, peer: ID, nonce: int) -> Dial:
        """From a port of its own, so that no mapping of the asker's router lets it through."""
        outcome = Dial.DIAL_ERROR
        connection: Connection | None = None
        try:
            with trio.move_on_after(DIAL_BACK_TIMEOUT_S):
                carrier = await self._swarm.around.transport.dial(endpoint)
                connection = await self._swarm.probe(carrier, peer)
                outcome = Dial.DIAL_BACK_ERROR
                stream, _ = await connection.open([DIAL_BACK])
                await stream.write(messages.frame(messages.encode_dial_back(nonce)))
                await messages.read(stream)
                outcome = Dial.OK
        except Libp2pError as error:
            log.debug("dialling %s back at %s: %s", peer, endpoint, error)
        finally:
            if connection is not None:
                connection.session.close()
        return outcome


async def _take_payment(stream: Stream, index: int) -> None:
    """Have the asker send more bytes than the dial costs whoever is there."""
    await stream.write(messages.frame(messages.encode(DialDataRequest(index, DIAL_DATA_BYTES))))
    missing = DIAL_DATA_BYTES
    with trio.move_on_after(DIAL_DATA_TIMEOUT_S) as paying:
        while missing > 0:
            part = messages.decode(await messages.read(stream))
            if not isinstance(part, DialDataResponse) or not part.data:
                raise ProtocolViolation("autonat: no dial data")
            missing -= len(part.data)
    if paying.cancelled_caught:
        raise StreamReset("the dial data came too slowly")


class AutoNatClient:
    """Asks peers, one after the other, to dial this node, and tells `Swarm.reach` what came."""

    def __init__(self, swarm: Swarm) -> None:
        self._swarm = swarm
        self._expected: dict[int, trio.Event] = {}
        self._asked: dict[Address, float] = {}
        swarm.served[DIAL_BACK] = Served(
            self._take_dial_back, before_admission=True, timeout_s=DIAL_BACK_TIMEOUT_S
        )

    async def _take_dial_back(self, connection: Connection, stream: Stream) -> None:
        """A nonce counts on a connection that came in by itself, whoever dialled."""
        nonce = messages.decode_dial_back(await messages.read(stream))
        event = self._expected.get(nonce)
        if event is not None and not connection.outbound and connection.remote.relay is None:
            event.set()
            await stream.write(messages.frame(b""))  # OK, the default

    async def run(self) -> None:
        """Ask for as long as the node runs."""
        if not self._swarm.listening:
            return
        if self._swarm.config.upnp:  # first of all, peers should try what the router forwards
            with trio.move_on_after(MAPPING_WAIT_S):
                await self._swarm.mapping_tried.wait()
        pause_s = FIRST_ASK_S
        while True:
            await trio.sleep(pause_s)
            pause_s = ASK_EVERY_S
            now = trio.current_time()
            if len(self._swarm.reach.counted(now)) >= ANSWERS_WANTED:
                continue
            connection = self._next(now)
            if connection is not None:
                self._asked[connection.address] = now
                await self.ask(connection)

    def _next(self, now_s: float) -> Connection | None:
        """Somebody to ask; those who are far away first, as they know best."""
        self._asked = {p: at for p, at in self._asked.items() if now_s - at < ASK_AGAIN_S}
        candidates = []
        for peer in self._swarm.peers():
            connection = self._swarm.connection(peer)
            if connection is None or connection.remote.relay is not None or peer in self._asked:
                continue
            if not self._swarm.reach.has_asked(peer, now_s):
                candidates.append(connection)
        return max(candidates, key=lambda c: c.remote.is_global, default=None)

    async def ask(self, connection: Connection) -> None:
        """Ask one peer; what it answers counts where it can be true."""
        addresses = self._swarm.seen_from(connection)[:REACH_ADDRESSES_MAX]
        if not addresses:
            return
        nonce = int.from_bytes(self._swarm.around.entropy(8))
        came = self._expected[nonce] = trio.Event()
        response: DialResponse | None = None
        try:
            with trio.move_on_after(ASK_TIMEOUT_S):
                response = await self._request(connection, DialRequest(tuple(addresses), nonce))
        except ProtocolViolation as violation:
            self._swarm.penalize(connection.address, violation.cost, str(violation))
        except Libp2pError as error:
            log.debug("%s tells nothing of our reach: %s", connection.peer, error)
        finally:
            del self._expected[nonce]
        if response is None or response.status != Status.OK or response.index >= len(addresses):
            return
        honest = (response.dial == Dial.OK) == came.is_set()
        if honest and response.dial in (Dial.OK, Dial.DIAL_ERROR):
            self._heard(connection, addresses[response.index], reachable=came.is_set())

    def _heard(self, connection: Connection, endpoint: Endpoint, *, reachable: bool) -> None:
        now = trio.current_time()
        reach, far = self._swarm.reach, connection.remote.is_global
        before = reach.verdict(now)
        reach.heard(connection.address, endpoint, reachable=reachable, far=far, now_s=now)
        verdict = reach.verdict(now)
        if verdict != before:
            log.info("peers can%s dial this node at %s", "" if verdict else "not", endpoint.bare)

    async def _request(self, connection: Connection, request: DialRequest) -> DialResponse:
        stream, _ = await connection.open([DIAL_REQUEST])
        try:
            await stream.write(messages.frame(messages.encode(request)))
            reply = messages.decode(await messages.read(stream))
            if isinstance(reply, DialDataRequest):
                await _pay(stream, reply, request)
                reply = messages.decode(await messages.read(stream))
            if not isinstance(reply, DialResponse):
                raise ProtocolViolation("autonat: no response")
            return reply
        finally:
            stream.close()


async def _pay(stream: Stream, bill: DialDataRequest, request: DialRequest) -> None:
    if bill.count > DIAL_DATA_BYTES_MAX or bill.index >= len(request.addresses):
        raise ProtocolViolation("autonat: too much dial data is asked for")
    part = messages.frame(messages.encode(DialDataResponse(bytes(DIAL_DATA_CHUNK_BYTES))))
    for _ in range(0, bill.count, DIAL_DATA_CHUNK_BYTES):
        await stream.write(part)
