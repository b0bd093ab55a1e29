"""The bytes of one run's rounds: encoded updates, inputs and results, kept, aggregated and served.

It holds and moves parts; what to do with them when is the trainer and committee machines' say.
"""

import hashlib
import io
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar

import structlog
import trio

from eigen.crypto.merkle import CommitmentTree, InclusionProof, verify_inclusion
from eigen.node.fetch import BlockExchange
from eigen.node.part_file import PartFile
from eigen.node.ports import BlobStore, Network, NetworkError, RequestRefused, Trainer
from eigen.node.retention import ONCE_UNNAMED, Retention
from eigen.node.together import HEDGE_SHARE, first_of, together
from eigen.protocol import limits
from eigen.protocol.context import RunContext
from eigen.protocol.effects import (
    Aggregate,
    Aggregated,
    Collect,
    Collected,
    Combine,
    SendGroup,
    SendResult,
    Step,
)
from eigen.protocol.messages import Attempt, Commitment, LeftOver, PartResult, RoundRecord
from eigen.protocol.requests import (
    PART_MESSAGE_BYTES_MAX,
    RESULT,
    GroupPush,
    PartPush,
    PartQuery,
    ResultPush,
    ResultQuery,
)
from eigen.protocol.run import RunSpec
from eigen.protocol.types import Address, Cid, Digest
from eigen.protocol.wire import WireError, decode, encode
from eigen.training.errors import BadInput
from eigen.training.frames import Files
from eigen.training.results import LocalUpdate, PartAverage
from eigen.training.spec import group_bytes, part_bytes, result_bytes

log = structlog.get_logger()

RESULTS_PER_SENDER_MAX = 2 * limits.ATTEMPTS_REMEMBERED
"""Different results of one part that one peer may hand in for a round: one an attempt, and late
ones. Each is held in memory until the round after it ends."""
FETCHES_AT_ONCE = 4
"""Results asked of peers at a time: 2 MiB of memory."""


_Input = tuple[Address, bytes | None, int]
"""Whose it is, what it is if it is here, and the samples behind it."""


_R = TypeVar("_R")
_Work = Callable[[RunSpec, int, Sequence[tuple[bytes, int]]], Awaitable[_R]]
"""A call of the worker on one part's inputs."""


class PartsMissing(Exception):
    """A result that a majority voted for could not be fetched from any of them."""


@dataclass(slots=True)
class OwnUpdate:
    """This node's own encoded update of one round, and the tree that it committed to."""

    parts: PartFile
    tree: CommitmentTree
    residual: Cid  # on disk, as large as the model
    made: Commitment


@dataclass(slots=True)
class _Round:
    """Parts of one round."""

    current: OwnUpdate | None = None
    inputs: dict[tuple[Attempt, int, Address], PartPush] = field(default_factory=dict)
    results: dict[tuple[int, Digest], ResultPush] = field(default_factory=dict)
    taken: dict[tuple[Address, int], int] = field(default_factory=dict)  # results, by who sent them
    agreed: dict[Attempt, tuple[PartResult, ...]] = field(default_factory=dict)
    left: dict[tuple[int, Digest], bytes] = field(default_factory=dict)  # see PartAverage.carried


class Exchange:
    """Parts of one run on one node, of the rounds that are not attested yet."""

    def __init__(
        self,
        context: RunContext,
        me: Address,
        network: Network,
        blobs: BlobStore,
        worker: Trainer,
        blocks: BlockExchange,
        retention: Retention,
    ) -> None:
        self.context = context
        self._me = me
        self._network = network
        self._blobs = blobs
        self._worker = worker
        self._blocks = blocks
        self._retention = retention
        self._bytes_max = {
            PartPush: part_bytes(context.spec),
            GroupPush: group_bytes(context.spec),
            ResultPush: result_bytes(context.spec),
        }
        self._rounds: dict[int, _Round] = {}
        self._fetching = trio.CapacityLimiter(FETCHES_AT_ONCE)
        self._carried: dict[int, bytes] = {}

    def _round(self, number: int) -> _Round:
        return self._rounds.setdefault(number, _Round())

    def carry_on(self, record: RoundRecord) -> None:
        """A round is over: remember what its results left out, of the parts computed here."""
        held = self._rounds.get(record.attempt.round, _Round())
        results = enumerate(held.agreed.get(record.attempt, ()))
        left = ((part, held.left.get((part, result.digest))) for part, result in results)
        self._carried = {part: state for part, state in left if state}

    def keep_left(self, attempt: Attempt, part: int, result: Digest, left: bytes) -> None:
        """Hold what a result left out until its round is over."""
        self._round(attempt.round).left[part, result] = left

    async def carried_state(self, carried: Sequence[Cid], part: int) -> bytes:
        """What one part's last result left out: computed here, or fetched from who did.

        Raises `ContentUnavailable`.
        """
        if not carried:
            return b""
        if part not in self._carried:
            fetch = partial(self._blocks.fetch, prefer=sorted(self.context.validators))
            left = decode(await fetch(carried[0]), LeftOver)
            await self.note(ONCE_UNNAMED, carried[0], left.parts[part])
            self._carried[part] = await fetch(left.parts[part])
        return self._carried[part]

    def forget_through(self, number: int) -> None:
        """Drop the parts of rounds that are attested: who is late takes the checkpoint."""
        self._rounds = {n: r for n, r in self._rounds.items() if n > number}

    # this node's update ---------------------------------------------------------------------------
    async def keep_update(self, attempt: Attempt, base: Cid, local: LocalUpdate) -> Commitment:
        """Hold a trained update and say what this node commits to; hashed beside the event loop.

        Its parts are in a file on return, and its residual in the blob store: what is handed in
        meanwhile takes the memory.
        """
        tree, residual_root = await trio.to_thread.run_sync(_commit_to, local)
        with self._blobs.draft() as path:
            parts = await trio.to_thread.run_sync(PartFile, local.parts, path)
        residual = await self._store(local.residual)
        await self.note(attempt.round, residual)
        made = Commitment(
            attempt,
            base,
            tree.root,
            residual_root,
            local.sketch,
            local.samples,
            tuple(local.loss_trace),
        )
        self._round(attempt.round).current = OwnUpdate(parts, tree, residual, made)
        return made

    async def _store(self, residual: bytes | Files) -> Cid:
        if isinstance(residual, bytes):
            return await self._blobs.put(residual)
        [path] = residual.paths
        return await self._blobs.put_file(Path(path))

    def update(self, round_: int) -> OwnUpdate | None:
        """This node's update of a round that is not attested yet."""
        held = self._rounds.get(round_)
        return held.current if held else None

    def updated(self) -> list[int]:
        """Rounds of which this node has an update, and does not know yet that they are over."""
        return [number for number, held in self._rounds.items() if held.current is not None]

    def commitment(self, attempt: Attempt) -> Commitment | None:
        """What this node commits to with its update, in an attempt."""
        held = self._rounds.get(attempt.round)
        return replace(held.current.made, attempt=attempt) if held and held.current else None

    def _own_push(self, attempt: Attempt, part: int) -> PartPush | None:
        held = self._rounds.get(attempt.round)
        if held is None or held.current is None or part >= len(held.current.parts):
            return None
        proof = held.current.tree.prove(part)
        return PartPush(attempt, part, held.current.parts[part], tuple(proof.path))

    def part_for(self, attempt: Attempt, part: int) -> bytes | None:
        """This node's part and its proof, as its owner takes it; None where the round is over."""
        push = self._own_push(attempt, part)
        return encode(push) if push is not None else None

    # inputs and aggregation -----------------------------------------------------------------------
    def fits(self, push: PartPush | GroupPush | ResultPush, sender: Address) -> bool:
        """Whether the run has such a part and its codec ever gives so many bytes for it.

        Asked before anything waits with a push or is computed on it. What is too long costs its
        sender.
        """
        bytes_max = self._bytes_max[type(push)]
        most = bytes_max[push.part] if push.part < len(bytes_max) else 0
        if len(push.data) <= most:
            return True
        fault = f"part {push.part} has {len(push.data)} bytes, at most {most} are possible"
        self._network.penalize(sender, limits.PENALTY_BAD_DATA, fault)
        return False

    def proves(self, push: PartPush, made: Commitment) -> bool:
        """Whether a pushed part stands at its place under its author's commitment."""
        proof = InclusionProof(
            push.part, self.context.part_count, tuple(Digest(step) for step in push.proof)
        )
        return verify_inclusion(made.parts_root, push.data, proof)

    def keep_input(self, sender: Address, push: PartPush) -> None:
        """Hold a peer's part for aggregation and for validators."""
        self._round(push.attempt.round).inputs[push.attempt, push.part, sender] = push

    def held(self, attempt: Attempt, part: int, sender: Address) -> PartPush | None:
        """A part of this node's update, or one that was handed here; None where it is not here."""
        if sender == self._me:
            return self._own_push(attempt, part)
        held = self._rounds.get(attempt.round)
        return held.inputs.get((attempt, part, sender)) if held else None

    async def aggregate(self, effect: Aggregate) -> Aggregated:
        """Aggregate one part from the inputs held here; what does not decode is left out.

        Raises a `TrainingError` where nothing is left, or a `WorkerError`.
        """
        inputs = self._inputs(effect.attempt, effect.part, effect.inputs)
        carried = await self.carried_state(effect.carried, effect.part)
        work = partial(self._worker.aggregate, carried=carried)
        return await self._result(effect, inputs, work)

    async def collect(self, effect: Collect) -> Collected:
        """Aggregate a group's inputs of one part, as `aggregate`; nothing is carried."""
        inputs = self._inputs(effect.attempt, effect.part, effect.inputs)
        data, refused = await self._of_those_that_decode(effect, inputs, self._worker.collect)
        digest = self._keep(effect.attempt, effect.part, data)
        return Collected(effect.attempt, effect.part, digest, refused)

    async def combine(self, effect: Combine) -> Aggregated:
        """Aggregate one part from groups' aggregates held here, as `aggregate`."""
        results = self._round(effect.attempt.round).results
        inputs: list[_Input] = [
            (sender, known.data if known else None, weight)
            for sender, group, weight in effect.groups
            for known in [results.get((effect.part, group.digest))]
        ]
        carried = await self.carried_state(effect.carried, effect.part)
        work = partial(self._worker.combine, carried=carried)
        return await self._result(effect, inputs, work)

    def _inputs(
        self, attempt: Attempt, part: int, wanted: Sequence[tuple[Address, int]]
    ) -> list[_Input]:
        found = [(self.held(attempt, part, sender), sender, weight) for sender, weight in wanted]
        return [(sender, push.data if push else None, weight) for push, sender, weight in found]

    async def _result(
        self, effect: Aggregate | Combine, inputs: list[_Input], work: _Work[PartAverage]
    ) -> Aggregated:
        average, refused = await self._of_those_that_decode(effect, inputs, work)
        digest = self._keep(effect.attempt, effect.part, average.data)
        self.keep_left(effect.attempt, effect.part, digest, average.carried)
        return Aggregated(effect.attempt, effect.part, digest, refused)

    async def _of_those_that_decode(
        self, effect: Aggregate | Collect | Combine, inputs: list[_Input], work: _Work[_R]
    ) -> tuple[_R, tuple[Address, ...]]:
        """What comes of the inputs, and whose do not decode or are not here."""
        spec = self.context.course.of(effect.attempt).spec
        refused = [sender for sender, data, _ in inputs if data is None]
        left = [(sender, data, weight) for sender, data, weight in inputs if data is not None]
        while True:
            try:
                done = await work(spec, effect.part, [(d, w) for _, d, w in left])
            except BadInput as error:
                refused.append(left.pop(error.index)[0])
                if not left:
                    raise
            else:
                return done, tuple(refused)

    def _keep(self, attempt: Attempt, part: int, data: bytes) -> Digest:
        digest = part_digest(data)
        push = ResultPush(attempt, part, 0, data)
        self._round(attempt.round).results[part, digest] = push
        return digest

    def group_for(self, effect: SendGroup) -> bytes | None:
        """Our group's aggregate of a part, as its owner takes it; None where the round is over."""
        held = self._rounds.get(effect.attempt.round)
        known = held.results.get((effect.part, effect.group.digest)) if held else None
        if known is None:
            return None
        return encode(GroupPush(effect.attempt, effect.part, effect.group.included, known.data))

    def result_for(self, effect: SendResult) -> bytes | None:
        """The same bytes for every member; None where the round is over."""
        held = self._rounds.get(effect.attempt.round)
        known = held.results.get((effect.part, effect.result.digest)) if held else None
        if held is None or known is None:
            return None
        whole = replace(known, attempt=effect.attempt, included=effect.result.included)
        held.results[effect.part, effect.result.digest] = whole
        return encode(whole)

    def keep_result(self, push: GroupPush | ResultPush, sender: Address) -> PartResult:
        """Hold an aggregated part, or what a group comes to; returns its name in votes.

        Raises `RequestRefused` where the sender has handed in more different ones than rounds need.
        """
        digest = part_digest(push.data)
        held = self._round(push.attempt.round)
        if (push.part, digest) not in held.results:
            slot = (sender, push.part)
            if held.taken.get(slot, 0) >= RESULTS_PER_SENDER_MAX:
                raise RequestRefused("too many different results of one part")
            held.taken[slot] = held.taken.get(slot, 0) + 1
        held.results[push.part, digest] = ResultPush(
            push.attempt, push.part, push.included, push.data
        )
        return PartResult(digest, push.included)

    # serving --------------------------------------------------------------------------------------
    def serve_part(self, query: PartQuery) -> bytes:
        """A part of an update, its author's own or one that was handed here."""
        push = self.held(query.attempt, query.part, query.trainer)
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
    async def result(
        self, attempt: Attempt, part: int, wanted: PartResult, sources: Sequence[Address]
    ) -> bytes:
        """One aggregated part, from here or from `sources`. Raises `PartsMissing`."""
        held = self._round(attempt.round).results.get((part, wanted.digest))
        if held is not None:
            return held.data
        query = ResultQuery(attempt, part, wanted.digest)
        start = part % len(sources) if sources else 0
        order = [*sources[start:], *sources[:start]]
        push = await first_of(
            (partial(self._ask_result, source, query) for source in order),
            HEDGE_SHARE * self.context.deadlines.owner_s,
        )
        if push is None:
            raise PartsMissing(f"part {part}: none of {len(sources)} peers gave the agreed result")
        self._round(attempt.round).results[part, wanted.digest] = push
        return push.data

    async def _ask_result(self, source: Address, query: ResultQuery) -> ResultPush | None:
        try:
            reply = await self._network.request(
                source,
                RESULT,
                encode(query),
                reply_bytes_max=PART_MESSAGE_BYTES_MAX,
                timeout_s=self.context.deadlines.owner_s,
            )
            push = decode(reply, ResultPush, bytes_max=PART_MESSAGE_BYTES_MAX)
        except (NetworkError, WireError) as error:
            log.info("a result was not to be had", peer=source.hex(), why=str(error))
            return None
        if part_digest(push.data) == query.digest:
            return push
        self._network.penalize(source, limits.PENALTY_BAD_DATA, "a result of another digest")
        return None

    async def results(
        self, attempt: Attempt, results: Sequence[PartResult], sources: Sequence[Address]
    ) -> list[bytes]:
        """The aggregated parts for which a majority voted, from here or from `sources`.

        Raises `PartsMissing`.
        """
        self._round(attempt.round).agreed[attempt] = tuple(results)
        data: list[bytes] = [b""] * len(results)

        async def get(part: int) -> None:
            async with self._fetching:
                data[part] = await self.result(attempt, part, results[part], sources)

        await together(partial(get, part) for part in range(len(results)))
        return data

    async def step(self, effect: Step) -> Cid:
        """The outer step from agreed results. Returns the durable checkpoint's CID.

        Raises `PartsMissing`, or a `TrainingError` where the results cannot be applied.
        """
        results = await self.results(effect.attempt, effect.results, effect.sources)
        return await self.apply(effect.attempt, effect.base, results)

    async def apply(self, attempt: Attempt, base: Cid, results: Sequence[bytes]) -> Cid:
        """The outer step from `base`. Returns the durable checkpoint's CID."""
        theta = await self._blocks.files(base)
        with self._blobs.draft() as checkpoint:
            spec = self.context.course.of(attempt).spec
            await self._worker.outer_step(spec, theta, results, into=checkpoint)
            cid = await self._blobs.put_file(checkpoint)
        await self.note(attempt.round, cid)
        return cid

    async def note(self, round_: int, *contents: Cid) -> None:
        """Remember that a round left these in the blob store, so that they go in time."""
        await self._retention.note(self.context.run, round_, *contents)


def _commit_to(local: LocalUpdate) -> tuple[CommitmentTree, Digest]:
    """The tree over an update's parts, and the root over its residual's chunks."""
    return CommitmentTree(local.parts), residual_tree(local.residual).root


def residual_tree(residual: bytes | Files) -> CommitmentTree:
    """The tree whose root a commitment names, over chunks of `limits.RESIDUAL_CHUNK_BYTES`."""
    with _opened(residual) as file:
        return CommitmentTree(iter(partial(file.read, limits.RESIDUAL_CHUNK_BYTES), b""))


def _opened(residual: bytes | Files) -> BinaryIO:
    if isinstance(residual, bytes):
        return io.BytesIO(residual)
    [path] = residual.paths
    return Path(path).open("rb")


def part_digest(data: bytes) -> Digest:
    """What names an aggregated part in votes."""
    return Digest(hashlib.sha256(data).digest())
