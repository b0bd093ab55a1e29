"""`eigen paths`: where this node keeps its files."""

import json

import click

from eigen.node.commands import Invocation, pass_invocation


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@pass_invocation
def command(invocation: Invocation, as_json: bool) -> None:
    """Show where this node keeps its files; `--home` moves them all."""
    paths = {name: str(path) for name, path in invocation.paths.items().items()}
    if as_json:
        click.echo(json.dumps(paths, indent=2))
        return
    width = max(map(len, paths))
    for name, path in paths.items():
        click.echo(f"{name:{width}}  {path}")
