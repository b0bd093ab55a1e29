"""Rounds that overlap, by real nodes: what is committed to, what goes in, what is left over."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import trio
from service_peers import until
from test_rounds_service import Cast, Member, cast

from eigen.node.gossip import Gossip
from eigen.protocol.cid import raw_cid
from eigen.protocol.effects import Train, TrainAhead
from eigen.protocol.messages import Attempt, Commitment, LocalWork, StepNotice
from eigen.protocol.seat import ahead_seed, assign_open, order_seed, round_seed
from eigen.protocol.types import Cid, Digest
from eigen.training.frames import Files
from eigen.training.results import LocalUpdate

pytestmark = pytest.mark.timeout(180)


@dataclass
class Made:
    """An update as a node made it."""

    work: LocalWork
    residual: bytes
    local: LocalUpdate
    commitment: Commitment


@dataclass
class Watched:
    """The updates of one member, by round."""

    member: Member
    made: dict[int, Made] = field(default_factory=dict)

    def __post_init__(self) -> None:
        driver = self.member.driver
        make, keep = driver.updates.make, driver.exchange.keep_update
        residual = driver.updates._residual
        given: list[bytes] = []
        held: list[LocalUpdate] = []

        async def seen_residual() -> bytes:
            found = await residual()
            given.append(found.read() if isinstance(found, Files) else found)
            return given[-1]

        async def seen_keep(attempt: Attempt, base: Cid, local: LocalUpdate) -> Commitment:
            assert isinstance(local.residual, Files)
            held.append(replace(local, residual=local.residual.read()))
            return await keep(attempt, base, local)

        async def seen_make(effect: Train) -> Commitment:
            commitment = await make(effect)
            made = Made(effect.work, given[-1], held[-1], commitment)
            self.made.setdefault(effect.attempt.round, made)
            return commitment

        driver.updates._residual = seen_residual  # type: ignore[method-assign]
        driver.exchange.keep_update = seen_keep  # type: ignore[method-assign]
        driver.updates.make = seen_make  # type: ignore[method-assign]


async def rounds_made(at: Cast, count: int) -> None:
    members = (at.alice, at.bob, at.val)
    await until(lambda: all(m.driver.head.round >= count for m in members), 90)


async def test_updates_come_from_the_checkpoint_before_and_can_be_replayed(
    tmp_path: Path,
) -> None:
    async with cast(tmp_path, sealed=False, overlap=True) as at:
        alice = Watched(at.alice)
        at.start()
        await rounds_made(at, 5)
        run, history = at.context, at.val.driver.history
        for number in range(1, 6):
            record = history[number]
            assert {c.account for c in record.trainers} == set(at.trainers)
            if number < 4:
                continue  # the checkpoints of rounds of long ago are deleted
            held = [await m.peer.blobs.get(record.checkpoint) for m in (at.alice, at.bob, at.val)]
            assert held[0] is not None
            assert held[0] == held[1] == held[2]
        assert at.val.notes("audit failed") == []
        assert alice.made[1].commitment.base == run.genesis
        for number in range(2, 6):
            # All of it is public: the round before names base and shards, and has the own update.
            before, made = history[number - 1], alice.made[number]
            seed = round_seed(run.seed, number - 1, before.previous)
            members, _ = assign_open(sorted(at.trainers), run.shard_count, seed)
            [shards] = [m.shards for m in members if m.trainer == at.alice.address]
            assert made.work == LocalWork(
                before.base, shards, ahead_seed(seed, at.alice.address), True
            )
            assert made.commitment.base == before.base
        made = alice.made[5]
        theta = await at.val.peer.blobs.get(made.work.base)
        assert theta is not None
        opened = [
            await at.bob.peer.datasets.open_shard(run.spec.dataset, s) for s in made.work.shards
        ]
        own = alice.made[4].local.parts
        steps = await at.worker.local_steps(
            run.spec, theta, opened, made.work.order_seed, 4, own=own
        )
        again = steps.encoded(await at.worker.encode(run.spec, steps.delta, made.residual))
        assert again == made.local


async def test_what_an_update_leaves_out_goes_into_the_one_after_it(tmp_path: Path) -> None:
    async with cast(tmp_path, overlap=True, codec="2bit", result_codec="2bit") as at:
        alice = Watched(at.alice)
        at.start()
        await rounds_made(at, 4)
        assert alice.made[1].residual == b""
        for number in range(2, 5):
            assert alice.made[number].residual == alice.made[number - 1].local.residual != b""


async def test_what_an_unpaid_update_was_given_is_given_to_the_next(tmp_path: Path) -> None:
    """Alice's second update is not credited: what it took along is neither lost nor doubled."""
    async with cast(tmp_path, overlap=True, codec="2bit", result_codec="2bit") as at:
        alice = Watched(at.alice)
        spoiled = without_notice(at.alice.peer.gossip, round_=2)
        at.start()
        await rounds_made(at, 4)
        assert spoiled
        assert at.alice.address not in {c.account for c in at.val.driver.history[2].trainers}
        assert alice.made[2].residual == alice.made[1].local.residual
        assert alice.made[3].residual == alice.made[1].local.residual
        assert alice.made[4].residual == alice.made[3].local.residual


def without_notice(gossip: Gossip, round_: int) -> list[StepNotice]:
    """In one round the node says that it holds another checkpoint. Grows with each time."""
    publish = gossip.publish
    spoiled: list[StepNotice] = []

    async def some(message: Any) -> Any:
        if isinstance(message, StepNotice) and message.attempt.round == round_:
            spoiled.append(message)
            message = replace(message, checkpoint=raw_cid(b"another"))
        return await publish(message)

    gossip.publish = some  # type: ignore[method-assign]
    return spoiled


async def test_an_exchange_does_not_wait_for_the_steps_that_are_made_meanwhile(
    tmp_path: Path,
) -> None:
    async with cast(tmp_path, overlap=True) as at:
        spec, worker = at.context.spec, at.worker
        theta = await at.alice.peer.blobs.get(Cid(at.context.genesis))
        assert theta is not None
        shard = await at.alice.peer.datasets.open_shard(spec.dataset, 0)
        slow = replace(spec, inner=replace(spec.inner, steps=1024, batch=512))
        update = await worker.train(spec, theta, [shard], bytes(32), b"")
        inputs = [(update.parts[0], update.samples)]
        ended: list[str] = []
        async with trio.open_nursery() as nursery:

            async def ahead() -> None:
                await worker.local_steps(slow, theta, [shard], bytes(32))
                ended.append("steps")

            nursery.start_soon(ahead)
            await trio.sleep(0.1)
            await worker.aggregate(spec, 0, inputs, b"")
            ended.append("part")
            assert ended == ["part"]
            nursery.cancel_scope.cancel()


async def test_steps_that_nobody_wants_any_more_are_ended(tmp_path: Path) -> None:
    async with cast(tmp_path, sealed=False, overlap=True) as at:
        updates, run = at.alice.driver.updates, at.context
        second = Attempt(run.run, 2, 0)
        base = Cid(run.genesis)
        steps, called = at.worker.local_steps, []

        async def hang(*arguments: Any, **named: Any) -> Any:
            called.append(arguments)
            if len(called) == 1:
                await trio.sleep_forever()
            return await steps(*arguments, **named)

        at.worker.local_steps = hang  # type: ignore[method-assign]
        async with trio.open_nursery() as nursery:
            unwanted = LocalWork(base, (0,), Digest(b"a" * 32), False)
            nursery.start_soon(updates.begin, TrainAhead(second, unwanted))
            await until(lambda: called)
            wanted = LocalWork(base, (1,), order_seed(run.seed, at.alice.address), False)
            made = await updates.make(Train(Attempt(run.run, 3, 0), wanted))
        assert len(called) == 2
        assert made.base == base
        # The same work is not done twice.
        again = await updates.make(Train(Attempt(run.run, 3, 1), wanted))
        assert len(called) == 2
        assert again.parts_root == made.parts_root
