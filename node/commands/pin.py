"""`eigen pin`: contents that stay on disk when their round is long over."""

import json

import click

from eigen.node.commands import Invocation, pass_invocation
from eigen.node.control import call_daemon


@click.command()
@click.argument("contents", nargs=-1)
@click.option("--remove", is_flag=True, help="Pin them no more.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
@pass_invocation
def command(invocation: Invocation, contents: tuple[str, ...], remove: bool, as_json: bool) -> None:
    """Keep CONTENTS on disk: checkpoints by their ids, as `eigen runs --json` shows them.

    Prints what is pinned then, seeded datasets included.
    """
    socket = invocation.paths.control_socket
    pinned = call_daemon(socket, "pin", contents=list(contents), remove=remove)
    click.echo(json.dumps(pinned) if as_json else "\n".join(pinned) or "nothing is pinned")
