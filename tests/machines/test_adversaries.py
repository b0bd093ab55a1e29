"""Nodes that lie, made by rewriting their effects; what the honest ones make of it."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from scenes import Watch, context, finished, state, trainers

from eigen.protocol.context import RunContext
from eigen.protocol.effects import (
    Attest,
    Effect,
    PartArrived,
    Publish,
    ResultArrived,
    SendPart,
    SendResult,
    SetTimer,
)
from eigen.protocol.messages import (
    Attempt,
    Commitment,
    Outcome,
    OutcomeVote,
    PartResult,
    RoundRecord,
    SeatProposal,
    SeatVote,
    Timeout,
)
from eigen.protocol.seat import leader, round_seed
from eigen.protocol.types import Address, Digest
from eigen.simulations.heap import HeapNetwork, VirtualNode

Act = Callable[[HeapNetwork, VirtualNode, Effect], bool]
FALSE = Digest(b"\xfa" * 32)


def with_liar(
    run: RunContext, count: int, liar: Address, act: Act, seed: int = 11
) -> tuple[HeapNetwork, Watch, list]:
    """A network in which `act` sees the liar's effects; `fired` grows with each lie."""
    network = HeapNetwork(run, trainers(count), seed)
    watch = Watch(network, frozenset([liar]))
    fired: list[float] = []

    def hook(net: HeapNetwork, node: VirtualNode, effect: Effect) -> bool:
        if node.address != liar:
            return False
        before = len(fired)
        taken = act(net, node, effect)
        if taken or len(fired) > before:
            fired.append(net.now)
        return taken

    network.hooks.append(hook)
    return network, watch, fired


def make_it(
    network: HeapNetwork, watch: Watch, fired: list[float], until_s: float = 3_000.0
) -> None:
    assert network.run(until_s, finished), state(network)
    assert fired, "the liar never lied"
    watch.check()


def blame(network: HeapNetwork, liar: Address) -> set[str]:
    return {p.reason for n in network.nodes.values() for p in n.penalties if p.peer == liar}


def paid_rounds(network: HeapNetwork, liar: Address) -> list[int]:
    records = max((n.records for n in network.nodes.values()), key=len)
    return [r for r, record in records.items() if liar in {c.account for c in record.trainers}]


def validator(run: RunContext, index: int = 0) -> Address:
    return sorted(run.validators)[index]


# validators -------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(8))
def test_a_validator_that_votes_twice_changes_nothing(seed: int) -> None:
    """Whichever of its votes reaches whom first, its name in a record stops nobody."""
    run = context(4, 3)
    liar = validator(run)

    def act(net: HeapNetwork, node: VirtualNode, effect: Effect) -> bool:
        if not isinstance(effect, Publish):
            return False
        match effect.message:
            case SeatVote(attempt=attempt):
                net.gossip(node, SeatVote(attempt, FALSE))
            case OutcomeVote(attempt=attempt):
                net.gossip(node, OutcomeVote(attempt, FALSE))
            case _:
                return False
        net.perform(node, effect)
        return True

    network, watch, fired = with_liar(run, 4, liar, act, seed)
    make_it(network, watch, fired)
    assert all(r.attempt.number == 0 for r in network.nodes[trainers(1)[0]].records.values())


def test_a_validator_that_attests_two_roots_is_blamed_by_every_honest_node() -> None:
    run = context(4, 3)
    liar = validator(run)

    def act(net: HeapNetwork, node: VirtualNode, effect: Effect) -> bool:
        if not isinstance(effect, Attest):
            return False
        net.perform(node, Attest(replace(effect.record, payouts=())))
        net.perform(node, effect)
        return True

    network, watch, fired = with_liar(run, 4, liar, act)
    make_it(network, watch, fired)
    blamed = [n for n in network.nodes.values() if any(p.peer == liar for p in n.penalties)]
    assert "attested two roots for one round" in blame(network, liar)
    assert len(blamed) >= len(network.nodes) - 2


def test_a_leader_with_two_seats_gets_one_vote_of_each_and_the_next_leader_takes_over() -> None:
    run = context(4, 3)
    liar = leader(round_seed(run.seed, 1, Digest(bytes(32))), 0, run.validators)

    def act(net: HeapNetwork, node: VirtualNode, effect: Effect) -> bool:
        if not (isinstance(effect, Publish) and isinstance(effect.message, SeatProposal)):
            return False
        seat = effect.message
        assert node.committee is not None
        members, _ = node.committee.evidence.assign(
            tuple(m.trainer for m in seat.members[1:]), node.committee.context.course.opened
        )
        net.gossip(node, replace(seat, members=members))
        net.perform(node, effect)
        return True

    network, watch, fired = with_liar(run, 5, liar, act)
    make_it(network, watch, fired)
    assert "two seats in one attempt" in blame(network, liar)


def test_time_outs_of_one_validator_drag_nobody_along() -> None:
    run = context(4, 3)
    liar = validator(run)

    def act(net: HeapNetwork, node: VirtualNode, effect: Effect) -> bool:
        if not (isinstance(effect, Publish) and isinstance(effect.message, SeatVote)):
            return False
        for number in (0, 1, 2, 500, 1_000):
            net.gossip(node, Timeout(replace(effect.message.attempt, number=number), ()))
        net.perform(node, effect)
        return True

    network, watch, fired = with_liar(run, 4, liar, act)
    make_it(network, watch, fired, 60.0)
    assert all(r.attempt.number == 0 for r in network.nodes[trainers(1)[0]].records.values())


def test_an_outcome_that_a_liar_claims_was_prepared_is_not_carried() -> None:
    """Every attempt times out at first, so that leaders look at what time-outs tell."""
    run = context(4, 3, rounds=2)
    liar = validator(run)

    def act(net: HeapNetwork, node: VirtualNode, effect: Effect) -> bool:
        if not (isinstance(effect, Publish) and isinstance(effect.message, Timeout)):
            return False
        at = effect.message.attempt
        base = node.head.checkpoint
        bogus = RoundRecord(at, node.head.previous, base, base, (), (), (), (), ())
        net.gossip(node, Timeout(at, (Outcome(at, bogus),)))
        return True

    network, watch, fired = with_liar(run, 4, liar, act)
    network.train_s = (30.0, 60.0)
    assert not network.run(100.0, finished)
    network.train_s = (0.2, 0.4)
    make_it(network, watch, fired)
    for node in network.nodes.values():
        assert all(record.payouts for record in node.records.values())


def test_a_silent_validator_costs_time_outs_and_nothing_else() -> None:
    run = context(4, 3)
    liar = validator(run)
    network, watch, fired = with_liar(
        run, 4, liar, lambda _net, _node, e: isinstance(e, Publish | Attest)
    )
    make_it(network, watch, fired)


# trainers ---------------------------------------------------------------------------------------
def test_an_owner_that_withholds_its_results_is_passed_over() -> None:
    run = context(2, 2, rounds=3)
    liar = trainers(4)[0]
    network, watch, fired = with_liar(
        run, 4, liar, lambda _net, _node, e: isinstance(e, SendResult)
    )
    make_it(network, watch, fired)
    notes = {note.event for n in network.nodes.values() for _, note in n.notes}
    assert "owner failover" in notes
    assert all(r.attempt.number == 0 for r in network.nodes[trainers(4)[1]].records.values())


def test_parts_that_do_not_match_their_commitment_are_refused_and_not_paid() -> None:
    run = context(2, 2, rounds=3)
    liar = trainers(4)[0]

    def act(net: HeapNetwork, node: VirtualNode, effect: Effect) -> bool:
        if not isinstance(effect, SendPart):
            return False
        net.send(node, effect.owner, PartArrived(liar, effect.attempt, effect.part, FALSE))
        return True

    network, watch, fired = with_liar(run, 4, liar, act)
    make_it(network, watch, fired)
    assert any("does not match its commitment" in reason for reason in blame(network, liar))
    assert paid_rounds(network, liar) == []


def test_a_trainer_that_never_commits_holds_the_round_up_once_and_is_not_paid() -> None:
    run = context(2, 2, rounds=3)
    liar = trainers(4)[0]

    def act(_net: HeapNetwork, _node: VirtualNode, effect: Effect) -> bool:
        return isinstance(effect, Publish) and isinstance(effect.message, Commitment)

    network, watch, fired = with_liar(run, 4, liar, act)
    make_it(network, watch, fired)
    assert paid_rounds(network, liar) == []
    assert all(r.attempt.number == 0 for r in network.nodes[trainers(4)[1]].records.values())


@pytest.mark.parametrize("seed", range(8))
def test_two_commitments_are_blamed_and_hold_the_round_up_for_an_attempt_or_two(seed: int) -> None:
    """Validators that heard different ones first come to different verdicts at first."""
    run = context(2, 2, rounds=2)
    liar = trainers(4)[0]

    def act(net: HeapNetwork, node: VirtualNode, effect: Effect) -> bool:
        if not (isinstance(effect, Publish) and isinstance(effect.message, Commitment)):
            return False
        net.perform(node, effect)
        net.gossip(node, replace(effect.message, parts_root=FALSE))
        return True

    network, watch, fired = with_liar(run, 4, liar, act, seed)
    make_it(network, watch, fired)
    assert "two commitments in one attempt" in blame(network, liar)
    records = max((n.records for n in network.nodes.values()), key=len)
    assert all(record.attempt.number <= 2 for record in records.values())


@pytest.mark.parametrize("differing", [False, True])
def test_an_owner_that_spoils_its_parts_is_left_out_in_the_end(differing: bool) -> None:
    """Wrong results fail the audit; results that differ get no majority. Neither is for ever."""
    run = context(2, 2, rounds=2)
    liar = trainers(4)[0]

    def act(net: HeapNetwork, node: VirtualNode, effect: Effect) -> bool:
        if not isinstance(effect, SendResult):
            return False
        for i, member in enumerate(effect.members):
            false = Digest(bytes([i + 1 if differing else 1]) * 32)
            result = PartResult(false, effect.result.included)
            net.send(node, member, ResultArrived(liar, effect.attempt, effect.part, result))
        return True

    network, watch, fired = with_liar(run, 4, liar, act)
    make_it(network, watch, fired)
    assert paid_rounds(network, liar) == []
    failed = any(n.event == "audit failed" for x in network.nodes.values() for _, n in x.notes)
    assert failed is not differing


def test_a_member_cannot_decide_a_part_that_it_does_not_own() -> None:
    run = context(2, 2, rounds=2)
    liar = trainers(4)[0]

    def act(net: HeapNetwork, node: VirtualNode, effect: Effect) -> bool:
        if not (isinstance(effect, SetTimer) and effect.name == "commit"):
            return False
        assert node.trainer is not None
        exchange = node.trainer._exchange  # whose turn each part is
        assert exchange is not None
        for index, part in enumerate(exchange.parts):
            for member in exchange.members:
                if part.owners.order[0] != liar and member != liar:
                    result = PartResult(FALSE, 1)
                    net.send(node, member, ResultArrived(liar, effect.attempt, index, result))
        net.perform(node, effect)
        return True

    network, watch, fired = with_liar(run, 4, liar, act)
    make_it(network, watch, fired, 60.0)
    assert all(r.attempt.number == 0 for r in network.nodes[trainers(4)[1]].records.values())


def test_strangers_who_say_things_are_not_in_the_record() -> None:
    """A key that no seat names commits, votes and notes, with everybody listening."""
    run = context(2, 2, rounds=2)
    liar = trainers(4)[0]
    stranger = Address(b"\x77" * 20)

    def act(net: HeapNetwork, node: VirtualNode, effect: Effect) -> bool:
        if not (isinstance(effect, Publish) and isinstance(effect.message, Commitment)):
            return False
        ghost = VirtualNode(stranger, False, -1)
        net.gossip(ghost, effect.message)
        net.gossip(ghost, Timeout(Attempt(run.run, effect.message.attempt.round, 0), ()))
        net.perform(node, effect)
        return True

    network, _, fired = with_liar(run, 4, liar, act)
    assert network.run(200.0, finished)
    assert fired
    assert paid_rounds(network, stranger) == []
    assert any("no validator" in reason for reason in blame(network, stranger))
