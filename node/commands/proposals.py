"""`eigen proposals`: see `--help`."""

import json

import click

from eigen.node.commands import Invocation, pass_invocation
from eigen.node.control import call_daemon


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
@pass_invocation
def command(invocation: Invocation, as_json: bool) -> None:
    """List proposals, where they stand on chain, and their ballots."""
    rows = call_daemon(invocation.paths.control_socket, "proposals")
    if as_json:
        click.echo(json.dumps(rows))
        return
    for row in rows:
        click.echo(
            f"{row['run'][:12]}  {row['stage']:<9}  {row['counted']} of {row['ballots']} ballots "
            f"counted  {row['name']}: {row['description']}"
        )
    if not rows:
        click.echo("no proposals")
