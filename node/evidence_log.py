"""What was said in the round in progress, signed, for peers that missed it."""

from collections.abc import Iterator
from typing import Any

from eigen.node.gossip import Said
from eigen.protocol.messages import (
    Attestation,
    Outcome,
    OutcomeVote,
    RoundRecord,
    SeatProposal,
    SeatVote,
    Timeout,
    Verdict,
    digest,
)
from eigen.protocol.requests import EVIDENCE_BYTES_MAX, EVIDENCE_ENVELOPES_MAX, EvidenceReply
from eigen.protocol.types import Digest

ENVELOPE_EXTRA_BYTES = 96
"""Signature and framing of an envelope; the rest is its payload."""
VALIDATORS_SAY = (SeatProposal, SeatVote, Outcome, OutcomeVote, Timeout, Verdict, Attestation)
"""Messages that count from validators alone."""


def run_of(message: Any) -> bytes:
    """The run that a round message or an attestation is about."""
    at = message if isinstance(message, Attestation) else message.attempt
    return bytes(at.run)


def round_of(message: Any) -> int:
    """The round that a round message or an attestation is about."""
    at = message if isinstance(message, Attestation) else message.attempt
    return int(at.round)


class EvidenceLog:
    """Signed messages of rounds after the head, each once, in the order they were heard."""

    def __init__(self) -> None:
        self._said: dict[bytes, Said] = {}  # by signature
        self._records: dict[Digest, RoundRecord] = {}  # shown in outcomes

    def __contains__(self, said: Said) -> bool:
        return said.envelope.signature in self._said

    def __len__(self) -> int:
        return len(self._said)

    def __iter__(self) -> Iterator[Said]:
        return iter(list(self._said.values()))

    def add(self, said: Said) -> None:
        """Keep what others may have missed.

        Anybody can sign as a trainer, so what only trainers say makes room for new evidence.
        """
        if len(self._said) >= EVIDENCE_ENVELOPES_MAX:
            spare = (k for k, s in self._said.items() if not isinstance(s.message, VALIDATORS_SAY))
            oldest = next(spare, None)
            if oldest is None:
                return
            del self._said[oldest]
        self._said[said.envelope.signature] = said
        record = getattr(said.message, "record", None)
        if isinstance(record, RoundRecord):
            self._records[digest(record)] = record

    def record(self, wanted: Digest) -> RoundRecord | None:
        """A record that some outcome showed, by digest."""
        return self._records.get(wanted)

    def forget_through(self, round_: int) -> None:
        """Drop what is about this round or earlier ones."""
        self._said = {k: s for k, s in self._said.items() if round_of(s.message) > round_}
        self._records = {d: r for d, r in self._records.items() if r.attempt.round > round_}

    def reply(self) -> EvidenceReply:
        """All of it, earliest round first, as far as one reply holds."""
        envelopes, room = [], EVIDENCE_BYTES_MAX - 1024
        for said in sorted(self._said.values(), key=lambda s: round_of(s.message)):
            room -= len(said.envelope.payload) + ENVELOPE_EXTRA_BYTES
            if room < 0:
                break
            envelopes.append(said.envelope)
        return EvidenceReply(tuple(envelopes))
