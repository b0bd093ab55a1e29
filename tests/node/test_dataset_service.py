"""Datasets between real nodes: sealed on disk and on the wire, opened by who has a grant."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from service_peers import Peer, host, peer, peers, until

from eigen.crypto.grants import GrantContext, wrap_key
from eigen.crypto.identity import Identity
from eigen.node import datasets as service
from eigen.node.datasets import Dataset, ShardUnavailable
from eigen.node.fetch import ContentUnavailable
from eigen.node.ports import RequestRefused
from eigen.protocol.cid import multihash_of
from eigen.protocol.limits import BLOCK_BYTES_MAX
from eigen.protocol.messages import DatasetManifest, KeyGrant, SeatMember
from eigen.protocol.requests import GRANT, GrantQuery, GrantReply
from eigen.protocol.types import Address, Cid
from eigen.protocol.wire import decode, encode

SECRET = b"patient 4711: positive; "
SHARDS = [(SECRET * 40, 10), (b"second " + SECRET * 60_000, 20)]  # the second is a DAG
HOLDOUT = b"for everybody to see"


def dataset(*, sealed: bool = True) -> Dataset:
    return Dataset("clinic", SHARDS, HOLDOUT, sealed)


@asynccontextmanager
async def three(folder: Path) -> AsyncIterator[tuple[Peer, Peer, Peer]]:
    """A seeder, a trainer and somebody else, who know each other."""
    async with peers(folder, 3) as (seeder, trainer, other):
        for one in (seeder, trainer, other):
            await until(lambda one=one: len(one.members.with_role("trainer")) == 3)
        yield seeder, trainer, other


async def knows(node: Peer, cid: Cid) -> None:
    await until(lambda: cid in node.datasets._manifests)


async def granted(node: Peer, cid: Cid, recipient: Peer) -> KeyGrant:
    """Wait until a grant for shard 0 has come to a node by gossip."""
    with trio.fail_after(5):
        while (grant := await node.datasets._grant_of(cid, 0, recipient.address)) is None:  # noqa: ASYNC110
            await trio.sleep(0.05)
    return grant


def on_disk(folder: Path) -> bytes:
    return b"".join(p.read_bytes() for p in folder.rglob("*") if p.is_file())


async def test_who_is_seated_opens_its_shard_and_nobody_else_can(tmp_path: Path) -> None:
    assert len(SHARDS[1][0]) > BLOCK_BYTES_MAX
    async with three(tmp_path) as (seeder, trainer, other):
        cid = await seeder.datasets.seed(dataset())
        await knows(trainer, cid)
        await knows(other, cid)
        await seeder.datasets.grant_seat(cid, [SeatMember(trainer.address, (0, 1))], [])
        for shard, (plaintext, _) in enumerate(SHARDS):
            with trio.fail_after(10):
                assert await trainer.datasets.open_shard(cid, shard) == plaintext
        assert await other.datasets.holdout(cid) == HOLDOUT

        with trio.move_on_after(1.5) as scope:
            await other.datasets.open_shard(cid, 0)
        assert scope.cancelled_caught, "no grant, no key, no end"
        manifest = await other.datasets.manifest(cid)
        assert await other.blobs.get(manifest.shards[0].cid) is not None, "the sealed bytes it has"
        for holder in (seeder, trainer):
            reply = await other.network.request(
                holder.address,
                GRANT,
                encode(GrantQuery(cid, 0)),
                reply_bytes_max=4096,
                timeout_s=5,
            )
            assert decode(reply, GrantReply).grants == (), "a grant goes to its recipient alone"
    stored = on_disk(tmp_path)
    assert HOLDOUT in stored
    assert SECRET not in stored, "in no database, no blob and no peer's folder"


async def test_a_gossiped_grant_of_somebody_else_does_not_unwrap(tmp_path: Path) -> None:
    async with three(tmp_path) as (seeder, trainer, other):
        cid = await seeder.datasets.seed(dataset())
        await knows(other, cid)
        await knows(trainer, cid)
        await seeder.datasets.grant_seat(cid, [SeatMember(trainer.address, (0,))], [])
        key = service._slot(cid, 0)
        grant = await granted(other, cid, trainer)
        mine = KeyGrant(cid, 0, other.address, grant.expires_s, grant.wrapped)
        await other.records.commit([("grant", key + other.address, encode(mine))])
        with trio.move_on_after(1.5) as scope, pytest.raises(ShardUnavailable):
            await other.datasets.open_shard(cid, 0)
        assert scope.cancelled_caught or not scope.cancel_called


async def test_validators_are_granted_every_shard(tmp_path: Path) -> None:
    async with three(tmp_path) as (seeder, trainer, validator):
        cid = await seeder.datasets.seed(dataset())
        await seeder.datasets.grant_seat(
            cid, [SeatMember(trainer.address, (0,))], [validator.address]
        )
        with trio.fail_after(10):
            for shard, (plaintext, _) in enumerate(SHARDS):
                assert await validator.datasets.open_shard(cid, shard) == plaintext


async def test_an_open_dataset_needs_no_grant(tmp_path: Path) -> None:
    async with three(tmp_path) as (seeder, _, other):
        cid = await seeder.datasets.seed(dataset(sealed=False))
        await knows(other, cid)
        with trio.fail_after(5):
            assert await other.datasets.open_shard(cid, 0) == SHARDS[0][0]


async def test_the_shard_comes_from_another_peer_when_the_seeder_is_gone(tmp_path: Path) -> None:
    async with three(tmp_path) as (seeder, trainer, other):
        cid = await seeder.datasets.seed(dataset())
        await knows(other, cid)
        await knows(trainer, cid)
        await seeder.datasets.grant_seat(cid, [SeatMember(other.address, (0,))], [])
        with trio.fail_after(5):
            await other.datasets.open_shard(cid, 0)
        await seeder.datasets.grant_seat(cid, [SeatMember(trainer.address, (0,))], [])
        await granted(trainer, cid, trainer)
        seeder.stop()
        with trio.fail_after(10):
            assert await trainer.datasets.open_shard(cid, 0) == SHARDS[0][0]


async def test_an_expired_grant_is_none(tmp_path: Path) -> None:
    async with three(tmp_path) as (seeder, trainer, _):
        cid = await seeder.datasets.seed(dataset())
        await knows(trainer, cid)
        key = await seeder.records.get("data-key", service._slot(cid, 0))
        assert key is not None
        past = int(time.time()) - 1
        context = GrantContext("testnet", cid, 0, trainer.address, past)
        old = KeyGrant(
            cid,
            0,
            trainer.address,
            past,
            wrap_key(key, trainer.datasets._sealing.public_bytes, context),
        )
        for node in (seeder, trainer):
            await node.datasets._keep(old)
        with trio.move_on_after(1.2) as scope:
            await trainer.datasets.open_shard(cid, 0)
        assert scope.cancelled_caught
        await seeder.datasets.grant_seat(cid, [SeatMember(trainer.address, (0,))], [])
        with trio.fail_after(5):
            assert await trainer.datasets.open_shard(cid, 0) == SHARDS[0][0], "it was made anew"


async def test_a_replayed_old_grant_does_not_replace_a_newer_one(tmp_path: Path) -> None:
    async with three(tmp_path) as (seeder, trainer, _):
        cid = await seeder.datasets.seed(dataset())
        await seeder.datasets.grant_seat(cid, [SeatMember(trainer.address, (0,))], [])
        key = service._slot(cid, 0) + trainer.address
        new = await seeder.records.get("grant", key)
        assert new is not None
        old = decode(new, KeyGrant)
        await seeder.datasets._keep(KeyGrant(cid, 0, trainer.address, 5, old.wrapped))
        assert await seeder.records.get("grant", key) == new


async def test_a_corrupt_shard_is_not_taken(tmp_path: Path) -> None:
    """The manifest names a shard by hash: on disk and on the wire any other bytes are refused."""
    async with three(tmp_path) as (seeder, trainer, _):
        cid = await seeder.datasets.seed(dataset())
        await knows(trainer, cid)
        manifest = await trainer.datasets.manifest(cid)
        await seeder.datasets.grant_seat(cid, [SeatMember(trainer.address, (0,))], [])
        shard = manifest.shards[0].cid
        [path] = (tmp_path / seeder.address.hex() / "blobs").rglob(shard)
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        with trio.fail_after(10), pytest.raises(ContentUnavailable, match=shard):
            await trainer.datasets.open_shard(cid, 0)
        assert trainer.network.score(seeder.address) == 0, "it noticed itself and sent nothing"


async def test_a_shard_under_another_key_does_not_open(tmp_path: Path) -> None:
    async with three(tmp_path) as (seeder, trainer, _):
        cid = await seeder.datasets.seed(dataset())
        await seeder.records.commit([("data-key", service._slot(cid, 0), bytes(32))])
        await seeder.datasets.grant_seat(cid, [SeatMember(trainer.address, (0,))], [])
        await knows(trainer, cid)
        with trio.fail_after(10), pytest.raises(ShardUnavailable, match="does not open"):
            await trainer.datasets.open_shard(cid, 0)


async def test_a_provider_that_answers_with_rubbish_grants_does_not_spoil_the_right_one(
    tmp_path: Path,
) -> None:
    async with (
        peer(tmp_path) as seeder,
        peer(tmp_path) as trainer,
        trio.open_nursery() as nursery,
    ):
        await seeder.meet(trainer)
        await until(lambda: trainer.address in seeder.members.with_role("trainer"))
        cid = await seeder.datasets.seed(dataset())
        await knows(trainer, cid)
        liar = host(Identity.generate())
        fired = []

        async def lie(_peer: Address, payload: bytes) -> bytes:
            query = decode(payload, GrantQuery)
            fired.append(query.shard)
            far = 2**64 - 1
            return encode(GrantReply((KeyGrant(cid, 0, trainer.address, far, bytes(1200)),)))

        liar.serve(GRANT, lie, request_bytes_max=256)
        await nursery.start(liar.run)
        await trainer.network.connect(liar.listen_addrs()[0], timeout_s=5)
        trainer.datasets._providers[cid] = {liar.local: None}
        opened: list[bytes] = []

        async def open_it() -> None:
            opened.append(await trainer.datasets.open_shard(cid, 0))

        nursery.start_soon(open_it)
        await until(lambda: fired)
        await seeder.datasets.grant_seat(cid, [SeatMember(trainer.address, (0,))], [])
        await until(lambda: opened)
        assert opened == [SHARDS[0][0]]
        assert trainer.network.score(liar.local) < 0
        nursery.cancel_scope.cancel()


async def test_only_the_seeder_grants(tmp_path: Path) -> None:
    async with three(tmp_path) as (seeder, trainer, other):
        cid = await seeder.datasets.seed(dataset())
        await knows(trainer, cid)
        await knows(other, cid)
        forged = KeyGrant(cid, 0, trainer.address, int(time.time()) + 1000, bytes(1168))
        await other.gossip.publish(forged)
        await until(lambda: trainer.network.score(other.address) < 0)
        key = service._slot(cid, 0) + trainer.address
        assert await trainer.records.get("grant", key) is None


async def test_an_announcement_of_nothing_harms_nobody(tmp_path: Path) -> None:
    async with three(tmp_path) as (seeder, trainer, _):
        huge = bytes(BLOCK_BYTES_MAX)
        for content in (b"no manifest", huge, huge * 2):
            await seeder.datasets.announce(await seeder.blobs.put(content))
        cid = await seeder.datasets.seed(dataset())
        await knows(trainer, cid)
        assert len(trainer.datasets._manifests) == 1


async def test_shards_that_are_not_there_are_named(tmp_path: Path) -> None:
    async with peer(tmp_path) as seeder:
        cid = await seeder.datasets.seed(dataset())
        with pytest.raises(ShardUnavailable, match="no shard 2"):
            await seeder.datasets.open_shard(cid, 2)
        assert await seeder.datasets.open_shard(cid, 1) == SHARDS[1][0], "its own it opens"
        manifest = await seeder.datasets.manifest(cid)
        assert isinstance(manifest, DatasetManifest)
        assert [shard.samples for shard in manifest.shards] == [10, 20]


async def test_a_malformed_grant_query_is_refused(tmp_path: Path) -> None:
    async with peers(tmp_path, 2) as (alice, bob):
        with pytest.raises(RequestRefused):
            await alice.network.request(
                bob.address, GRANT, b"\xff\xff", reply_bytes_max=100, timeout_s=5
            )


async def test_who_is_not_connected_to_the_seeder_finds_it_by_the_dht(tmp_path: Path) -> None:
    async with peers(tmp_path, 1) as [hub], peer(tmp_path) as seeder, peer(tmp_path) as stranger:
        await seeder.meet(hub)
        cid = await seeder.datasets.seed(dataset(sealed=False))
        held = len(SHARDS) + len([cid, "the held-out set"])
        await until(lambda: len(seeder.network._kad._gaps_s) == held)
        await stranger.meet(hub)
        assert seeder.address not in stranger.network.peers()
        assert await stranger.datasets.holdout(cid) == HOLDOUT
        assert await stranger.datasets.open_shard(cid, 1) == SHARDS[1][0]
        shard = (await stranger.datasets.manifest(cid)).shards[1].cid
        assert multihash_of(shard) in stranger.network._kad._own, "it provides what it now holds"
