"""Rounds that validators replay: real updates, opened over real hosts, and cheats of every kind."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from service_peers import until
from test_rounds_service import Cast, Member, cast

from eigen.node.ports import RequestRefused
from eigen.node.replay import ReplayImpossible
from eigen.protocol.checks import drawn, named
from eigen.protocol.effects import Train
from eigen.protocol.messages import Check, Commitment, Finding, digest
from eigen.protocol.requests import OPENING, OpeningQuery
from eigen.protocol.run import InnerSpec, PaySpec
from eigen.protocol.types import Address, Digest
from eigen.protocol.wire import encode
from eigen.training.datasets import drawn as drawn_samples
from eigen.training.results import LocalUpdate

pytestmark = pytest.mark.timeout(120)

REPLAYED = PaySpec("contribution", 10_000, held_rounds=8, replay_bps=10_000)


async def rounds(at: Cast, count: int) -> None:
    at.start()
    await until(lambda: at.val.driver.head.round >= count, 60)


def spoil(member: Member, distort: Callable[[Train, LocalUpdate], LocalUpdate]) -> None:
    """`member` commits to, and hands out, another update than it trained."""
    keep = member.driver.exchange.keep_update

    async def cheat(attempt: Any, base: Any, local: LocalUpdate) -> Commitment:
        return await keep(attempt, base, distort(attempt, local))

    member.driver.exchange.keep_update = cheat  # type: ignore[method-assign]


async def test_honest_rounds_replay_to_the_bit(tmp_path: Path) -> None:
    async with cast(tmp_path, pay=REPLAYED, codec="2bit", result_codec="2bit") as at:
        at.start()

        def first_rounds_are_checked() -> bool:
            record = at.val.driver.head.head
            return bool(
                record and record.attempt.round > 3 and all(c.round > 2 for c in record.checks)
            )

        await until(first_rounds_are_checked, 100)
        record = at.val.driver.head.head
        assert record is not None
        assert record.ejected == ()
        check = Check(at.alice.address, record.attempt.round)
        replayed = await at.val.driver.replayer.replay(check)
        assert replayed.finding is Finding.SOUND
        assert replayed.deviation < 1e-6


@pytest.mark.parametrize("kind", ["zeros", "stale", "claims"])
async def test_who_did_not_do_the_work_is_thrown_out_unpaid(tmp_path: Path, kind: str) -> None:
    async with cast(tmp_path, pay=REPLAYED, trainers_min=1) as at:
        first: list[LocalUpdate] = []

        def distort(_: Train, local: LocalUpdate) -> LocalUpdate:
            if kind == "zeros":
                return replace(local, parts=[bytes(len(part)) for part in local.parts])
            if kind == "stale":
                first.append(local)
                return replace(local, parts=first[0].parts)
            return replace(local, samples=local.samples // 2)

        spoil(at.bob, distort)
        at.start()
        await until(lambda: at.val.driver.head.head and at.val.driver.head.head.ejected, 100)
        record = at.val.driver.head.head
        assert record is not None
        assert record.ejected == (at.bob.address,)
        held = {p.account: p.held for p in record.payouts}
        assert held[at.alice.address] > 0
        assert held.get(at.bob.address, 0) == 0
        done = record.attempt.round
        await until(lambda: at.val.driver.head.round > done, 30)
        after = at.val.driver.head.head
        assert after is not None
        assert at.bob.address not in {credit.account for credit in after.trainers}


async def test_who_learns_nothing_is_suspected_replayed_and_thrown_out(tmp_path: Path) -> None:
    """Chance draws nobody here. Samples without any sense can only be learnt by heart."""
    samples = drawn_samples(1200, inputs=64, classes=10)
    rare, inner = replace(REPLAYED, replay_bps=1), InnerSpec(20, 16, 0.01, 0.0)
    async with cast(tmp_path, more=2, samples=samples, pay=rare, inner=inner) as at:
        spoil(at.bob, lambda _, made: replace(made, parts=[bytes(len(p)) for p in made.parts]))
        seen: dict[int, frozenset[Address]] = {}

        def ejected() -> tuple[Address, ...]:
            seen.update((n, named(record)) for n, record in at.val.driver.history.items())
            record = at.val.driver.head.head
            return record.ejected if record else ()

        at.start()
        await until(ejected, 100)
        assert ejected() == (at.bob.address,)
        assert frozenset([at.bob.address]) in seen.values()


async def test_openings_are_shown_to_validators_for_rounds_that_are_drawn(tmp_path: Path) -> None:
    async with cast(tmp_path, pay=replace(REPLAYED, replay_bps=0), rounds=20) as at:
        await rounds(at, 2)
        run = at.context.run
        with pytest.raises(RequestRefused, match="not to be replayed"):
            await at.alice.driver.open_residuals(OpeningQuery(run, 1, (0,)))
        with pytest.raises(ReplayImpossible, match="does not open"):
            await at.val.driver.replayer.replay(Check(at.alice.address, 1))
        query = encode(OpeningQuery(run, 1, (0,)))
        with pytest.raises(RequestRefused, match="opened to validators"):
            await at.bob.peer.network.request(
                at.alice.address, OPENING, query, reply_bytes_max=1000, timeout_s=5
            )


async def test_openings_that_are_none_cost_the_trainer_and_prove_nothing(tmp_path: Path) -> None:
    async with cast(tmp_path, pay=REPLAYED, rounds=30) as at:
        await rounds(at, 3)
        last = at.val.driver.head.round
        [record] = [at.val.driver.history[last]]
        assert Check(at.alice.address, last) in drawn(at.context, record)
        opening = at.alice.driver.proofs.opening
        check = Check(at.alice.address, last)

        async def lie(query: OpeningQuery) -> Any:
            honest = await opening(query)
            first, *others = honest.chunks
            return replace(honest, chunks=(replace(first, after=bytes(len(first.after))), *others))

        at.alice.driver.proofs.opening = lie  # type: ignore[method-assign]
        before = at.val.peer.network.score(at.alice.address)
        with pytest.raises(ReplayImpossible, match="is not what was committed to"):
            await at.val.driver.replayer.replay(check)
        assert at.val.peer.network.score(at.alice.address) < before

        async def other(query: OpeningQuery) -> Any:
            honest = await opening(query)
            return replace(honest, made=replace(honest.made, residual_root=Digest(bytes(32))))

        at.alice.driver.proofs.opening = other  # type: ignore[method-assign]
        with pytest.raises(ReplayImpossible, match="that the record does not name"):
            await at.val.driver.replayer.replay(check)


async def test_proofs_name_a_signed_commitment_its_seat_and_the_attested_record(
    tmp_path: Path,
) -> None:
    async with cast(tmp_path, pay=REPLAYED, rounds=4) as at:
        await rounds(at, 3)
        proofs = at.val.driver.proofs
        known = await proofs.known()
        assert (2, at.alice.address) in known
        proof = await proofs.proof(2, at.alice.address)
        assert proof is not None
        said = at.val.peer.gossip.read_any(proof.commitment)
        assert said.author == at.alice.address
        credit = {c.account: c.commitment for c in proof.record.trainers}[at.alice.address]
        assert digest(said.message) == credit
        assert digest(proof.seat) == proof.record.seat
        assert len(encode(proof)) <= 4096
