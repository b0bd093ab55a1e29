"""What a DAO may decide, as calls and back; and each of it done on a real chain."""

from collections.abc import Sequence

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from eigen.chain.bindings import LEDGER, TOKEN
from eigen.chain.calls import STATEMENT, call_of, decision_of
from eigen.chain.decisions import (
    ChangeRun,
    Decision,
    OpenRun,
    OtherCall,
    Payment,
    ReplaceValidators,
)
from eigen.chain.evm import EvmChain
from eigen.chain.port import (
    ChainEvent,
    Contracts,
    Earning,
    Proposed,
    RoundRoot,
    RunChanged,
    TransactionReverted,
)
from eigen.crypto.identity import Identity
from eigen.crypto.merkle import PayoutTree
from eigen.protocol.messages import Proposal, ProposedCall
from eigen.protocol.types import Address, Digest, RunId

from .conftest import COIN, Anvil, Dao, OpenChain, ballot, dao_spec, open_run

CONTRACTS = Contracts(*(Address(bytes([n]) * 20) for n in (0xA1, 0xA2, 0xA3, 0xA4)))
PAYEE = Address(b"\xbb" * 20)

words = st.binary(min_size=32, max_size=32)
addresses = st.binary(min_size=20, max_size=20).map(Address)
amounts = st.integers(0, 2**256 - 1)
decisions: st.SearchStrategy[Decision] = st.one_of(
    st.builds(
        OpenRun,
        words.map(RunId),
        words.map(Digest),
        st.integers(0, 2**64 - 1),
        st.integers(0, 2**128 - 1),
    ),
    st.builds(ChangeRun, words.map(RunId), st.integers(0, 2**64 - 1), words.map(Digest)),
    st.builds(Payment, st.just(CONTRACTS.token), addresses, amounts),
    st.builds(Payment, st.none(), addresses, st.integers(1, 2**256 - 1)),
    st.builds(ReplaceValidators, st.lists(addresses, max_size=5).map(tuple), amounts),
)


@given(decisions)
def test_a_decision_is_read_back_from_its_call(decision: Decision) -> None:
    assert decision_of(CONTRACTS, call_of(CONTRACTS, decision)) == decision


@given(addresses, amounts, st.binary(max_size=200))
def test_any_call_is_read_as_something_that_makes_the_same_call(
    target: Address, value: int, data: bytes
) -> None:
    call = ProposedCall(target, value, data)
    assert call_of(CONTRACTS, decision_of(CONTRACTS, call)) == call


def test_a_call_is_what_it_does_and_not_what_it_resembles() -> None:
    opening = OpenRun(RunId(b"\x01" * 32), Digest(b"\x02" * 32), 5, 7)
    call = call_of(CONTRACTS, opening)
    elsewhere = ProposedCall(CONTRACTS.governor, 0, call.data)
    paid = ProposedCall(call.target, 1, call.data)
    longer = ProposedCall(call.target, 0, call.data + b"\x00")
    dirty = ProposedCall(
        CONTRACTS.token, 0, TOKEN.calldata("transfer", PAYEE, 1)[:4] + b"\xff" * 64
    )
    for other in (elsewhere, paid, longer, dirty):
        assert decision_of(CONTRACTS, other) == OtherCall(other.target, other.value, other.data)


async def decide(chain: EvmChain, anvil: Anvil, dao: Dao, decided: Sequence[Decision]) -> Proposal:
    """A proposal all the way to its execution."""
    proposal = Proposal(tuple(map(chain.call_of, decided)), "as agreed")
    await chain.propose(proposal)
    await anvil.sleep(2)
    id_ = chain.proposal_id(proposal)
    await chain.relay_ballots([await ballot(chain, voter, id_) for voter in dao.founders])
    spec = dao_spec(dao.founders, dao.validators)
    await anvil.sleep(spec.voting_period_s)
    await chain.queue(proposal)
    await anvil.sleep(spec.timelock_delay_s)
    await chain.execute(proposal)
    return proposal


async def test_the_treasury_pays_and_the_validators_change_in_one_vote(
    open_chain: OpenChain, anvil: Anvil, dao: Dao
) -> None:
    stranger = Identity.generate()
    async with open_chain() as chain:
        timelock = dao.contracts.timelock
        gift = TOKEN.calldata("transfer", timelock, 30 * COIN)
        await chain._write("gift", dao.contracts.token, gift)
        await anvil.give(timelock, 2 * COIN)
        held = await chain.treasury(dao.contracts.token)
        assert (held.amount, held.decimals) == (30 * COIN, 18)
        assert (await chain.treasury(None)).amount == 2 * COIN

        validators = (*(v.address for v in dao.validators[1:]), stranger.address)
        await decide(
            chain,
            anvil,
            dao,
            [
                Payment(dao.contracts.token, PAYEE, 12 * COIN),
                Payment(None, PAYEE, COIN),
                ReplaceValidators(validators, 3),
            ],
        )
        assert await chain.balance(PAYEE) == 12 * COIN
        assert (await chain.treasury(None)).amount == COIN
        assert await chain.validators() == (frozenset(validators), 3)


async def test_a_statement_of_the_dao_is_an_event_and_nobody_else_can_make_it(
    open_chain: OpenChain, anvil: Anvil, dao: Dao
) -> None:
    changed = ChangeRun(RunId(b"\x01" * 32), 9, Digest(b"\x07" * 32))
    async with open_chain() as chain:
        call = chain.call_of(changed)
        await chain._write("forged", STATEMENT, call.data)  # by a member, not by the timelock
        proposal = await decide(chain, anvil, dao, [changed])
        seen: list[ChainEvent] = []
        with trio.fail_after(10):
            async for event in chain.watch(0):
                seen.append(event)
                if isinstance(event, RunChanged):
                    break
        proposed, made = seen
        assert isinstance(proposed, Proposed)
        assert (proposed.id, proposed.proposer) == (chain.proposal_id(proposal), chain.address)
        assert proposed.proposal == proposal
        assert isinstance(made, RunChanged)
        assert (made.run, made.from_round, made.spec) == (changed.run, 9, changed.spec)
        assert await chain.history.proposals() == [proposed]
        votes = await chain.history.votes(proposed.id)
        assert {vote.voter for vote in votes} == {f.address for f in dao.founders}


async def test_votes_are_delegated_and_taken_back(
    open_chain: OpenChain, anvil: Anvil, dao: Dao
) -> None:
    one, two = dao.founders[:2]
    async with open_chain() as chain:
        await chain.delegate(two.address)
        assert await chain.delegate(two.address) is None
        await anvil.sleep(1)
        now_s = await chain.time_s() - 1
        assert await chain.voting_power(one.address, now_s) == 0
        assert await chain.voting_power(two.address, now_s) == 200 * COIN
        await chain.delegate(one.address)
        await anvil.sleep(1)
        assert await chain.voting_power(one.address, await chain.time_s() - 1) == 100 * COIN


async def test_one_transaction_claims_for_many_and_the_index_knows_who_holds_what(
    open_chain: OpenChain, anvil: Anvil, dao: Dao
) -> None:
    call = dao.proposal()
    workers = [Identity.generate().address for _ in range(5)]
    async with open_chain() as chain:
        await open_run(chain, anvil, dao, call)
        run = call.opens.run
        tree = PayoutTree({worker: 10 + i for i, worker in enumerate(workers)})
        root = RoundRoot(run, 1, Digest(bytes(32)), Digest(bytes(32)), tree.root, tree.total)
        signers = dao.validators[:2]
        signatures = [signer.sign(chain.round_digest(root)) for signer in signers]
        await chain.post_round(root, signatures)
        assert await chain.paying(run) == root
        earnings = [Earning(w, tree.cumulative[w], tree.proof(w)) for w in workers]
        await chain.claim(run, workers[0], 10, tree.proof(workers[0]))
        await chain.claim_many(run, earnings)  # the first was paid: it is skipped
        assert [await chain.balance(w) for w in workers] == [10, 11, 12, 13, 14]
        with pytest.raises(TransactionReverted, match="nothing to claim"):
            await chain.claim_many(run, earnings[:4])
        with pytest.raises(ValueError, match="give 1 to"):
            await chain.claim_many(run, [])

        events = chain.watch(0)
        with trio.fail_after(10):
            while chain.history.through_block < await chain._rpc.block_number():
                await chain._index.advance()
            await anext(events)
        assert [posted.root for posted in await chain.history.roots(run)] == [root]
        assert {c.account: c.amount for c in await chain.history.claims(run)} == tree.cumulative
        members = {m.account: m.tokens for m in await chain.history.holders()}
        assert members == {f.address: 100 * COIN for f in dao.founders} | tree.cumulative
        votes = {m.account: m.votes for m in await chain.history.holders()}
        assert votes[dao.founders[0].address] == 100 * COIN
        assert LEDGER.topic("RoundPosted") in chain._index._topics
