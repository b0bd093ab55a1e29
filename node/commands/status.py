"""`eigen status`: what the running node does, at a glance."""

import json

import click

from eigen.node.commands import Invocation, pass_invocation
from eigen.node.control import call_daemon
from eigen.node.run_file import TOKEN


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@pass_invocation
def command(invocation: Invocation, as_json: bool) -> None:
    """Show peers, proposals, runs and rewards of the running node."""
    status = call_daemon(invocation.paths.control_socket, "status")
    if as_json:
        click.echo(json.dumps(status))
        return
    roles = ", ".join(status["roles"]) or "no role"
    click.echo(f"{status['address']}  {roles}  process {status['pid']}")
    click.echo(f"network {status['network']} ({status['network_id']}), {status['peers']} peers")
    for address in status["listen"]:
        click.echo(f"listens on {address}")
    if status["dialable"] is not None:
        click.echo(f"peers can{'' if status['dialable'] else 'not'} dial this node")
    for address in status["relays"]:
        click.echo(f"relayed by {address}")
    for proposal in status["proposals"]:
        click.echo(
            f"proposal {proposal['run'][:12]} {proposal['name']}: {proposal['stage']}, "
            f"{proposal['ballots']} ballots"
        )
    for run in status["runs"]:
        earned = int(run["earned"]) / TOKEN
        click.echo(
            f"run {run['run'][:12]} {run['name']}: round {run['round']} of {run['rounds']}, "
            f"{run['phase']}, earned {earned:.4f} tokens"
        )
