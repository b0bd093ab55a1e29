"""Making an owner's private job, and finding it again after a restart."""

import shutil
import time
from dataclasses import replace

import trio

from eigen.chain.escrow import NoEscrow
from eigen.node.job_file import JobFile
from eigen.node.job_folder import JobFolder
from eigen.node.job_money import JobMoney
from eigen.node.job_owner import ENDED, FIGURES, PROGRESS, STATE, Owned
from eigen.node.job_ports import JobPorts, key_files
from eigen.protocol.messages import Envelope, ShardInfo, digest
from eigen.protocol.private_job import JobEnded, JobFigures, JobProgress, PrivateJob
from eigen.protocol.wire import decode, decode_bare, encode, encode_bare
from eigen.training.homomorphic.plan import Plan

OFFER, PLAN, FOLDER = "job-offer", "job-plan", "job-folder"
"""Kinds of rows of the record store, by job; with those of `job_owner`, all that a job is."""
CHECK_TIMEOUT_S = 120.0
"""For parsing one's own evaluation keys."""


async def make_job(
    ports: JobPorts, file: JobFile, money: JobMoney | None = None
) -> tuple[bytes, Envelope]:
    """Encode, encrypt, check what is published, fund, publish, and store. Returns the job's id.

    Raises `SpecError` or a `ChainError` before anything is encrypted, `SecretPublished` rather than
    publish a secret, or the worker's errors. A cancel leaves a folder without a job; what was
    locked by then comes back after the deadline.
    """
    terms = None
    if file.payment is not None:
        if money is None:
            raise NoEscrow("this node has no chain: leave [payment] out")
        terms = await money.terms(file.payment)
    folder = JobFolder(ports.folder / f"{time.time_ns():x}")
    made = await ports.enterprise.prepare(file.plan, folder.path)
    folder.keep_secret(ports.identity, made.secret)
    shards = []
    for index, count in enumerate(made.counts):
        path = folder.path / f"shard-{index}"
        size = path.stat().st_size
        shards.append(ShardInfo(await ports.blobs.put_file(path), size, count))
        path.unlink()
    path = folder.path / "keys"
    keys = await ports.blobs.put_file(path)
    path.unlink()
    job = PrivateJob(
        ports.identity.address,
        file.name,
        made.head,
        made.rows,
        made.features,
        made.outputs,
        file.plan.encrypted_weights,
        keys,
        tuple(shards),
        file.plan.rounds,
        file.round_s,
        file.audit_bps,
        int(time.time() * 1000),
    )
    name = digest(job)
    if terms is not None and money is not None:
        job = replace(job, payment=(money.payment(name, terms),))
    job_id = bytes(digest(job))
    await ports.note(job_id, 0, keys, *(shard.cid for shard in shards))
    held = await key_files(ports, job)
    await ports.evaluations.check(job, held, timeout_s=CHECK_TIMEOUT_S)
    if terms is not None and money is not None:
        await money.fund(name, job, terms)
    envelope = await ports.gossip.publish(job)
    await ports.records.commit(
        [
            (PLAN, job_id, encode_bare(file.plan)),
            (FOLDER, job_id, folder.path.name.encode()),
            (STATE, job_id, made.state),
            (PROGRESS, job_id, encode(JobProgress(job_id, 0, 0, ()))),
            (OFFER, job_id, encode(envelope)),
        ]
    )
    return job_id, envelope


async def clear_unfinished(ports: JobPorts) -> None:
    """Remove folders of jobs whose making was cut short: nobody knows of them."""
    known = {value.decode() for _, value in await ports.records.scan(FOLDER)}

    def remove() -> None:
        for path in ports.folder.iterdir() if ports.folder.is_dir() else ():
            if path.name not in known:
                shutil.rmtree(path)

    await trio.to_thread.run_sync(remove)


async def stored_job(
    ports: JobPorts, job_id: bytes, envelope: Envelope
) -> tuple[Owned, list[JobFigures], JobEnded | None]:
    """A job of this node's as it is stored, its rounds, and how it ended if it has."""
    kinds = (PLAN, FOLDER, STATE, PROGRESS)
    found = [await ports.records.get(kind, job_id) for kind in kinds]
    plan, folder, state, progress = (value or b"" for value in found)  # one transaction: all there
    rows = await ports.records.scan(FIGURES, job_id)
    ended = await ports.records.get(ENDED, job_id)
    owned = Owned(
        ports.gossip.read_any(envelope).message,
        job_id,
        envelope,
        decode_bare(plan, Plan, bytes_max=len(plan)),
        JobFolder(ports.folder / folder.decode()),
        state,
        decode(progress, JobProgress),
    )
    return (
        owned,
        [decode(value, JobFigures) for _, value in rows],
        decode(ended, JobEnded) if ended is not None else None,
    )
