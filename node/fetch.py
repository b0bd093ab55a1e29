"""Fetching content by its id: blocks from several peers, each checked against its hash."""

from collections.abc import Iterable
from functools import partial

import structlog
import trio

from eigen.node.dag import Node, children
from eigen.node.ports import BlobStore, ContentRouting, Network, NetworkError
from eigen.node.together import first_of, together
from eigen.protocol import limits
from eigen.protocol.cid import CidError, CidMismatch
from eigen.protocol.requests import BLOCK, BlockQuery
from eigen.protocol.types import Address, Cid
from eigen.protocol.wire import decode, encode
from eigen.training.frames import Files

log = structlog.get_logger()

BLOCK_TIMEOUT_S = 20.0
"""One block of 1 MiB at 50 KB/s; a slower peer is left for another."""
NEXT_PEER_S = 2.0
"""A peer that takes longer over a block, as one that is frozen does, is not waited for alone."""
ROUNDS_OVER_PEERS = 3
"""So often every known peer is asked for a block before it counts as unavailable."""
PROVIDERS_WANTED = 8
"""Peers looked for beyond the connected ones: more than share one content's blocks well."""
PROVIDERS_TIMEOUT_S = 10.0
"""For one search; the rounds over connected peers go on after it."""


class ContentUnavailable(Exception):
    """No peer gave a block that hashes to its id, or the blocks are not those of a file."""


class BlockExchange:
    """Serves this node's blocks and fetches missing ones. What is fetched stays: it resumes."""

    def __init__(
        self, network: Network, blobs: BlobStore, routing: ContentRouting | None = None
    ) -> None:
        """`routing` finds peers that hold a content where no connected peer does."""
        self._network = network
        self._blobs = blobs
        self._routing = routing
        network.serve(BLOCK, self._serve, request_bytes_max=256)

    async def _serve(self, _peer: Address, payload: bytes) -> bytes:
        query = decode(payload, BlockQuery)
        return await self._blobs.get_block(query.cid) or b""

    async def fetch(
        self,
        cid: Cid,
        prefer: Iterable[Address] = (),
        *,
        bytes_max: int = limits.BLOB_BYTES_MAX,
    ) -> bytes:
        """The content of `cid`, from disk or from peers, `prefer` asked first.

        Raises `ContentUnavailable` when everybody was asked a few times, or where the content is
        larger than `bytes_max` or no file. A cancelled fetch keeps the blocks that it has.
        """
        have = await self._blobs.get(cid)
        if have is not None and len(have) <= bytes_max:
            return have
        await self.ensure(cid, prefer, bytes_max=bytes_max)
        whole = await self._blobs.get(cid)
        if whole is None:
            raise ContentUnavailable(f"{cid} was fetched and is corrupt on disk")
        return whole

    async def files(self, cid: Cid) -> Files:
        """The content of `cid` on disk, for the training process to read. As `fetch`."""
        found = await self._blobs.files(cid)
        if found is None:
            await self.ensure(cid)
            found = await self._blobs.files(cid)
        if found is None:
            raise ContentUnavailable(f"{cid} was fetched and is corrupt on disk")
        return Files(tuple(map(str, found)))

    async def ensure(
        self,
        cid: Cid,
        prefer: Iterable[Address] = (),
        *,
        bytes_max: int = limits.BLOB_BYTES_MAX,
    ) -> None:
        """Have all blocks of `cid` on disk, without holding the content in memory. As `fetch`."""
        sources = _Sources(cid, prefer, self._routing)
        in_flight = trio.CapacityLimiter(limits.BLOCKS_IN_FLIGHT)

        async def get(node: Node) -> None:
            async with in_flight:
                block = await self._blobs.get_block(node.cid)
                if block is None:
                    block = await self._from_peers(node.cid, sources)
            below = children(node, block, bytes_max=bytes_max)
            del block  # on disk; those below may wait long
            await together(partial(get, child) for child in below)

        try:
            await get(Node(cid))
        except CidError as error:
            raise ContentUnavailable(f"{cid} is not to be had: {error}") from error

    async def provide(self, cid: Cid) -> None:
        """Let peers that are not connected know that this node holds a content. Returns at once."""
        if self._routing is not None:
            await self._routing.provide(cid)

    async def withdraw(self, cid: Cid) -> None:
        """This node does not hold a content any more."""
        if self._routing is not None:
            await self._routing.withdraw(cid)

    async def _from_peers(self, cid: Cid, sources: "_Sources") -> bytes:
        asked = 0
        for attempt in range(ROUNDS_OVER_PEERS):
            connected = self._network.peers()
            order = sources.order(connected)
            asked += len(order)
            block = await first_of((partial(self._ask, peer, cid) for peer in order), NEXT_PEER_S)
            if block is not None:
                return block
            if attempt + 1 < ROUNDS_OVER_PEERS:
                await sources.look(attempt)
                await trio.sleep(0.2 * (attempt + 1))
        raise ContentUnavailable(f"no peer has {cid} ({asked} requests)")

    async def _ask(self, peer: Address, cid: Cid) -> bytes | None:
        try:
            block = await self._network.request(
                peer,
                BLOCK,
                encode(BlockQuery(cid)),
                reply_bytes_max=limits.BLOCK_BYTES_MAX,
                timeout_s=BLOCK_TIMEOUT_S,
            )
        except NetworkError as error:
            log.debug("block request failed", peer=peer.hex(), cid=cid, why=str(error))
            return None
        if not block:
            return None
        try:
            await self._blobs.put_block(cid, block)
        except CidMismatch as error:
            log.warning("a peer sent a corrupt block", peer=peer.hex(), cid=cid)
            self._network.penalize(peer, limits.PENALTY_BAD_DATA, str(error))
            return None
        except CidError:
            return None
        return block


class _Sources:
    """Whom one fetch asks first: those it was told of, and providers of the content's root."""

    def __init__(
        self, root: Cid, prefer: Iterable[Address], routing: ContentRouting | None
    ) -> None:
        self.preferred = list(prefer)
        self._root = root
        self._routing = routing
        self._looking = trio.Lock()
        self._looked = 0
        self._turn = 0

    def order(self, connected: frozenset[Address]) -> list[Address]:
        """Whom to ask for the next block: the preferred first, and each block from another."""
        first = [p for p in self.preferred if p in connected]
        rest = sorted(connected - set(first))
        self._turn += 1
        return [*_rotated(first, self._turn), *_rotated(rest, self._turn)]

    async def look(self, attempt: int) -> None:
        """Find providers; once for each attempt, however many blocks are missing."""
        async with self._looking:
            if self._routing is None or self._looked > attempt:
                return
            self._looked = attempt + 1
            found = await self._routing.find_providers(
                self._root, limit=PROVIDERS_WANTED, timeout_s=PROVIDERS_TIMEOUT_S
            )
            self.preferred += [peer for peer in found if peer not in self.preferred]


def _rotated(peers: list[Address], turn: int) -> list[Address]:
    start = turn % len(peers) if peers else 0
    return peers[start:] + peers[:start]
