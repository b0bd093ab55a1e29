"""Signed gossip: what is said to all, checked before it is passed on.

Every topic has the message types that may appear on it; a message is forwarded only if it decodes,
its author's signature holds, and the check of whoever handles that type accepts it.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import structlog

from eigen.crypto.envelope import BadSignature, author_of, sign_envelope
from eigen.crypto.identity import Identity
from eigen.node.ports import Network, Verdict
from eigen.protocol import messages
from eigen.protocol.job_record import JobAttestation, JobRecord
from eigen.protocol.messages import (
    Attestation,
    Commitment,
    DatasetAnnouncement,
    Envelope,
    Heartbeat,
    KeyGrant,
    Outcome,
    OutcomeVote,
    Proposal,
    ResultVote,
    SeatProposal,
    SeatVote,
    SignedBallot,
    StepNotice,
    Timeout,
    Topic,
)
from eigen.protocol.private_job import JobEnded, JobRound, JobVerdict, PrivateJob
from eigen.protocol.types import Address
from eigen.protocol.wire import WireError, decode, encode

log = structlog.get_logger()

TYPES: dict[Topic, tuple[type, ...]] = {
    Topic.MEMBERSHIP: (Heartbeat,),
    Topic.PROPOSALS: (Proposal,),
    Topic.BALLOTS: (SignedBallot,),
    Topic.DATASETS: (DatasetAnnouncement, KeyGrant),
    Topic.ROUNDS: (
        SeatProposal,
        SeatVote,
        Commitment,
        ResultVote,
        StepNotice,
        Outcome,
        OutcomeVote,
        Timeout,
        messages.Verdict,
    ),
    Topic.ATTESTATIONS: (Attestation,),
    Topic.JOBS: (PrivateJob, JobRound, JobVerdict, JobEnded, JobRecord, JobAttestation),
}
TOPIC_OF = {kind: topic for topic, kinds in TYPES.items() for kind in kinds}


OPENED_MAX = 16
"""Messages that stay open between their check and their handling, so that each is verified once."""


@dataclass(frozen=True, slots=True)
class Said:
    """One accepted message: who wrote it, what it says, and the proof that they did."""

    author: Address
    message: Any
    envelope: Envelope


Check = Callable[[Said], Verdict]
Handle = Callable[[Said], Awaitable[None]]


class Gossip:
    """Signs and publishes, verifies and dispatches. One handler a message type."""

    def __init__(self, identity: Identity, network: Network, network_id: str) -> None:
        self._identity = identity
        self._network = network
        self._network_id = network_id
        self._checks: dict[type, Check] = {}
        self._handlers: dict[type, Handle] = {}
        self.open = lru_cache(OPENED_MAX)(self._open)
        """Decode and verify. Raises `WireError` or `BadSignature`."""

    def on(self, kind: type, handle: Handle, check: Check | None = None) -> None:
        """Who handles a message type, and an extra check before it is passed on."""
        self._handlers[kind] = handle
        if check is not None:
            self._checks[kind] = check

    def join(self) -> None:
        """Subscribe to every topic; call once, after all `on`."""
        for topic in Topic:
            self._network.subscribe(
                self._name(topic), self._validator(topic), self._receiver(topic)
            )

    def _name(self, topic: Topic) -> str:
        return f"/eigen/{self._network_id}/{topic}/1"

    def _open(self, topic: Topic, data: bytes) -> Said:
        envelope = decode(data, Envelope)
        return self.read(topic, envelope)

    def read(self, topic: Topic, envelope: Envelope) -> Said:
        """The message inside an envelope, with its author. Raises `WireError` or `BadSignature`."""
        message: object = decode(envelope.payload, *TYPES[topic])
        return Said(author_of(envelope, self._network_id, topic), message, envelope)

    def read_any(self, envelope: Envelope) -> Said:
        """As `read`, with the topic that the payload's type belongs to."""
        message: object = decode(envelope.payload)
        topic = TOPIC_OF.get(type(message))
        if topic is None:
            raise WireError(f"a {type(message).__name__} is not gossip")
        return Said(author_of(envelope, self._network_id, topic), message, envelope)

    def accepts(self, said: Said) -> bool:
        """Whether the check of this message's type accepts it."""
        check = self._checks.get(type(said.message))
        return check is None or check(said) is Verdict.ACCEPT

    def sign(self, message: object) -> Envelope:
        """The envelope that `publish` would gossip: signatures are deterministic (RFC 6979)."""
        topic = TOPIC_OF[type(message)]
        return sign_envelope(self._identity, self._network_id, topic, encode(message))

    async def publish(self, message: object) -> Envelope:
        """Sign a message and gossip it on its topic. Returns the envelope, as evidence."""
        envelope = self.sign(message)
        await self._network.publish(self._name(TOPIC_OF[type(message)]), encode(envelope))
        return envelope

    def _validator(self, topic: Topic) -> Callable[[Address, bytes], Verdict]:
        def validate(forwarder: Address, data: bytes) -> Verdict:
            try:
                said = self.open(topic, data)
            except (WireError, BadSignature) as error:
                log.debug("gossip refused", topic=topic, peer=forwarder.hex(), why=str(error))
                return Verdict.REJECT
            check = self._checks.get(type(said.message))
            return check(said) if check else Verdict.ACCEPT

        return validate

    def _receiver(self, topic: Topic) -> Callable[[Address, bytes], Awaitable[None]]:
        async def receive(_forwarder: Address, data: bytes) -> None:
            said = self.open(topic, data)
            handle = self._handlers.get(type(said.message))
            if handle is not None:
                await handle(said)

        return receive
