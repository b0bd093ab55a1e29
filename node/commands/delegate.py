"""`eigen delegate`: let another account vote for this node's tokens."""

import json

import click

from eigen.config.addresses import format_address, parse_address
from eigen.node.commands import Invocation, pass_invocation
from eigen.node.control import call_daemon
from eigen.node.exit_codes import ExitCode, UserError

DELEGATE_TIMEOUT_S = 120.0
"""Two confirmations on a slow chain."""


@click.command()
@click.argument("address")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@pass_invocation
def command(invocation: Invocation, address: str, as_json: bool) -> None:
    """Let ADDRESS vote for this node's tokens, from the next proposal on.

    Tokens stay where they are. Your own address takes the votes back. Costs gas.
    """
    try:
        to = format_address(parse_address(address))
    except ValueError as error:
        raise UserError(f"{address[:60]!r}: {error}", ExitCode.USAGE) from error
    result = call_daemon(invocation.paths.control_socket, "delegate", DELEGATE_TIMEOUT_S, to=to)
    if as_json:
        click.echo(json.dumps(result))
        return
    done = f"set in {result['tx']}" if result["tx"] else "as before"
    click.echo(f"{result['delegate']} votes for this node's tokens; {done}")
