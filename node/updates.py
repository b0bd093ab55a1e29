"""This node's own updates of one run: local steps, ahead of their round where rounds overlap.

Which update is made when is the trainer machine's say. Steps that are made ahead begin where the
node's own last update leads. What the last credited update left out goes in when an update is
encoded, which is when its round is open: only then it is known which was the last one.
"""

import io
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import structlog
import trio

from eigen.node.datasets import ShardUnavailable
from eigen.node.exchange import Exchange
from eigen.node.fetch import ContentUnavailable
from eigen.node.run_ports import RunPorts
from eigen.node.states import OPTIMIZER, PARTS
from eigen.node.worker import WorkerError
from eigen.protocol.context import RunContext
from eigen.protocol.effects import Train, TrainAhead
from eigen.protocol.messages import Commitment, LocalWork
from eigen.protocol.run import RunSpec
from eigen.protocol.types import Cid
from eigen.training.errors import StateError, TrainingError
from eigen.training.frames import Files, pack, read
from eigen.training.results import LocalDelta, LocalUpdate
from eigen.training.spec import keeps_moments

log = structlog.get_logger()

Made = TypeVar("Made", LocalDelta, LocalUpdate)


class Superseded(Exception):
    """Local steps were ended because others are wanted."""


class OwnUpdateLost(Exception):
    """Steps were to begin after this node's own last update, which it has not."""


NOT_MADE = (
    ShardUnavailable,
    ContentUnavailable,
    OwnUpdateLost,
    Superseded,
    TrainingError,
    WorkerError,
)
"""Why an update is not made."""


class Updates:
    """Makes updates and hands them to `exchange`, which holds them.

    Of local steps that are to be encoded later one result is kept, and one call is under way: who
    wants others ends it.
    """

    def __init__(self, context: RunContext, ports: RunPorts, exchange: Exchange) -> None:
        self._context = context
        self._ports = ports
        self._exchange = exchange
        self._turn = trio.Lock()
        self._under_way: tuple[LocalWork, trio.CancelScope] | None = None
        self._made: tuple[LocalWork, LocalDelta] | None = None
        self._own: tuple[int, list[bytes]] = (0, [])

    async def make(self, effect: Train) -> Commitment:
        """An update, trained now or ahead, and what this node commits to with it.

        Raises one of `NOT_MADE`. A cancel ends the training.
        """
        with self._ports.blobs.draft() as left:
            local = await self._update(effect, left)
            made = await self._exchange.keep_update(effect.attempt, effect.work.base, local)
        if self._context.spec.overlap:
            self._own = (effect.attempt.round, local.parts)
        return made

    async def _update(self, effect: Train, left: Path) -> LocalUpdate:
        """What the codec leaves out is written to `left`: it is as large as the model."""
        worker, work = self._ports.worker, effect.work
        spec = self._spec(work)
        before = effect.attempt.round - 1
        if spec.overlap:
            steps = await self._steps(work, effect.attempt.round)
            residual = await self._residual()
            return steps.encoded(await worker.encode(spec, steps.delta, residual, into=left))
        base, shards = await self._inputs(work)
        residual = await self._residual()

        async def train(kept: bytes) -> LocalUpdate:
            return await worker.train(
                spec, base, shards, work.order_seed, residual, before, kept, into=left
            )

        return await self._keeping(train, effect.attempt.round)

    async def begin(self, effect: TrainAhead) -> None:
        """Local steps for a later `make`; where they fail, that one tries again."""
        try:
            await self._steps(effect.work, effect.attempt.round)
        except NOT_MADE as error:
            log.info("not trained ahead", round=effect.attempt.round, why=str(error))

    async def forget_before(self, round_: int) -> None:
        """A round is over: states of earlier ones are needed no more, at last of none."""
        spec = self._context.spec
        if spec.overlap or keeps_moments(spec):
            needed = round_ if round_ < spec.rounds else round_ + 1
            await self._ports.states.forget_before(self._context.run, needed)

    async def _steps(self, work: LocalWork, round_: int) -> LocalDelta:
        if self._under_way is not None and self._under_way[0] != work:
            self._under_way[1].cancel()
        async with self._turn:
            if self._made is None or self._made[0] != work:
                self._made = None
                with trio.CancelScope() as scope:
                    self._under_way = (work, scope)
                    try:
                        self._made = (work, await self._train(work, round_))
                    finally:
                        self._under_way = None
            if self._made is None:
                raise Superseded("other local steps were wanted")
            return self._made[1]

    async def _train(self, work: LocalWork, round_: int) -> LocalDelta:
        spec, worker = self._spec(work), self._ports.worker
        own = await self._own_parts(round_ - 1) if work.ahead else []
        base, shards = await self._inputs(work)

        async def train(kept: bytes) -> LocalDelta:
            return await worker.local_steps(
                spec, base, shards, work.order_seed, round_ - 1, kept, own
            )

        return await self._keeping(train, round_)

    async def _own_parts(self, round_: int) -> list[bytes]:
        """This node's update of a round, the one that was stored first: durable on return.

        Raises `OwnUpdateLost` where it is not to be had any more.
        """
        run, states = self._context.run, self._ports.states
        stored = await states.get(PARTS, run, round_)
        if stored:
            frame = read(io.BytesIO(stored))
            assert frame is not None  # as it was written: its digest is checked
            return frame[1]
        known, parts = self._own
        if known != round_:
            raise OwnUpdateLost(f"this node's update of round {round_} is not here any more")
        await states.put(PARTS, run, round_, *pack(PARTS, parts))
        return parts

    async def _keeping(self, train: Callable[[bytes], Awaitable[Made]], round_: int) -> Made:
        """Train from what the round before kept, and store what this one does before it counts."""
        run, states = self._context.run, self._ports.states
        if not keeps_moments(self._context.spec):
            return await train(b"")
        kept = await states.get(OPTIMIZER, run, round_ - 1)
        try:
            made = await train(kept)
        except StateError as error:
            log.warning("an optimizer state is refused; training starts afresh", why=str(error))
            made = await train(b"")
        await states.put(OPTIMIZER, run, round_, made.kept)
        return replace(made, kept=b"")

    async def _inputs(self, work: LocalWork) -> tuple[Files, list[bytes]]:
        """The checkpoint and the opened shards; waits for keys as long as a commitment may take."""
        base = await self._ports.blocks.files(work.base)
        dataset, open_shard = self._spec(work).dataset, self._ports.datasets.open_shard
        with trio.move_on_after(self._context.deadlines.commit_s):
            return base, [await open_shard(dataset, shard) for shard in work.shards]
        raise ShardUnavailable("no key was granted for the shard in time")

    def _spec(self, work: LocalWork) -> RunSpec:
        """By which spec the work is done: its seat's, which was known when that opened."""
        terms = self._context.course.named(work.spec)
        assert terms is not None
        return terms.spec

    async def _residual(self) -> bytes | Files:
        cid = await self._ports.records.get("residual", self._context.run)
        found = await self._ports.blobs.files(Cid(cid.decode())) if cid else None
        return Files(tuple(map(str, found))) if found else b""
