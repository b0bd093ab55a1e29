"""`eigen vote`: sign a ballot, which a relayer brings to the chain."""

import json

import click

from eigen.node.commands import Invocation, pass_invocation
from eigen.node.control import call_daemon


@click.command()
@click.argument("proposal")
@click.option("--for", "support", flag_value="for", help="Vote for it.")
@click.option("--against", "support", flag_value="against", help="Vote against it.")
@click.option("--abstain", "support", flag_value="abstain", help="Count towards quorum only.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@pass_invocation
def command(invocation: Invocation, proposal: str, support: str | None, as_json: bool) -> None:
    """Vote on PROPOSAL (the beginning of its id or of its run's); costs no gas."""
    if support is None:
        raise click.UsageError("say --for, --against or --abstain")
    socket = invocation.paths.control_socket
    result = call_daemon(socket, "vote", proposal=proposal, support=support)
    if as_json:
        click.echo(json.dumps(result))
    else:
        click.echo(f"ballot {support} signed by {result['voter']} and gossiped")
