"""A validator's check of a round: aggregation and step once more, from the committed inputs.

It asks authors and owners for what was committed to. Which rounds to audit is the committee's say.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

import trio

from eigen.node.exchange import Exchange, part_digest
from eigen.node.ports import BlobStore, Network, NetworkError, Trainer
from eigen.node.together import HEDGE_SHARE, first_of, together
from eigen.protocol import limits
from eigen.protocol.effects import Audit, Audited
from eigen.protocol.exchange import gatherers, makers, masked, seat_groups
from eigen.protocol.messages import Attempt, Commitment, LeftOver
from eigen.protocol.requests import PART, PART_MESSAGE_BYTES_MAX, PartPush, PartQuery
from eigen.protocol.types import Address, Cid
from eigen.protocol.wire import WireError, decode, encode
from eigen.training.errors import TrainingError
from eigen.training.results import PartAverage

AUDIT_PARTS_MAX = 64
"""Parts whose aggregation a validator repeats where results leave nothing over: all of a small
model, a sample of a large one. What is left over has to be computed for every part."""
PARTS_AT_ONCE = 4
"""Parts audited at a time: with 64 trainers, up to 128 MiB of inputs."""

INPUTS_AT_ONCE = 32
"""Inputs asked for at a time, all parts together: one after another they would cost a round trip
each."""


Inputs = list[tuple[Address, bytes, int]]
"""Whose it is, the encoded part, and the samples behind it."""


Seen = Callable[[int, Sequence[Inputs], bytes], None]
"""Told of a part, the inputs of each group, and the result."""


def _plain(inputs: Inputs) -> list[tuple[bytes, int]]:
    return [(data, samples) for _, data, samples in inputs]


class AuditFailed(Exception):
    """Results do not follow from the commitments, or what shows it could not be had.

    `suspects` made the result that does not follow, unless they were passed over.
    """

    def __init__(self, reason: str, suspects: tuple[Address, ...] = ()) -> None:
        super().__init__(reason)
        self.suspects = suspects


class Auditor:
    """Audits one run's rounds on one node; `exchange` holds the run's parts."""

    def __init__(
        self,
        exchange: Exchange,
        me: Address,
        network: Network,
        blobs: BlobStore,
        worker: Trainer,
    ) -> None:
        self._exchange = exchange
        self._context = exchange.context
        self._me = me
        self._network = network
        self._blobs = blobs
        self._worker = worker
        self._slow: set[Address] = set()
        self._asking = trio.CapacityLimiter(INPUTS_AT_ONCE)

    async def audit(self, effect: Audit, seen: Seen | None = None) -> Audited:
        """Repeat the aggregation from committed inputs, then the outer step.

        `seen` is given each part's inputs and result once they are found to be right.
        Raises `AuditFailed` where a result does not follow from what its inputs' authors committed
        to, or where inputs cannot be had; `PartsMissing` where results cannot; `ContentUnavailable`
        where the base or what it left over cannot.
        """
        attempt = effect.seat.attempt
        self._slow.clear()
        results = await self._exchange.results(attempt, effect.results, effect.sources)
        left: dict[int, Cid] = {}
        worth: Counter[Address] = Counter()
        weighed = self._weighed(effect, len(results))
        at_once = trio.CapacityLimiter(PARTS_AT_ONCE)

        async def check(part: int) -> None:
            async with at_once:
                inputs = await self._committed_inputs(effect, part)
                again = await self._aggregated_again(effect, part, inputs)
                if seen is not None:
                    seen(part, inputs, results[part])
                if part in weighed:
                    worth.update(await self._contributions(attempt, part, inputs, results[part]))
                if self._carries:
                    digest = effect.results[part].digest
                    self._exchange.keep_left(attempt, part, digest, again.carried)
                    left[part] = await self._blobs.put(again.carried)

        await together(partial(check, part) for part in {*self._parts(len(results)), *weighed})
        checkpoint = await self._exchange.apply(attempt, Cid(effect.seat.base), results)
        contributions = tuple(sorted(worth.items()))
        if not left:
            return Audited(attempt, checkpoint, contributions=contributions)
        whole = LeftOver(tuple(left[part] for part in sorted(left)))
        named = await self._blobs.put(encode(whole))
        await self._exchange.note(attempt.round, named, *whole.parts)
        return Audited(attempt, checkpoint, (named,), contributions=contributions)

    async def _committed_inputs(self, effect: Audit, part: int) -> list[Inputs]:
        """What the included members of each group committed to."""
        groups = seat_groups(self._context, effect.seat)
        return [await self._inputs(effect, part, group) for group in groups]

    async def _aggregated_again(
        self, effect: Audit, part: int, by_group: list[Inputs]
    ) -> PartAverage:
        """One part from its committed inputs, if it comes to the same."""
        carried = await self._exchange.carried_state(effect.carried, part)
        spec = self._context.course.of(effect.seat.attempt).spec
        given = [_plain(inputs) for inputs in by_group]
        try:
            if len(given) == 1:
                again = await self._worker.aggregate(spec, part, given[0], carried)
            else:
                collected = [
                    (await self._worker.collect(spec, part, inputs), sum(s for _, s in inputs))
                    for inputs in given
                    if inputs
                ]
                again = await self._worker.combine(spec, part, collected, carried)
        except TrainingError as error:
            raise AuditFailed(f"part {part} cannot be aggregated: {error}") from error
        if part_digest(again.data) != effect.results[part].digest:
            suspects = makers(self._context, effect.seat, part)
            raise AuditFailed(f"part {part} does not follow from its committed inputs", suspects)
        return again

    def _weighed(self, effect: Audit, count: int) -> range:
        """Parts by which pay goes: the same ones for all validators, nobody knows which before."""
        if self._context.spec.pay.by != "contribution":
            return range(0)
        step = max(1, -(-count // AUDIT_PARTS_MAX))
        return range(int.from_bytes(effect.results[0].digest[:4], "big") % step, count, step)

    async def _contributions(
        self, attempt: Attempt, part: int, by_group: list[Inputs], result: bytes
    ) -> dict[Address, int]:
        inputs = [one for inputs in by_group for one in inputs]
        spec = self._context.course.of(attempt).spec
        found = await self._worker.contributions(spec, part, _plain(inputs), result)
        return {author: worth for (author, _, _), worth in zip(inputs, found, strict=True)}

    @property
    def _carries(self) -> bool:
        return self._worker.carries(self._context.spec)

    def _parts(self, count: int) -> range:
        if self._carries:
            return range(count)
        step = max(1, -(-count // AUDIT_PARTS_MAX))
        return range(int.from_bytes(self._me[:4], "big") % step, count, step)

    async def _inputs(self, effect: Audit, part: int, group: Sequence[Address]) -> Inputs:
        """What a group's included members committed to, with sample counts, in seat order."""
        made = dict(effect.commitments)
        holders = gatherers(self._context, effect.seat, group)[part]
        members = tuple(m.trainer for m in effect.seat.members)
        authors = [a for a in masked(members, effect.results[part].included) if a in group]
        if any(author not in made for author in authors):
            raise AuditFailed(f"part {part} includes somebody who did not commit")
        pushes: dict[Address, PartPush] = {}

        async def get(author: Address) -> None:
            async with self._asking:
                pushes[author] = await self._committed(
                    effect.seat.attempt, part, author, made[author], holders
                )

        await together(partial(get, author) for author in authors)
        return [(author, pushes[author].data, made[author].samples) for author in authors]

    async def _committed(
        self,
        attempt: Attempt,
        part: int,
        author: Address,
        made: Commitment,
        holders: Sequence[Address],
    ) -> PartPush:
        """A part with its proof: from here, from its author, or from who owned or would own it."""
        here = self._exchange.held(attempt, part, author)
        if here is not None and self._exchange.proves(here, made):
            return here
        others = (m for m in holders if m != author)
        order = sorted([author, *others], key=self._slow.__contains__)
        query = PartQuery(attempt, part, author)
        push = await first_of(
            (partial(self._ask, peer, query, made) for peer in order), self._patience_s
        )
        if push is None:
            raise AuditFailed(f"part {part} of {author.hex()} is not to be had")
        return push

    @property
    def _patience_s(self) -> float:
        return HEDGE_SHARE * self._context.deadlines.inputs_s

    async def _ask(self, peer: Address, query: PartQuery, made: Commitment) -> PartPush | None:
        """A part that proves up to its commitment, if the peer has it and says so in time.

        A peer that was slow is asked last in the rest of the audit.
        """
        if peer not in self._network.peers():
            return None
        begun_s = trio.current_time()
        try:
            reply = await self._network.request(
                peer,
                PART,
                encode(query),
                reply_bytes_max=PART_MESSAGE_BYTES_MAX,
                timeout_s=self._context.deadlines.inputs_s,
            )
            push = decode(reply, PartPush, bytes_max=PART_MESSAGE_BYTES_MAX)
        except (NetworkError, WireError):
            return None
        finally:
            if trio.current_time() - begun_s >= self._patience_s:
                self._slow.add(peer)
        if push.part == query.part and self._exchange.proves(push, made):
            return push
        self._network.penalize(peer, limits.PENALTY_BAD_DATA, "a part without its proof")
        return None
