"""`eigen demo`: the whole of Eigen on one machine, in about a minute."""

import contextlib
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click

from eigen.node.exit_codes import ExitCode, UserError

TRAINERS_MAX = 16
"""Each is a daemon and a torch process: about 400 MB of memory."""
ROUNDS_MAX = 200
WIDTH_MIN = 160
"""Columns of the last table: an account and a transaction hash are shown whole."""


@click.command()
@click.option("--trainers", type=click.IntRange(1, TRAINERS_MAX), default=4, show_default=True)
@click.option("--rounds", type=click.IntRange(1, ROUNDS_MAX), default=6, show_default=True)
@click.option("--seed", type=click.IntRange(0, 2**31), default=0, show_default=True)
@click.option(
    "--keep",
    metavar="HOME",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep the nodes' homes, logs and the chain's log in this folder.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object last.")
def command(trainers: int, rounds: int, seed: int, keep: Path | None, as_json: bool) -> None:
    """Found a DAO, vote for a model, train it on four sealed shards, and pay everybody."""
    import trio
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from eigen.node.demo import DemoConfig, run_demo

    out = Console(stderr=as_json, highlight=False)
    out.width = max(out.width, WIDTH_MIN)
    began = time.monotonic()
    status = out.status("starting")  # a live line on a terminal, nothing elsewhere

    def tell(what: str, detail: str) -> None:
        if what:
            seconds = f"[dim]{time.monotonic() - began:6.1f} s[/]"
            out.print(f"{seconds}  [bold]{what:<9}[/] {escape(detail)}")
        else:
            status.update(escape(detail))

    with _folder(keep) as root, status:
        try:
            result = trio.run(run_demo, DemoConfig(root, trainers, rounds, seed), tell)
        except* trio.TooSlowError as group:
            text = f"a step of the demo took too long; logs are in {root}"
            raise UserError(text, ExitCode.TIMED_OUT) from group
    table = Table("node", "role", "account", "rounds", "tokens", "claimed in", box=None)
    for row in result.rows:
        credited, tokens = str(row["rounds"]), f"{row['tokens']:.2f}"
        table.add_row(row["name"], row["role"], row["account"], credited, tokens, row["tx"])
    out.print()
    out.print(table)
    summary = result.summary
    out.print(
        f"\naccuracy on held-out digits {100 * summary['accuracy_before']:.1f}% before, "
        f"{100 * summary['accuracy_after']:.1f}% after {summary['rounds']} rounds; replicas "
        f"{'identical' if summary['replicas_identical'] else 'DIFFER'}; "
        f"{summary['round_roots_on_chain']} round roots on {summary['chain']}; "
        f"{summary['seconds']:.0f} s"
    )
    out.print(f"the model: {summary['checkpoint_cid']}")
    if as_json:
        click.echo(json.dumps(summary))


@contextlib.contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    """The folder that everything goes into; a short path, for Unix sockets lie in it."""
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="eigen-", ignore_cleanup_errors=True) as name:
            yield Path(name)
        return
    keep = keep.absolute()
    if keep.exists() and any(keep.iterdir()):
        raise UserError(f"{keep} is not empty: choose another folder", ExitCode.USAGE)
    keep.mkdir(parents=True, exist_ok=True)
    yield keep
