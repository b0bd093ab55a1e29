"""Requests between two peers and their replies, one protocol id each; and what bulk transfers hold.

`EXCHANGE` is a bulk protocol: its header is the run, its messages are `PartPush`, `GroupPush` and
`ResultPush`.
"""

from dataclasses import dataclass
from typing import Annotated

from eigen.protocol import limits
from eigen.protocol.messages import (
    Attempt,
    Commitment,
    Envelope,
    KeyGrant,
    Mask,
    Round,
    RoundRecord,
    SeatProposal,
    Signature,
)
from eigen.protocol.types import Address, Cid, Digest, RunId
from eigen.protocol.wire import Length, Range, exactly, message

BLOCK = "/eigen/block/1"
EXCHANGE = "/eigen/exchange/1"
PART = "/eigen/part/1"
RESULT = "/eigen/result/1"
HEAD = "/eigen/head/1"
GRANT = "/eigen/grant/1"
EVIDENCE = "/eigen/evidence/1"
PROPOSAL = "/eigen/proposal/2"
OPENING = "/eigen/opening/1"

PartIndex = Annotated[int, Range(limits.PARTS_MAX - 1)]
PartBytes = Annotated[bytes, Length(limits.PART_BYTES_MAX)]
MerkleProof = Annotated[tuple[Annotated[bytes, exactly(32)], ...], Length(limits.MERKLE_PROOF_MAX)]

OPENING_BYTES_MAX = (
    limits.CHUNKS_OPENED * 2 * (limits.RESIDUAL_CHUNK_BYTES + limits.MERKLE_PROOF_MAX * 34)
    + 2 * limits.GOSSIP_MESSAGE_BYTES_MAX
)
"""All chunks with their proofs, two commitments and a seat."""
HEAD_REPLY_BYTES_MAX = limits.GOSSIP_MESSAGE_BYTES_MAX + limits.VALIDATORS_MAX * 80
PART_MESSAGE_BYTES_MAX = limits.PART_BYTES_MAX + 4096
EVIDENCE_ENVELOPES_MAX = 1024
EVIDENCE_BYTES_MAX = 8 * 1024 * 1024


@message(60)
@dataclass(frozen=True, slots=True)
class BlockQuery:
    """Asks for one block; the reply is its bytes, empty where the peer does not have it."""

    cid: Cid


@message(61)
@dataclass(frozen=True, slots=True)
class PartPush:
    """A trainer hands one encoded part of its update to the part's owner."""

    attempt: Attempt
    part: PartIndex
    data: PartBytes
    proof: MerkleProof


@message(62)
@dataclass(frozen=True, slots=True)
class PartQuery:
    """Asks for one encoded part of a trainer's update: of the trainer, or of the part's owner.

    The reply is a `PartPush`.
    """

    attempt: Attempt
    part: PartIndex
    trainer: Address


@message(63)
@dataclass(frozen=True, slots=True)
class ResultPush:
    """An owner hands the aggregated part to a member: the same bytes to all."""

    attempt: Attempt
    part: PartIndex
    included: Mask
    data: PartBytes


@message(74)
@dataclass(frozen=True, slots=True)
class GroupPush:
    """A collector hands the aggregate of its group's parts to the part's owner."""

    attempt: Attempt
    part: PartIndex
    included: Mask
    data: PartBytes


@message(64)
@dataclass(frozen=True, slots=True)
class ResultQuery:
    """Asks for the aggregated part with this digest; the reply is a `ResultPush`."""

    attempt: Attempt
    part: PartIndex
    digest: Digest


@message(65)
@dataclass(frozen=True, slots=True)
class HeadQuery:
    """Asks for the last attested round of a run."""

    run: RunId


@message(66)
@dataclass(frozen=True, slots=True)
class HeadReply:
    """The last attested round and the attestations that make it so; none before round 1."""

    records: Annotated[tuple[RoundRecord, ...], Length(1)]
    attestations: Annotated[tuple[Signature, ...], Length(limits.VALIDATORS_MAX)]


@message(67)
@dataclass(frozen=True, slots=True)
class GrantQuery:
    """Asks for the wrapped key of one shard for the asking peer."""

    manifest: Cid
    shard: Annotated[int, Range(limits.SHARDS_MAX - 1)]


@message(68)
@dataclass(frozen=True, slots=True)
class GrantReply:
    """The grant, if the peer has it."""

    grants: Annotated[tuple[KeyGrant, ...], Length(1)]


@message(69)
@dataclass(frozen=True, slots=True)
class EvidenceQuery:
    """Asks for the signed messages of the round in progress, after a restart or a lost link."""

    run: RunId


@message(70)
@dataclass(frozen=True, slots=True)
class EvidenceReply:
    """Envelopes as their authors signed them, oldest first."""

    envelopes: Annotated[tuple[Envelope, ...], Length(EVIDENCE_ENVELOPES_MAX)]


@message(72)
@dataclass(frozen=True, slots=True)
class ProposalQuery:
    """Asks for the proposal that brings a run spec, as its author signed it."""

    spec: Digest


@message(73)
@dataclass(frozen=True, slots=True)
class ProposalReply:
    """The proposal's envelope, if the peer has it."""

    envelopes: Annotated[tuple[Envelope, ...], Length(1)]


@message(75)
@dataclass(frozen=True, slots=True)
class OpeningQuery:
    """Asks a trainer to open chunks of its residuals before and after a round that is replayed."""

    run: RunId
    round: Round
    chunks: Annotated[tuple[Annotated[int, Range(2**32 - 1)], ...], Length(limits.CHUNKS_OPENED, 1)]


ResidualChunk = Annotated[bytes, Length(limits.RESIDUAL_CHUNK_BYTES)]


@dataclass(frozen=True, slots=True)
class OpenedChunk:
    """One chunk of both residuals, each with its proof; empty where there is no residual."""

    before: ResidualChunk
    before_proof: MerkleProof
    after: ResidualChunk
    after_proof: MerkleProof


@message(76)
@dataclass(frozen=True, slots=True)
class Opening:
    """What a trainer committed to in a round and in its last credited one before, and the chunks.

    Both commitments and the seat are named by records. `before` is empty where nothing was left.
    """

    made: Commitment
    seat: SeatProposal
    before: Annotated[tuple[Commitment, ...], Length(1)]
    chunks: Annotated[tuple[OpenedChunk, ...], Length(limits.CHUNKS_OPENED)]
