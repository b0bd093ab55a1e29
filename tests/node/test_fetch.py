"""Fetching content: from disk, from several peers, past liars, and again after a cancel."""

import hashlib
import secrets
from pathlib import Path
from typing import Any

import pytest
import trio
from service_peers import Peer, host, peer, peers, until

from eigen.crypto.identity import Identity
from eigen.node import fetch
from eigen.node.dag import Node, children
from eigen.node.fetch import ContentUnavailable
from eigen.node.ports import RequestRefused
from eigen.protocol.cid import (
    DAG_PB,
    CidError,
    Link,
    _write_node,
    blocks_of,
    cid_of,
    digest_of,
    raw_cid,
)
from eigen.protocol.limits import BLOCK_BYTES_MAX
from eigen.protocol.requests import BLOCK, BlockQuery
from eigen.protocol.types import Address, Cid
from eigen.protocol.wire import decode, encode

LARGE = secrets.token_bytes(6 * BLOCK_BYTES_MAX + 1)


async def test_a_large_content_comes_from_peers_that_hold_parts_of_it(tmp_path: Path) -> None:
    async with peers(tmp_path, 3) as (alice, bob, carol):
        blocks = list(blocks_of(LARGE))
        for index, (cid, block) in enumerate(blocks):
            await (alice, bob)[index % 2].blobs.put_block(cid, block)
        root = blocks[-1][0]
        assert await carol.blocks.fetch(root) == LARGE
        assert await carol.blobs.get(root) == LARGE, "what was fetched stays"


async def test_each_peer_that_holds_a_content_gives_some_of_its_blocks(tmp_path: Path) -> None:
    async with peers(tmp_path, 5) as (late, *donors):
        gave = dict.fromkeys(donors_of := [donor.address for donor in donors], 0)
        for donor in donors:
            root = await donor.blobs.put(LARGE)
            read = donor.blobs.get_block

            async def count(cid: Cid, donor: Peer = donor, read: Any = read) -> bytes | None:
                gave[donor.address] += 1
                return await read(cid)

            donor.blobs.get_block = count  # type: ignore[method-assign]
        assert await late.blocks.fetch(root) == LARGE
        assert all(gave[donor] for donor in donors_of), gave


async def test_content_that_nobody_has_is_unavailable(tmp_path: Path) -> None:
    async with peers(tmp_path, 2) as (alice, bob):
        with pytest.raises(ContentUnavailable, match="no peer has"):
            await alice.blocks.fetch(raw_cid(b"nobody has this"))
        assert alice.network.score(bob.address) == 0, "not to have it is no fault"


async def test_a_dag_with_a_leaf_that_nobody_has_is_unavailable(tmp_path: Path) -> None:
    async with peers(tmp_path, 2) as (alice, bob):
        blocks = list(blocks_of(LARGE))
        lost = blocks[3][0]
        for cid, block in blocks:
            if cid != lost:
                await bob.blobs.put_block(cid, block)
        with pytest.raises(ContentUnavailable, match=lost):
            await alice.blocks.fetch(blocks[-1][0])


async def test_alone_without_peers_it_is_unavailable(tmp_path: Path) -> None:
    async with peer(tmp_path) as alice:
        with pytest.raises(ContentUnavailable):
            await alice.blocks.fetch(raw_cid(b"x"))


async def test_a_corrupt_file_is_fetched_again_from_a_peer(tmp_path: Path) -> None:
    async with peers(tmp_path, 2) as (alice, bob):
        cid = await alice.blobs.put(b"a checkpoint")
        await bob.blobs.put(b"a checkpoint")
        [path] = tmp_path.joinpath(alice.address.hex(), "blobs").rglob(cid)
        path.write_bytes(b"a checkpoinT")
        assert await alice.blocks.fetch(cid) == b"a checkpoint"
        assert path.read_bytes() == b"a checkpoint"


async def test_who_serves_corrupt_blocks_is_scored_down_and_another_serves(tmp_path: Path) -> None:
    async with peers(tmp_path, 2) as (alice, bob), trio.open_nursery() as nursery:
        liar = host(Identity.generate())
        asked = []

        async def lie(_peer: Address, payload: bytes) -> bytes:
            asked.append(decode(payload, BlockQuery).cid)
            return b"not what you asked for"

        liar.serve(BLOCK, lie, request_bytes_max=256)
        await nursery.start(liar.run)
        await alice.network.connect(liar.listen_addrs()[0], timeout_s=5)
        cid = await bob.blobs.put(b"what you asked for")
        assert await alice.blocks.fetch(cid, prefer=[liar.local]) == b"what you asked for"
        assert asked == [cid], "the liar was asked first"
        assert alice.network.score(liar.local) < -30
        assert alice.network.score(bob.address) == 0
        nursery.cancel_scope.cancel()


async def test_a_fetch_that_was_cancelled_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with peer(tmp_path) as alice, trio.open_nursery() as nursery:
        blocks = dict(blocks_of(LARGE))
        root = list(blocks)[-1]
        served: list[Cid] = []
        slow = trio.Event()

        async def serve(_peer: Address, payload: bytes) -> bytes:
            cid = decode(payload, BlockQuery).cid
            if len(served) >= 3 and not slow.is_set():
                await slow.wait()
            served.append(cid)
            return blocks[cid]

        server = host(Identity.generate())
        server.serve(BLOCK, serve, request_bytes_max=256)
        await nursery.start(server.run)
        await alice.network.connect(server.listen_addrs()[0], timeout_s=5)
        with trio.move_on_after(1.0) as scope:
            await alice.blocks.fetch(root)
        assert scope.cancelled_caught
        before = set(served)
        assert len(before) == 3
        kept = {cid for cid in blocks if await alice.blobs.get_block(cid) is not None}
        assert kept == before
        served.clear()
        slow.set()
        assert await alice.blocks.fetch(root) == LARGE
        assert before.isdisjoint(served[-(len(blocks) - 3) :]), "no block was asked for twice"
        nursery.cancel_scope.cancel()


async def test_a_peer_that_refuses_or_is_mute_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "BLOCK_TIMEOUT_S", 0.3)
    async with peers(tmp_path, 2) as (alice, bob), trio.open_nursery() as nursery:
        fired = []

        async def refuse(_peer: Address, _payload: bytes) -> bytes:
            fired.append("refuse")
            raise RequestRefused("not today")

        async def hang(_peer: Address, _payload: bytes) -> bytes:
            fired.append("hang")
            await trio.sleep_forever()
            return b""

        async def drown(_peer: Address, _payload: bytes) -> bytes:
            fired.append("drown")
            return bytes(BLOCK_BYTES_MAX + 1)

        bad = []
        for handler in (refuse, hang, drown):
            network = host(Identity.generate())
            network.serve(BLOCK, handler, request_bytes_max=256)
            await nursery.start(network.run)
            await alice.network.connect(network.listen_addrs()[0], timeout_s=5)
            bad.append(network.local)
        cid = await bob.blobs.put(b"here")
        assert await alice.blocks.fetch(cid, prefer=bad) == b"here"
        assert sorted(fired) == ["drown", "hang", "refuse"]
        nursery.cancel_scope.cancel()


async def test_a_block_that_hashes_right_and_is_no_file_node_is_unavailable(
    tmp_path: Path,
) -> None:
    """A CID with the codec dag-pb over bytes that are none: whoever named it is wrong."""
    async with peers(tmp_path, 2) as (alice, bob):
        cid = cid_of(DAG_PB, digest_of(raw_cid(b"no protobuf at all")))
        await bob.blobs.put_block(cid, b"no protobuf at all")
        with pytest.raises(ContentUnavailable):
            await alice.blocks.fetch(cid)
        with pytest.raises(ContentUnavailable):
            await alice.blocks.fetch(cid)  # it is on disk now
        assert await bob.blobs.put(b"still serving")
        assert await alice.blocks.fetch(raw_cid(b"still serving")) == b"still serving"


@pytest.mark.parametrize("payload", [b"", b"\xff" * 40, b"../../keys/node.key", bytes(256)])
async def test_a_query_for_anything_but_a_block_is_refused(tmp_path: Path, payload: bytes) -> None:
    async with peers(tmp_path, 2) as (alice, bob):
        with pytest.raises(RequestRefused):
            await alice.network.request(
                bob.address, BLOCK, payload, reply_bytes_max=1000, timeout_s=5
            )
        secret = tmp_path / bob.address.hex() / "keys"
        secret.mkdir()
        (secret / "node.key").write_text("secret")
        good = encode(BlockQuery(raw_cid(b"x")))
        at = good.index(b"bafk")
        crooked = good[:at] + b"../../keys/node.key".ljust(59, b"/") + good[at + 59 :]
        with pytest.raises(RequestRefused):
            await alice.network.request(
                bob.address, BLOCK, crooked, reply_bytes_max=1000, timeout_s=5
            )
        assert alice.address in bob.network.peers()


def bomb(leaf: bytes, levels: int) -> list[tuple[Cid, bytes]]:
    """A few hundred kilobytes of nodes that each name the one below 174 times."""
    blocks = [(raw_cid(leaf), leaf)]
    link = Link(raw_cid(leaf), len(leaf), len(leaf))
    for _ in range(levels):
        block = _write_node([link] * 174)
        cid = cid_of(DAG_PB, hashlib.sha256(block).digest())
        blocks.append((cid, block))
        link = Link(cid, 174 * link.file_bytes, 1)
    return blocks


@pytest.mark.parametrize(("leaf", "levels"), [(b"", 8), (b"x", 4), (bytes(BLOCK_BYTES_MAX), 1)])
async def test_a_small_dag_that_stands_for_a_huge_content_is_refused(
    tmp_path: Path, leaf: bytes, levels: int
) -> None:
    async with peers(tmp_path, 2) as (alice, bob):
        blocks = bomb(leaf, levels)
        for cid, block in blocks:
            await bob.blobs.put_block(cid, block)
        root = blocks[-1][0]
        with trio.fail_after(10), pytest.raises(ContentUnavailable):
            await alice.blocks.fetch(root, bytes_max=BLOCK_BYTES_MAX * 8)
        for cid, block in blocks:
            await alice.blobs.put_block(cid, block)
        with trio.fail_after(10), pytest.raises(ContentUnavailable):
            await alice.blocks.fetch(root, bytes_max=BLOCK_BYTES_MAX * 8)


@pytest.mark.parametrize("size", [BLOCK_BYTES_MAX + 1, 3 * BLOCK_BYTES_MAX])
def test_each_node_says_what_its_children_are(size: int) -> None:
    blocks = dict(blocks_of(bytes(size)))
    root = list(blocks)[-1]
    below = children(Node(root), blocks[root])
    assert sum(node.file_bytes or 0 for node in below) == size
    for node in below:
        assert children(node, blocks[node.cid]) == []
        wrong = Node(node.cid, (node.file_bytes or 0) - 1, 0)
        with pytest.raises(CidError):
            children(wrong, blocks[node.cid])


def test_a_dag_of_two_levels_is_followed() -> None:
    """174 leaves of a MiB fill one node; the layout of more is computed without making them."""
    full, last = 174 * BLOCK_BYTES_MAX, 5
    inner = Link(raw_cid(b"first"), full, full), Link(raw_cid(b"last"), last, last)
    links = [Link(cid_of(DAG_PB, digest_of(x.cid)), x.file_bytes, x.dag_bytes) for x in inner]
    block = _write_node(links)
    root = Node(cid_of(DAG_PB, hashlib.sha256(block).digest()))
    assert children(root, block) == [Node(x.cid, x.file_bytes, 1) for x in links]
    with pytest.raises(CidError, match="at most"):
        children(root, block, bytes_max=full)


async def test_a_provider_that_is_not_connected_is_found_by_the_dht(tmp_path: Path) -> None:
    """Alice and Carol each know Bob alone, and nobody tells them of each other."""
    async with peers(tmp_path, 1) as [bob], peer(tmp_path) as alice, peer(tmp_path) as carol:
        cid = await alice.blobs.put(LARGE)
        await alice.meet(bob)
        await carol.meet(bob)
        await alice.blocks.provide(cid)
        await until(lambda: len(bob.network._kad.store) == 1)
        assert alice.address not in carol.network.peers()
        assert await carol.blocks.fetch(cid) == LARGE
        assert alice.address in carol.network.peers()
        assert await bob.blobs.get(cid) is None, "it came from alice"
