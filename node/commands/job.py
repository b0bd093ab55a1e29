"""`eigen job`: have a head trained on data that no trainer can read."""

import json
from pathlib import Path
from typing import Any

import click

from eigen.node.commands import Invocation, pass_invocation
from eigen.node.control import call_daemon

CREATE_TIMEOUT_S = 3600.0
"""Encrypting a gigabyte takes minutes."""
MONEY_TIMEOUT_S = 120.0
"""Two confirmations on a slow chain."""


@click.group()
def command() -> None:
    """Have a head trained on data that no trainer can read."""


@command.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--mode",
    type=click.Choice(["homomorphic"]),
    default="homomorphic",
    help="How the data are protected: trainers see ciphertexts only.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@pass_invocation
def create(invocation: Invocation, file: Path, mode: str, as_json: bool) -> None:  # noqa: ARG001
    """Encrypt the data that FILE names, and have trainers begin."""
    from eigen.node.job_file import load_job_file

    load_job_file(file)  # a mistake is told before anything runs
    socket = invocation.paths.control_socket
    job = call_daemon(socket, "job_create", CREATE_TIMEOUT_S, file=str(file.absolute()))
    if as_json:
        click.echo(json.dumps(job))
        return
    click.echo(f"job     {job['job']}")
    click.echo(f"shards  {_size(job['shard_bytes'])} of ciphertexts")
    if job["payment"]:
        click.echo(f"money   {_money(job['payment'])}")
    click.echo(f"follow it with: eigen job status {job['job'][:12]}")


@command.command()
@click.argument("job", default="")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@pass_invocation
def status(invocation: Invocation, job: str, as_json: bool) -> None:
    """Show this node's private jobs, or the one whose id starts with JOB."""
    found = call_daemon(invocation.paths.control_socket, "job_status", job=job)
    if as_json:
        click.echo(json.dumps(found))
        return
    for row in found["jobs"]:
        _tell(row)
    for row in found["trained"]:
        trouble = f"  trouble: {row['trouble']}" if row["trouble"] else ""
        click.echo(
            f"{row['job'][:12]}  trained for {row['owner']}  {row['rounds']} rounds{trouble}"
        )
        if row["payment"]:
            click.echo(f"  pays {_money(row['payment'])}")
    if not found["jobs"] and not found["trained"]:
        click.echo("no private jobs")


@command.command()
@click.argument("job", default="")
@click.option("--out", type=click.Path(path_type=Path), help="Copy the model to this file.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@pass_invocation
def result(invocation: Invocation, job: str, out: Path | None, as_json: bool) -> None:
    """Show what the job whose id starts with JOB came to, and where its model lies."""
    from eigen.node.exit_codes import ExitCode, UserError

    found = call_daemon(invocation.paths.control_socket, "job_result", job=job)
    if out is not None:
        try:
            out.write_bytes(Path(found["model"]).read_bytes())
        except OSError as error:
            raise UserError(f"--out: {out}: {error.strerror}", ExitCode.FAILED) from error
    if as_json:
        click.echo(json.dumps(found))
        return
    _tell(found)
    click.echo(f"model   {out or found['model']}")


@command.command()
@click.argument("job")
@pass_invocation
def cancel(invocation: Invocation, job: str) -> None:
    """End the job whose id starts with JOB; what was trained so far stays.

    Of a job that pays, rounds that were made are paid, and the rest comes back.
    """
    found = call_daemon(invocation.paths.control_socket, "job_cancel", job=job)
    click.echo(f"cancelled {found['job'][:12]}")


@command.command()
@click.argument("job", default="")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@pass_invocation
def claim(invocation: Invocation, job: str, as_json: bool) -> None:
    """Take what this node earned with jobs of others, or with the one whose id starts with JOB."""
    found = call_daemon(invocation.paths.control_socket, "job_claim", MONEY_TIMEOUT_S, job=job)
    if as_json:
        click.echo(json.dumps(found))
        return
    for row in found["claimed"]:
        click.echo(f"{row['job'][:12]}  claimed {row['amount']} of {row['token']} in {row['tx']}")


@command.command()
@click.argument("job")
@pass_invocation
def dispute(invocation: Invocation, job: str) -> None:
    """Dispute the delivery of the job whose id starts with JOB: the DAO's arbiter decides."""
    found = call_daemon(invocation.paths.control_socket, "job_dispute", MONEY_TIMEOUT_S, job=job)
    click.echo(f"disputed {found['job'][:12]} in {found['tx']}")


def _tell(row: dict[str, Any]) -> None:
    click.echo(f"{row['job'][:12]}  {row['name']}  {row['stage']}  {row['why']}".rstrip())
    eta = f", about {row['eta_s']:.0f} s to go" if row["eta_s"] else ""
    click.echo(
        f"  round {row['round']} of {row['rounds']}, {row['seconds_a_round']:.1f} s a round{eta}"
    )
    click.echo(
        f"  sent {_size(row['sent_bytes'])} of weights, received {_size(row['received_bytes'])}"
    )
    if row["holdout_score"] is not None:
        measure = "R²" if row["head"] == "linear" else "accuracy"
        click.echo(
            f"  {measure} on the hold-out {row['holdout_score']:.4f} (round {row['best_round']})"
        )
    if row["payment"]:
        click.echo(f"  pays {_money(row['payment'])}")
    for one in row["contributions"]:
        share = "excluded" if one["excluded"] else f"{one['share_bps'] / 100:.2f}%"
        click.echo(f"  {one['trainer']}  {one['shard_rounds']} shard rounds  {share}")


def _money(payment: dict[str, Any]) -> str:
    held = f", {payment['held']} held" if "held" in payment else ""
    return f"{payment['price']} of {payment['token']}: {payment['state']}{held}"


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
