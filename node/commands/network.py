"""`eigen network`: the network that this node has joined."""

import json
import tomllib

import click

from eigen.config.network import dump_network
from eigen.node.commands import Invocation, pass_invocation


@click.group()
def command() -> None:
    """Show the network that this node has joined."""


@command.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@pass_invocation
def show(invocation: Invocation, as_json: bool) -> None:
    """Show the network file that holds, defaults included, and the network's id."""
    network = invocation.network(invocation.load())
    text = dump_network(network)
    if as_json:
        facts = {"network_id": network.network_id, **tomllib.loads(text)}
        click.echo(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        click.echo(f"# network id: {network.network_id}\n{text}", nl=False)
