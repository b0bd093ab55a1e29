"""The head of one run on this node: attested, adopted, stored, and repaired from peers.

The head machine says when a round is attested; this file checks signatures, fetches what is
missing, and makes it durable before anybody acts on it.
"""

from collections.abc import Awaitable, Callable

import structlog
import trio

from eigen.chain.port import RoundRoot
from eigen.crypto.errors import BadSignature
from eigen.crypto.identity import recover
from eigen.node.evidence_log import run_of
from eigen.node.fetch import ContentUnavailable
from eigen.node.gossip import Said
from eigen.node.ports import NetworkError
from eigen.node.retention import Row
from eigen.node.run_ports import RunPorts
from eigen.protocol import limits
from eigen.protocol.checks import due
from eigen.protocol.cid import RAW, cid_of
from eigen.protocol.context import RunContext
from eigen.protocol.effects import Adopt
from eigen.protocol.head import HeadMachine
from eigen.protocol.messages import Attestation, RoundRecord
from eigen.protocol.requests import (
    EVIDENCE,
    EVIDENCE_BYTES_MAX,
    HEAD,
    HEAD_REPLY_BYTES_MAX,
    EvidenceQuery,
    EvidenceReply,
    HeadQuery,
    HeadReply,
)
from eigen.protocol.types import Address, Digest
from eigen.protocol.wire import WireError, decode, encode

log = structlog.get_logger()

REQUEST_TIMEOUT_S = 10.0
"""For small requests between peers."""
CATCH_UP_S = 0.1
"""A node that is rounds behind hears of several attested ones at once; it waits for the newest."""

Keep = Callable[[RoundRecord], Awaitable[list[Row]]]
"""Told of a record before it is stored: what is to be stored with it."""
Taken = Callable[[HeadReply], None]
"""Told of each new head, after it is durable."""


class HeadSync:
    """Moves one run's head. `hear` takes evidence that a peer had of the round in progress."""

    def __init__(
        self,
        context: RunContext,
        ports: RunPorts,
        head: HeadMachine,
        *,
        keep: Keep,
        taken: Taken,
        hear: Callable[[Said], None],
    ) -> None:
        self._context = context
        self._ports = ports
        self._head = head
        self._keep = keep
        self._taken = taken
        self._hear = hear
        self._adopting = trio.Lock()
        self._newest = 0  # the last round that was attested, here or not

    # attestations ---------------------------------------------------------------------------------
    def root_of(self, record: RoundRecord) -> RoundRoot:
        """What validators attest of a record."""
        return RoundRoot.of(record, self._context.payout_root)

    def signed_digest(self, attestation: Attestation) -> Digest:
        """What an attestation's EIP-712 signature must cover."""
        return self._ports.chain.round_digest(RoundRoot.attested(attestation))

    def attestation(self, record: RoundRecord) -> Attestation:
        """This validator's signature over a record's root."""
        root = self.root_of(record)
        return Attestation(
            root.run,
            root.round,
            root.checkpoint,
            root.record,
            root.payout_root,
            root.payout_total,
            self._ports.identity.sign(self._ports.chain.round_digest(root)),
        )

    def attested(self, reply: HeadReply) -> bool:
        """Whether a quorum of this run's validators signed the record's root."""
        record = reply.records[0]
        if record.attempt.run != self._context.run:
            return False
        signed = self._ports.chain.round_digest(self.root_of(record))
        try:
            signers = {recover(signed, signature) for signature in reply.attestations}
        except BadSignature:
            return False
        return len(signers & self._context.validators) >= self._context.quorum

    # adopting -------------------------------------------------------------------------------------
    async def adopt(self, effect: Adopt, known: RoundRecord | None) -> None:
        """A quorum attested a root: take its record, from `known` or from peers, as the head.

        Of several that come at once, as to a node that was away, only the newest is fetched.
        """
        self._newest = max(self._newest, effect.round)
        if effect.round > self._head.round + 1:
            await trio.sleep(CATCH_UP_S)
        async with self._adopting:
            if effect.round == self._newest:
                await self._adopt(effect, known)

    async def _adopt(self, effect: Adopt, known: RoundRecord | None) -> None:
        cid = cid_of(RAW, effect.record)
        try:
            record = known or decode(await self._ports.blocks.fetch(cid), RoundRecord)
            signatures = tuple(signature for _, signature in effect.attestations)
            await self._take(HeadReply((record,), signatures))
        except (ContentUnavailable, WireError) as error:
            log.warning("an attested round is not to be had yet", cid=cid, why=str(error))

    async def _take(self, reply: HeadReply) -> None:
        """Its blobs first, then the record, then everybody is told."""
        [record] = reply.records
        await self._ports.retention.note(self._context.run, record.attempt.round, record.checkpoint)
        await self._ports.blocks.ensure(record.checkpoint)
        stored = await self._ports.blobs.put(encode(record))
        run, number = self._context.run, record.attempt.round
        if number <= self._head.round:
            return
        rows: list[Row] = [
            ("head", run, encode(reply)),
            ("round", run + number.to_bytes(8, "big"), encode(reply)),
        ]
        rows += await self._keep(record)
        await self._ports.records.commit(rows)
        await self._ports.blocks.provide(stored)
        await self._ports.blocks.provide(record.checkpoint)
        self._taken(reply)
        await self._collect(record)

    async def collect(self) -> None:
        """Delete what old rounds left, where that was cut short before a restart."""
        if self._head.head is not None:
            await self._collect(self._head.head)

    async def _collect(self, head: RoundRecord) -> None:
        """The bases of rounds that are to be replayed stay."""
        needed = {check.round - 1 for check in due(self._context, head)}
        finished = head.attempt.round >= self._context.spec.rounds
        await self._ports.retention.collect(head, finished=finished, needed=needed)

    # repairing ------------------------------------------------------------------------------------
    async def repair(self) -> None:
        """Ask one peer for its head and its evidence; a validator if one is connected."""
        connected = self._ports.network.peers()
        pool = sorted(connected & self._context.validators) or sorted(connected)
        if not pool:
            return
        peer = self._ports.random.choice(pool)
        run = self._context.run
        try:
            reply = decode(
                await self._ask(peer, HEAD, encode(HeadQuery(run)), HEAD_REPLY_BYTES_MAX),
                HeadReply,
                bytes_max=HEAD_REPLY_BYTES_MAX,
            )
            if reply.records and reply.records[0].attempt.round > self._head.round:
                if not self.attested(reply):
                    self._ports.network.penalize(peer, limits.PENALTY_BAD_DATA, "a forged head")
                    return
                await self._take(reply)
            evidence = decode(
                await self._ask(peer, EVIDENCE, encode(EvidenceQuery(run)), EVIDENCE_BYTES_MAX),
                EvidenceReply,
                bytes_max=EVIDENCE_BYTES_MAX,
            )
        except (NetworkError, WireError, ContentUnavailable) as error:
            log.debug("repair failed", peer=peer.hex(), why=str(error))
            return
        for envelope in evidence.envelopes:
            try:
                said = self._ports.gossip.read_any(envelope)
            except (WireError, BadSignature):
                self._ports.network.penalize(peer, limits.PENALTY_MALFORMED, "forged evidence")
                return
            if run_of(said.message) == run and self._ports.gossip.accepts(said):
                self._hear(said)

    async def _ask(self, peer: Address, protocol: str, payload: bytes, most: int) -> bytes:
        return await self._ports.network.request(
            peer, protocol, payload, reply_bytes_max=most, timeout_s=REQUEST_TIMEOUT_S
        )
