"""Money of private jobs in the real escrow: funded, delivered, released, disputed, refunded."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import trio

from eigen.chain.bindings import TOKEN
from eigen.chain.deploy import deploy_dao
from eigen.chain.escrow import (
    EscrowState,
    JobTerms,
    NoEscrow,
    NotACoin,
    NotEnoughCoin,
    TermsRefused,
    escrow_job,
)
from eigen.chain.evm import EvmChain
from eigen.chain.port import InsufficientGasMoney, RoundRoot, TransactionReverted, WrongChain
from eigen.crypto.identity import Identity
from eigen.crypto.merkle import PayoutTree
from eigen.protocol.types import Address, Digest, RunId

from .conftest import COIN, QUICK, Anvil, Dao, OpenChain, dao_spec

NAME = Digest(b"\x11" * 32)
SPEC = Digest(b"\x22" * 32)
RESULT = Digest(b"\x33" * 32)
PRICE = 40 * COIN


@pytest.fixture
async def chain(open_chain: OpenChain) -> AsyncIterator[EvmChain]:
    async with open_chain() as chain:
        yield chain


async def terms(chain: EvmChain, dao: Dao, **changes: int) -> JobTerms:
    now_s = await chain.time_s()
    made = JobTerms(dao.contracts.token, PRICE, now_s + 1000, 100)
    return replace(made, **changes)


async def attest(
    chain: EvmChain, dao: Dao, stream: RunId, earned: dict[Address, int]
) -> PayoutTree:
    tree = PayoutTree(earned)
    root = RoundRoot(stream, 1, RESULT, SPEC, tree.root, tree.total)
    digest = chain.round_digest(root)
    await chain.post_round(root, [validator.sign(digest) for validator in dao.validators[:2]])
    return tree


async def test_a_job_is_funded_attested_released_and_claimed(
    chain: EvmChain, anvil: Anvil, dao: Dao
) -> None:
    one, two = (Identity.generate().address for _ in range(2))
    escrow = chain.escrow
    agreed = await terms(chain, dao)
    before = await chain.balance(chain.address)
    job = await escrow.open_job(NAME, SPEC, agreed)
    assert job == escrow_job(chain.address, NAME)
    assert await escrow.open_job(NAME, SPEC, agreed) == job, "paid once"
    assert await chain.balance(chain.address) == before - PRICE
    funds = await escrow.job_funds(job)
    assert (funds.client, funds.state, funds.held) == (chain.address, EscrowState.OPEN, PRICE)
    assert (funds.spec, funds.asset, funds.rounds) == (SPEC, agreed.asset, 1)
    assert funds.deadline_s == agreed.deadline_s

    stream = await escrow.stream_of(job)
    with pytest.raises(TransactionReverted, match="not attested"):
        await escrow.deliver_job(job)
    tree = await attest(chain, dao, stream, {one: 10 * COIN, two: 20 * COIN})
    await escrow.deliver_job(job)
    with pytest.raises(TransactionReverted, match="too early"):
        await escrow.release_job(job)
    funds = await escrow.job_funds(job)
    assert (funds.state, funds.owed, funds.result) == (
        EscrowState.DELIVERED,
        30 * COIN,
        RESULT,
    )
    await anvil.sleep(101)
    await escrow.release_job(job)
    await escrow.refund_job(job)
    assert await chain.balance(chain.address) == before - 30 * COIN
    for trainer in (one, two):
        await chain.claim(stream, trainer, tree.cumulative[trainer], tree.proof(trainer))
        assert await chain.balance(trainer) == tree.cumulative[trainer]
    funds = await escrow.job_funds(job)
    assert (funds.state, funds.held) == (EscrowState.CLOSED, 0)


async def test_a_job_that_is_not_delivered_goes_back_and_a_killed_client_pays_once(
    open_chain: OpenChain, anvil: Anvil, dao: Dao
) -> None:
    async with open_chain() as chain:
        before = await chain.balance(chain.address)
        agreed = await terms(chain, dao)
        job = await chain.escrow.open_job(NAME, SPEC, agreed)
    async with open_chain() as chain:  # the same outbox, as after a restart
        assert await chain.escrow.open_job(NAME, SPEC, agreed) == job
        assert await chain.balance(chain.address) == before - PRICE
        with pytest.raises(TransactionReverted, match="too early"):
            await chain.escrow.refund_job(job)
        await anvil.sleep(1001)
        first = await chain.escrow.refund_job(job)
        assert await chain.escrow.refund_job(job) == first
        assert await chain.balance(chain.address) == before


async def test_an_outbox_that_was_lost_does_not_pay_twice(open_chain: OpenChain, dao: Dao) -> None:
    async with open_chain() as chain:
        agreed = await terms(chain, dao)
        job = await chain.escrow.open_job(NAME, SPEC, agreed)
        left = await chain.balance(chain.address)
        path = chain._outbox._path
    assert path is not None
    path.unlink()
    async with open_chain() as chain:
        assert await chain.escrow.open_job(NAME, SPEC, agreed) == job
        assert await chain.balance(chain.address) == left


async def test_a_client_disputes_and_a_silent_arbiter_leaves_the_attestation(
    chain: EvmChain, anvil: Anvil, dao: Dao
) -> None:
    worker = Identity.generate().address
    job = await chain.escrow.open_job(NAME, SPEC, await terms(chain, dao))
    stream = await chain.escrow.stream_of(job)
    tree = await attest(chain, dao, stream, {worker: PRICE})
    await chain.escrow.deliver_job(job)
    await chain.escrow.dispute_job(job)
    assert (await chain.escrow.job_funds(job)).state is EscrowState.DISPUTED
    await anvil.sleep(30 * 86_400 + 1)
    await chain.escrow.release_job(job)
    await chain.claim(stream, worker, PRICE, tree.proof(worker))
    assert await chain.balance(worker) == PRICE


async def test_two_jobs_at_a_time_and_an_allowance_that_is_left(chain: EvmChain, dao: Dao) -> None:
    token, escrow = dao.contracts.token, dao.contracts.escrow
    assert escrow is not None
    await chain._write("left", token, TOKEN.calldata("approve", escrow, 7))
    before = await chain.balance(chain.address)
    names = [Digest(bytes([n]) * 32) for n in (1, 2)]
    agreed = await terms(chain, dao)
    async with trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(chain.escrow.open_job, name, SPEC, agreed)
    assert await chain.balance(chain.address) == before - 2 * PRICE


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"price": 0}, TermsRefused, "price is 0 base units, give 1 to"),
        ({"price": 10**40}, TermsRefused, "give 1 to"),
        ({"price": 101 * COIN}, NotEnoughCoin, r"send 1000000000000000000 \(1 whole ones\) to 0x"),
        ({"deadline_s": 1}, TermsRefused, "the deadline passed"),
        ({"deadline_s": 2**39}, TermsRefused, "s away, at most"),
        ({"dispute_s": 2**31}, TermsRefused, "dispute window"),
    ],
    ids=["nothing", "too much", "more than held", "past", "far", "long window"],
)
async def test_what_no_escrow_takes_is_told_before_money_moves(
    chain: EvmChain, dao: Dao, changes: dict[str, int], error: type[Exception], said: str
) -> None:
    before = await chain.balance(chain.address)
    with pytest.raises(error, match=said):
        await chain.escrow.open_job(NAME, SPEC, await terms(chain, dao, **changes))
    assert await chain.balance(chain.address) == before
    assert await chain.unfinished_writes() == 0


async def test_no_escrow_no_coin_and_no_gas(open_chain: OpenChain, anvil: Anvil, dao: Dao) -> None:
    without = replace(dao.contracts, escrow=None)
    async with open_chain(contracts=without) as chain:
        with pytest.raises(NoEscrow, match=r"contracts\.escrow"):
            await chain.escrow.check(await terms(chain, dao))
    async with open_chain() as chain:
        agreed = await terms(chain, dao)
        for nothing in (Address(b"\x01" * 20), dao.contracts.ledger):
            with pytest.raises(NotACoin, match="no ERC-20"):
                await chain.escrow.check(replace(agreed, asset=nothing))
        await chain.escrow.check(agreed)
        await anvil.give(chain.address, 10)
        with pytest.raises(InsufficientGasMoney, match="for gas"):
            await chain.escrow.check(agreed)


async def test_a_deadline_within_the_challenge_window_and_a_foreign_escrow(
    open_chain: OpenChain, anvil: Anvil, dao: Dao
) -> None:
    founder = dao.founders[0]
    spec = dao_spec(dao.founders, dao.validators, challenge_window_s=2000, unbonding_delay_s=2000)
    async with anvil.provider() as provider:
        slow = await deploy_dao(provider, founder.secret, spec, settings=QUICK)
    async with open_chain(contracts=slow) as chain:
        agreed = replace(await terms(chain, dao), asset=slow.token)
        with pytest.raises(TermsRefused, match="attested pays 2000 s later"):
            await chain.escrow.check(agreed)
        await chain.escrow.check(replace(agreed, deadline_s=agreed.deadline_s + 2000))
    async with open_chain(contracts=replace(dao.contracts, escrow=slow.escrow)) as chain:
        with pytest.raises(WrongChain, match=r"contracts\.escrow: 0x.* pays by another ledger"):
            await chain.escrow.check(await terms(chain, dao))
