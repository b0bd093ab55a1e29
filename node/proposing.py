"""What a member asks the daemon to put to the vote, checked before anything is signed or paid."""

from decimal import Decimal
from typing import Any

from eigen.chain.decisions import Admit, ChangeRun, Decision, OtherCall, Payment, ReplaceValidators
from eigen.chain.port import Chain
from eigen.config.addresses import parse_address
from eigen.node.amounts import base_units, whole
from eigen.node.governance import GovernanceService, open_run
from eigen.node.registrations import Registrations
from eigen.node.rounds import Rounds
from eigen.protocol.changes import check_change
from eigen.protocol.governance import KnownProposal
from eigen.protocol.run import RunSpec, spec_digest
from eigen.protocol.types import Address, RunId
from eigen.protocol.wire import decode_bare

SPEC_BYTES_MAX = 64 * 1024
"""A run spec with all its options."""


class CannotPropose(Exception):
    """A proposal that could not be carried out, or makes no sense; says why."""


class Proposer:
    """Turns what `eigen propose` sends into decisions of the DAO."""

    def __init__(
        self,
        chain: Chain,
        governance: GovernanceService,
        rounds: Rounds | None,
        token: Address,
        registrations: Registrations | None = None,
    ) -> None:
        """`token` is the DAO's own."""
        self._chain = chain
        self._governance = governance
        self._rounds = rounds
        self._token = token
        self._registrations = registrations

    async def propose(self, params: dict[str, Any]) -> KnownProposal:
        """Put it to the vote.

        Raises `CannotPropose`; KeyError, TypeError or ValueError for params that no command sends;
        and what `GovernanceService.propose` raises.
        """
        kind, specs = str(params.get("kind", "run")), tuple[RunSpec, ...]()
        decisions: list[Decision]
        match kind:
            case "run":
                specs = (_spec(params),)
                decisions = [open_run(specs[0])]
            case "parameters":
                specs = (_spec(params),)
                decisions = [self._change(params, specs[0])]
            case "payment":
                decisions = [await self._payment(params)]
            case "validators":
                decisions = [await self._validators(params)]
            case "membership":
                account = parse_address(params["account"])
                decisions = [Admit(account, bool(params["approved"]))]
            case "model":
                if self._registrations is None:
                    raise CannotPropose("this chain's model registry cannot be read")
                decisions = [await self._registrations.decision(self._of_open_run(params))]
            case "calls":
                decisions = [
                    OtherCall(
                        parse_address(call["to"]), int(call["value"]), bytes.fromhex(call["data"])
                    )
                    for call in params["calls"]
                ]
            case _:
                raise ValueError(f"no kind of proposal: {kind[:40]}")
        description = str(params.get("description", ""))
        return await self._governance.propose(decisions, description, specs)

    def _change(self, params: dict[str, Any], spec: RunSpec) -> ChangeRun:
        run, from_round = RunId(bytes.fromhex(params["run"])), int(params["from_round"])
        driver = self._rounds.drivers.get(run) if self._rounds else None
        if driver is None:
            raise CannotPropose("run: it is not open here")
        context, now = driver.context, driver.head.round
        try:
            check_change(context.spec, spec)
        except ValueError as error:
            raise CannotPropose(str(error)) from error
        if context.course.expected(from_round).spec == spec:
            raise CannotPropose("it changes nothing")
        if not now + 1 < from_round <= context.spec.rounds:
            raise CannotPropose(
                f"from_round: {from_round} is not after the round in progress ({now + 1}) and up to"
                f" the last ({context.spec.rounds}); leave room for the vote"
            )
        return ChangeRun(run, from_round, spec_digest(spec))

    def _of_open_run(self, params: dict[str, Any]) -> dict[str, Any]:
        """With the whole id of the run that is open here and begins so, where there is one."""
        prefix = str(params["run"]).removeprefix("0x").lower()
        drivers = self._rounds.drivers if self._rounds else {}
        found = [run.hex() for run in drivers if prefix and run.hex().startswith(prefix)]
        return params | {"run": found[0]} if len(found) == 1 else params

    async def _payment(self, params: dict[str, Any]) -> Payment:
        name = str(params["token"])
        token = {"dao": self._token, "coin": None}.get(name)
        if name not in ("dao", "coin"):
            token = parse_address(name)
        held = await self._chain.treasury(token)
        amount = Decimal(str(params["amount"]))
        try:
            units = base_units(amount, held.decimals)
        except ValueError as error:
            raise CannotPropose(f"amount: {error}") from error
        if units > held.amount:
            has = whole(held.amount, held.decimals)
            raise CannotPropose(f"amount: the treasury holds {has} of it, not {amount:f}")
        return Payment(token, parse_address(params["to"]), units)

    async def _validators(self, params: dict[str, Any]) -> ReplaceValidators:
        validators = tuple(parse_address(name) for name in params["validators"])
        wanted = ReplaceValidators(validators, int(params["quorum"]))
        if await self._chain.validators() == (frozenset(validators), wanted.quorum):
            raise CannotPropose("validators: these are the validators and the quorum already")
        return wanted


def _spec(params: dict[str, Any]) -> RunSpec:
    return decode_bare(bytes.fromhex(params["spec"]), RunSpec, bytes_max=SPEC_BYTES_MAX)
