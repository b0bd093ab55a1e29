"""Every message of the wire, by topic. Frozen, bounded, canonical (see `wire`).

Gossiped messages travel inside an `Envelope` signed by their author. Statements that a contract
checks (ballots, attestations) carry their own EIP-712 signature inside as well.
"""

import hashlib
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Annotated

from eigen.protocol import limits
from eigen.protocol.run import RunSpec
from eigen.protocol.types import Address, Cid, Digest, RunId
from eigen.protocol.wire import U64, Amount, Length, Range, Text, encode, exactly, message

Signature = Annotated[bytes, exactly(limits.SIGNATURE_BYTES)]
Round = Annotated[int, Range(limits.ROUNDS_MAX, 1)]
Samples = Annotated[int, Range(2**48)]
Upload = Annotated[int, Range(limits.UPLOAD_MAX)]
"""What a node can send, KiB/s; 0 where it does not know."""
Mask = Amount
"""A bit for each member of a seat, the first the lowest; on the wire as amounts are."""


NO_DIGEST = Digest(bytes(32))
"""Where there is nothing to name."""


class Topic(StrEnum):
    """Gossip topics; on the wire they carry the network id."""

    MEMBERSHIP = "membership"
    PROPOSALS = "proposals"
    BALLOTS = "ballots"
    DATASETS = "datasets"
    ROUNDS = "rounds"
    ATTESTATIONS = "attestations"
    JOBS = "jobs"


NAMED_MAX = 256
"""Messages whose digests are remembered."""
_named: dict[int, tuple[object, Digest]] = {}  # by identity: to hash or compare them costs as much


def digest(value: object) -> Digest:
    """SHA-256 of a message's canonical bytes: its name in votes."""
    known = _named.get(id(value))
    if known is not None:
        return known[1]
    name = Digest(hashlib.sha256(encode(value)).digest())
    if len(_named) >= NAMED_MAX:
        _named.clear()
    _named[id(value)] = (value, name)  # what is held here keeps its identity to itself
    return name


@message(1)
@dataclass(frozen=True, slots=True)
class Envelope:
    """A payload (another message's bytes) and its author's signature over topic and network."""

    payload: Annotated[bytes, Length(limits.GOSSIP_MESSAGE_BYTES_MAX)]
    signature: Signature


# membership -------------------------------------------------------------------------------------
@message(10)
@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A node is alive, and this is what it offers. (incarnation, sequence) only ever grows."""

    incarnation: U64
    sequence: U64
    roles: Annotated[tuple[Text, ...], Length(limits.ROLES_MAX)]
    payout: Address
    sealing_key: Annotated[bytes, Length(limits.SEALING_KEY_BYTES_MAX)]
    addrs: Annotated[
        tuple[Annotated[str, Length(limits.MULTIADDR_BYTES_MAX)], ...],
        Length(limits.MULTIADDRS_MAX),
    ]
    software: Text
    upload: Upload = 0


# proposals and ballots --------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class ProposedCall:
    """One call that the DAO's timelock makes once a proposal passed. `value` is in wei."""

    target: Address
    value: Amount
    data: Annotated[bytes, Length(limits.PROPOSED_CALL_BYTES_MAX)]


@message(20)
@dataclass(frozen=True, slots=True)
class Proposal:
    """What the DAO is to do, put to its vote; what the calls mean is read from their data.

    `specs` holds the run spec of which a call names the digest: the chain has no room for it.
    """

    calls: Annotated[tuple[ProposedCall, ...], Length(limits.PROPOSED_CALLS_MAX, 1)]
    description: Annotated[str, Length(limits.DESCRIPTION_BYTES_MAX)]
    specs: Annotated[tuple[RunSpec, ...], Length(1)] = ()


@message(21)
@dataclass(frozen=True, slots=True)
class SignedBallot:
    """An OpenZeppelin Governor ballot, signed by its voter (EIP-712); anybody may relay it."""

    proposal: Annotated[bytes, exactly(32)]  # the governor's uint256 proposal id, big-endian
    support: Annotated[int, Range(2)]
    voter: Address
    nonce: U64
    signature: Signature


# datasets ---------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class ShardInfo:
    """One shard as it is stored (sealed or not) and what is in it."""

    cid: Cid
    stored_bytes: Annotated[int, Range(limits.BLOB_BYTES_MAX)]
    samples: Samples


@message(30)
@dataclass(frozen=True, slots=True)
class DatasetManifest:
    """A dataset as a content-addressed list of shards. `holdout` is in the open, for evaluation."""

    name: Text
    sealed: bool
    seeder: Address
    shards: Annotated[tuple[ShardInfo, ...], Length(limits.SHARDS_MAX, 1)]
    holdout: Cid


@message(31)
@dataclass(frozen=True, slots=True)
class DatasetAnnouncement:
    """The sender stores all of a dataset and serves its blocks."""

    manifest: Cid


@message(32)
@dataclass(frozen=True, slots=True)
class KeyGrant:
    """A shard's data key, wrapped to one recipient by HPKE; only that recipient can unwrap it."""

    manifest: Cid
    shard: Annotated[int, Range(limits.SHARDS_MAX - 1)]
    recipient: Address
    expires_s: U64
    wrapped: Annotated[bytes, Length(limits.WRAPPED_KEY_BYTES_MAX)]


# rounds -----------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at one round of one run. A round that aborts is tried again from the same θ."""

    run: RunId
    round: Round
    number: Annotated[int, Range(limits.ATTEMPTS_MAX)]


Shards = Annotated[
    tuple[Annotated[int, Range(limits.SHARDS_MAX - 1)], ...], Length(limits.SHARDS_MAX)
]


@dataclass(frozen=True, slots=True)
class SeatMember:
    """A trainer and the shards that it trains this round."""

    trainer: Address
    shards: Shards


Members = Annotated[tuple[SeatMember, ...], Length(limits.TRAINERS_MAX)]


@message(40)
@dataclass(frozen=True, slots=True)
class SeatProposal:
    """The attempt's leader names who trains what, from which checkpoint.

    `uploads` are the members' own words on their lines, in the same order: who owns how many parts.
    """

    attempt: Attempt
    previous: Digest  # SHA-256 of the round record before; zero for the first round
    base: Cid
    members: Members
    uploads: Annotated[tuple[Upload, ...], Length(limits.TRAINERS_MAX)]
    spec: Digest = (
        NO_DIGEST  # by which the round is trained; zero: the one that the run opened with
    )


@message(41)
@dataclass(frozen=True, slots=True)
class SeatVote:
    """A validator agrees with one seat for one attempt. A quorum of them opens the attempt."""

    attempt: Attempt
    seat: Digest


@message(91)
@dataclass(frozen=True, slots=True)
class LocalWork:
    """What a trainer's update follows from; kept where it was begun ahead, never sent.

    `ahead`: the local steps begin where `base` is after the trainer's own update of the round
    before, as if that were the average.
    """

    base: Cid
    shards: Shards
    order_seed: Digest
    ahead: bool
    spec: Digest = NO_DIGEST


@message(42)
@dataclass(frozen=True, slots=True)
class Commitment:
    """What a trainer is bound to before anybody's update is visible."""

    attempt: Attempt
    base: Cid  # what was trained from: the seat's, or where rounds overlap the one before it
    parts_root: Digest  # Merkle root over the encoded parts
    residual_root: Digest  # Merkle root over the residual that error feedback leaves
    sketch: Annotated[bytes, exactly(limits.SKETCH_BYTES)]
    samples: Samples
    loss_trace: Annotated[tuple[float, ...], Length(limits.LOSS_TRACE_MAX)]


@dataclass(frozen=True, slots=True)
class PartResult:
    """SHA-256 of one aggregated part, of a group or of all, and whose data is in it."""

    digest: Digest
    included: Mask


@message(43)
@dataclass(frozen=True, slots=True)
class ResultVote:
    """A trainer holds these results. A majority of the seat for the same ones commits them."""

    attempt: Attempt
    seat: Digest
    results: Annotated[tuple[PartResult, ...], Length(limits.PARTS_MAX, 1)]


@message(44)
@dataclass(frozen=True, slots=True)
class StepNotice:
    """A trainer has made the outer step and durably holds the checkpoint."""

    attempt: Attempt
    checkpoint: Cid


@dataclass(frozen=True, slots=True)
class Credit:
    """What one account earned in this round, base units.

    `commitment` is the digest of what a trainer committed to; zero of a validator.
    """

    account: Address
    samples: Samples
    amount: Amount
    commitment: Digest = NO_DIGEST


@dataclass(frozen=True, slots=True)
class Payout:
    """What one account may claim of the run so far, and what is held back yet, base units."""

    account: Address
    cumulative: Amount
    held: Amount = 0


@dataclass(frozen=True, slots=True)
class Check:
    """A credited trainer whose round is to be replayed."""

    trainer: Address
    round: Round


class Finding(IntEnum):
    """What a replay comes to."""

    SOUND = 0
    UNCLEAR = 1
    FALSE = 2


@message(53)
@dataclass(frozen=True, slots=True)
class Verdict:
    """A validator has replayed a trainer's round. `attempt` is of the round in which it says so.

    `deviation` is the relative L2 distance of the committed update from the replayed one.
    """

    attempt: Attempt
    check: Check
    finding: Annotated[int, Range(Finding.FALSE)]
    deviation: float


@message(51)
@dataclass(frozen=True, slots=True)
class LeftOver:
    """What aggregated parts left out, a blob a part: it goes into the next round's results.

    Error feedback on the way down. Whoever has all inputs computes the same, so it is public state.
    """

    parts: Annotated[tuple[Cid, ...], Length(limits.PARTS_MAX, 1)]


@message(50)
@dataclass(frozen=True, slots=True)
class RoundRecord:
    """All that a finished round leaves behind; content-addressed, named by the round root.

    `seat` is the digest of the `SeatProposal`. `left` names what the round's results left out (a
    `LeftOver`), if the run carries that on. `checks` are replays that are due; `ejected` are
    trainers that failed one: they are seated no more, and what was held of their pay is gone.
    """

    attempt: Attempt
    previous: Digest
    base: Cid
    checkpoint: Cid
    left: Annotated[tuple[Cid, ...], Length(1)]
    holders: Annotated[tuple[SeatMember, ...], Length(limits.PAYEES_MAX)]
    trainers: Annotated[tuple[Credit, ...], Length(limits.TRAINERS_MAX)]
    validators: Annotated[tuple[Credit, ...], Length(limits.VALIDATORS_MAX)]
    payouts: Annotated[tuple[Payout, ...], Length(limits.PAYEES_MAX)]  # by account, ascending
    seat: Digest = NO_DIGEST
    checks: Annotated[tuple[Check, ...], Length(limits.CHECKS_MAX)] = ()
    ejected: Annotated[tuple[Address, ...], Length(limits.EJECTED_MAX)] = ()  # ascending
    spec: Digest = NO_DIGEST  # the seat's


@message(54)
@dataclass(frozen=True, slots=True)
class ContributionProof:
    """That a trainer did a round's work: its signed commitment, its seat, and the attested record.

    The update itself, with opened residuals, is asked of the trainer by who replays the round.
    """

    commitment: Envelope
    seat: SeatProposal
    record: RoundRecord
    attestations: Annotated[tuple[Signature, ...], Length(limits.VALIDATORS_MAX)]


@message(45)
@dataclass(frozen=True, slots=True)
class Outcome:
    """The leader's account of a round; `record.attempt` may be an earlier one, carried on."""

    attempt: Attempt
    record: RoundRecord


@message(46)
@dataclass(frozen=True, slots=True)
class OutcomeVote:
    """A validator has checked a record. A quorum of votes lets validators attest it."""

    attempt: Attempt
    record: Digest


@message(47)
@dataclass(frozen=True, slots=True)
class Attestation:
    """A validator's EIP-712 signature over the ledger's `RoundRoot`: final, never for two roots."""

    run: RunId
    round: Round
    checkpoint: Digest
    record: Digest
    payout_root: Digest
    payout_total: Amount
    signature: Signature


@message(48)
@dataclass(frozen=True, slots=True)
class Timeout:
    """A validator gives an attempt up, and tells what it prepared, or else voted for."""

    attempt: Attempt
    prepared: Annotated[tuple[Outcome, ...], Length(1)]


RoundMessage = (
    SeatProposal
    | SeatVote
    | Commitment
    | ResultVote
    | StepNotice
    | Outcome
    | OutcomeVote
    | Timeout
    | Verdict
)
