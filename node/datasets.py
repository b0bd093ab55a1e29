"""Datasets: sealed shards made, announced, granted to those who are seated, fetched and opened.

A shard of a sealed dataset is in the clear only in memory, and only where its key was granted.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import structlog
import trio

from eigen.crypto.errors import CryptoError, WrongGrant
from eigen.crypto.grants import GrantContext, unwrap_key, wrap_key
from eigen.crypto.sealing import Metadata, generate_data_key, open_bytes, seal_bytes
from eigen.crypto.sealing_key import SealingKeyPair
from eigen.node.fetch import BlockExchange
from eigen.node.gossip import Gossip, Said
from eigen.node.members import Members
from eigen.node.ports import BlobStore, Network, NetworkError, RecordStore, Verdict
from eigen.node.retention import Retention
from eigen.protocol import limits
from eigen.protocol.messages import (
    DatasetAnnouncement,
    DatasetManifest,
    KeyGrant,
    SeatMember,
    ShardInfo,
)
from eigen.protocol.requests import GRANT, GrantQuery, GrantReply
from eigen.protocol.types import Address, Cid
from eigen.protocol.wire import WireError, decode, encode

log = structlog.get_logger()

GRANT_LIFE_S = 30 * 86_400
"""A grant outlives a run of a month; the seeder wraps again after that."""
GRANT_POLL_S = 0.5
"""How often a trainer asks again for a grant that gossip has not brought."""
PROVIDERS_MAX = 64
"""Providers remembered for one dataset."""


class ShardUnavailable(Exception):
    """A shard cannot be trained on here: no grant, no data, or it does not open. Says which."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """What a seeder hands in: plaintext shards with their sample counts, and the held-out set."""

    name: str
    shards: Sequence[tuple[bytes, int]]
    holdout: bytes
    sealed: bool


class Datasets:
    """Manifests, keys and grants of every dataset that this node has to do with."""

    def __init__(
        self,
        me: Address,
        network_id: str,
        sealing: SealingKeyPair,
        network: Network,
        gossip: Gossip,
        members: Members,
        records: RecordStore,
        blobs: BlobStore,
        blocks: BlockExchange,
        retention: Retention,
        unix_s: Callable[[], float] = time.time,
    ) -> None:
        """`unix_s` is the calendar by which grants end."""
        self._me = me
        self._network_id = network_id
        self._sealing = sealing
        self._network = network
        self._gossip = gossip
        self._members = members
        self._records = records
        self._blobs = blobs
        self._blocks = blocks
        self._retention = retention
        self._unix_s = unix_s
        self._providers: dict[Cid, dict[Address, None]] = {}
        self._manifests: dict[Cid, DatasetManifest] = {}
        gossip.on(DatasetAnnouncement, self._announced)
        gossip.on(KeyGrant, self._granted, self._check_grant)
        network.serve(GRANT, self._serve_grant, request_bytes_max=256)

    # seeding --------------------------------------------------------------------------------------
    async def seed(self, dataset: Dataset) -> Cid:
        """Seal (if asked), store, pin and announce a dataset. Returns its manifest's CID."""
        shards: list[ShardInfo] = []
        keys: list[bytes] = []
        for index, (plaintext, samples) in enumerate(dataset.shards):
            key = generate_data_key()
            stored = plaintext
            if dataset.sealed:
                metadata = _metadata(dataset.name, index, len(dataset.shards))
                seal = partial(seal_bytes, plaintext, data_key=key, metadata=metadata)
                stored = await trio.to_thread.run_sync(seal)
            shards.append(ShardInfo(await self._blobs.put(stored), len(stored), samples))
            keys.append(key)
        holdout = await self._blobs.put(dataset.holdout)
        manifest = DatasetManifest(dataset.name, dataset.sealed, self._me, tuple(shards), holdout)
        cid = await self._blobs.put(encode(manifest))
        await self._retention.pin(cid, holdout, *(shard.cid for shard in shards))
        if dataset.sealed:
            rows = [("data-key", _slot(cid, i), key) for i, key in enumerate(keys)]
            await self._records.commit(rows)
        self._manifests[cid] = manifest
        await self._provide(cid, manifest)
        await self.announce(cid)
        return cid

    async def _provide(self, cid: Cid, manifest: DatasetManifest) -> None:
        """Let strangers find what is held here: the manifest, and the shards if they are ours."""
        held = [cid]
        if manifest.seeder == self._me:
            held += [manifest.holdout, *(shard.cid for shard in manifest.shards)]
        for content in held:
            await self._blocks.provide(content)

    async def announce(self, manifest: Cid) -> None:
        """Say that this node serves all blocks of a dataset."""
        await self._gossip.publish(DatasetAnnouncement(manifest))

    async def grant_seat(
        self, cid: Cid, members: Sequence[SeatMember], validators: Iterable[Address]
    ) -> None:
        """If this node seeded the dataset: wrap each shard's key to its trainer and validators.

        A recipient whose sealing key is not known yet is left for the next seat.
        """
        manifest = await self.manifest(cid)
        if manifest.seeder != self._me or not manifest.sealed:
            return
        wanted = [(m.trainer, shard) for m in members for shard in m.shards]
        wanted += [(v, shard) for v in validators for shard in range(len(manifest.shards))]
        for recipient, shard in wanted:
            if recipient == self._me or await self._grant_of(cid, shard, recipient):
                continue
            member = self._members.membership.member(recipient)
            key = await self._records.get("data-key", _slot(cid, shard))
            if member is None or key is None:
                log.warning("no key to grant to yet", recipient=recipient.hex(), shard=shard)
                continue
            expires_s = int(self._unix_s()) + GRANT_LIFE_S
            context = GrantContext(self._network_id, cid, shard, recipient, expires_s)
            try:
                wrapped = wrap_key(key, member.heartbeat.sealing_key, context)
            except CryptoError as error:
                log.warning("bad sealing key", recipient=recipient.hex(), why=str(error))
                continue
            grant = KeyGrant(cid, shard, recipient, expires_s, wrapped)
            await self._keep(grant)
            await self._gossip.publish(grant)

    # grants ---------------------------------------------------------------------------------------
    def _check_grant(self, said: Said) -> Verdict:
        grant: KeyGrant = said.message
        manifest = self._manifests.get(grant.manifest)
        if manifest is None:
            return Verdict.IGNORE
        if said.author != manifest.seeder or grant.shard >= len(manifest.shards):
            return Verdict.REJECT
        return Verdict.ACCEPT

    async def _granted(self, said: Said) -> None:
        await self._keep(said.message)

    async def _keep(self, grant: KeyGrant) -> None:
        """Store a grant, unless one that lasts longer is here: gossip can be replayed."""
        known = await self._grant_of(grant.manifest, grant.shard, grant.recipient)
        if known is None or known.expires_s <= grant.expires_s:
            key = _slot(grant.manifest, grant.shard) + grant.recipient
            await self._records.commit([("grant", key, encode(grant))])

    async def _forget(self, cid: Cid, shard: int) -> None:
        """A grant to this node that opens nothing makes room for another."""
        await self._records.commit([("grant", _slot(cid, shard) + self._me, None)])

    async def _grant_of(self, cid: Cid, shard: int, recipient: Address) -> KeyGrant | None:
        stored = await self._records.get("grant", _slot(cid, shard) + recipient)
        if stored is None:
            return None
        grant = decode(stored, KeyGrant)
        return grant if grant.expires_s > self._unix_s() else None

    async def _serve_grant(self, peer: Address, payload: bytes) -> bytes:
        query = decode(payload, GrantQuery)
        grant = await self._grant_of(query.manifest, query.shard, peer)
        return encode(GrantReply((grant,) if grant else ()))

    async def _data_key(self, cid: Cid, manifest: DatasetManifest, shard: int) -> bytes:
        """This node's key to a shard: its own, or granted. Waits for a grant; cancel to give up."""
        own = await self._records.get("data-key", _slot(cid, shard))
        if own is not None:
            return own
        while True:
            grant = await self._grant_of(cid, shard, self._me)
            if grant is None:
                grant = await self._ask_grant(cid, manifest, shard)
            if grant is not None:
                try:
                    return self._unwrap(grant)
                except CryptoError as error:
                    await self._forget(cid, shard)
                    raise ShardUnavailable(f"shard {shard}: {error}") from error
            await trio.sleep(GRANT_POLL_S)

    def _unwrap(self, grant: KeyGrant) -> bytes:
        where = (grant.manifest, grant.shard, self._me, grant.expires_s)
        context = GrantContext(self._network_id, *where)
        return unwrap_key(grant.wrapped, self._sealing, context, now_s=int(self._unix_s()))

    async def _ask_grant(self, cid: Cid, manifest: DatasetManifest, shard: int) -> KeyGrant | None:
        for peer in (manifest.seeder, *self._providers.get(cid, ())):
            if peer not in self._network.peers():
                continue
            try:
                reply = await self._network.request(
                    peer,
                    GRANT,
                    encode(GrantQuery(cid, shard)),
                    reply_bytes_max=4096,
                    timeout_s=5.0,
                )
                grants = decode(reply, GrantReply).grants
            except (NetworkError, WireError):
                continue
            for grant in grants:
                if grant.expires_s <= self._unix_s():
                    continue
                try:
                    if (grant.manifest, grant.shard, grant.recipient) != (cid, shard, self._me):
                        raise WrongGrant("a grant that was not asked for")
                    self._unwrap(grant)  # a reply is not signed: keep only what is for us
                except CryptoError as error:
                    self._network.penalize(peer, limits.PENALTY_BAD_DATA, str(error))
                    continue
                await self._keep(grant)
                return grant
        return None

    # reading --------------------------------------------------------------------------------------
    async def _announced(self, said: Said) -> None:
        cid = said.message.manifest
        providers = self._providers.setdefault(cid, {})
        if len(providers) < PROVIDERS_MAX:
            providers[said.author] = None
        try:
            await self.manifest(cid)
        except Exception as error:
            log.info("an announced dataset cannot be had", manifest=cid, why=str(error))

    async def manifest(self, cid: Cid) -> DatasetManifest:
        """The manifest, fetched if need be. Raises `ContentUnavailable` or `WireError`."""
        known = self._manifests.get(cid)
        if known is None:
            data = await self._blocks.fetch(
                cid, self._providers.get(cid, ()), bytes_max=limits.MANIFEST_BYTES_MAX
            )
            known = decode(data, DatasetManifest, bytes_max=limits.MANIFEST_BYTES_MAX)
            self._manifests[cid] = known
            await self._provide(cid, known)
        return known

    async def open_shard(self, cid: Cid, shard: int) -> bytes:
        """A shard's plaintext. Waits for its grant. Raises `ShardUnavailable`."""
        manifest = await self.manifest(cid)
        if shard >= len(manifest.shards):
            raise ShardUnavailable(f"the dataset has no shard {shard}")
        stored = await self._blocks.fetch(
            manifest.shards[shard].cid, (manifest.seeder, *self._providers.get(cid, ()))
        )
        await self._blocks.provide(manifest.shards[shard].cid)
        if not manifest.sealed:
            return stored
        key = await self._data_key(cid, manifest, shard)
        metadata = _metadata(manifest.name, shard, len(manifest.shards))
        unseal = partial(open_bytes, stored, data_key=key, metadata=metadata)
        try:
            return await trio.to_thread.run_sync(unseal)
        except CryptoError as error:
            await self._forget(cid, shard)
            raise ShardUnavailable(f"shard {shard} does not open: {error}") from error

    async def holdout(self, cid: Cid) -> bytes:
        """The held-out set, in the clear."""
        manifest = await self.manifest(cid)
        return await self._blocks.fetch(manifest.holdout, (manifest.seeder,))


def _metadata(name: str, shard: int, count: int) -> Metadata:
    return {"dataset": name, "shard": shard, "of": count}


def _slot(cid: str, shard: int) -> bytes:
    return cid.encode() + shard.to_bytes(4, "big")
