"""Rounds of one run by real nodes in one process: hosts, disks, a training process, and liars.

Two trainers and a validator. The chain's part is its digests, which need no endpoint.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import trio
from service_peers import KEEP_CHECKPOINTS, Peer, peer, until

from eigen.chain.evm import EvmChain
from eigen.chain.port import Contracts
from eigen.chain.provider import TrioHTTPProvider
from eigen.config.network import Parameters
from eigen.crypto.identity import Identity
from eigen.crypto.merkle import CommitmentTree, payout_root
from eigen.node.audit import AuditFailed
from eigen.node.datasets import Dataset
from eigen.node.driver import RunDriver
from eigen.node.exchange import RESULTS_PER_SENDER_MAX, PartsMissing, part_digest
from eigen.node.gossip import Said
from eigen.node.ports import BulkWriter, RequestRefused, RequestTimeout
from eigen.node.retention import NOTED, ONCE_UNNAMED
from eigen.node.rounds import Rounds
from eigen.node.run_changes import no_spec
from eigen.node.run_ports import RunPorts
from eigen.node.states import StateFiles
from eigen.node.worker import TrainingWorker
from eigen.protocol import effects, limits
from eigen.protocol.context import Deadlines, RunContext
from eigen.protocol.effects import Adopt, Aggregate, Aggregated, Audit, Train
from eigen.protocol.messages import (
    NO_DIGEST,
    Attempt,
    Attestation,
    Commitment,
    Envelope,
    LocalWork,
    PartResult,
    RoundRecord,
    SeatMember,
    SeatProposal,
    StepNotice,
    Timeout,
)
from eigen.protocol.requests import (
    EVIDENCE_ENVELOPES_MAX,
    EXCHANGE,
    PART,
    PART_MESSAGE_BYTES_MAX,
    HeadReply,
    PartPush,
    PartQuery,
    ResultPush,
    ResultQuery,
)
from eigen.protocol.run import AggregationSpec, InnerSpec, ModelSpec, OuterSpec, RunSpec, run_id
from eigen.protocol.seat import part_owners
from eigen.protocol.types import Address, Cid, Digest, RunId
from eigen.protocol.wire import decode, encode
from eigen.training.datasets import Samples, digits, split, write_shard
from eigen.training.results import LocalUpdate
from eigen.training.spec import part_bytes, result_bytes

pytestmark = pytest.mark.timeout(120)

DEADLINES = Deadlines(
    commit_s=15.0, inputs_s=3.0, owner_s=3.0, notices_s=3.0, attempt_s=25.0, resend_s=0.5
)


UNREAD = Envelope(b"", bytes(65))
"""Of what a test hands to a driver, behind the gossip that reads envelopes."""


def run_spec(dataset: Cid, **changes: Any) -> RunSpec:
    spec = RunSpec(
        name="digits",
        model=ModelSpec("mlp", (("classes", 10), ("depth", 1), ("hidden", 16), ("inputs", 64))),
        dataset=dataset,
        rounds=50,
        inner=InnerSpec(4, 16, 0.01, 0.0),
        outer=OuterSpec("sgd", 1.0, 0.0),
        codec="int8",
        result_codec="int8",
        aggregation=AggregationSpec("mean"),
        part_values=500,
        trainers_min=2,
        trainers_max=4,
        reward_per_round=100,
        validator_share_bps=1000,
        seed=7,
    )
    return replace(spec, **changes)


@dataclass
class Member:
    peer: Peer
    rounds: Rounds
    driver: RunDriver

    @property
    def address(self) -> Address:
        return self.peer.address

    def notes(self, what: str) -> list[str]:
        return [detail for note, detail in self.driver.notes if note == what]


@dataclass
class Cast:
    alice: Member
    bob: Member
    val: Member
    worker: TrainingWorker
    nursery: trio.Nursery
    others: list[Member]

    @property
    def trainers(self) -> dict[Address, Member]:
        return {m.address: m for m in (self.alice, self.bob, *self.others)}

    @property
    def context(self) -> RunContext:
        return self.val.driver.context

    def start(self) -> None:
        """Let the machines run."""
        for member in (*self.trainers.values(), self.val):
            self.nursery.start_soon(member.driver.run)
            member.driver.seatable(tuple(sorted(self.trainers)), (0,) * len(self.trainers))

    def owner_of(self, part: int) -> Member:
        """Who aggregates a part."""
        return self.trainers[
            part_owners(self.context.seed, part + 1, tuple(sorted(self.trainers)))[part][0]
        ]


@asynccontextmanager
async def cast(
    folder: Path,
    *,
    sealed: bool = True,
    more: int = 0,
    samples: Samples | None = None,
    **changes: Any,
) -> AsyncIterator[Cast]:
    """Everybody connected, dataset seeded by Alice, one training process for all.

    Alice and Bob train, and so many `more`. The digits are learnt where no `samples` are given.
    """
    async with AsyncExitStack() as stack:
        alice = await stack.enter_async_context(peer(folder))
        bob = await stack.enter_async_context(peer(folder))
        val = await stack.enter_async_context(peer(folder, roles=("validator",)))
        others = [await stack.enter_async_context(peer(folder)) for _ in range(more)]
        people = (alice, bob, val, *others)
        for i, one in enumerate(people):
            await one.meet(*people[:i])
        worker = await stack.enter_async_context(TrainingWorker(nice=0))
        for one in people:
            await until(lambda one=one: len(list(_fresh(one))) == len(people))
        training, held_out = digits(seed=0)
        pieces = split(samples or training, 2 + more, seed=0)
        shards = [(write_shard(s), len(s)) for s in pieces]
        cid = await alice.datasets.seed(Dataset("digits", shards, write_shard(held_out), sealed))
        spec = run_spec(cid, **changes)
        genesis = await worker.initial_checkpoint(spec)
        context = RunContext(
            run_id(spec),
            spec,
            Digest(b"\x07" * 32),
            frozenset([val.address]),
            1,
            await alice.blobs.put(genesis),
            worker.part_count(spec),
            len(shards),
            sealed,
            DEADLINES,
            payout_root,
        )
        nursery = await stack.enter_async_context(trio.open_nursery())
        stack.callback(nursery.cancel_scope.cancel)
        members = [
            await _member(one, context, genesis, worker, folder / one.address.hex() / "states")
            for one in people
        ]
        yield Cast(*members[:3], worker, nursery, members[3:])
        nursery.cancel_scope.cancel()


def _fresh(one: Peer) -> list[object]:
    return list(one.members.membership.fresh(trio.current_time()))


async def _member(
    one: Peer, context: RunContext, genesis: bytes, worker: TrainingWorker, folder: Path
) -> Member:
    await one.blobs.put(genesis)
    await one.datasets.manifest(context.spec.dataset)
    contracts = Contracts(*(Address(bytes([i]) * 20) for i in (1, 2, 3, 4)))
    provider = TrioHTTPProvider(["http://127.0.0.1:1"], chain_id=1)
    chain = EvmChain(provider, contracts, chain_id=1, secret=one.identity.secret, outbox_path=None)
    ports = RunPorts(
        one.identity,
        one.network,
        one.gossip,
        one.records,
        one.blobs,
        one.blocks,
        one.datasets,
        worker,
        chain,
        one.retention,
        StateFiles(folder, one.records),
    )
    trains = one.address not in context.validators
    rounds = Rounds(
        ports,
        one.members,
        Parameters(),
        trains=trains,
        on_adopted=lambda *_: None,
        find_spec=no_spec,
    )
    driver = RunDriver(
        context,
        ports,
        trains=trains,
        on_adopted=lambda *_: None,
        head=None,
        promises=None,
        voted=frozenset(),
    )
    rounds.drivers[context.run] = driver
    return Member(one, rounds, driver)


def lane(sender: Member, to: Member) -> AbstractAsyncContextManager[BulkWriter]:
    run = sender.driver.context.run
    return sender.peer.network.open_bulk(to.address, EXCHANGE, run, timeout_s=5)


async def ask(asker: Member, of: Member, protocol: str, message: object) -> bytes:
    return await asker.peer.network.request(
        of.address,
        protocol,
        encode(message),
        reply_bytes_max=PART_MESSAGE_BYTES_MAX,
        timeout_s=15,
    )


async def test_rounds_end_with_the_same_checkpoint_everywhere_and_pay_everybody(
    tmp_path: Path,
) -> None:
    async with cast(tmp_path) as at:
        at.start()
        members = (at.alice, at.bob, at.val)
        await until(lambda: all(m.driver.head.round >= 2 for m in members), 60)
        records = [m.driver.history[1] for m in members]
        assert records[0] == records[1] == records[2]
        record = records[0]
        assert {c.account for c in record.trainers} == set(at.trainers)
        assert {c.account for c in record.validators} == {at.val.address}
        paid = sum(c.amount for c in (*record.trainers, *record.validators))
        assert paid == at.context.spec.reward_per_round
        held = [await m.peer.blobs.get(record.checkpoint) for m in members]
        assert held[0] is not None
        assert held[0] == held[1] == held[2]
        assert record.checkpoint != at.context.genesis
        assert at.val.notes("audit failed") == []


async def test_a_validator_that_signs_two_statements_is_accused_with_both(tmp_path: Path) -> None:
    async with cast(tmp_path) as at:
        told: list[tuple[Attestation, Attestation]] = []
        driver = at.alice.driver
        driver.ports = replace(driver.ports, accuse=lambda *pair: told.append(pair))
        record = RoundRecord(
            Attempt(at.context.run, 3, 0), *(NO_DIGEST, Cid(at.context.genesis)),
            Cid(at.context.genesis), (), (), (), (), ()
        )  # fmt: skip
        honest = at.val.driver.sync.attestation(record)
        other = at.val.driver.sync.attestation(replace(record, previous=Digest(b"x" * 32)))
        forged = replace(honest, payout_total=9)
        for said in (forged, honest, honest, forged):
            driver.hear(Said(at.val.address, said, UNREAD))
        assert told == [], "said twice, and what it never signed"
        driver.hear(Said(at.val.address, other, UNREAD))
        driver.hear(Said(at.bob.address, other, UNREAD))
        assert told == [(honest, other)]


async def test_groups_hand_on_what_they_come_to_and_validators_repeat_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "GROUP_MAX", 1)  # two trainers are two groups
    async with cast(tmp_path) as at:
        at.start()
        members = (at.alice, at.bob, at.val)
        await until(lambda: all(m.driver.head.round >= 2 for m in members), 60)
        records = [m.driver.history[1] for m in members]
        assert records[0] == records[1] == records[2]
        assert {c.account for c in records[0].trainers} == set(at.trainers)
        assert at.val.notes("audit failed") == []


async def test_the_disk_does_not_fill_with_rounds(tmp_path: Path) -> None:
    """Checkpoints, what results left out, and residuals: those of the last rounds, no others."""
    async with cast(tmp_path) as at:
        at.start()
        members = (at.alice, at.bob, at.val)
        wanted = 2 * KEEP_CHECKPOINTS + 2
        await until(lambda: all(m.driver.head.round >= wanted for m in members), 120)
        for member in members:
            noted: dict[int, list[Cid]] = {}
            for key, _ in await member.peer.records.scan(NOTED):
                noted.setdefault(int.from_bytes(key[32:40], "big"), []).append(
                    Cid(key[40:].decode())
                )
            residuals = noted.pop(ONCE_UNNAMED, [])
            assert len(residuals) <= 4, "the last, and what is being replaced"
            assert min(noted) > wanted - KEEP_CHECKPOINTS - 1
            old = member.driver.history[wanted - KEEP_CHECKPOINTS - 1]
            assert [await member.peer.blobs.get(cid) for cid in (old.checkpoint, *old.left)] == [
                None for _ in (old.checkpoint, *old.left)
            ]
            newest = member.driver.head.checkpoint
            assert await member.peer.blobs.get(Cid(newest)) is not None


async def test_a_newcomer_that_hears_of_many_rounds_fetches_the_newest_checkpoint_alone(
    tmp_path: Path,
) -> None:
    async with cast(tmp_path, sealed=False) as at, peer(tmp_path) as late:
        at.start()
        await until(lambda: at.val.driver.head.round >= 3, 60)
        await late.meet(at.val.peer, at.alice.peer, at.bob.peer)
        genesis = await at.worker.initial_checkpoint(at.context.spec)
        newcomer = await _member(late, at.context, genesis, at.worker, tmp_path)
        replies = []
        for number in (1, 2, 3):
            row = await at.val.peer.records.get("round", at.context.run + number.to_bytes(8, "big"))
            assert row is not None
            replies.append(decode(row, HeadReply))
        async with trio.open_nursery() as nursery:
            for reply in replies:
                [record] = reply.records
                root = newcomer.driver.sync.root_of(record)
                signed = tuple((at.val.address, each) for each in reply.attestations)
                told = Adopt(root.run, root.round, root.checkpoint, root.record, signed)
                nursery.start_soon(newcomer.driver.sync.adopt, told, None)
        held = [await late.blobs.get(reply.records[0].checkpoint) for reply in replies]
        assert [each is not None for each in held] == [False, False, True]
        stored = await late.records.get("head", at.context.run)
        assert stored == encode(replies[-1])


async def test_an_owner_whose_result_does_not_follow_fails_the_audit_and_is_not_attested(
    tmp_path: Path,
) -> None:
    async with cast(tmp_path) as at:
        liar = at.owner_of(0)
        honest, fired = liar.driver.exchange.aggregate, []

        async def poisoned(effect: Aggregate) -> Aggregated:
            true = await honest(effect)
            if effect.part != 0 or effect.attempt.number > 0:
                return true
            # Its own update alone, in the name of both: a valid encoding, and not the mean.
            mine = liar.driver.exchange._own_push(effect.attempt, 0)
            assert mine is not None
            fired.append(effect.attempt)
            forged = ResultPush(effect.attempt, 0, 0, mine.data)
            return replace(
                true, digest=liar.driver.exchange.keep_result(forged, liar.address).digest
            )

        liar.driver.exchange.aggregate = poisoned  # type: ignore[method-assign]
        at.start()
        await until(lambda: at.val.notes("audit failed"), 40)
        assert fired, "the liar must have lied"
        assert at.val.notes("audit failed") == ["part 0 does not follow from its committed inputs"]
        assert at.val.driver.head.round == 0
        assert all(m.driver.head.round == 0 for m in (at.alice, at.bob))


async def test_who_commits_to_a_part_of_another_codec_is_left_out_and_not_paid(
    tmp_path: Path,
) -> None:
    async with cast(tmp_path) as at:
        owner = at.owner_of(0)
        [cheat] = [m for m in at.trainers.values() if m is not owner]
        keep, fired = cheat.driver.exchange.keep_update, []

        async def as_fp32(attempt: Attempt, base: Cid, local: LocalUpdate) -> Commitment:
            fired.append(attempt)
            parts = [bytes(2_000), *local.parts[1:]]
            return await keep(attempt, base, replace(local, parts=parts))

        cheat.driver.exchange.keep_update = as_fp32  # type: ignore[method-assign]
        at.start()
        await until(lambda: at.val.driver.head.round >= 1, 60)
        assert fired
        assert {c.account for c in at.val.driver.history[1].trainers} == {owner.address}
        assert owner.peer.network.score(cheat.address) < 0
        assert at.val.notes("audit failed") == []


async def test_any_member_can_show_that_an_owners_result_does_not_follow(tmp_path: Path) -> None:
    async with cast(tmp_path, sealed=False) as at:
        liar = at.owner_of(0)
        [honest] = [m for m in at.trainers.values() if m is not liar]
        truth = liar.driver.exchange.aggregate

        async def poisoned(effect: Aggregate) -> Aggregated:
            true = await truth(effect)
            if effect.part != 0:
                return true
            mine = liar.driver.exchange._own_push(effect.attempt, 0)
            assert mine is not None
            forged = ResultPush(effect.attempt, 0, 0, mine.data)
            return replace(
                true, digest=liar.driver.exchange.keep_result(forged, liar.address).digest
            )

        liar.driver.exchange.aggregate = poisoned  # type: ignore[method-assign]
        at.start()
        trainer = honest.driver.trainer
        assert trainer is not None
        await until(lambda: trainer._exchange is not None and trainer._exchange.results, 40)
        exchange = trainer._exchange
        assert exchange is not None
        assert exchange.results is not None
        made, sources = tuple(exchange.commitments.items()), (liar.address,)
        audit = Audit(exchange.seat, made, exchange.results, sources, exchange.carried)
        with pytest.raises(AuditFailed, match="part 0 does not follow"):
            await honest.driver.auditor.audit(audit)


async def test_a_rounds_learning_rate_follows_from_its_number(tmp_path: Path) -> None:
    inner = InnerSpec(4, 16, 0.01, 0.0, schedule="linear")
    async with cast(tmp_path, inner=inner) as at:
        spec, base = at.context.spec, Cid(at.context.genesis)
        attempt, order = Attempt(at.context.run, 41, 0), Digest(bytes(32))
        theta = await at.alice.peer.blobs.get(base)
        assert theta is not None
        plain = await at.alice.peer.datasets.open_shard(spec.dataset, 0)
        local = await at.worker.train(spec, theta, [plain], order, b"", rounds_before=40)
        first = await at.worker.train(spec, theta, [plain], order, b"")
        assert local.parts != first.parts
        expected = await at.bob.driver.exchange.keep_update(attempt, base, local)
        posted: list[object] = []
        at.alice.driver.post = posted.append  # type: ignore[method-assign]
        await at.alice.driver._train(Train(attempt, LocalWork(base, (0,), order, False)))
        made = [event.commitment for event in posted if isinstance(event, effects.Trained)]
        assert made == [expected]  # members may come and go meanwhile


@dataclass
class Trained:
    """Both trainers' updates of round 1, made and committed, without any machine."""

    attempt: Attempt
    made: dict[Address, Commitment]
    results: tuple[PartResult, ...]
    seat: SeatProposal

    def audit(self, at: Cast, **changes: Any) -> Audit:
        whole = Audit(self.seat, tuple(self.made.items()), self.results, tuple(at.trainers), ())
        return replace(whole, **changes)


async def trained(at: Cast) -> Trained:
    attempt = Attempt(at.context.run, 1, 0)
    base, spec = Cid(at.context.genesis), at.context.spec
    theta = await at.alice.peer.blobs.get(base)
    assert theta is not None
    made = {}
    for shard, (address, member) in enumerate(sorted(at.trainers.items())):
        plain = await at.alice.peer.datasets.open_shard(spec.dataset, shard)
        local = await at.worker.train(spec, theta, [plain], bytes(32), b"")
        made[address] = await member.driver.exchange.keep_update(attempt, base, local)
    owner, other = at.alice, at.bob
    results = []
    for part in range(at.context.part_count):
        push = other.driver.exchange._own_push(attempt, part)
        assert push is not None
        owner.driver.exchange.keep_input(other.address, push)
        inputs = tuple((a, made[a].samples) for a in sorted(made))
        done = await owner.driver.exchange.aggregate(Aggregate(attempt, part, inputs, ()))
        assert done.refused == ()
        results.append(PartResult(done.digest, 0b11))
    members = tuple(SeatMember(a, (i,)) for i, a in enumerate(sorted(made)))
    seat = SeatProposal(attempt, Digest(bytes(32)), base, members, (0,) * len(members))
    return Trained(attempt, made, tuple(results), seat)


async def test_an_audit_repeats_what_the_trainers_did_and_names_what_is_wrong(
    tmp_path: Path,
) -> None:
    async with cast(tmp_path) as at:
        done = await trained(at)
        auditor = at.val.driver.auditor
        audited = await auditor.audit(done.audit(at))
        assert await at.val.peer.blobs.get(audited.checkpoint) is not None

        # a result that is stored and served as voted, but includes one trainer only
        alone = replace(done.results[1], included=0b01)
        with pytest.raises(AuditFailed, match="part 1 does not follow"):
            await auditor.audit(done.audit(at, results=(done.results[0], alone, *done.results[2:])))

        # somebody in the mask who committed to nothing
        one = dict([next(iter(done.made.items()))])
        with pytest.raises(AuditFailed, match="did not commit"):
            await auditor.audit(done.audit(at, commitments=tuple(one.items())))

        # a commitment to other data: its author cannot show what it did not commit to
        liar = at.bob.address
        other = replace(done.made[liar], parts_root=CommitmentTree([b"x"] * 3).root)
        lying = tuple((a, other if a == liar else m) for a, m in done.made.items())
        with pytest.raises(AuditFailed, match="not to be had"):
            await auditor.audit(done.audit(at, commitments=lying))
        assert at.val.peer.network.score(liar) < 0

        # a result that nobody has
        unknown = replace(done.results[0], digest=Digest(b"\x01" * 32))
        with pytest.raises(PartsMissing, match="part 0"):
            await auditor.audit(done.audit(at, results=(unknown, *done.results[1:])))


async def test_an_audit_asks_the_next_owner_while_an_author_is_silent(tmp_path: Path) -> None:
    """And asks the silent one last from then on: it costs a share of one deadline."""
    async with cast(tmp_path) as at:
        done = await trained(at)
        asked: list[Address] = []
        network, bob = at.val.peer.network, at.bob.address
        request = network.request

        async def request_past_bob(peer: Address, protocol: str, *a: Any, **kw: Any) -> bytes:
            asked.append(peer)
            if peer == bob and protocol == PART:
                await trio.sleep(kw["timeout_s"])
                raise RequestTimeout("frozen", bob)
            return await request(peer, protocol, *a, **kw)

        network.request = request_past_bob  # type: ignore[method-assign]
        begun_s = trio.current_time()
        audited = await at.val.driver.auditor.audit(done.audit(at))
        assert audited.reason == ""
        assert asked.count(bob) > 0, "the fault did not happen"
        assert trio.current_time() - begun_s < DEADLINES.inputs_s


async def test_who_answers_a_result_query_with_other_bytes_is_scored_and_passed_over(
    tmp_path: Path,
) -> None:
    async with cast(tmp_path) as at:
        done = await trained(at)
        asked = []

        def wrong(query: ResultQuery) -> bytes:
            asked.append(query.part)
            return encode(ResultPush(query.attempt, query.part, 0b11, b"other bytes"))

        at.bob.driver.serve_result = wrong  # type: ignore[method-assign]
        sources = (at.bob.address, at.alice.address)
        data = await at.val.driver.exchange.result(done.attempt, 0, done.results[0], sources)
        held = at.alice.driver.exchange._round(1).results[0, done.results[0].digest]
        assert (data, asked) == (held.data, [0])
        assert at.val.peer.network.score(at.bob.address) < -30
        assert at.val.peer.network.score(at.alice.address) == 0


async def test_a_pushed_part_waits_for_its_commitment_and_is_taken_then(tmp_path: Path) -> None:
    async with cast(tmp_path) as at:
        held: list[Any] = []
        deliver = at.bob.driver.hear

        def late(said: Any) -> None:
            if isinstance(said.message, Commitment):
                held.append(said)
            else:
                deliver(said)

        at.bob.driver.hear = late  # type: ignore[method-assign]
        at.start()
        await until(lambda: held and at.alice.driver.trainer is not None, 40)
        bob = at.bob.driver
        attempt = bob.trainer.attempt if bob.trainer else None
        assert attempt is not None
        push = at.alice.driver.exchange._own_push(attempt, 0)
        assert push is not None
        async with lane(at.alice, at.bob) as out:
            await out.send(encode(push), timeout_s=5)
            await trio.sleep(0.5)
            assert bob.exchange.held(attempt, 0, at.alice.address) is None, "it waits"
            for said in held:
                deliver(said)
            await out.finish(timeout_s=10)
        assert bob.exchange.held(attempt, 0, at.alice.address) == push
        async with lane(at.val, at.bob) as out:
            await out.send(encode(ResultPush(attempt, 0, 1, b"data")), timeout_s=5)
            with pytest.raises(RequestRefused, match="not seated"):
                await out.finish(timeout_s=5)


async def test_parts_are_shown_to_validators_and_taken_from_who_is_seated(tmp_path: Path) -> None:
    async with cast(tmp_path) as at:
        done = await trained(at)
        query = PartQuery(done.attempt, 0, at.alice.address)
        with pytest.raises(RequestRefused, match="shown to validators"):
            await ask(at.bob, at.alice, PART, query)
        push = decode(
            await ask(at.val, at.alice, PART, query), PartPush, bytes_max=PART_MESSAGE_BYTES_MAX
        )
        assert at.val.driver.exchange.proves(push, done.made[at.alice.address])
        moved = replace(push, part=1)
        assert not at.val.driver.exchange.proves(moved, done.made[at.alice.address])

        early = ResultPush(done.attempt, 0, 1, b"data")
        async with lane(at.val, at.bob) as out:
            await out.send(encode(early), timeout_s=5)
            await out.finish(timeout_s=5)
        held = at.bob.driver.exchange._round(1).results
        assert part_digest(b"data") not in {digest for _, digest in held}, "no seat is open"
        unknown = replace(query, attempt=Attempt(Digest(bytes(32)), 1, 0))  # type: ignore[arg-type]
        with pytest.raises(RequestRefused, match="not open here"):
            await ask(at.val, at.bob, PART, unknown)
        with pytest.raises(RequestRefused, match="no such part"):
            await ask(at.val, at.alice, PART, replace(query, part=900))
        async with lane(at.alice, at.val) as out:
            await out.send(encode(push), timeout_s=5)
            with pytest.raises(RequestRefused, match="does not train"):
                await out.finish(timeout_s=5)


async def test_a_lane_with_other_bytes_ends_and_costs_its_sender(tmp_path: Path) -> None:
    async with cast(tmp_path) as at:
        async with lane(at.alice, at.bob) as out:
            await out.send(b"no message", timeout_s=5)
            with pytest.raises(RequestRefused, match="malformed"):
                await out.finish(timeout_s=5)
        assert at.bob.peer.network.score(at.alice.address) < 0
        other = ResultPush(Attempt(RunId(bytes(32)), 1, 0), 0, 1, b"data")
        async with lane(at.alice, at.bob) as out:
            await out.send(encode(other), timeout_s=5)
            with pytest.raises(RequestRefused, match="another run"):
                await out.finish(timeout_s=5)


@pytest.mark.parametrize("kind", [PartPush, ResultPush])
async def test_what_is_longer_than_the_codec_gives_is_passed_over_on_arrival(
    tmp_path: Path, kind: type[PartPush | ResultPush]
) -> None:
    async with cast(tmp_path) as at:
        attempt, spec = Attempt(at.context.run, 1, 0), at.context.spec
        most = (part_bytes if kind is PartPush else result_bytes)(spec)[0]

        def push(part: int, size: int) -> PartPush | ResultPush:
            data = bytes(size)
            if kind is PartPush:
                return PartPush(attempt, part, data, ())
            return ResultPush(attempt, part, 1, data)

        exchange, alice, score = at.bob.driver.exchange, at.alice.address, at.bob.peer.network.score
        assert exchange.fits(push(0, most), alice)
        assert score(alice) == 0
        before = 0.0
        for wrong in (push(0, most + 1), push(at.context.part_count, 1)):
            async with lane(at.alice, at.bob) as out:
                await out.send(encode(wrong), timeout_s=5)
                await out.finish(timeout_s=5)
            assert score(alice) < before
            before = score(alice)
        assert not exchange._round(1).inputs
        assert not exchange._round(1).results


async def test_one_member_cannot_fill_the_memory_with_results(tmp_path: Path) -> None:
    async with cast(tmp_path) as at:
        exchange, attempt = at.bob.driver.exchange, Attempt(at.context.run, 1, 0)
        alice, val = at.alice.address, at.val.address
        for number in range(RESULTS_PER_SENDER_MAX):
            exchange.keep_result(ResultPush(attempt, 0, 1, b"%d" % number), alice)
        exchange.keep_result(ResultPush(attempt, 0, 1, b"0"), alice)  # known: no more memory
        with pytest.raises(RequestRefused, match="too many"):
            exchange.keep_result(ResultPush(attempt, 0, 1, b"new"), alice)
        exchange.keep_result(ResultPush(attempt, 0, 1, b"new"), val)  # another sender may
        assert len(exchange._round(1).results) == RESULTS_PER_SENDER_MAX + 1


def signed_by(author: Identity, at: Cast, message: object) -> Any:
    from eigen.crypto.envelope import sign_envelope
    from eigen.node.gossip import TOPIC_OF

    envelope = sign_envelope(author, "testnet", TOPIC_OF[type(message)], encode(message))
    return at.alice.peer.gossip.read_any(envelope)


async def test_a_flood_of_strangers_messages_does_not_make_a_driver_deaf(tmp_path: Path) -> None:
    async with cast(tmp_path) as at:
        driver, run = at.alice.driver, at.context.run
        stranger = Identity.generate()
        driver.hear(signed_by(stranger, at, Timeout(Attempt(run, 1, 0), ())))
        assert len(driver.evidence) == 0, "only validators' time-outs count"
        for number in range(EVIDENCE_ENVELOPES_MAX + 10):
            notice = StepNotice(Attempt(run, 1 + number, 0), Cid(at.context.genesis))
            driver.hear(signed_by(stranger, at, notice))
        assert len(driver.evidence) <= EVIDENCE_ENVELOPES_MAX
        vote = Timeout(Attempt(run, 1, 0), ())
        driver.hear(signed_by(at.val.peer.identity, at, vote))
        kept = [said.message for said in driver.evidence]
        assert vote in kept, "what validators say finds room"
        assert len(encode(driver.evidence.reply())) < 8 * 1024 * 1024
