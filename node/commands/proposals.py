"""`eigen proposals`: what is put to the vote, what it does, and how the votes stand."""

import json

import click

from eigen.node.commands import Invocation, pass_invocation
from eigen.node.control import call_daemon


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
@pass_invocation
def command(invocation: Invocation, as_json: bool) -> None:
    """List proposals: what each does, where it stands on chain, and its votes."""
    rows = call_daemon(invocation.paths.control_socket, "proposals")
    if as_json:
        click.echo(json.dumps(rows))
        return
    for row in rows:
        name = row["run"] if row["kind"] == "run" else row["proposal"]
        left = f", {_duration(row['left_s'])} left" if row["left_s"] else ""
        click.echo(f"{name[:12]}  {row['stage']}{left}, by {row['by']}")
        for line in row["does"]:
            click.echo(f"    {line}")
        if row["description"]:
            click.echo(f"    “{' '.join(row['description'].split())}”")
        click.echo(
            f"    for {row['for']}, against {row['against']}, abstain {row['abstain']} of"
            f" {row['quorum']} that must vote for it or abstain; {row['counted']} of"
            f" {row['ballots']} ballots known here are counted"
        )
    if not rows:
        click.echo("no proposals")


def _duration(seconds: int) -> str:
    """`2 d 3 h`, `5 min`, `40 s`: the two largest units."""
    parts = []
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])
