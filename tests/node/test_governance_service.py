"""Votes of two members and a guest on a real chain: proposals by gossip, ballots without gas."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio
from service_peers import Peer, peer, until

from eigen.chain.account_calls import NotPossible
from eigen.chain.bindings import TOKEN
from eigen.chain.deploy import DaoSpec, deploy_dao
from eigen.chain.devnet.anvil import AnvilConfig, run_anvil
from eigen.chain.evm import EvmChain
from eigen.chain.outbox import OutboxSettings
from eigen.chain.port import Contracts, Support, TransactionReverted
from eigen.chain.provider import TrioHTTPProvider
from eigen.config.addresses import format_address
from eigen.crypto.identity import Identity
from eigen.node.app import follow_chain
from eigen.node.governance import CannotVote, GovernanceService, UnknownProposal
from eigen.node.proposal_view import proposal_view
from eigen.node.proposing import CannotPropose, Proposer
from eigen.node.registrations import Registrations
from eigen.node.spec_book import SpecBook
from eigen.protocol.governance import Governance, KnownProposal, Stage
from eigen.protocol.messages import Proposal, ProposedCall, SignedBallot

pytestmark = pytest.mark.timeout(120)

COIN = 10**18
POLL_S = 0.05
PERIOD_S, DELAY_S = 100, 10


@dataclass
class Member:
    peer: Peer
    chain: EvmChain
    service: GovernanceService
    proposer: Proposer
    contracts: Contracts

    def knows(self, id_: int) -> bool:
        return id_ in self.service.machine.proposals

    def stage(self, id_: int) -> Stage:
        return self.service.machine.proposals[id_].stage

    def view(self, id_: int) -> dict[str, Any]:
        known = self.service.machine.proposals[id_]
        return proposal_view(known, self.service, self.chain, self.contracts.token, lambda *_: None)


@dataclass
class Table:
    members: list[Member]
    guest: Member
    provider: TrioHTTPProvider
    contracts: Contracts

    async def control(self, method: str, *params: Any) -> None:
        reply = await self.provider.make_request(method, list(params))  # type: ignore[arg-type]
        assert "error" not in reply, reply

    async def sleep(self, seconds: int) -> None:
        await self.control("evm_increaseTime", seconds)
        await self.control("evm_mine")

    async def pass_(self, known: KnownProposal) -> None:
        """From open ballots to the execution."""
        first = self.members[0]
        await until(lambda: len(first.service.machine.proposals[known.id].counted) >= 2)
        await self.sleep(PERIOD_S)
        await until(lambda: first.stage(known.id) in (Stage.QUEUED, Stage.READY))
        await self.sleep(DELAY_S)
        await until(lambda: first.stage(known.id) is Stage.EXECUTED)


@pytest.fixture
async def table(tmp_path: Path) -> AsyncIterator[Table]:
    anvil = AnvilConfig(tmp_path / "anvil.log", block_time_s=None, accounts=1)
    people = [Identity.generate() for _ in range(3)]
    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        devnet = await nursery.start(run_anvil, anvil)
        provider = TrioHTTPProvider([devnet.url], chain_id=devnet.chain_id)
        await stack.enter_async_context(provider)
        spec = DaoSpec(
            token_name="T",
            token_symbol="T",
            founders=[(person.address, 10 * COIN) for person in people[:2]],
            validators=[people[0].address],
            quorum=1,
            voting_delay_s=0,
            voting_period_s=PERIOD_S,
            timelock_delay_s=DELAY_S,
            proposal_threshold=COIN,
            quorum_percent=10,
        )
        settings = OutboxSettings(poll_s=POLL_S)
        contracts = await deploy_dao(provider, devnet.accounts[0].secret, spec, settings=settings)
        seats = [
            await stack.enter_async_context(seat(tmp_path, devnet, contracts, person, i == 0))
            for i, person in enumerate(people)
        ]
        made = Table(seats[:2], seats[2], provider, contracts)
        for person in people:
            await made.control("anvil_setBalance", format_address(person.address), hex(COIN))
        await seats[1].peer.meet(seats[0].peer)
        await seats[2].peer.meet(seats[0].peer, seats[1].peer)
        async with trio.open_nursery() as following:
            for one in seats:
                following.start_soon(follow_chain, one.chain, one.service)
            await made.sleep(1)  # votes are those of the past
            yield made
            following.cancel_scope.cancel()
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def seat(
    folder: Path, devnet: Any, contracts: Contracts, person: Identity, relays: bool
) -> AsyncIterator[Member]:
    async with peer(folder, identity=person) as at:
        chain = EvmChain(
            TrioHTTPProvider([devnet.url], chain_id=devnet.chain_id),
            contracts,
            chain_id=devnet.chain_id,
            secret=person.secret,
            outbox_path=None,
            settings=OutboxSettings(poll_s=POLL_S),
        )
        async with chain:
            service = GovernanceService(
                person,
                SpecBook(at.network, at.gossip, POLL_S),
                at.gossip,
                at.members,
                at.records,
                chain,
                Governance(person.address, relays, 0.1, 0.1),
                POLL_S,
                on_run=_no_run,
                on_passed=lambda _: None,
            )
            proposer = Proposer(chain, service, None, contracts.token, Registrations(chain.calls))
            yield Member(at, chain, service, proposer, contracts)


async def _no_run(*_: object) -> None:
    raise AssertionError("no run is proposed here")


def payment(to: Identity, amount: str, **more: str) -> dict[str, Any]:
    terms = {"kind": "payment", "to": format_address(to.address), "amount": amount, "token": "dao"}
    return terms | {"description": f"{amount} for work"} | more


async def test_two_proposals_at_once_are_paid_by_gasless_votes(table: Table) -> None:
    one, two = table.members
    worker = Identity.generate()
    with pytest.raises(CannotPropose, match="the treasury holds 0 of it, not 2"):
        await one.proposer.propose(payment(worker, "2"))
    gift = TOKEN.calldata("transfer", table.contracts.timelock, 5 * COIN)
    await one.chain._write("gift", table.contracts.token, gift)
    model = {"run": "ab" * 32, "owner": "dao", "royalty_bps": 1, "uri": "", "parent": ""}
    with pytest.raises(NotPossible, match="the ledger knows none"):
        await one.proposer.propose(model | {"kind": "model", "parent_round": 0})
    with pytest.raises(CannotPropose, match="18 decimals"):
        await one.proposer.propose(payment(worker, "0.0000000000000000001"))

    first = await one.proposer.propose(payment(worker, "2"))
    second = await one.proposer.propose(payment(worker, "1.5"))
    await until(lambda: two.knows(first.id) and two.knows(second.id))
    shown = two.view(first.id)
    assert shown["kind"] == "payment"
    assert shown["does"] == [f"pay 2 DAO tokens to {format_address(worker.address)}"]
    assert shown["by"] == format_address(one.peer.address)

    await table.sleep(1)
    await until(lambda: two.stage(second.id) is Stage.ACTIVE)
    assert two.view(second.id)["left_s"] > PERIOD_S // 2
    for member in (one, two):
        ballots = [await member.service.vote(p.id, Support.FOR) for p in (first, second)]
        assert ballots[0].nonce == ballots[1].nonce  # one of them will need the next nonce
    with pytest.raises(CannotVote, match=r"cannot be recalled|counted already"):
        await two.service.vote(first.id, Support.AGAINST)
    await until(lambda: len(one.service.machine.proposals[second.id].counted) == 2)
    await table.pass_(first)
    await until(lambda: one.stage(second.id) is Stage.EXECUTED)
    assert await one.chain.balance(worker.address) == 35 * COIN // 10
    assert two.view(first.id)["for"] == "15"  # 20 less the gift of 5
    with pytest.raises(CannotVote, match="the vote on it is over: it is executed"):
        await two.service.vote(first.id, Support.FOR)


async def test_ballots_that_would_not_count_are_refused_before_they_are_signed(
    table: Table,
) -> None:
    one, two, guest = *table.members, table.guest
    with pytest.raises(UnknownProposal):
        await one.service.vote(7, Support.FOR)
    calls = {"to": format_address(one.peer.address), "value": "0", "data": "0102"}
    with pytest.raises(TransactionReverted, match="insufficient proposer votes"):
        await guest.proposer.propose({"kind": "calls", "calls": [calls], "description": ""})
    assert guest.service.machine.proposals == {}
    assert await guest.peer.records.scan("proposal") == []

    known = await one.proposer.propose({"kind": "calls", "calls": [calls], "description": ""})
    await until(lambda: guest.knows(known.id))
    words = f"call {format_address(one.peer.address)}: 0x0102"
    assert guest.view(known.id)["does"] == [words]
    await table.sleep(1)
    with pytest.raises(CannotVote, match="no votes in it"):
        await guest.service.vote(known.id, Support.FOR)

    # and signed all the same, it is nobody's to pay for
    stray = await guest.service._cast(known.id, Support.FOR)
    await until(lambda: stray.voter in one.service.machine.proposals[known.id].powerless)
    assert stray.voter not in one.service.machine.proposals[known.id].ballots

    # of another DAO: the same proposal, another governor
    other = EvmChain(
        TrioHTTPProvider(["http://127.0.0.1:1"], chain_id=31337),
        Contracts(*(table.contracts.token for _ in range(4))),
        chain_id=31337,
        secret=two.peer.identity.secret,
        outbox_path=None,
    )
    me = two.peer.address
    digest = other.ballot_digest(known.id, Support.FOR, me, 0)
    await other.aclose()
    foreign = SignedBallot(
        known.id.to_bytes(32), Support.FOR.value, me, 0, two.peer.identity.sign(digest)
    )
    said = one.peer.gossip.read_any(two.peer.gossip.sign(foreign))
    assert not one.peer.gossip.accepts(said)


async def test_a_proposal_that_gossip_never_brought_is_found_on_chain(table: Table) -> None:
    one, two = table.members
    proposal = Proposal((ProposedCall(one.peer.address, 0, b"\x01\x02"),), "made elsewhere")
    await one.chain.propose(proposal)
    id_ = one.chain.proposal_id(proposal)
    await until(lambda: two.knows(id_))
    assert two.view(id_)["description"] == "made elsewhere"
    await table.sleep(1)
    await two.service.vote(id_, Support.ABSTAIN)
    await until(lambda: len(one.service.machine.proposals[id_].counted) == 1)
    await until(lambda: one.view(id_)["abstain"] == "10")
