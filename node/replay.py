"""A validator's replay of a credited round: train it once more and compare with what was committed.

All that it needs is public or opened by the trainer against digests that the records name: the
trainer can hold it up, which holds its pay up, and cannot change what is compared.
"""

from functools import partial

import structlog

from eigen.crypto.merkle import CommitmentTree, InclusionProof, verify_inclusion
from eigen.node.datasets import ShardUnavailable
from eigen.node.exchange import Exchange
from eigen.node.fetch import ContentUnavailable
from eigen.node.ports import NetworkError
from eigen.node.run_ports import RunPorts
from eigen.node.together import together
from eigen.node.worker import WorkerError
from eigen.protocol import limits
from eigen.protocol.cid import RAW, cid_of
from eigen.protocol.context import RunContext
from eigen.protocol.effects import Replayed
from eigen.protocol.messages import (
    NO_DIGEST,
    Check,
    Commitment,
    Finding,
    RoundRecord,
    SeatMember,
    digest,
)
from eigen.protocol.requests import (
    HEAD_REPLY_BYTES_MAX,
    OPENING,
    OPENING_BYTES_MAX,
    PART,
    PART_MESSAGE_BYTES_MAX,
    HeadReply,
    OpenedChunk,
    Opening,
    OpeningQuery,
    PartPush,
    PartQuery,
)
from eigen.protocol.run import RunSpec
from eigen.protocol.seat import draw, order_seed, round_seed
from eigen.protocol.types import Address, Cid, Digest
from eigen.protocol.wire import WireError, decode, encode
from eigen.training.calibration import Verdict
from eigen.training.errors import BadInput, TrainingError
from eigen.training.replay import chunks_to_open
from eigen.training.results import Replay
from eigen.training.spec import part_sizes

log = structlog.get_logger()

FINDINGS = {
    Verdict.ACCEPT: Finding.SOUND,
    Verdict.UNSURE: Finding.UNCLEAR,
    Verdict.REJECT: Finding.FALSE,
}
ROUNDS_BACK_MAX = 4096
"""Records in which a trainer's last credited update before a round is looked for."""


EMPTY_ROOT = CommitmentTree(()).root
"""Of a residual where a codec leaves none."""


class ReplayImpossible(Exception):
    """Something that a replay needs is not to be had now; says what."""


NOT_REPLAYED = (
    ReplayImpossible,
    ShardUnavailable,
    ContentUnavailable,
    WireError,
    TrainingError,
    WorkerError,
)
"""Why a replay comes to nothing; it is tried again while it is due."""


class Replayer:
    """Replays of one run on one node."""

    def __init__(self, context: RunContext, ports: RunPorts, exchange: Exchange) -> None:
        self._context = context
        self._network = ports.network
        self._records = ports.records
        self._blocks = ports.blocks
        self._datasets = ports.datasets
        self._worker = ports.worker
        self._exchange = exchange
        self._tolerance = ports.tolerance

    async def replay(self, check: Check) -> Replayed:
        """What a replay shows.

        Raises `ReplayImpossible`, or what fetching the base, the shards or the worker raises. A
        cancel ends it.
        """
        trainer, record = check.trainer, await self._record(check.round)
        terms = self._context.course.named(record.spec)
        if terms is None:
            raise ReplayImpossible("the round went by a spec that is not known here yet")
        spec = terms.spec
        named = {credit.account: credit.commitment for credit in record.trainers}
        seed = draw(b"eigen/opened/1", digest(record), trainer)
        numbers = chunks_to_open(spec, seed)
        opening = await self._opening(check, numbers)
        made = opening.made
        if digest(made) != named.get(trainer) or digest(opening.seat) != record.seat:
            raise self._fault(trainer, "a commitment or seat that the record does not name")
        opened = await self._opened(record, trainer, numbers, opening)
        parts = await self._parts(trainer, made)
        [seated] = [m for m in opening.seat.members if m.trainer == trainer]
        try:
            shown = await self._train(record, spec, seated, made, parts, opened)
        except BadInput as error:
            log.info("a replay shows an impossible claim", trainer=trainer.hex(), why=str(error))
            return Replayed(check, Finding.FALSE, limits.DEVIATION_MAX)
        said = self._tolerance(spec).verdict(shown, made.samples)
        deviation = min(max(shown.furthest, shown.encoding_deviation), limits.DEVIATION_MAX)
        return Replayed(check, FINDINGS[said], deviation)

    async def _train(
        self,
        record: RoundRecord,
        spec: RunSpec,
        seated: SeatMember,
        made: Commitment,
        parts: list[bytes],
        opened: list[tuple[int, bytes, bytes]],
    ) -> Replay:
        round_ = record.attempt.round
        seed = round_seed(self._context.seed, round_, record.previous)
        base = await self._blocks.files(Cid(record.base))
        shards = [await self._datasets.open_shard(spec.dataset, n) for n in seated.shards]
        order = order_seed(seed, seated.trainer)
        claimed = (list(made.loss_trace), made.sketch)
        return await self._worker.replay(
            spec, base, shards, order, round_ - 1, [], parts, opened, claimed
        )

    # what it needs --------------------------------------------------------------------------------
    async def _record(self, round_: int) -> RoundRecord:
        stored = await self._records.get("round", self._context.run + round_.to_bytes(8, "big"))
        if stored is None:
            raise ReplayImpossible(f"the record of round {round_} is not here")
        return decode(stored, HeadReply, bytes_max=HEAD_REPLY_BYTES_MAX).records[0]

    async def _opening(self, check: Check, numbers: tuple[int, ...]) -> Opening:
        query = OpeningQuery(self._context.run, check.round, numbers)
        reply = await self._ask(check.trainer, OPENING, encode(query), OPENING_BYTES_MAX)
        try:
            opening = decode(reply, Opening, bytes_max=OPENING_BYTES_MAX)
        except WireError as error:
            raise self._fault(check.trainer, f"no opening: {error}") from None
        if len(opening.chunks) != len(numbers):
            raise self._fault(check.trainer, "other chunks than were asked for")
        return opening

    async def _opened(
        self, record: RoundRecord, trainer: Address, numbers: tuple[int, ...], opening: Opening
    ) -> list[tuple[int, bytes, bytes]]:
        """The chunks, once both residuals' proofs hold."""
        given = opening.before[0] if opening.before else None
        if given is not None and not await self._credited(record, trainer, digest(given)):
            raise self._fault(trainer, "a residual that no credited update of its left")
        opened = []
        for number, chunk in zip(numbers, opening.chunks, strict=True):
            if not self._proves(number, chunk, opening.made, given):
                raise self._fault(trainer, f"chunk {number} is not what was committed to")
            opened.append((number, chunk.before, chunk.after))
        return opened

    def _proves(
        self, number: int, chunk: OpenedChunk, made: Commitment, before: Commitment | None
    ) -> bool:
        values = sum(part_sizes(self._context.spec))
        count = -(-4 * values // limits.RESIDUAL_CHUNK_BYTES)
        sides = [(made.residual_root, chunk.after, chunk.after_proof)]
        if before is not None:
            sides.append((before.residual_root, chunk.before, chunk.before_proof))
        elif chunk.before:
            return False
        return all(
            root == EMPTY_ROOT
            if not data
            else verify_inclusion(
                root, data, InclusionProof(number, count, tuple(Digest(step) for step in path))
            )
            for root, data, path in sides
        )

    async def _credited(self, record: RoundRecord, trainer: Address, made: Digest) -> bool:
        """Whether a trainer was credited for a commitment in one of the rounds before.

        An honest one begins with what its last credited update left, or one before that, or
        nothing, where it was killed. Who chooses among them gains nothing.
        """
        for _ in range(ROUNDS_BACK_MAX):
            if record.previous == NO_DIGEST:
                return False
            record = decode(await self._blocks.fetch(cid_of(RAW, record.previous)), RoundRecord)
            if any(c.account == trainer and c.commitment == made for c in record.trainers):
                return True
        return False

    async def _parts(self, trainer: Address, made: Commitment) -> list[bytes]:
        parts: list[bytes] = [b""] * self._context.part_count

        async def fetch(part: int) -> None:
            query = PartQuery(made.attempt, part, trainer)
            reply = await self._ask(trainer, PART, encode(query), PART_MESSAGE_BYTES_MAX)
            try:
                push = decode(reply, PartPush, bytes_max=PART_MESSAGE_BYTES_MAX)
            except WireError as error:
                raise self._fault(trainer, f"no part: {error}") from None
            if push.part != part or not self._exchange.proves(push, made):
                raise self._fault(trainer, "a part without its proof")
            parts[part] = push.data

        await together(partial(fetch, part) for part in range(len(parts)))
        return parts

    async def _ask(self, trainer: Address, protocol: str, payload: bytes, most: int) -> bytes:
        try:
            return await self._network.request(
                trainer,
                protocol,
                payload,
                reply_bytes_max=most,
                timeout_s=self._context.deadlines.inputs_s,
            )
        except NetworkError as error:
            raise ReplayImpossible(f"the trainer does not open its round: {error}") from error

    def _fault(self, trainer: Address, why: str) -> ReplayImpossible:
        self._network.penalize(trainer, limits.PENALTY_BAD_DATA, why)
        return ReplayImpossible(why)
