"""The record of a job that pays: its owner makes it, and each validator works it out again."""

import hashlib

import trio

from eigen.crypto.envelope import BadSignature
from eigen.node.job_owner import TOLD, Owned
from eigen.node.job_ports import JobPorts
from eigen.protocol import limits
from eigen.protocol.job_record import (
    BadRecord,
    JobEvidence,
    JobRecord,
    OpenedRound,
    contributions,
    excluded_by,
)
from eigen.protocol.messages import Envelope, digest
from eigen.protocol.private_job import JobEnded, JobRound, JobVerdict, PrivateJob
from eigen.protocol.types import Address, Digest
from eigen.protocol.wire import decode, encode

FALSE = "job-false"
"""Rows of the record store: job, trainer, validator. Verdicts that the owner found to be right."""


async def make_record(
    ports: JobPorts, owned: Owned, ended: JobEnded, validators: frozenset[Address]
) -> JobRecord:
    """What a job of this node's came to, from its rows; its evidence is published.

    Raises `BadRecord` where no round was made.
    """
    rounds = [decode(row, Envelope) for _, row in await ports.records.scan(TOLD, owned.id)]
    verdicts = [decode(row, Envelope) for _, row in await ports.records.scan(FALSE, owned.id)]
    if not rounds:
        raise BadRecord("no round was made")
    evidence = JobEvidence(tuple(rounds), tuple(verdicts[: limits.JOB_VERDICTS_MAX]))
    path = owned.folder.result
    result = hashlib.sha256(path.read_bytes() if path.exists() else b"").digest()
    opened, excluded = await open_evidence(ports, owned.job, owned.id, evidence, validators)
    return JobRecord(
        owned.id,
        ended.done,
        len(opened),
        Digest(result),
        contributions(owned.id, owned.job, opened, excluded),
        await ports.blobs.put(encode(evidence)),
    )


async def check_record(
    ports: JobPorts,
    job: PrivateJob,
    record: JobRecord,
    validators: frozenset[Address],
    heard: dict[int, Digest],
    found: frozenset[Address],
) -> None:
    """Whether a record follows from its evidence, as far as this validator knows.

    `heard` are digests of the rounds that it heard, `found` the trainers that it found false.
    Raises `BadRecord`, `ContentUnavailable`, or a `WireError`.
    """
    job_id, most = bytes(record.job), limits.JOB_EVIDENCE_BYTES_MAX
    data = await ports.blocks.fetch(record.evidence, (job.owner,), bytes_max=most)
    evidence, told = await trio.to_thread.run_sync(_read, data)
    for number, name in sorted(heard.items()):
        if told.get(number) != name:
            raise BadRecord(f"round {number} was told another way, or is left out")
    opened, excluded = await open_evidence(ports, job, job_id, evidence, validators)
    if record.rounds != len(opened):
        raise BadRecord(f"{record.rounds} rounds, evidence of {len(opened)}")
    if record.contributions != contributions(job_id, job, opened, excluded):
        raise BadRecord("the evidence gives other contributions")
    paid = {c.trainer for c in record.contributions if not c.excluded}
    if paid & found:
        raise BadRecord("it pays a trainer whose sums are false")


def _read(data: bytes) -> tuple[JobEvidence, dict[int, Digest]]:
    """Evidence, and each round's digest by its place. Raises a `WireError`."""
    evidence = decode(data, JobEvidence, bytes_max=limits.JOB_EVIDENCE_BYTES_MAX)
    return evidence, {
        number: digest(decode(envelope.payload, JobRound))
        for number, envelope in enumerate(evidence.rounds, 1)
    }


async def open_evidence(
    ports: JobPorts,
    job: PrivateJob,
    job_id: bytes,
    evidence: JobEvidence,
    validators: frozenset[Address],
) -> tuple[list[OpenedRound], frozenset[Address]]:
    """Rounds, each signature verified, and who is excluded. Raises `BadRecord` or `WireError`."""
    opened = []
    try:
        for envelope in evidence.rounds:
            said = ports.gossip.read_any(envelope)
            round_: object = said.message
            if not isinstance(round_, JobRound) or (said.author, round_.job) != (
                job.owner,
                job_id,
            ):
                raise BadRecord("a round that its owner did not tell")
            asked = [ports.question(one) for one in round_.questions]
            if any(author != job.owner for author, _ in asked):
                raise BadRecord("a question of somebody else")
            questions = {question.serial: question for _, question in asked}
            opened.append(OpenedRound(round_.round, questions, ports.sums(round_.sums)))
            await trio.lowlevel.checkpoint()  # some milliseconds of signatures each
        verdicts = []
        for envelope in evidence.verdicts:
            said = ports.gossip.read_any(envelope)
            if not isinstance(said.message, JobVerdict):
                raise BadRecord("a verdict that is none")
            verdicts.append((said.author, said.message))
    except BadSignature as error:
        raise BadRecord(str(error)) from error
    return opened, excluded_by(job_id, verdicts, validators)
