"""`eigen peers`: see `--help`."""

import json

import click

from eigen.node.commands import Invocation, pass_invocation
from eigen.node.control import call_daemon


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
@pass_invocation
def command(invocation: Invocation, as_json: bool) -> None:
    """List connected peers, their roles and how they behave."""
    rows = call_daemon(invocation.paths.control_socket, "peers")
    if as_json:
        click.echo(json.dumps(rows))
        return
    for row in rows:
        roles = ", ".join(row["roles"]) or "-"
        way = "relayed" if row["relayed"] else "direct"
        click.echo(
            f"{row['address']}  {roles:<18}  {way:<7}  score {row['score']:.1f}  {row['software']}"
        )
    if not rows:
        click.echo("no peers")
