"""The bytes of one run's rounds: encoded updates, inputs and results, sent, served and audited.

It holds and moves parts; what to do with them when is the trainer and committee machines' say.
"""

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import structlog
import trio

from eigen.crypto.merkle import CommitmentTree, InclusionProof, verify_inclusion
from eigen.node.ports import BlobStore, Network, NetworkError, RequestRefused
from eigen.node.together import together
from eigen.node.worker import TrainingWorker
from eigen.protocol import limits
from eigen.protocol.context import RunContext
from eigen.protocol.effects import Aggregate, Audit, SendPart, SendResult, Step
from eigen.protocol.messages import Attempt, Commitment, PartResult
from eigen.protocol.requests import (
    PART,
    PART_MESSAGE_BYTES_MAX,
    RESULT,
    Accepted,
    PartPush,
    PartQuery,
    ResultPush,
    ResultQuery,
)
from eigen.protocol.types import Address, Cid, Digest
from eigen.protocol.wire import WireError, decode, encode
from eigen.training.errors import BadInput, TrainingError
from eigen.training.results import LocalUpdate

log = structlog.get_logger()

AUDIT_PARTS_MAX = 64
"""Parts whose aggregation a validator repeats: all of a small model, a sample of a large one."""
RESULTS_PER_SENDER_MAX = 2 * limits.ATTEMPTS_REMEMBERED
"""Different results of one part that one peer may hand in for a round: one an attempt, and late
ones. Each is held in memory until the round after it ends."""
SENDS_AT_ONCE = 4
"""Parts under way from this node at a time: 2 MiB of memory."""


class AuditFailed(Exception):
    """Results do not follow from the commitments, or what shows it could not be had."""


class PartsMissing(Exception):
    """A result that a majority voted for could not be fetched from any of them."""


@dataclass(slots=True)
class _Update:
    """This node's own encoded update of one round, and the tree that it committed to."""

    local: LocalUpdate
    tree: CommitmentTree


@dataclass(slots=True)
class _Round:
    """Parts of one round."""

    updates: dict[tuple[int, ...], _Update] = field(default_factory=dict)  # by shards trained on
    current: _Update | None = None
    inputs: dict[tuple[Attempt, int, Address], PartPush] = field(default_factory=dict)
    results: dict[tuple[int, Digest], ResultPush] = field(default_factory=dict)
    taken: dict[tuple[Address, int], int] = field(default_factory=dict)  # results, by who sent them


Fetch = Callable[[Cid], Awaitable[bytes]]


class Exchange:
    """Parts of one run on one node. Two rounds are kept, so that a late validator can audit."""

    def __init__(
        self,
        context: RunContext,
        me: Address,
        network: Network,
        blobs: BlobStore,
        worker: TrainingWorker,
        fetch: Fetch,
    ) -> None:
        self.context = context
        self._me = me
        self._network = network
        self._blobs = blobs
        self._worker = worker
        self._fetch = fetch
        self._rounds: dict[int, _Round] = {}
        self._sending = trio.CapacityLimiter(SENDS_AT_ONCE)

    def _round(self, number: int) -> _Round:
        return self._rounds.setdefault(number, _Round())

    def forget_before(self, number: int) -> None:
        """Drop the parts of rounds before this one."""
        self._rounds = {n: r for n, r in self._rounds.items() if n >= number}

    # this node's update ---------------------------------------------------------------------------
    def keep_update(
        self, attempt: Attempt, base: Cid, shards: tuple[int, ...], local: LocalUpdate
    ) -> Commitment:
        """Hold a trained update and say what this node commits to."""
        tree = CommitmentTree(local.parts)
        mine = _Update(local, tree)
        held = self._round(attempt.round)
        held.updates[shards] = mine
        held.current = mine
        chunk = limits.BLOCK_BYTES_MAX
        left = local.residual
        residual = CommitmentTree([left[i : i + chunk] for i in range(0, len(left), chunk)])
        return Commitment(
            attempt,
            base,
            tree.root,
            residual.root,
            local.sketch,
            local.samples,
            tuple(local.loss_trace),
        )

    def residual(self, round_: int) -> bytes | None:
        """What the codec left out of this node's update of a round."""
        held = self._rounds.get(round_)
        return held.current.local.residual if held and held.current else None

    def _own_push(self, attempt: Attempt, part: int) -> PartPush | None:
        held = self._rounds.get(attempt.round)
        if held is None or held.current is None or part >= len(held.current.local.parts):
            return None
        proof = held.current.tree.prove(part)
        return PartPush(attempt, part, held.current.local.parts[part], tuple(proof.path))

    async def send_part(self, effect: SendPart) -> None:
        """Hand one part to its owner; failures are left to the machine's deadlines."""
        push = self._own_push(effect.attempt, effect.part)
        if push is not None:
            await self._push(effect.owner, PART, encode(push), self.context.deadlines.inputs_s)

    async def _push(self, peer: Address, protocol: str, payload: bytes, timeout_s: float) -> None:
        async with self._sending:
            try:
                reply = await self._network.request(
                    peer, protocol, payload, reply_bytes_max=64, timeout_s=timeout_s
                )
                decode(reply, Accepted)
            except (NetworkError, WireError) as error:
                log.info("a part was not taken", peer=peer.hex(), via=protocol, why=str(error))

    # inputs and aggregation -----------------------------------------------------------------------
    def proves(self, push: PartPush, made: Commitment) -> bool:
        """Whether a pushed part stands at its place under its author's commitment."""
        proof = InclusionProof(
            push.part, self.context.part_count, tuple(Digest(step) for step in push.proof)
        )
        return verify_inclusion(made.parts_root, push.data, proof)

    def keep_input(self, sender: Address, push: PartPush) -> None:
        """Hold a peer's part for aggregation and for validators."""
        self._round(push.attempt.round).inputs[push.attempt, push.part, sender] = push

    def _input(self, attempt: Attempt, part: int, sender: Address) -> PartPush | None:
        if sender == self._me:
            return self._own_push(attempt, part)
        held = self._rounds.get(attempt.round)
        return held.inputs.get((attempt, part, sender)) if held else None

    async def aggregate(self, effect: Aggregate) -> tuple[Digest, tuple[Address, ...]]:
        """Aggregate one part. Returns the result's digest and inputs that did not decode."""
        inputs = [
            (sender, push.data, weight)
            for sender, weight in effect.inputs
            if (push := self._input(effect.attempt, effect.part, sender)) is not None
        ]
        refused = [a for a, _ in effect.inputs if a not in {sender for sender, *_ in inputs}]
        while True:
            try:
                average = await self._worker.aggregate(
                    self.context.spec, effect.part, [(d, w) for _, d, w in inputs], b""
                )
                break
            except BadInput as error:
                refused.append(inputs.pop(error.index)[0])
                if not inputs:
                    raise
        digest = _digest(average.data)
        result = ResultPush(effect.attempt, effect.part, 0, average.data)
        self._round(effect.attempt.round).results[effect.part, digest] = result
        return digest, tuple(refused)

    async def send_result(self, effect: SendResult) -> None:
        """The same bytes to all members, at the same time."""
        held = self._round(effect.attempt.round).results
        name = (effect.part, effect.result.digest)
        whole = ResultPush(effect.attempt, effect.part, effect.result.included, held[name].data)
        payload = encode(whole)
        held[name] = whole
        timeout_s = self.context.deadlines.owner_s
        async with trio.open_nursery() as nursery:
            for member in effect.members:
                nursery.start_soon(self._push, member, RESULT, payload, timeout_s)

    def keep_result(self, push: ResultPush, sender: Address) -> PartResult:
        """Hold an aggregated part; returns its name in votes.

        Raises `RequestRefused` where the sender has handed in more different ones than rounds need.
        """
        digest = _digest(push.data)
        held = self._round(push.attempt.round)
        if (push.part, digest) not in held.results:
            slot = (sender, push.part)
            if held.taken.get(slot, 0) >= RESULTS_PER_SENDER_MAX:
                raise RequestRefused("too many different results of one part")
            held.taken[slot] = held.taken.get(slot, 0) + 1
        held.results[push.part, digest] = push
        return PartResult(digest, push.included)

    # serving --------------------------------------------------------------------------------------
    def serve_part(self, query: PartQuery) -> bytes:
        """A part of an update, its author's own or one that was handed here."""
        push = self._input(query.attempt, query.part, query.trainer)
        if push is None:
            raise RequestRefused("no such part here")
        return encode(push)

    def serve_result(self, query: ResultQuery) -> bytes:
        """An aggregated part by digest."""
        held = self._rounds.get(query.attempt.round)
        result = held.results.get((query.part, query.digest)) if held else None
        if result is None:
            raise RequestRefused("no such result here")
        return encode(result)

    # results, steps, audits -----------------------------------------------------------------------
    async def _result(
        self, attempt: Attempt, part: int, wanted: PartResult, sources: Sequence[Address]
    ) -> bytes:
        held = self._round(attempt.round).results.get((part, wanted.digest))
        if held is not None:
            return held.data
        query = encode(ResultQuery(attempt, part, wanted.digest))
        start = part % len(sources) if sources else 0
        for source in [*sources[start:], *sources[:start]]:
            try:
                reply = await self._network.request(
                    source,
                    RESULT,
                    query,
                    reply_bytes_max=PART_MESSAGE_BYTES_MAX,
                    timeout_s=self.context.deadlines.owner_s,
                )
                push = decode(reply, ResultPush, bytes_max=PART_MESSAGE_BYTES_MAX)
            except (NetworkError, WireError) as error:
                log.info("a result was not to be had", peer=source.hex(), why=str(error))
                continue
            if _digest(push.data) == wanted.digest:
                self._round(attempt.round).results[part, wanted.digest] = push
                return push.data
            self._network.penalize(source, limits.PENALTY_BAD_DATA, "a result of another digest")
        raise PartsMissing(f"part {part}: none of {len(sources)} peers gave the agreed result")

    async def _results(
        self, attempt: Attempt, results: Sequence[PartResult], sources: Sequence[Address]
    ) -> list[bytes]:
        data: list[bytes] = [b""] * len(results)

        async def get(part: int) -> None:
            async with self._sending:
                data[part] = await self._result(attempt, part, results[part], sources)

        await together(partial(get, part) for part in range(len(results)))
        return data

    async def step(self, effect: Step) -> Cid:
        """The outer step from agreed results. Returns the durable checkpoint's CID.

        Raises `PartsMissing`, or a `TrainingError` where the results cannot be applied.
        """
        results = await self._results(effect.attempt, effect.results, effect.sources)
        return await self._apply(effect.base, results)

    async def _apply(self, base: Cid, results: list[bytes]) -> Cid:
        theta = await self._fetch(base)
        checkpoint = await self._worker.outer_step(self.context.spec, theta, results)
        return await self._blobs.put(checkpoint)

    async def audit(self, effect: Audit) -> Cid:
        """Repeat the aggregation from committed inputs, then the outer step.

        Raises `AuditFailed` where a result does not follow from what its inputs' authors committed
        to, or where inputs cannot be had; `PartsMissing` where results cannot.
        """
        attempt = effect.seat.attempt
        results = await self._results(attempt, effect.results, effect.sources)
        made = dict(effect.commitments)
        members = tuple(m.trainer for m in effect.seat.members)
        for part in self._audited_parts(len(results)):
            included = effect.results[part].included
            authors = [m for i, m in enumerate(members) if included >> i & 1]
            inputs = []
            for author in authors:
                if author not in made:
                    raise AuditFailed(f"part {part} includes somebody who did not commit")
                push = await self._committed_part(attempt, part, author, made[author], members)
                inputs.append((push.data, made[author].samples))
            try:
                again = await self._worker.aggregate(self.context.spec, part, inputs, b"")
            except TrainingError as error:
                raise AuditFailed(f"part {part} cannot be aggregated: {error}") from error
            if _digest(again.data) != effect.results[part].digest:
                raise AuditFailed(f"part {part} does not follow from its committed inputs")
        return await self._apply(Cid(effect.seat.base), results)

    def _audited_parts(self, count: int) -> range:
        step = max(1, -(-count // AUDIT_PARTS_MAX))
        return range(int.from_bytes(self._me[:4], "big") % step, count, step)

    async def _committed_part(
        self,
        attempt: Attempt,
        part: int,
        author: Address,
        made: Commitment,
        members: Sequence[Address],
    ) -> PartPush:
        """A part with its proof: from its author, or from whoever aggregated it."""
        query = encode(PartQuery(attempt, part, author))
        for source in (author, *(m for m in members if m != author)):
            if source not in self._network.peers():
                continue
            try:
                reply = await self._network.request(
                    source,
                    PART,
                    query,
                    reply_bytes_max=PART_MESSAGE_BYTES_MAX,
                    timeout_s=self.context.deadlines.inputs_s,
                )
                push = decode(reply, PartPush, bytes_max=PART_MESSAGE_BYTES_MAX)
            except (NetworkError, WireError):
                continue
            if push.part == part and self.proves(push, made):
                return push
            self._network.penalize(source, limits.PENALTY_BAD_DATA, "a part without its proof")
        raise AuditFailed(f"part {part} of {author.hex()} is not to be had")


def _digest(data: bytes) -> Digest:
    return Digest(hashlib.sha256(data).digest())
