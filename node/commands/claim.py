"""`eigen claim`: take what the ledger owes this node."""

import json

import click

from eigen.node.commands import Invocation, pass_invocation
from eigen.node.control import call_daemon
from eigen.node.run_file import TOKEN

CLAIM_TIMEOUT_S = 120.0
"""Two confirmations on a slow chain."""


@click.command()
@click.argument("run", default="")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@pass_invocation
def command(invocation: Invocation, run: str, as_json: bool) -> None:
    """Claim the rewards that this node has earned in RUN (the beginning of its id)."""
    result = call_daemon(invocation.paths.control_socket, "claim", CLAIM_TIMEOUT_S, run=run)
    if as_json:
        click.echo(json.dumps(result))
        return
    click.echo(f"claimed {int(result['amount']) / TOKEN:.4f} tokens in {result['tx']}")
    click.echo(f"balance {int(result['balance']) / TOKEN:.4f} tokens")
