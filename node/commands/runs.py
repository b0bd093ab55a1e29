"""`eigen runs`: see `--help`."""

import json

import click

from eigen.node.commands import Invocation, pass_invocation
from eigen.node.control import call_daemon
from eigen.node.run_file import TOKEN


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
@pass_invocation
def command(invocation: Invocation, as_json: bool) -> None:
    """List runs, each round's checkpoint, and who was credited."""
    rows = call_daemon(invocation.paths.control_socket, "runs")
    if as_json:
        click.echo(json.dumps(rows))
        return
    for run in rows:
        click.echo(f"{run['run'][:12]}  {run['name']}  round {run['round']} of {run['rounds']}")
        for number, record in run["history"].items():
            figures = run["figures"].get(number)
            accuracy = f"{100 * figures['accuracy']:.2f}%" if figures else ""
            paid = sum(map(int, record["trainers"].values())) / TOKEN
            click.echo(
                f"  {number:>3}  {record['checkpoint'][:24]}…  {len(record['trainers'])} trainers, "
                f"{paid:.2f} tokens  {accuracy}"
            )
    if not rows:
        click.echo("no runs")
