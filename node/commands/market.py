"""`eigen market`: sell and buy models, generated works, and licences to use them."""

import hashlib
import json
import sys
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import click

from eigen.config.addresses import parse_address
from eigen.node.commands import Invocation, pass_invocation
from eigen.node.exit_codes import ExitCode, UserError
from eigen.node.member_calls import member_call

DAY_S = 86_400
DAYS_MAX = 36_500
"""A century; 0 says for ever."""
TERMS_BYTES_MAX = 1024 * 1024
"""Of a licence's text."""


@click.group()
def command() -> None:
    """Sell and buy models and licences to use them; needs no running node."""


@command.command("list")
@click.option("--all", "everything", is_flag=True, help="Other DAOs' and everybody's, too.")
@click.option("--before", type=click.IntRange(1), help="Go on with the offers before this id.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@pass_invocation
def list_offers(
    invocation: Invocation, everything: bool, before: int | None, as_json: bool
) -> None:
    """List offers, newest first."""
    found = member_call(invocation, "offers", everything=everything, before=before)
    if as_json:
        click.echo(json.dumps(found))
        return
    for offer in found["offers"]:
        click.echo(_line(offer))
    if not found["offers"]:
        click.echo("no offers" if not found["go_on_before"] else "no offers among the newest")
    if found["go_on_before"]:
        click.echo(f"go on with: eigen market list --before {found['go_on_before']}")


@command.command()
@click.argument("id_", metavar="ID")
@click.option("--price", required=True, help="Whole tokens; 0 gives it away.")
@click.option("--token", default="dao", help="What is paid with: dao, or a token's address.")
@click.option("--creation", is_flag=True, help="ID is a generated work's, not a model's.")
@click.option(
    "--licence",
    type=click.Path(path_type=Path),
    help="Sell licences under the text in this file, any number of them.",
)
@click.option(
    "--days", type=click.IntRange(0, DAYS_MAX), help="How long a licence runs; 0: for ever."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@pass_invocation
def sell(
    invocation: Invocation,
    id_: str,
    price: str,
    token: str,
    creation: bool,
    licence: Path | None,
    days: int | None,
    as_json: bool,
) -> None:
    """Offer the model whose id begins with ID, or licences to use it. Costs gas.

    It stays this account's until somebody takes the offer. An offer never changes: to change a
    price, withdraw it and offer again.
    """
    if token not in ("dao", "coin"):
        try:
            parse_address(token)
        except ValueError as error:
            raise UserError(f"--token: {token[:60]!r}: {error}", ExitCode.USAGE) from error
    if (licence is None) != (days is None):
        raise UserError("--licence, --days: give both, or neither", ExitCode.USAGE)
    terms = "" if licence is None else _digest(licence)
    made = member_call(
        invocation,
        "sell",
        id=id_,
        price=price,
        token=token,
        creation=creation,
        terms=terms,
        days=days or 0,
    )
    if as_json:
        click.echo(json.dumps(made))
        return
    click.echo(_line(made["offer"]))
    click.echo(f"offered in {made['tx']}")


@command.command()
@click.argument("id_", metavar="ID", type=click.IntRange(1))
@click.option("--price", help="The price that you agree to, instead of being asked.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@pass_invocation
def buy(invocation: Invocation, id_: int, price: str | None, as_json: bool) -> None:
    """Take the offer ID for this account, after its price is shown and agreed to. Costs gas."""
    told = member_call(invocation, "offer", id=id_)
    offer = told["offer"]
    click.echo(_line(offer), err=True)
    click.echo(f"this account holds {told['held']} {offer['symbol']}", err=True)
    if price is None:
        if not sys.stdin.isatty():
            raise UserError(
                f"there is no terminal to ask on: agree with --price {offer['price']}",
                ExitCode.USAGE,
            )
        click.confirm("buy it?", abort=True, err=True)
    elif _number(price) != Decimal(offer["price"]):
        raise UserError(
            f"offer {id_} costs {offer['price']} {offer['symbol']}, not {price[:40]};"
            " nothing was spent",
            ExitCode.FAILED,
        )
    done = member_call(invocation, "buy", agreed=offer)
    if as_json:
        click.echo(json.dumps(done))
        return
    click.echo(f"bought in {done['tx']}")


@command.command()
@click.argument("id_", metavar="ID", type=click.IntRange(1))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@pass_invocation
def cancel(invocation: Invocation, id_: int, as_json: bool) -> None:
    """Withdraw this account's offer ID. Costs gas."""
    done = member_call(invocation, "withdraw_offer", id=id_)
    if as_json:
        click.echo(json.dumps(done))
        return
    click.echo(f"offer {done['id']} is withdrawn ({done['tx']})")


def _line(offer: dict[str, Any]) -> str:
    """An offer on one line. Symbols are what tokens call themselves: foreign ones are named."""
    what = f"{offer['kind']} {offer['token'][:12]}"
    if offer["sells"] == "licence":
        days = offer["duration_s"] / DAY_S
        runs = f"for {days:g} days" if offer["duration_s"] else "for ever"
        what = f"licence {runs} for {what}, terms {offer['terms'][:12]}"
    if offer["kind"] == "other":
        what += f" of {offer['contract']}"
    paid = offer["symbol"] if offer["dao_token"] else f"{offer['symbol']} ({offer['asset']})"
    seller = "this account" if offer["ours"] else offer["seller"]
    gone = "" if offer["stands"] else "; void: the seller does not own it"
    return f"{offer['id']}  {what}: {offer['price']} {paid}, by {seller}{gone}"


def _digest(licence: Path) -> str:
    try:
        with licence.open("rb") as file:
            text = file.read(TERMS_BYTES_MAX + 1)
    except OSError as error:
        raise UserError(f"{licence} cannot be read: {error.strerror}", ExitCode.USAGE) from error
    if len(text) > TERMS_BYTES_MAX:
        raise UserError(f"{licence}: over {TERMS_BYTES_MAX} bytes", ExitCode.USAGE)
    return hashlib.sha256(text).hexdigest()


def _number(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation as error:
        raise UserError(f"--price: {text[:40]!r} is no number", ExitCode.USAGE) from error
