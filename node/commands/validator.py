"""`eigen validator`: what a validator does by hand."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eigen.config.addresses import format_address, parse_address
from eigen.node.commands import Invocation, pass_invocation
from eigen.node.exit_codes import ExitCode, UserError
from eigen.node.member_calls import member_call, utc

if TYPE_CHECKING:
    from eigen.node.run_file import RunFile

ROUNDS, ROUNDS_MAX = 3, 100
"""Rounds that are measured: in each, every machine checks every other."""
SHARDS = 4
"""Shards that are dealt where the run file's dataset is not at hand."""


def _shards(run_file: "RunFile") -> list[bytes]:
    """The run's shards where its source is at hand, else as many samples drawn at random.

    By how much replays differ hardly depends on what the samples are.
    """
    from eigen.node.commands.propose import load_source
    from eigen.protocol.cid import raw_cid
    from eigen.training.architectures import declare
    from eigen.training.datasets import drawn, split, write_shard

    spec = run_file.spec(run_file.dataset.manifest or raw_cid(b""))
    seed = int(run_file.table.get("seed", 0))
    if run_file.dataset.source:
        samples, _ = load_source(run_file.path, run_file.dataset, spec.model, seed)
        return [write_shard(shard) for shard in split(samples, run_file.dataset.shards, seed)]
    declared, count = declare(spec.model), SHARDS * spec.inner.steps * spec.inner.batch
    samples = drawn(
        count, inputs=declared.inputs, classes=declared.classes, text=declared.sequences
    )
    return [write_shard(shard) for shard in split(samples, SHARDS, seed)]


@click.group()
def command() -> None:
    """Bond tokens as a validator; measure how exactly trainers' work can be checked here."""


@command.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--rounds", type=click.IntRange(1, ROUNDS_MAX), help=f"How many.  [default: {ROUNDS}]"
)
@click.option("--dry-run", is_flag=True, help="Store nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@pass_invocation
def calibrate(
    invocation: Invocation, file: Path, rounds: int | None, dry_run: bool, as_json: bool
) -> None:
    """Measure by how much honest replays of FILE's run differ, and store what follows.

    FILE is a run file. The same local steps are made with other instruction sets, thread counts and
    micro-batches, and by a cheat that leaves out a tenth of them. What lies between becomes the
    tolerance of this home's validator.
    """
    import structlog
    import trio

    from eigen.node.calibrate import machines, measure
    from eigen.node.calibrations import save
    from eigen.node.run_file import load_run_file
    from eigen.node.worker import WorkerError
    from eigen.protocol.cid import raw_cid
    from eigen.training.calibration import Inseparable
    from eigen.training.errors import TrainingError

    run_file = load_run_file(file)
    spec = run_file.spec(run_file.dataset.manifest or raw_cid(b""))
    rounds = min(ROUNDS, spec.rounds) if rounds is None else rounds
    if rounds > spec.rounds:
        raise UserError(f"--rounds: the run has {spec.rounds}", ExitCode.USAGE)
    home = invocation.paths.home
    if not dry_run and not home.is_dir():
        raise UserError(
            f"there is no home {home} to store it in; run eigen init, or give --dry-run",
            ExitCode.CONFIGURATION,
        )

    def tell(name: str) -> None:
        click.echo(f"training on: {name} …", err=True)

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    try:
        measured = trio.run(measure, spec, _shards(run_file), machines(spec), rounds, tell)
        tolerance = measured.tolerance()
    except Inseparable as error:
        raise UserError(f"{file}: {error}: no tolerance would be safe", ExitCode.FAILED) from error
    except (TrainingError, WorkerError) as error:
        raise UserError(f"{file}: {error}", ExitCode.FAILED) from error
    if not dry_run:
        save(invocation.paths.calibration_file, spec, tolerance)
    rows = {
        f"{trainer} / {validator}": max(check.furthest for check in checks)
        for (trainer, validator), checks in measured.honest.items()
    }
    least = min(check.furthest for check in measured.cheats)
    found = {"honest": rows, "cheat": least, "accept": tolerance.accept, "reject": tolerance.reject}
    if as_json:
        click.echo(json.dumps(found))
        return
    click.echo(f"{'trainer / validator':44} largest distance")
    for name, distance in rows.items():
        click.echo(f"{name:44} {distance:.1e}")
    click.echo(f"{'a tenth of the steps left out':44} {least:.1e} or more")
    click.echo(f"{'accept up to':44} {tolerance.accept:.1e}")
    click.echo(f"{'reject above':44} {tolerance.reject:.1e}")
    click.echo("in between, a second validator decides")
    if not dry_run:
        click.echo(f"stored in {invocation.paths.calibration_file}")


@command.command()
@click.argument("amount")
@click.option("--for", "to", default="", help="Another validator's address; the tokens are its.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@pass_invocation
def bond(invocation: Invocation, amount: str, to: str, as_json: bool) -> None:
    """Bond AMOUNT of this account's DAO tokens, which a validator stands to lose. Costs gas.

    Needs no running node.
    """
    if to:
        try:
            to = format_address(parse_address(to))
        except ValueError as error:
            raise UserError(f"--for: {to[:60]!r}: {error}", ExitCode.USAGE) from error
    _tell(member_call(invocation, "bond", amount=amount, to=to), as_json)


@command.command()
@click.argument("amount")
@click.option("--leave", is_flag=True, help="Agree to be no validator any more.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@pass_invocation
def unbond(invocation: Invocation, amount: str, leave: bool, as_json: bool) -> None:
    """Take AMOUNT out of this account's bond; withdraw it after the delay. Costs gas.

    It can be slashed until then. The delay starts anew for all that is on its way.
    """
    _tell(member_call(invocation, "unbond", amount=amount, leave=leave), as_json)


@command.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@pass_invocation
def withdraw(invocation: Invocation, as_json: bool) -> None:
    """Fetch the tokens that were unbonded, once the delay is over. Costs gas."""
    _tell(member_call(invocation, "withdraw_bond"), as_json)


def _tell(done: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(done))
        return
    if "amount" in done:
        click.echo(f"withdrew {done['amount']} {done['symbol']}")
    click.echo(bond_line(done, done["symbol"]))
    click.echo(f"done in {done['tx']}")


def bond_line(bond: dict[str, Any], symbol: str) -> str:
    """What one validator stands to lose."""
    leaving = ""
    if bond["leaving"] != "0":
        leaving = f", {bond['leaving']} leaving until {utc(bond['available_at_s'])}"
    slashed = ", slashed" if bond["slashed"] else ""
    return f"{bond['validator']}  bond {bond['bond']} {symbol}{leaving}{slashed}"
