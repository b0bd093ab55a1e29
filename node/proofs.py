"""What is kept of credited work: signed commitments and seats, and updates that are to be replayed.

Rows of the record store hold every credited trainer's signed commitment for `ROUNDS_KEPT` rounds.
An update of this node's own is kept as a file only if its round's record draws it, until the check
is no longer due: a replay needs it, and two residuals of 4 bytes a parameter.
"""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
import trio

from eigen.crypto.merkle import CommitmentTree
from eigen.node.evidence_log import EvidenceLog
from eigen.node.exchange import Exchange, residual_tree
from eigen.node.fetch import ContentUnavailable
from eigen.node.ports import RequestRefused
from eigen.node.retention import ONCE_UNNAMED, Row
from eigen.node.run_ports import RunPorts
from eigen.node.states import DRAWN
from eigen.protocol import limits
from eigen.protocol.checks import due
from eigen.protocol.cid import RAW, cid_of
from eigen.protocol.context import RunContext
from eigen.protocol.messages import (
    NO_DIGEST,
    Check,
    Commitment,
    ContributionProof,
    Envelope,
    RoundRecord,
    SeatProposal,
    digest,
)
from eigen.protocol.requests import (
    HEAD_REPLY_BYTES_MAX,
    HeadReply,
    OpenedChunk,
    Opening,
    OpeningQuery,
    PartPush,
    PartQuery,
)
from eigen.protocol.types import Address, Cid, Digest
from eigen.protocol.wire import WireError, decode, encode
from eigen.training.frames import pack, read

log = structlog.get_logger()

ROUNDS_KEPT = 256
"""Rounds whose commitments are kept: 128 trainers' take some 30 MiB."""
COMMITMENT, SEAT, RESIDUAL_OF = "commitment", "seat", "residual-of"


_Residual = tuple[Cid | None, bytes]
"""A residual's content id and the encoded commitment that names it; none where there is none."""


@dataclass(frozen=True, slots=True)
class _Drawn:
    """This node's update of a round that somebody replays."""

    made: Commitment
    seat: SeatProposal
    before: tuple[Commitment, ...]
    residuals: tuple[bytes, bytes]
    trees: tuple[CommitmentTree, CommitmentTree]
    parts: Sequence[bytes]
    tree: CommitmentTree


class Proofs:
    """The proofs of one run on one node."""

    def __init__(
        self, context: RunContext, ports: RunPorts, exchange: Exchange, evidence: EvidenceLog
    ) -> None:
        self._context = context
        self._me = ports.identity.address
        self._records = ports.records
        self._blobs = ports.blobs
        self._retention = ports.retention
        self._states = ports.states
        self._blocks = ports.blocks
        self._exchange = exchange
        self._evidence = evidence
        self._open: tuple[int, _Drawn] | None = None

    # keeping --------------------------------------------------------------------------------------
    async def keep(self, record: RoundRecord) -> list[Row]:
        """A round is attested: what is to be committed with its record.

        An update that is to be replayed is durable on return. The same is kept of rounds before it
        that this node worked in and passed over when it caught up.
        """
        rows: list[Row] = []
        before = await self._residual()
        for known in [*await self._passed_over(record), record]:
            more, before = await self._keep(known, before)
            rows += more
        return rows

    async def _residual(self) -> _Residual:
        """What the next update begins with, and the commitment that names it."""
        cid = await self._records.get("residual", self._context.run)
        of = await self._records.get(RESIDUAL_OF, self._context.run)
        return Cid(cid.decode()) if cid else None, of or b""

    async def _passed_over(self, record: RoundRecord) -> list[RoundRecord]:
        """Records between those of rounds in which this node made an update and this one."""
        made = [n for n in self._exchange.updated() if n < record.attempt.round]
        found: list[RoundRecord] = []
        earlier = record
        while made and earlier.attempt.round > min(made) and earlier.previous != NO_DIGEST:
            try:
                data = await self._blocks.fetch(cid_of(RAW, earlier.previous))
                earlier = decode(data, RoundRecord)
            except (ContentUnavailable, WireError) as error:
                log.warning("proofs of rounds passed over are lost", why=str(error))
                break
            found.append(earlier)
        return found[::-1]

    async def _keep(self, record: RoundRecord, before: _Residual) -> tuple[list[Row], _Residual]:
        run, round_ = self._context.run, record.attempt.round
        rows: list[Row] = [
            (COMMITMENT, _key(run, round_) + author, encode(envelope))
            for author, envelope in self._committed(record)
        ]
        seat = self._seat(record)
        if seat is not None:
            rows.append((SEAT, _key(run, round_), encode(seat)))
        own, after = await self._own(record, seat, before)
        rows += own
        old = _key(run, round_ - ROUNDS_KEPT) if round_ > ROUNDS_KEPT else None
        if old is not None:
            rows.append((SEAT, old, None))
            rows += [
                (COMMITMENT, key, None) for key, _ in await self._records.scan(COMMITMENT, old)
            ]
        return rows, after

    def _committed(self, record: RoundRecord) -> list[tuple[Address, Envelope]]:
        named = {(credit.account, credit.commitment) for credit in record.trainers}
        return [
            (said.author, said.envelope)
            for said in self._evidence
            if isinstance(said.message, Commitment) and (said.author, digest(said.message)) in named
        ]

    def _seat(self, record: RoundRecord) -> SeatProposal | None:
        proposed = (said.message for said in self._evidence)
        seats = (said for said in proposed if isinstance(said, SeatProposal))
        return next((seat for seat in seats if digest(seat) == record.seat), None)

    async def _own(
        self, record: RoundRecord, seat: SeatProposal | None, before: _Residual
    ) -> tuple[list[Row], _Residual]:
        """The residual that the next update begins with, and the update if it is drawn."""
        run, round_ = self._context.run, record.attempt.round
        update = self._exchange.update(round_)
        credit = next((c for c in record.trainers if c.account == self._me), None)
        made = self._exchange.commitment(record.attempt)
        if update is None or credit is None or made is None:
            return [], before
        if digest(made) != credit.commitment:
            return [], before
        if seat is not None and Check(self._me, round_) in due(self._context, record):
            cid, of = before
            held = await self._blobs.get(cid) if cid and of else b""
            after = await self._blobs.get(update.residual)
            stored = [encode(made), encode(seat), of, held, after, *update.parts]
            await self._states.put(DRAWN, run, round_, *pack(DRAWN, stored))
        rows: list[Row] = [
            *self._retention.moved(run, round_, ONCE_UNNAMED, update.residual),
            ("residual", run, update.residual.encode()),
            (RESIDUAL_OF, run, encode(made)),
        ]
        return rows, (update.residual, encode(made))

    async def forget(self, head: RoundRecord) -> None:
        """Delete updates whose replay is no longer due."""
        mine = {c.round for c in due(self._context, head) if c.trainer == self._me}
        await self._states.keep_only(DRAWN, self._context.run, mine)

    # opening --------------------------------------------------------------------------------------
    async def opening(self, query: OpeningQuery) -> Opening:
        """Chunks of both residuals of a round of ours that is replayed. Raises `RequestRefused`."""
        drawn = await self._drawn(query.round)
        chunks = tuple(_chunk(drawn, number) for number in query.chunks)
        return Opening(drawn.made, drawn.seat, drawn.before, chunks)

    async def part(self, query: PartQuery) -> PartPush:
        """A part of an update that is replayed. Raises `RequestRefused`."""
        drawn = await self._drawn(query.attempt.round)
        if query.trainer != self._me or query.part >= len(drawn.parts):
            raise RequestRefused("no such part here")
        proof = drawn.tree.prove(query.part)
        return PartPush(drawn.made.attempt, query.part, drawn.parts[query.part], tuple(proof.path))

    async def _drawn(self, round_: int) -> _Drawn:
        if self._open is None or self._open[0] != round_:
            stored = await self._states.get(DRAWN, self._context.run, round_)
            if not stored:
                raise RequestRefused("this round of mine is not to be replayed")
            self._open = (round_, await trio.to_thread.run_sync(_read, stored))
        return self._open[1]

    # showing --------------------------------------------------------------------------------------
    async def known(self) -> dict[tuple[int, Address], Digest]:
        """Ids of the proofs that are here, by round and trainer, in order.

        An id is the digest of the trainer's commitment.
        """
        rows = await self._records.scan(COMMITMENT, self._context.run)
        found = {
            (int.from_bytes(key[32:40], "big"), Address(key[40:])): Digest(
                hashlib.sha256(decode(said, Envelope).payload).digest()
            )
            for key, said in rows
        }
        return dict(sorted(found.items()))

    async def proof(self, round_: int, trainer: Address) -> ContributionProof | None:
        """A trainer's proof of a round; None where it is not here."""
        key = _key(self._context.run, round_)
        said = await self._records.get(COMMITMENT, key + trainer)
        seat = await self._records.get(SEAT, key)
        head = await self._records.get("round", key)
        if said is None or seat is None or head is None:
            return None
        reply = decode(head, HeadReply, bytes_max=HEAD_REPLY_BYTES_MAX)
        return ContributionProof(
            decode(said, Envelope), decode(seat, SeatProposal), reply.records[0], reply.attestations
        )


def _key(run: bytes, round_: int) -> bytes:
    return run + round_.to_bytes(8, "big")


def _read(stored: bytes) -> _Drawn:
    frame = read(io.BytesIO(stored))
    assert frame is not None  # as it was written: its digest is checked
    made, seat, of, before, after, *parts = frame[1]
    return _Drawn(
        decode(made, Commitment),
        decode(seat, SeatProposal),
        (decode(of, Commitment),) if of else (),
        (before, after),
        (residual_tree(before), residual_tree(after)),
        parts,
        CommitmentTree(parts),
    )


def _chunk(drawn: _Drawn, number: int) -> OpenedChunk:
    size = limits.RESIDUAL_CHUNK_BYTES
    opened: list[tuple[bytes, tuple[bytes, ...]]] = []
    for residual, tree in zip(drawn.residuals, drawn.trees, strict=True):
        if not residual:
            opened.append((b"", ()))
            continue
        if number >= len(tree):
            raise RequestRefused(f"the residual has {len(tree)} chunks")
        opened.append((residual[number * size : (number + 1) * size], tree.prove(number).path))
    return OpenedChunk(*opened[0], *opened[1])
