"""A validator's loss gaps: which trainers' updates do not show that they learnt their samples.

After each audit every update is tried on a few of the samples that it was to learn, drawn by the
round's results, so after all had committed. Who stays behind the others over some rounds is
suspect, and the leader may have it replayed. See `eigen.training.gap`.
"""

from collections.abc import Sequence

import structlog

from eigen.node.audit import Inputs
from eigen.node.datasets import ShardUnavailable
from eigen.node.fetch import ContentUnavailable
from eigen.node.run_ports import RunPorts
from eigen.node.worker import WorkerError
from eigen.protocol.checks import named
from eigen.protocol.context import RunContext
from eigen.protocol.messages import RoundRecord, SeatMember, SeatProposal
from eigen.protocol.seat import draw, order_seed, round_seed
from eigen.protocol.types import Address, Cid
from eigen.protocol.wire import WireError
from eigen.training.errors import TrainingError
from eigen.training.frames import Files
from eigen.training.gap import MovingGaps

log = structlog.get_logger()

UPDATES_BYTES_MAX = 256 * 1024 * 1024
"""Of one round's updates, held until they are measured; a round with more is not measured."""
TRAINERS_REMEMBERED_MAX = 1024
"""Beyond so many, what is known of them is forgotten: 12 gaps each."""
NOT_MEASURED = (ShardUnavailable, ContentUnavailable, WireError, TrainingError, WorkerError)
"""Why a trainer's gap is left out of a round."""


class RoundUpdates:
    """The audited parts of one attempt: each author's, and the results."""

    def __init__(self, seat: SeatProposal) -> None:
        self.seat = seat
        self.results: dict[int, bytes] = {}
        self._parts: dict[Address, dict[int, bytes]] = {}
        self._bytes = 0

    def add(self, part: int, by_group: Sequence[Inputs], result: bytes) -> None:
        """One part's inputs, as they were committed to, and what they came to."""
        self._bytes += len(result) + sum(len(data) for g in by_group for _, data, _ in g)
        if self._bytes > UPDATES_BYTES_MAX:
            self._parts.clear()
            self.results.clear()
            return
        self.results[part] = result
        for inputs in by_group:
            for author, data, _ in inputs:
                self._parts.setdefault(author, {})[part] = data

    def whole(self, part_count: int) -> dict[Address, list[bytes]]:
        """Parts, in order, of who is in every part; empty where not all parts were audited."""
        if len(self.results) != part_count:
            return {}
        return {
            author: [parts[part] for part in range(part_count)]
            for author, parts in sorted(self._parts.items())
            if len(parts) == part_count
        }


class Gaps:
    """The gaps of one run on one node."""

    def __init__(self, context: RunContext, ports: RunPorts) -> None:
        self._context = context
        self._blocks = ports.blocks
        self._datasets = ports.datasets
        self._worker = ports.worker
        self._moving: MovingGaps[Address] = MovingGaps()
        self._measuring = False

    @property
    def wanted(self) -> bool:
        """Whether to measure the next round: where rounds can be replayed, and one at a time.

        They wait for replays in the same process: a validator that is slow leaves rounds out.
        """
        return self._context.spec.pay.replay_bps > 0 and not self._measuring

    async def suspects(self, updates: RoundUpdates) -> tuple[Address, ...]:
        """Measures a round; whose average over the last rounds is too low to be believed.

        A round is left out where samples or the worker fail, or on a cancel.
        """
        self._measuring = True
        try:
            return await self._suspects(updates)
        finally:
            self._measuring = False

    async def _suspects(self, updates: RoundUpdates) -> tuple[Address, ...]:
        seat = updates.seat
        whole = updates.whole(self._context.part_count)
        seated = {member.trainer: member for member in seat.members}
        results = [updates.results[part] for part in sorted(updates.results)]
        gaps: dict[Address, float] = {}
        try:
            base = await self._blocks.files(Cid(seat.base))
            for trainer, parts in whole.items():
                gaps[trainer] = await self._gap(seat, base, seated[trainer], parts, results)
        except NOT_MEASURED as error:
            log.info("a round's gaps cannot be measured", round=seat.attempt.round, why=str(error))
            return ()
        if len(self._moving.trainers) > TRAINERS_REMEMBERED_MAX:
            for trainer in self._moving.trainers - gaps.keys():
                self._moving.forget(trainer)
        suspects = tuple(sorted(self._moving.add(gaps)))
        if suspects:
            names = [trainer.hex()[:8] for trainer in suspects]
            log.info("suspected by the loss gap", round=seat.attempt.round, trainers=names)
        return suspects

    async def _gap(
        self,
        seat: SeatProposal,
        base: Files,
        member: SeatMember,
        parts: list[bytes],
        results: list[bytes],
    ) -> float:
        terms, round_ = self._context.course.of(seat.attempt), seat.attempt.round
        spec = terms.spec
        seed = round_seed(self._context.seed, round_, seat.previous)
        order = order_seed(seed, member.trainer)
        drawn = draw(b"eigen/gap/1", seed, *results, member.trainer)
        shards = [await self._datasets.open_shard(spec.dataset, n) for n in member.shards]
        fresh = [
            await self._datasets.open_shard(spec.dataset, n)
            for n in _fresh(member, terms.shard_count, drawn)
        ]
        gap = await self._worker.gap(
            spec, base, parts, shards, order, fresh, drawn, average=results
        )
        return gap.value

    def adopted(self, record: RoundRecord) -> None:
        """A round is attested: who is replayed or thrown out starts afresh."""
        for trainer in named(record) | set(record.ejected):
            self._moving.forget(trainer)


def _fresh(member: SeatMember, shard_count: int, drawn: bytes) -> tuple[int, ...]:
    """A shard that a trainer was not to learn; none where it holds all of them."""
    others = [n for n in range(shard_count) if n not in member.shards]
    return (others[int.from_bytes(drawn[:8], "big") % len(others)],) if others else ()
