"""A DAO's life through the port: proposals, ballots, rounds and claims on a real chain."""

from dataclasses import replace
from typing import Any

import pytest
import trio
from web3.types import RPCEndpoint

from eigen.chain.bindings import GOVERNOR, LEDGER, TOKEN, root_fields
from eigen.chain.deploy import deploy_dao
from eigen.chain.devnet.pyevm import EthTesterTrioProvider
from eigen.chain.evm import EvmChain
from eigen.chain.port import (
    Ballot,
    ChainEvent,
    Claimed,
    ProposalState,
    RoundPosted,
    RoundRoot,
    RunOpened,
    Support,
    TransactionReverted,
)
from eigen.chain.rpc import Call
from eigen.crypto.hashing import keccak256
from eigen.crypto.identity import Identity
from eigen.crypto.merkle import PayoutTree
from eigen.protocol.types import Address, Digest, RunId

from .conftest import (
    CHAIN_ID,
    COIN,
    QUICK,
    Anvil,
    Dao,
    OpenChain,
    attestation,
    ballot,
    dao_spec,
    open_run,
)


def round_root(run: RunId, number: int, tree: PayoutTree) -> RoundRoot:
    return RoundRoot(
        run=run,
        round=number,
        checkpoint=Digest(bytes([number]) * 32),
        record=Digest(bytes([100 + number]) * 32),
        payout_root=tree.root,
        payout_total=tree.total,
    )


def attested(chain: EvmChain, root: RoundRoot, signers: list[Identity]) -> list[bytes]:
    return [signer.sign(chain.round_digest(root)) for signer in signers]


async def first_event(chain: EvmChain, kind: type[ChainEvent], from_block: int = 0) -> Any:
    with trio.fail_after(10):
        async for event in chain.watch(from_block):
            if isinstance(event, kind):
                return event
    raise AssertionError


async def test_a_proposal_becomes_a_run(open_chain: OpenChain, anvil: Anvil, dao: Dao) -> None:
    call = dao.proposal()
    async with open_chain() as chain:
        proposal = chain.proposal_id(call)
        with pytest.raises(TransactionReverted, match="nonexistent proposal"):
            await chain.proposal(proposal)

        receipt = await chain.propose(call)
        assert (await chain.proposal(proposal)).state is ProposalState.PENDING
        assert await chain.propose(call) == receipt  # the same intent, the same transaction

        await anvil.sleep(2)
        yes = [await ballot(chain, voter, proposal) for voter in dao.founders[:3]]
        forged = replace(await ballot(chain, dao.founders[3], proposal), signature=b"\x01" * 65)
        await chain.relay_ballots([yes[0], forged, *yes[1:]])
        assert [await chain.has_voted(proposal, v.address) for v in dao.founders] == [
            True,
            True,
            True,
            False,
        ]
        no = await ballot(chain, dao.founders[3], proposal, Support.AGAINST)
        await chain.relay_ballots([no, *yes])
        status = await chain.proposal(proposal)
        assert status.state is ProposalState.ACTIVE
        assert (status.votes_for, status.votes_against) == (300 * COIN, 100 * COIN)
        assert status.vote_end_s - status.vote_start_s == 100

        with pytest.raises(TransactionReverted) as early:
            await chain.queue(call)
        assert early.value.name == "GovernorUnexpectedProposalState"
        assert early.value.error.endswith("current active, expected states succeeded")

        await anvil.sleep(100)
        await chain.queue(call)
        status = await chain.proposal(proposal)
        assert status.state is ProposalState.QUEUED
        assert status.eta_s == await chain.time_s() + 50
        with pytest.raises(TransactionReverted, match="expected states ready"):
            await chain.execute(call)

        await anvil.sleep(50)
        executed = await chain.execute(call)
        assert (await chain.proposal(proposal)).state is ProposalState.EXECUTED
        opened = await first_event(chain, RunOpened)
        assert opened == RunOpened(
            run=call.opens.run,
            spec=call.opens.spec,
            rounds=call.opens.rounds,
            reward_per_round=call.opens.reward_per_round,
            seed=opened.seed,
            block=executed.block,
        )
        assert any(opened.seed)


async def test_ballots_that_cannot_count_are_not_paid_for(
    open_chain: OpenChain, anvil: Anvil, dao: Dao
) -> None:
    call = dao.proposal()
    async with open_chain() as chain:
        proposal = chain.proposal_id(call)
        await chain.propose(call)
        await anvil.sleep(2)
        good = await ballot(chain, dao.founders[0], proposal)
        await chain.relay_ballots([good])
        spent = await chain.gas_money_wei()
        with pytest.raises(TransactionReverted, match="not one of the 2 ballots"):
            await chain.relay_ballots([good, replace(good, signature=b"")])
        assert await chain.gas_money_wei() == spent


async def test_a_relay_takes_one_proposal_and_a_bounded_number_of_ballots(
    open_chain: OpenChain, dao: Dao
) -> None:
    one = Ballot(1, Support.FOR, dao.founders[0].address, 0, bytes(65))
    async with open_chain() as chain:
        for ballots, told in (
            ([], "give 1 to 64, not 0"),
            ([one] * 65, "give 1 to 64, not 65"),
            ([one, replace(one, proposal=2)], "one proposal"),
        ):
            with pytest.raises(ValueError, match=told):
                await chain.relay_ballots(ballots)


async def test_sixty_four_ballots_fit_one_transaction(
    open_chain: OpenChain, anvil: Anvil, dao: Dao
) -> None:
    call = dao.proposal()
    voters = [Identity.generate() for _ in range(64)]
    async with open_chain() as chain:
        async with trio.open_nursery() as nursery:
            for voter in voters:
                nursery.start_soon(
                    chain._outbox.submit,
                    f"give {voter.address.hex()}",
                    dao.contracts.token,
                    TOKEN.calldata("transfer", voter.address, COIN),
                )
        proposal = chain.proposal_id(call)
        await chain.propose(call)
        await anvil.sleep(2)
        receipt = await chain.relay_ballots([await ballot(chain, v, proposal) for v in voters])
        assert (await chain.proposal(proposal)).votes_for == 64 * COIN
        assert receipt.gas_used < 8_000_000
        print(f"{receipt.gas_used} gas for 64 ballots")


async def test_ids_and_digests_are_the_contracts_own(open_chain: OpenChain, dao: Dao) -> None:
    call = dao.proposal(description="naïve: 模型")
    root = RoundRoot(RunId(b"\x01" * 32), 7, Digest(b"\x02" * 32), Digest(b"\x03" * 32),
                     Digest(b"\x04" * 32), 10**30)  # fmt: skip
    async with open_chain() as chain:

        async def asked(to: Address, abi: Any, function: str, *args: object) -> Any:
            data = await chain._rpc.call(Call(chain.address, to, abi.calldata(function, *args)))
            return abi.results(function, data)[0]

        targets = [dao.contracts.ledger]
        data = LEDGER.calldata(
            "openRun",
            call.opens.run,
            call.opens.spec,
            call.opens.rounds,
            call.opens.reward_per_round,
        )
        text_hash = keccak256(call.description.encode())
        assert chain.proposal_id(call) == await asked(
            dao.contracts.governor, GOVERNOR, "hashProposal", targets, [0], [data], text_hash
        )
        assert chain.round_digest(root) == await asked(
            dao.contracts.ledger, LEDGER, "roundDigest", root_fields(root)
        )


async def test_a_ballot_of_ours_passes_openzeppelins_own_check(
    open_chain: OpenChain, anvil: Anvil, dao: Dao
) -> None:
    call = dao.proposal()
    async with open_chain() as chain:
        proposal = chain.proposal_id(call)
        await chain.propose(call)
        await anvil.sleep(2)
        vote = await ballot(chain, dao.founders[1], proposal, Support.ABSTAIN)
        data = GOVERNOR.calldata(
            "castVoteBySig", vote.proposal, vote.support.value, vote.voter, vote.signature
        )
        await chain._outbox.submit("cast", dao.contracts.governor, data)
        assert (await chain.proposal(proposal)).votes_abstain == 100 * COIN
        assert await chain.ballot_nonce(vote.voter) == 1


async def test_rounds_need_a_quorum_of_validators(
    open_chain: OpenChain, anvil: Anvil, dao: Dao
) -> None:
    one, two, three = dao.validators
    stranger = Identity.generate()
    call = dao.proposal()
    async with open_chain() as chain:
        assert await chain.validators() == (frozenset(v.address for v in dao.validators), 2)
        root = round_root(call.opens.run, 1, PayoutTree({one.address: 600, two.address: 400}))
        with pytest.raises(TransactionReverted, match="unknown run"):
            await chain.post_round(root, attested(chain, root, [one, two]))
        await open_run(chain, anvil, dao, call)
        assert await chain.head(call.opens.run) is None

        refusals: list[tuple[list[bytes], str, str]] = [
            (attested(chain, root, [one]), "TooFewSignatures", "given 1, quorum 2"),
            (attested(chain, root, [one, one]), "SignersNotAscending", "index 1"),
            (attested(chain, root, [two, one]), "SignersNotAscending", "index 1"),
            (attested(chain, root, [stranger] * 2), "NotValidator", "index 0"),
            ([b"\x01" * 64] * 2, "MalformedSignature", "index 0"),
        ]
        before = await chain.gas_money_wei()
        for signatures, name, words in refusals:
            with pytest.raises(TransactionReverted) as refused:
                await chain.post_round(root, signatures)
            assert refused.value.name == name
            assert words in refused.value.error
            assert refused.value.tx is None
        assert await chain.gas_money_wei() == before

        receipt = await chain.post_round(root, attested(chain, root, [one, three]))
        assert await chain.head(call.opens.run) == RoundPosted(root, receipt.tx, receipt.block)
        assert await chain.post_round(root, attested(chain, root, [one, two])) == receipt

        too_much = round_root(call.opens.run, 2, PayoutTree({one.address: 2001}))
        with pytest.raises(TransactionReverted, match=r"payout total too large: .*max 2000"):
            await chain.post_round(too_much, attested(chain, too_much, [one, two]))


async def test_another_account_cannot_post_a_posted_round(
    open_chain: OpenChain, anvil: Anvil, dao: Dao
) -> None:
    call = dao.proposal()
    await anvil.give(dao.founders[1].address)
    async with open_chain() as chain, open_chain(dao.founders[1]) as other:
        await open_run(chain, anvil, dao, call)
        root = round_root(call.opens.run, 1, PayoutTree({}))
        signatures = attested(chain, root, dao.validators[:2])
        await chain.post_round(root, signatures)
        with pytest.raises(TransactionReverted, match=r"round not later: .*round 1, posted 1"):
            await other.post_round(root, signatures)


async def test_claims_are_cumulative_over_rounds(
    open_chain: OpenChain, anvil: Anvil, dao: Dao
) -> None:
    worker, other = Identity.generate().address, Identity.generate().address
    call = dao.proposal()
    async with open_chain() as chain:
        await open_run(chain, anvil, dao, call)
        trees = {
            1: PayoutTree({worker: 300, other: 500}),
            2: PayoutTree({worker: 700, other: 900}),
            5: PayoutTree({worker: 1500, other: 900}),  # rounds 3 and 4 were never posted
        }
        receipts = {}
        for number, tree in trees.items():
            root = round_root(call.opens.run, number, tree)
            await chain.post_round(root, attested(chain, root, dao.validators[1:]))
            if number != 2:  # one claim may skip a round
                receipts[number] = await chain.claim(
                    call.opens.run, worker, tree.cumulative[worker], tree.proof(worker)
                )
                assert await chain.claimed(call.opens.run, worker) == tree.cumulative[worker]
        assert await chain.balance(worker) == 1500
        assert await chain.balance(other) == 0

        last = trees[5]
        again = await chain.claim(call.opens.run, worker, 1500, last.proof(worker))
        assert again == receipts[5]
        assert await chain.balance(worker) == 1500
        with pytest.raises(TransactionReverted) as inflated:
            await chain.claim(call.opens.run, other, 901, last.proof(other))
        assert inflated.value.name == "InvalidProof"

        events = []
        async for event in chain.watch(0):
            if isinstance(event, Claimed):
                events.append((event.account, event.payee, event.amount, event.tx))
            if len(events) == 2:
                break
        assert events == [
            (worker, worker, 300, receipts[1].tx),
            (worker, worker, 1200, receipts[5].tx),
        ]


async def test_nobody_is_paid_twice_by_two_claimers(
    open_chain: OpenChain, anvil: Anvil, dao: Dao
) -> None:
    worker = Identity.generate().address
    call = dao.proposal()
    await anvil.give(dao.founders[1].address)
    async with open_chain() as chain, open_chain(dao.founders[1]) as other:
        await open_run(chain, anvil, dao, call)
        tree = PayoutTree({worker: 10})
        root = round_root(call.opens.run, 1, tree)
        await chain.post_round(root, attested(chain, root, dao.validators))
        await chain.claim(call.opens.run, worker, 10, tree.proof(worker))
        with pytest.raises(TransactionReverted) as refused:
            await other.claim(call.opens.run, worker, 10, tree.proof(worker))
        assert (refused.value.name, refused.value.error) == ("NothingToClaim", "nothing to claim")
        assert await chain.balance(worker) == 10


async def test_who_signs_two_statements_on_one_round_loses_its_seat(
    open_chain: OpenChain, anvil: Anvil, dao: Dao
) -> None:
    worker = Identity.generate().address
    call = dao.proposal()
    liar, *honest = dao.validators
    async with open_chain() as chain:
        await open_run(chain, anvil, dao, call)
        before, quorum = await chain.validators()
        roots = [round_root(call.opens.run, 3, PayoutTree({worker: pay})) for pay in (10, 20)]
        first, second = (attestation(chain, root, liar) for root in roots)
        assert RoundRoot.attested(first) == roots[0]
        for pair in ((first, first), (first, attestation(chain, roots[1], honest[0]))):
            with pytest.raises(TransactionReverted) as refused:
                await chain.prove_equivocation(*pair)
            assert refused.value.name in ("NoEquivocation", "SignersDiffer")
        assert (await chain.validators())[0] == before
        receipt = await chain.prove_equivocation(first, second)
        assert await chain.prove_equivocation(second, first) == receipt, "the same intent"
        assert await chain.validators() == (before - {liar.address}, quorum)


async def test_earnings_go_to_the_payout_address(
    open_chain: OpenChain, anvil: Anvil, dao: Dao
) -> None:
    wallet, another = Identity.generate().address, Identity.generate().address
    call = dao.proposal()
    async with open_chain() as chain:
        assert await chain.set_payout(wallet) is not None
        assert await chain.set_payout(wallet) is None
        assert await chain.set_payout(another) is not None
        assert await chain.set_payout(wallet) is not None  # back again is a new intent
        await open_run(chain, anvil, dao, call)
        tree = PayoutTree({chain.address: 42})
        root = round_root(call.opens.run, 1, tree)
        await chain.post_round(root, attested(chain, root, dao.validators))
        before = await chain.balance(chain.address)
        await chain.claim(call.opens.run, chain.address, 42, tree.proof(chain.address))
        assert await chain.balance(wallet) == 42
        assert await chain.balance(chain.address) == before
        claimed = await first_event(chain, Claimed)
        assert (claimed.account, claimed.payee) == (chain.address, wallet)
        assert await chain.set_payout(Address(bytes(20))) is not None
        assert await chain.set_payout(Address(bytes(20))) is None


async def test_voting_power_is_of_the_past(open_chain: OpenChain, anvil: Anvil, dao: Dao) -> None:
    async with open_chain() as chain:
        now_s = await chain.time_s()
        founder = dao.founders[2].address
        assert await chain.voting_power(founder, now_s - 1) == 100 * COIN
        assert await chain.voting_power(founder, 1) == 0
        assert await chain.voting_power(Identity.generate().address, now_s - 1) == 0
        with pytest.raises(TransactionReverted) as future:
            await chain.voting_power(founder, now_s + 1000)
        assert future.value.name == "ERC5805FutureLookup"


async def test_the_same_life_on_another_evm() -> None:
    """py-evm instead of Anvil's revm, in process: nothing here leans on one implementation."""
    provider = EthTesterTrioProvider(CHAIN_ID)
    founders = [Identity.generate() for _ in range(2)]
    validators = sorted((Identity.generate() for _ in range(3)), key=lambda v: v.address)

    async def control(method: str, *params: Any) -> None:
        assert "error" not in await provider.make_request(RPCEndpoint(method), list(params))

    for account in (*founders, Identity.generate()):
        await control("anvil_setBalance", "0x" + account.address.hex(), hex(1000 * COIN))
    secret = founders[0].secret
    spec = dao_spec(founders, validators)
    dao = Dao(await deploy_dao(provider, secret, spec, settings=QUICK), founders, validators)
    call = dao.proposal()
    async with EvmChain(
        provider, dao.contracts, chain_id=CHAIN_ID, secret=secret, outbox_path=None, settings=QUICK
    ) as chain:
        proposal = chain.proposal_id(call)
        await chain.propose(call)
        for step, wait_s in ((None, 2), (chain.queue, 100), (chain.execute, 50)):
            await control("evm_increaseTime", wait_s)
            await control("evm_mine")
            if step is None:
                await chain.relay_ballots([await ballot(chain, v, proposal) for v in founders])
            else:
                await step(call)
        worker = founders[1].address
        tree = PayoutTree({worker: 10})
        root = round_root(call.opens.run, 1, tree)
        with pytest.raises(TransactionReverted, match="too few signatures: given 1, quorum 2"):
            await chain.post_round(root, attested(chain, root, validators[:1]))
        await chain.post_round(root, attested(chain, root, validators))
        await chain.claim(call.opens.run, worker, 10, tree.proof(worker))
        assert await chain.balance(worker) == 100 * COIN + 10
        assert (await chain.info()).label == "py-evm"
        assert (await first_event(chain, Claimed)).amount == 10
