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
@click.option("--all", "everybody", is_flag=True, help="Claim for every account that is owed.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@pass_invocation
def command(invocation: Invocation, run: str, everybody: bool, as_json: bool) -> None:
    """Claim the rewards that this node has earned in RUN (the beginning of its id).

    With --all this node pays the gas for everybody: each account is paid what it is owed, at its
    own payout address.
    """
    socket = invocation.paths.control_socket
    result = call_daemon(socket, "claim", CLAIM_TIMEOUT_S, run=run, all=everybody)
    if as_json:
        click.echo(json.dumps(result))
        return
    if everybody:
        click.echo(f"paid {result['accounts']} accounts in {', '.join(result['txs'])}")
        return
    click.echo(f"claimed {int(result['amount']) / TOKEN:.4f} tokens in {result['tx']}")
    click.echo(f"balance {int(result['balance']) / TOKEN:.4f} tokens")
