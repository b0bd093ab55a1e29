"""Private jobs that pay, on a real chain: trained, attested, released, claimed; and refunded."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import trio
from job_nodes import Node, job, meet, node
from service_peers import until

from eigen.chain.deploy import DaoSpec, deploy_dao
from eigen.chain.devnet.anvil import AnvilConfig, run_anvil
from eigen.chain.escrow import EscrowState, NotEnoughCoin
from eigen.chain.evm import EvmChain
from eigen.chain.outbox import OutboxSettings
from eigen.chain.port import Contracts
from eigen.chain.provider import TrioHTTPProvider
from eigen.config.addresses import format_address
from eigen.crypto.identity import Identity
from eigen.node.control import ControlError
from eigen.node.job_file import JobFile, Payment
from eigen.node.job_methods import JobMethods
from eigen.node.job_wages import NothingEarned
from eigen.node.ports import RequestRefused
from eigen.protocol.job_record import BadRecord, JobEvidence
from eigen.protocol.messages import digest
from eigen.protocol.private_job import JobPayment
from eigen.protocol.types import Digest
from eigen.protocol.wire import decode, encode

pytestmark = pytest.mark.timeout(120)

COIN = 10**18
SETTINGS = OutboxSettings(poll_s=0.05)
DEADLINE_S, DISPUTE_S = 1000, 50
ROLES = ("owner", "trainer", "trainer", "validator", "validator")


@dataclass
class Market:
    """An owner, two trainers and two validators that both must attest."""

    nodes: list[Node]
    chains: list[EvmChain]
    provider: TrioHTTPProvider
    contracts: Contracts
    folder: Path

    async def control(self, method: str, *params: Any) -> None:
        reply = await self.provider.make_request(method, list(params))  # type: ignore[arg-type]
        assert "error" not in reply, reply

    async def sleep(self, seconds: int) -> None:
        await self.control("evm_increaseTime", seconds)
        await self.control("evm_mine")

    def job(self, amount: str = "7", **changes: Any) -> JobFile:
        paid = Payment(self.contracts.token, Decimal(amount), DEADLINE_S, DISPUTE_S)
        return replace(job(self.folder, **changes), payment=paid)

    async def balance(self, index: int) -> int:
        return await self.chains[0].balance(self.nodes[index].peer.address)

    async def state(self, payment: JobPayment) -> EscrowState:
        return (await self.chains[0].escrow.job_funds(payment.escrow)).state

    async def reach(self, payment: JobPayment, state: EscrowState, seconds: float = 30) -> None:
        with trio.fail_after(seconds):
            while await self.state(payment) is not state:  # noqa: ASYNC110
                await trio.sleep(0.05)


@pytest.fixture
async def market(tmp_path: Path) -> AsyncIterator[Market]:
    people = [Identity.generate() for _ in ROLES]
    anvil = AnvilConfig(tmp_path / "anvil.log", block_time_s=None, accounts=1)
    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        devnet = await nursery.start(run_anvil, anvil)
        provider = TrioHTTPProvider([devnet.url], chain_id=devnet.chain_id)
        await stack.enter_async_context(provider)
        spec = DaoSpec(
            token_name="T",
            token_symbol="T",
            founders=[(people[0].address, 10 * COIN)],
            validators=[person.address for person in people[3:]],
            quorum=2,
            voting_delay_s=0,
            voting_period_s=100,
            timelock_delay_s=10,
            proposal_threshold=COIN,
            quorum_percent=10,
        )
        contracts = await deploy_dao(provider, devnet.accounts[0].secret, spec, settings=SETTINGS)
        nodes, chains = [], []
        for person, role in zip(people, ROLES, strict=True):
            chain = EvmChain(
                TrioHTTPProvider([devnet.url], chain_id=devnet.chain_id),
                contracts,
                chain_id=devnet.chain_id,
                secret=person.secret,
                outbox_path=None,
                settings=SETTINGS,
            )
            chains.append(await stack.enter_async_context(chain))
            made = node(tmp_path, role=role, identity=person, chain=chain)
            nodes.append(await stack.enter_async_context(made))
        market = Market(nodes, chains, provider, contracts, tmp_path)
        for person in people:
            await market.control("anvil_setBalance", format_address(person.address), hex(COIN))
        await meet(nodes, 2)
        yield market
        nursery.cancel_scope.cancel()


async def test_a_paid_job_is_attested_released_and_claimed(market: Market) -> None:
    owner, one, two, *validators = market.nodes
    job_id = await owner.jobs.create(market.job(audit_bps=10_000))
    running = owner.jobs.owned[job_id]
    [payment] = running.job.payment
    funds = await market.chains[0].escrow.job_funds(payment.escrow)
    assert (funds.state, funds.held, funds.spec) == (EscrowState.OPEN, 7 * COIN, job_id)
    assert await market.balance(0) == 3 * COIN
    await until(lambda: job_id in one.jobs.trained, 20)
    seen = (await JobMethods(one.jobs).status({}))["trained"][0]["payment"]
    assert (seen["held"], seen["state"]) == ("7", "open")
    assert one.jobs.wages is not None
    await until(lambda: job_id in owner.jobs.ended, 40)

    await market.reach(payment, EscrowState.DELIVERED)
    assert not any(v.jobs.auditor.false for v in validators)
    with trio.fail_after(20):
        while not await two.ports.records.scan("job-earned"):  # noqa: ASYNC110
            await trio.sleep(0.05)
    with pytest.raises(NothingEarned, match="not released yet, it is delivered"):
        await one.jobs.wages.claim("")
    await market.sleep(DISPUTE_S + 1)
    await market.reach(payment, EscrowState.CLOSED)
    for index in (1, 2):
        methods = JobMethods(market.nodes[index].jobs)
        [claimed] = (await methods.claim({"job": job_id.hex()[:6]}))["claimed"]
        assert claimed["amount"] == "3.5"
        assert await market.balance(index) == 7 * COIN // 2
        with pytest.raises(ControlError, match="all that was earned is claimed"):
            await methods.claim({})
    told = (await JobMethods(owner.jobs).result({}))["payment"]
    assert (told["price"], told["held"], told["state"]) == ("7", "0", "closed")


async def test_a_job_without_a_round_goes_back_to_its_owner(market: Market) -> None:
    owner, *_ = market.nodes
    with pytest.raises(NotEnoughCoin, match=r"send 90000000000000000000 \(90 whole ones\)"):
        await owner.jobs.create(market.job("100"))
    assert owner.jobs.owned == {}

    for each in market.nodes[1:3]:
        each.ports.evaluations.gradient = never  # type: ignore[method-assign]
    job_id = await owner.jobs.create(market.job())
    [payment] = owner.jobs.owned[job_id].job.payment
    owner.jobs.cancel(owner.jobs.find(""))
    await until(lambda: job_id in owner.jobs.ended, 20)
    assert await market.state(payment) is EscrowState.OPEN
    await market.sleep(DEADLINE_S + 1)
    await market.reach(payment, EscrowState.CLOSED)
    assert await market.balance(0) == 10 * COIN


async def never(*_: object, **__: object) -> None:
    await trio.sleep_forever()


async def test_a_cancelled_job_pays_the_rounds_that_were_made(market: Market) -> None:
    owner, one, *_ = market.nodes
    job_id = await owner.jobs.create(market.job(rounds=100))
    running = owner.jobs.owned[job_id]
    [payment] = running.job.payment
    await until(lambda: len(running.figures) >= 2, 40)
    owner.jobs.cancel(running)
    await until(lambda: job_id in owner.jobs.ended, 20)
    made = len(running.figures)
    await market.reach(payment, EscrowState.DELIVERED)
    await market.sleep(DISPUTE_S + 1)
    await market.reach(payment, EscrowState.CLOSED)
    with trio.fail_after(20):
        while await market.balance(0) != 10 * COIN - 7 * COIN * made // 100:  # noqa: ASYNC110
            await trio.sleep(0.05)
    assert one.jobs.wages is not None
    [claimed] = await one.jobs.wages.claim("")
    assert Decimal(claimed["amount"]) == Decimal(7) * made / 200


async def nothing(*_: object, **__: object) -> None:
    pass


async def test_a_record_that_pays_otherwise_is_not_attested(market: Market) -> None:
    """The owner favours one trainer, leaves a round out, pays a liar, and changes its mind."""
    owner, *_, validator, other = market.nodes
    attestor = validator.jobs._attestor
    for each in (validator, other):
        assert each.jobs._attestor is not None
        each.jobs._attestor.recorded = nothing  # type: ignore[method-assign]
    assert attestor is not None
    job_id = await owner.jobs.create(market.job())
    await until(lambda: job_id in owner.jobs.ended, 40)
    assert owner.jobs.money is not None
    followed = owner.jobs.money._followed[job_id]
    await until(lambda: followed.record is not None)
    record, made = followed.record, owner.jobs.owned[job_id].job
    assert record is not None
    first, second = record.contributions

    stored = await owner.ports.blobs.get(record.evidence)
    assert stored is not None
    evidence = decode(stored, JobEvidence, bytes_max=len(stored))
    short = await owner.ports.blobs.put(encode(JobEvidence(evidence.rounds[:2], ())))
    for false, said in (
        (replace(record, contributions=(replace(first, shard_rounds=6), second)), "contributions"),
        (replace(record, contributions=(replace(first, excluded=True), second)), "contributions"),
        (replace(record, rounds=2), "2 rounds, evidence of 3"),
        (replace(record, rounds=2, evidence=short), "round 3 was told another way, or is left out"),
    ):
        with pytest.raises(BadRecord, match=said):
            await attestor._attest(made, false)

    liar = (job_id, first.trainer)
    attestor._auditor.found.add(liar)
    with pytest.raises(BadRecord, match="it pays a trainer whose sums are false"):
        await attestor._attest(made, record)
    attestor._auditor.found.discard(liar)
    await attestor._attest(made, record)
    assert await validator.ports.records.get("job-signed", job_id) == digest(record)
    attestor._money._followed.clear()  # as after a restart
    with pytest.raises(BadRecord, match="another record of this job was attested"):
        await attestor._attest(made, replace(record, result=Digest(bytes(32))))
    await attestor._attest(made, record)


@pytest.mark.slow  # many rounds, so that an audit's word comes in time on a busy machine
async def test_a_liar_is_not_paid(market: Market) -> None:
    owner, honest, liar, *_ = market.nodes
    true = liar.ports.evaluations.gradient
    fired = []

    async def false(*given: Any, timeout_s: float) -> None:
        *head, k, into = given
        fired.append(k)
        await true(*head, 0.7 * k, into, timeout_s=timeout_s)

    liar.ports.evaluations.gradient = false  # type: ignore[method-assign]
    job_id = await owner.jobs.create(market.job(rounds=20, audit_bps=10_000))
    running = owner.jobs.owned[job_id]
    [payment] = running.job.payment
    await until(lambda: job_id in owner.jobs.ended, 60)
    assert fired
    await market.reach(payment, EscrowState.DELIVERED)
    await market.sleep(DISPUTE_S + 1)
    await market.reach(payment, EscrowState.CLOSED)
    assert honest.jobs.wages is not None
    [claimed] = await honest.jobs.wages.claim("")
    assert claimed["amount"] == "7"
    assert liar.jobs.wages is not None
    with pytest.raises(NothingEarned, match="all that was earned"):
        await liar.jobs.wages.claim("")


class Killed(Exception):
    """In place of a kill -9: nothing after it is done."""


async def test_money_of_a_job_whose_owner_died_before_the_offer_comes_back(market: Market) -> None:
    owner, *_ = market.nodes
    money = owner.jobs.money
    assert money is not None
    true = money.fund

    async def dying(*given: Any) -> None:
        await true(*given)
        raise Killed

    money.fund = dying  # type: ignore[method-assign]
    with pytest.raises(Killed):
        await owner.jobs.create(market.job())
    assert await market.balance(0) == 3 * COIN, "it was locked"
    assert owner.jobs.owned == {}
    money._followed.clear()  # its memory went with it; its rows did not
    await money.load()
    await market.sleep(DEADLINE_S + 1)
    with trio.fail_after(30):
        while await market.balance(0) != 10 * COIN:  # noqa: ASYNC110
            await trio.sleep(0.05)
        while await owner.ports.records.scan("job-money"):  # noqa: ASYNC110
            await trio.sleep(0.05)


async def test_a_trainer_refuses_a_job_whose_money_is_not_there(market: Market) -> None:
    owner, one, *_ = market.nodes
    job_id = await owner.jobs.create(market.job())
    made = owner.jobs.owned[job_id].job
    assert one.jobs.wages is not None
    await one.jobs.wages.covers(job_id, made)
    nowhere = replace(made.payment[0], escrow=Digest(bytes(32)))
    for lie in (nowhere, replace(made.payment[0], price=8 * COIN)):
        with pytest.raises(RequestRefused, match="does not hold what this job says"):
            await one.jobs.wages.covers(job_id, replace(made, payment=(lie,)))

    async def long() -> int:
        return DEADLINE_S

    market.chains[1].escrow.challenge_window_s = long  # type: ignore[method-assign]
    with pytest.raises(RequestRefused, match="before this job's deadline"):
        await one.jobs.wages.covers(job_id, made)
