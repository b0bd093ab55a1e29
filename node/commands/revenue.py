"""`eigen revenue`: stake DAO tokens, and share in what the DAO takes in."""

import json
from typing import Any

import click

from eigen.node.commands import Invocation, pass_invocation
from eigen.node.member_calls import member_call, utc


@click.group()
def command() -> None:
    """Stake tokens, and share in the DAO's revenue; needs no running node."""


@command.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@pass_invocation
def show(invocation: Invocation, as_json: bool) -> None:
    """Show what is staked and shared, and this account's part."""
    now = member_call(invocation, "revenue")
    if as_json:
        click.echo(json.dumps(now))
        return
    token, asset = now["token"], now["asset"]
    click.echo(f"staked     {now['total_staked']} {token} by all, {now['staked']} by this account")
    if now["leaving"] != "0":
        when = utc(now["available_at_s"])
        click.echo(f"leaving    {now['leaving']} {token}, to be withdrawn from {when} on")
    click.echo(f"revenue    {now['deposited']} {asset} came in, {now['paid']} were paid out")
    click.echo(f"shared in  {asset}, {now['asset_address']}")
    click.echo(f"to claim   {now['owed']} {asset}")


@command.command()
@click.argument("amount")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@pass_invocation
def stake(invocation: Invocation, amount: str, as_json: bool) -> None:
    """Lock AMOUNT DAO tokens; they share in later revenue and go on voting. Costs gas."""
    done = member_call(invocation, "stake", amount=amount)
    _tell(done, as_json, "staked")


@command.command()
@click.argument("amount")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@pass_invocation
def unstake(invocation: Invocation, amount: str, as_json: bool) -> None:
    """Stop staking AMOUNT DAO tokens; withdraw them after the delay. Costs gas.

    The delay starts anew for all that is on its way.
    """
    done = member_call(invocation, "unstake", amount=amount)
    _tell(done, as_json, "unstaked")
    if not as_json:
        click.echo(f"fetch them from {utc(done['available_at_s'])} on: eigen revenue withdraw")


@command.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@pass_invocation
def withdraw(invocation: Invocation, as_json: bool) -> None:
    """Fetch the tokens that were unstaked, once the delay is over. Costs gas."""
    _tell(member_call(invocation, "withdraw_stake"), as_json, "withdrew")


@command.command()
@click.argument("amount")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@pass_invocation
def deposit(invocation: Invocation, amount: str, as_json: bool) -> None:
    """Share AMOUNT of this account's money among those who stake now. Costs gas."""
    _tell(member_call(invocation, "deposit_revenue", amount=amount), as_json, "shared")


@command.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@pass_invocation
def claim(invocation: Invocation, as_json: bool) -> None:
    """Fetch this account's share of revenue. Costs gas."""
    _tell(member_call(invocation, "claim_revenue"), as_json, "got")


def _tell(done: dict[str, Any], as_json: bool, what: str) -> None:
    if as_json:
        click.echo(json.dumps(done))
    else:
        click.echo(f"{what} {done['amount']} {done['symbol']} ({done['tx']})")
