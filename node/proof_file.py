"""Contribution proofs by themselves: what one says, checked with nothing but a network file.

Whoever has a proof can check who did which work, and who attested it. Whether the work was done is
shown by a replay, which needs the update of the trainer, and so a node.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from eigen.chain.port import RoundRoot
from eigen.crypto.envelope import author_of
from eigen.crypto.errors import BadSignature
from eigen.crypto.identity import recover
from eigen.crypto.merkle import payout_root
from eigen.protocol.limits import GOSSIP_MESSAGE_BYTES_MAX, SIGNATURE_BYTES, VALIDATORS_MAX
from eigen.protocol.messages import Commitment, ContributionProof, Topic, digest
from eigen.protocol.types import Address, Digest
from eigen.protocol.wire import WireError, decode

PROOF_BYTES_MAX = 4 * GOSSIP_MESSAGE_BYTES_MAX + VALIDATORS_MAX * (SIGNATURE_BYTES + 5)
"""A commitment, a seat and a record, each a gossip message at most."""


class ProofRefused(Exception):
    """A proof does not hold; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What a proof shows: whose work it is, what was committed to, and who attested it."""

    trainer: Address
    made: Commitment
    shards: tuple[int, ...]
    samples: int
    earned: int
    signers: tuple[Address, ...]


def read_proof(path: Path) -> ContributionProof:
    """A proof from its file. Raises `ProofRefused`."""
    try:
        with path.open("rb") as file:
            data = file.read(PROOF_BYTES_MAX + 1)
    except OSError as error:
        raise ProofRefused(f"{path}: cannot be read: {error.strerror}") from error
    try:
        return decode(data, ContributionProof, bytes_max=PROOF_BYTES_MAX)
    except WireError as error:
        raise ProofRefused(f"{path}: no contribution proof: {error}") from error


def check_proof(
    proof: ContributionProof, network_id: str, round_digest: Callable[[RoundRoot], Digest]
) -> Shown:
    """What a proof shows, once all its parts fit together.

    `round_digest` is what validators of this network sign. Raises `ProofRefused`, naming the part
    that does not fit.
    """
    record = proof.record
    try:
        trainer = author_of(proof.commitment, network_id, Topic.ROUNDS)
        made = decode(proof.commitment.payload, Commitment)
    except (BadSignature, WireError) as error:
        raise ProofRefused(f"commitment: {error}") from error
    if made.attempt != record.attempt or proof.seat.attempt != record.attempt:
        raise ProofRefused("attempt: commitment, seat and record are of different rounds")
    if digest(proof.seat) != record.seat:
        raise ProofRefused("seat: the record names another one")
    shards = next((m.shards for m in proof.seat.members if m.trainer == trainer), None)
    if shards is None:
        raise ProofRefused(f"seat: 0x{trainer.hex()} was not seated in this round")
    credit = next((c for c in record.trainers if c.account == trainer), None)
    if credit is None or credit.commitment != digest(made):
        raise ProofRefused("record: it does not credit this commitment")
    try:
        signed = round_digest(RoundRoot.of(record, payout_root))
        signers = tuple(sorted({recover(signed, one) for one in proof.attestations}))
    except BadSignature as error:
        raise ProofRefused(f"attestations: {error}") from error
    if not signers:
        raise ProofRefused("attestations: there is none")
    return Shown(trainer, made, shards, credit.samples, credit.amount, signers)
