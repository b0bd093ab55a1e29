"""A proposal as commands show it: what it does in words, read from its calls, and how it stands."""

from collections.abc import Callable
from typing import Any

from eigen.chain.decisions import (
    Admit,
    ChangeRun,
    Decision,
    OpenRun,
    OtherCall,
    Payment,
    RegisterModel,
    ReplaceValidators,
)
from eigen.chain.port import Chain
from eigen.config.addresses import format_address
from eigen.node.amounts import whole
from eigen.node.governance import GovernanceService
from eigen.node.spec_book import SpecBook
from eigen.protocol.changes import differences
from eigen.protocol.governance import KnownProposal, Stage
from eigen.protocol.run import RunSpec
from eigen.protocol.types import Address, RunId

_KINDS = {
    OpenRun: "run",
    ChangeRun: "parameters",
    Payment: "payment",
    ReplaceValidators: "validators",
    Admit: "membership",
    RegisterModel: "model",
    OtherCall: "calls",
}


SpecBefore = Callable[[RunId, int], RunSpec | None]
"""The spec by which a run goes before a round, where the run is open here."""


def proposal_view(
    known: KnownProposal,
    governance: GovernanceService,
    chain: Chain,
    token: Address,
    spec_before: SpecBefore,
) -> dict[str, Any]:
    """Plain values. Votes and quorum are decimal text, in whole DAO tokens; times in seconds."""
    decisions = chain.decisions(known.proposal)
    kinds = {_KINDS[type(decision)] for decision in decisions}
    runs = [d.run for d in decisions if isinstance(d, OpenRun | ChangeRun)]
    named = [d.spec for d in decisions if isinstance(d, OpenRun | ChangeRun)]
    spec = governance.specs.get(named[0]) if named else None
    status = governance.statuses.get(known.id)
    left_s = 0
    if status is not None and known.stage in (Stage.PENDING, Stage.ACTIVE):
        left_s = max(0, status.vote_end_s - governance.time_s)
    return {
        "proposal": str(known.id),
        "kind": kinds.pop() if len(kinds) == 1 else "calls",
        "run": runs[0].hex() if runs else "",
        "name": spec.name if spec else "",
        "does": [in_words(d, governance.specs, token, spec_before) for d in decisions],
        "by": format_address(known.proposer),
        "stage": known.stage.value,
        "ballots": len(known.ballots),
        "counted": len(known.counted),
        "for": whole(status.votes_for if status else 0),
        "against": whole(status.votes_against if status else 0),
        "abstain": whole(status.votes_abstain if status else 0),
        "quorum": whole(status.quorum if status else 0),
        "left_s": left_s,
        "description": known.proposal.description,
    }


def in_words(decision: Decision, specs: SpecBook, token: Address, spec_before: SpecBefore) -> str:
    """What a decision does, in one line. `token` is the DAO's."""
    match decision:
        case OpenRun(run, spec, rounds, reward_per_round):
            known = specs.get(spec)
            name = f" {known.name!r}" if known else ""
            reward = whole(reward_per_round)
            return f"train{name} for {rounds} rounds at {reward} tokens each (run {run.hex()[:12]})"
        case ChangeRun(run, from_round, spec):
            after = specs.get(spec)
            before = spec_before(run, from_round)
            what = ", ".join(differences(before, after)) if before and after else "its settings"
            return f"change run {run.hex()[:12]} from round {from_round}: {what}"
        case Payment(None, payee, amount):
            return f"pay {whole(amount)} of the chain's coin to {format_address(payee)}"
        case Payment(paid, payee, amount):
            assert paid is not None
            to = format_address(payee)
            if paid == token:
                return f"pay {whole(amount)} DAO tokens to {to}"
            return f"pay {amount} base units of the token {format_address(paid)} to {to}"
        case ReplaceValidators(validators, quorum):
            names = ", ".join(map(format_address, validators))
            return f"let {quorum} of these validators attest: {names}"
        case Admit(account, approved):
            return f"{'admit' if approved else 'refuse'} {format_address(account)} as a member"
        case RegisterModel(run, owner, parent, parent_round, royalty_bps, _):
            came = f", from round {parent_round} of {parent.hex()[:12]}" if parent else ""
            return (
                f"register the model of run {run.hex()[:12]}{came}, owned by"
                f" {format_address(owner)}, {royalty_bps / 100:g}% of sales to contributors"
            )
        case OtherCall(target, value, data):
            sent = f" with {whole(value)} of the chain's coin" if value else ""
            return f"call {format_address(target)}{sent}: 0x{data.hex()[:200]}"
