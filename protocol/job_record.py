"""Who is to be paid what for a private job: what its owner says, and what validators make of it.

At its end the owner publishes a record: the trainers' shard-rounds, and as evidence every round's
questions and sums, signed by who made them. A validator works the record out again from the
evidence, and attests it. Knows no signature and no chain: what is opened here was verified before.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from eigen.protocol import limits
from eigen.protocol.job_effects import Signed
from eigen.protocol.job_pay import job_payouts
from eigen.protocol.job_sums import seat_of
from eigen.protocol.messages import Envelope, Payout, Round, Signature
from eigen.protocol.private_job import (
    JobContribution,
    JobDigest,
    JobQuestion,
    JobVerdict,
    PrivateJob,
)
from eigen.protocol.types import Address, Cid, Digest
from eigen.protocol.wire import Length, message


@message(113)
@dataclass(frozen=True, slots=True)
class JobRecord:
    """What a paid job came to, as its owner says: a round record of the job's stream.

    `done` is false where it was cancelled or failed after `rounds` rounds. `result` is the SHA-256
    of the trained head's file, which nobody else sees. `evidence` is a `JobEvidence`.
    """

    job: JobDigest
    done: bool
    rounds: Round
    result: Digest
    contributions: Annotated[tuple[JobContribution, ...], Length(limits.JOB_PAYEES_MAX)]
    evidence: Cid


@message(114)
@dataclass(frozen=True, slots=True)
class JobEvidence:
    """Every round as the owner told it, in order, and verdicts by which trainers are excluded."""

    rounds: Annotated[tuple[Envelope, ...], Length(limits.JOB_PAID_ROUNDS_MAX)]
    verdicts: Annotated[tuple[Envelope, ...], Length(limits.JOB_VERDICTS_MAX)]


@message(115)
@dataclass(frozen=True, slots=True)
class JobAttestation:
    """A validator's EIP-712 signature of the `RoundRoot` that follows from a job's record."""

    job: JobDigest
    record: Digest
    signature: Signature


class BadRecord(ValueError):
    """A record or its evidence is not what it should be: the owner's fault."""


@dataclass(frozen=True, slots=True)
class OpenedRound:
    """A round of the evidence: its questions by serial, and the sums, each with its maker."""

    round: int
    questions: Mapping[int, JobQuestion]
    sums: Sequence[Signed]


def round_credits(job_id: bytes, job: PrivateJob, opened: OpenedRound) -> dict[Address, int]:
    """Shards whose gradients each trainer put into a round's step.

    Raises `BadRecord` unless every shard went in exactly once, by who was asked for it.
    """
    credited: dict[Address, int] = {}
    shards: list[int] = []
    for signed in opened.sums:
        question = opened.questions.get(signed.sum.serial)
        if question is None or (question.job, question.round) != (job_id, opened.round):
            raise BadRecord(f"round {opened.round}: a sum without its question")
        if (signed.sum.job, signed.sum.round) != (job_id, opened.round):
            raise BadRecord(f"round {opened.round}: a sum of another round")
        index = seat_of(question, signed.author)
        if index is None:
            raise BadRecord(f"round {opened.round}: a sum of a trainer without a seat")
        given = question.seats[index].shards
        shards += given
        credited[signed.author] = credited.get(signed.author, 0) + len(given)
    if sorted(shards) != list(range(len(job.shards))):
        raise BadRecord(f"round {opened.round}: not every shard went in once")
    return credited


def contributions(
    job_id: bytes,
    job: PrivateJob,
    rounds: Sequence[OpenedRound],
    excluded: Collection[Address],
) -> tuple[JobContribution, ...]:
    """Everybody's shard-rounds, ascending by trainer. Raises `BadRecord`; also where rounds are
    missing."""
    if [opened.round for opened in rounds] != list(range(1, len(rounds) + 1)):
        raise BadRecord("rounds are missing, or not in order")
    total: dict[Address, int] = {}
    for opened in rounds:
        for trainer, count in round_credits(job_id, job, opened).items():
            total[trainer] = total.get(trainer, 0) + count
    if len(total) > limits.JOB_PAYEES_MAX:
        raise BadRecord(f"{len(total)} trainers, at most {limits.JOB_PAYEES_MAX}")
    return tuple(JobContribution(t, total[t], t in excluded) for t in sorted(total))


def excluded_by(
    job_id: bytes, verdicts: Sequence[tuple[Address, JobVerdict]], validators: Collection[Address]
) -> frozenset[Address]:
    """Trainers of whom a validator says that a sum of theirs was false."""
    return frozenset(
        verdict.trainer
        for author, verdict in verdicts
        if author in validators and not verdict.sound and verdict.job == job_id
    )


def record_payouts(job: PrivateJob, record: JobRecord, held: int) -> tuple[Payout, ...]:
    """Who gets how much of what the escrow holds, base units.

    All of it for a job that was done; of one that ended early each round's part.
    """
    due = held if record.done else held * min(record.rounds, job.rounds) // job.rounds
    return job_payouts(due, record.contributions)
