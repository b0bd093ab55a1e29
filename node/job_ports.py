"""What private jobs need of the node, and the blobs and signatures that both sides deal in."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from eigen.crypto.envelope import BadSignature, author_of, sign_envelope
from eigen.crypto.identity import Identity
from eigen.node.cipher_worker import EnterpriseWorker, EvaluationWorker
from eigen.node.fetch import BlockExchange, ContentUnavailable
from eigen.node.gossip import Gossip
from eigen.node.members import Members
from eigen.node.ports import BlobStore, Network, RecordStore
from eigen.protocol import limits
from eigen.protocol.job_effects import Signed
from eigen.protocol.messages import Envelope
from eigen.protocol.private_job import JobQuestion, PartialSum, PrivateJob
from eigen.protocol.types import Address, Cid
from eigen.protocol.wire import WireError, decode, encode
from eigen.training.frames import Files
from eigen.training.homomorphic.layout import BlockLayout

LABEL = "job-rounds"
"""What questions and sums are signed under: they travel in requests, not as gossip."""
NOTED = "job-blob"
"""Rows of the record store: job, round, content id. Round 0 lasts as long as the job."""
KEPT_ROUNDS = 4
"""Rounds whose blobs stay, so that a validator can compute them again."""


@dataclass(frozen=True, slots=True)
class JobPorts:
    """The node, as far as private jobs deal with it."""

    identity: Identity
    network_id: str
    network: Network
    gossip: Gossip
    members: Members
    records: RecordStore
    blobs: BlobStore
    blocks: BlockExchange
    evaluations: EvaluationWorker
    enterprise: EnterpriseWorker
    folder: Path

    # signatures -----------------------------------------------------------------------------------
    def signed(self, message: JobQuestion | PartialSum) -> Envelope:
        """A question or a sum with this node's signature."""
        return sign_envelope(self.identity, self.network_id, LABEL, encode(message))

    def question(self, envelope: Envelope) -> tuple[Address, JobQuestion]:
        """Who asks, and what. Raises `WireError` or `BadSignature`."""
        made = decode(envelope.payload, JobQuestion)
        return author_of(envelope, self.network_id, LABEL), made

    def sums(self, envelopes: Sequence[Envelope]) -> tuple[Signed, ...]:
        """Sums with their makers. Raises `WireError`."""
        opened = []
        for envelope in envelopes:
            made = decode(envelope.payload, PartialSum)
            try:
                author = author_of(envelope, self.network_id, LABEL)
            except BadSignature as error:
                raise WireError(str(error)) from None
            opened.append(Signed(author, made, envelope))
        return tuple(opened)

    # blobs ----------------------------------------------------------------------------------------
    async def files(self, cid: Cid, prefer: Iterable[Address], bytes_max: int) -> Files:
        """A content on disk, each block checked against its hash. Raises `ContentUnavailable`."""
        await self.blocks.ensure(cid, prefer, bytes_max=bytes_max)
        return await self.blocks.files(cid)

    async def note(self, job: bytes, round_: int, *contents: Cid) -> None:
        """Note what a round leaves; before anything else names it."""
        rows = [(NOTED, job + round_.to_bytes(8, "big") + cid.encode(), b"") for cid in contents]
        await self.records.commit(rows)

    async def drop(self, job: bytes, *, before: int, whole: bool = False) -> None:
        """Delete what rounds before this one left; with `whole`, keys and shards too."""
        old: dict[bytes, Cid] = {}
        kept: set[Cid] = set()
        for key, _ in await self.records.scan(NOTED):
            of_job, of_round = key[:32], int.from_bytes(key[32:40], "big")
            cid = Cid(key[40:].decode())
            if of_job == job and (whole or 0 < of_round < before):
                old[key] = cid
            else:
                kept.add(cid)
        kept |= {Cid(key.decode()) for key, _ in await self.records.scan("pin")}
        doomed = set(old.values()) - kept
        gone = await self.blobs.drop(doomed, kept) if doomed else frozenset()
        await self.records.commit(
            [(NOTED, key, None) for key, cid in old.items() if cid in gone or cid in kept]
        )


def sum_bytes_max(job: PrivateJob) -> int:
    """Of a gradient, or of weights, as a blob; a header included."""
    layout = BlockLayout(job.rows, job.features, job.outputs)
    count = min(layout.C * layout.K, limits.JOB_CIPHERTEXTS_MAX)
    return max(count * limits.JOB_CIPHERTEXT_BYTES_MAX, 8 * job.features * job.outputs) + 4096


async def key_files(ports: JobPorts, job: PrivateJob) -> Files:
    """A job's evaluation keys, on disk."""
    return await ports.files(job.keys, (job.owner,), limits.JOB_KEY_BYTES_MAX)


async def shard_files(ports: JobPorts, job: PrivateJob, shards: Iterable[int]) -> list[Files]:
    """Shards of ciphertexts, on disk. Raises `ContentUnavailable`, also where they are too large
    for what the job says that is in them: nothing is fetched then.
    """
    layout = BlockLayout(job.rows, job.features, job.outputs)
    most = (layout.C + layout.K) * limits.JOB_CIPHERTEXT_BYTES_MAX + 4096
    held = [job.shards[shard] for shard in shards if shard < len(job.shards)]
    total = sum(shard.stored_bytes for shard in held)
    if total > limits.JOB_SEAT_BYTES_MAX or any(shard.stored_bytes > most for shard in held):
        raise ContentUnavailable(f"{len(held)} shards of {total} bytes are more than this job's")
    return [await ports.files(s.cid, (job.owner,), s.stored_bytes) for s in held]
