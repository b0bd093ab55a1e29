"""`eigen model`: the DAO's models on record: from which run, from which model, whose."""

import json
from decimal import Decimal, InvalidOperation
from typing import Any

import click

from eigen.config.addresses import format_address, parse_address
from eigen.node.commands import Invocation, pass_invocation
from eigen.node.control import call_daemon
from eigen.node.exit_codes import ExitCode, UserError
from eigen.node.member_calls import CALL_TIMEOUT_S, member_call

SHOWN_MAX = 20
"""Contributors listed on a terminal; --json has them all."""


@click.group()
def command() -> None:
    """Put models on record, and look at where they come from."""


@command.command()
@click.argument("run")
@click.option("--owner", default="dao", help="Who owns the NFT: dao, or an address.")
@click.option("--royalty-percent", default="0", help="Of each sale, to its contributors.")
@click.option("--parent", default="", help="The model that it was fine-tuned from.")
@click.option("--parent-round", default=0, help="Which round on the parent's record.")
@click.option("--uri", default="", help="Where a description is, such as ipfs://CID.")
@click.option("--description", default="", help="What voters are told.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@pass_invocation
def register(
    invocation: Invocation,
    /,
    run: str,
    owner: str,
    royalty_percent: str,
    as_json: bool,
    **terms: Any,
) -> None:
    """Propose that the DAO puts the model of RUN (the beginning of its id) on record.

    Only the DAO registers models, by a vote. Needs the running node, as all proposals do.
    """
    if owner != "dao":
        try:
            owner = format_address(parse_address(owner))
        except ValueError as error:
            raise UserError(f"--owner: {owner[:60]!r}: {error}", ExitCode.USAGE) from error
    if bool(terms["parent"]) != bool(terms["parent_round"]):
        raise UserError("--parent, --parent-round: give both, or neither", ExitCode.USAGE)
    params = terms | {"run": run, "owner": owner, "royalty_bps": _bps(royalty_percent)}
    made = call_daemon(
        invocation.paths.control_socket, "propose", CALL_TIMEOUT_S, kind="model", **params
    )
    if as_json:
        click.echo(json.dumps(made))
        return
    click.echo(f"proposal {made['proposal']}")
    for line in made["does"]:
        click.echo(f"does     {line}")
    click.echo(f"vote with: eigen vote {made['proposal'][:12]} --for")


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
@pass_invocation
def list_models(invocation: Invocation, as_json: bool) -> None:
    """List the DAO's models, oldest first. Needs no running node."""
    models = member_call(invocation, "models")
    if as_json:
        click.echo(json.dumps(models))
        return
    if not models:
        click.echo("no models; propose one with: eigen model register RUN")
    for model in models:
        rounds = model["rounds"]
        newest = f"round {rounds[-1]['round']}" if rounds else "no checkpoint on record"
        owner = model["owned_by"] or model["owner"]
        click.echo(f"{model['id'][:12]}  {newest}, owned by {owner}")


@command.command()
@click.argument("id_", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@pass_invocation
def show(invocation: Invocation, id_: str, as_json: bool) -> None:
    """Show the model whose id begins with ID: spec, lineage, checkpoints, owner, royalty.

    Needs no running node. A running node adds who contributed, from the records that it has.
    """
    model = member_call(invocation, "model", id=id_)
    if as_json:
        click.echo(json.dumps(model))
        return
    whose = f" ({model['owned_by']})" if model["owned_by"] else ""
    click.echo(f"model       {model['id']}")
    click.echo(f"spec        {model['spec']}")
    click.echo(f"owner       {model['owner']}{whose}")
    click.echo(f"royalty     {model['royalty_percent']:g}% to {model['royalties_to']}")
    if model["uri"]:
        click.echo(f"described   {model['uri']!r}")
    for ancestor in model["lineage"]:
        click.echo(f"from        {ancestor}")
    if model["start"]:
        click.echo(f"started at  {model['start']}")
    if model["rounds"]:
        newest = model["rounds"][-1]
        click.echo(f"checkpoint  {' or '.join(newest['cids'])} (round {newest['round']})")
        click.echo(f"payouts     {newest['payout_root']}")
    else:
        click.echo("checkpoint  none on record")
    if model["paying_round"] not in [0, *(known["round"] for known in model["rounds"])]:
        click.echo(f"            put round {model['paying_round']} there: eigen model record")
    for run, known in model["contributors"].items():
        _tell_contributors(run, known)


def _tell_contributors(run: str, known: dict[str, Any] | None) -> None:
    if known is None:
        click.echo(f"trained by  no records of {run[:12]} are at hand")
        return
    click.echo(f"trained by  {run[:12]} through round {known['through_round']}")
    earned = sorted(known["earned"].items(), key=lambda one: -Decimal(one[1]))
    for account, tokens in earned[:SHOWN_MAX]:
        click.echo(f"            {account}  {tokens} tokens")
    if len(earned) > SHOWN_MAX:
        click.echo(f"            and {len(earned) - SHOWN_MAX} more")


@command.command()
@click.argument("id_", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@pass_invocation
def record(invocation: Invocation, id_: str, as_json: bool) -> None:
    """Put the latest round that pays on the model's record; anyone may. Costs gas."""
    done = member_call(invocation, "record_model", id=id_)
    if as_json:
        click.echo(json.dumps(done))
        return
    click.echo(f"round {done['round']} of {done['model'][:12]} is on record ({done['tx']})")


def _bps(text: str) -> int:
    try:
        hundredths = Decimal(text) * 100
        if 0 <= hundredths <= 10_000 and hundredths == int(hundredths):
            return int(hundredths)
    except (InvalidOperation, ValueError):
        pass
    raise UserError("--royalty-percent: 0 to 100, with two decimals at most", ExitCode.USAGE)
