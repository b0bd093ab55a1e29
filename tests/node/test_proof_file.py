"""Contribution proofs off line: what holds is told, and what does not is named."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from eigen.chain.port import RoundRoot
from eigen.crypto.envelope import sign_envelope
from eigen.crypto.identity import Identity
from eigen.node.proof_file import ProofRefused, check_proof, read_proof
from eigen.protocol.cid import raw_cid
from eigen.protocol.limits import SKETCH_BYTES
from eigen.protocol.messages import (
    NO_DIGEST,
    Attempt,
    Commitment,
    ContributionProof,
    Credit,
    RoundRecord,
    SeatMember,
    SeatProposal,
    Topic,
    digest,
)
from eigen.protocol.types import Digest, RunId
from eigen.protocol.wire import encode

TRAINER, OTHER, VALIDATOR = (Identity.generate() for _ in range(3))
NETWORK, BASE = "testnet", raw_cid(b"base")
AT = Attempt(RunId(b"r" * 32), 7, 0)


def signed(root: RoundRoot) -> Digest:
    """Stands for the ledger's EIP-712 digest."""
    return Digest(hashlib.sha256(repr(root).encode()).digest())


def commitment(at: Attempt = AT) -> Commitment:
    root = Digest(b"p" * 32)
    return Commitment(at, BASE, root, NO_DIGEST, bytes(SKETCH_BYTES), 640, (2.5, 2.0))


def made(
    said: Commitment | None = None,
    by: Identity = TRAINER,
    network: str = NETWORK,
    credited: Commitment | None = None,
) -> ContributionProof:
    """A proof of TRAINER's round, or of something like it."""
    said = said or commitment()
    members = (SeatMember(TRAINER.address, (3, 5)),)
    seat = SeatProposal(AT, NO_DIGEST, BASE, members, (0,))
    credit = Credit(TRAINER.address, 640, 9 * 10**18, digest(credited or said))
    record = RoundRecord(
        AT, NO_DIGEST, BASE, raw_cid(b"next"), (), (), (credit,), (), (), digest(seat)
    )
    envelope = sign_envelope(by, network, Topic.ROUNDS, encode(said))
    return attested(ContributionProof(envelope, seat, record, ()))


def attested(proof: ContributionProof) -> ContributionProof:
    asked: list[RoundRoot] = []

    def watch(root: RoundRoot) -> Digest:
        asked.append(root)
        return signed(root)

    with pytest.raises(ProofRefused):
        check_proof(proof, NETWORK, watch)  # it has no attestation yet
    return replace(proof, attestations=tuple(VALIDATOR.sign(signed(root)) for root in asked))


def test_a_proof_tells_who_did_what_and_who_attested_it() -> None:
    shown = check_proof(made(), NETWORK, signed)
    assert shown.trainer == TRAINER.address
    assert shown.made == commitment()
    assert shown.shards == (3, 5)
    assert shown.samples == 640
    assert shown.earned == 9 * 10**18
    assert shown.signers == (VALIDATOR.address,)


@pytest.mark.parametrize(
    ("forge", "why"),
    [
        (lambda: made(by=OTHER), "seat: .* was not seated"),
        (lambda: made(network="othernet"), "seat: .* was not seated"),
        (lambda: made(commitment(replace(AT, round=8))), "different rounds"),
        (lambda: made(commitment(replace(AT, run=RunId(b"s" * 32)))), "different rounds"),
        (lambda: made(credited=replace(commitment(), samples=1)), "does not credit"),
        (lambda: replace(made(), seat=replace(made().seat, uploads=(9,))), "names another"),
        (lambda: replace(made(), attestations=()), "there is none"),
        (lambda: replace(made(), attestations=(bytes(65),)), "attestations: "),
    ],
)
def test_what_does_not_fit_is_named(forge: Callable[[], ContributionProof], why: str) -> None:
    with pytest.raises(ProofRefused, match=why):
        check_proof(forge(), NETWORK, signed)


def test_an_altered_record_has_other_signers() -> None:
    proof = made()
    richer = replace(proof.record, trainers=(replace(proof.record.trainers[0], amount=10**30),))
    shown = check_proof(replace(proof, record=richer), NETWORK, signed)
    assert shown.signers != (VALIDATOR.address,)


def test_files_are_read_whole_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "proof"
    with pytest.raises(ProofRefused, match="cannot be read"):
        read_proof(path)
    data = encode(made())
    path.write_bytes(data)
    assert encode(read_proof(path)) == data
    for wrong in (data[:-1], data + b"\0", b"", b"\xff" * 100, encode(commitment())):
        path.write_bytes(wrong)
        with pytest.raises(ProofRefused, match="no contribution proof"):
            read_proof(path)
