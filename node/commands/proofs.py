"""`eigen proofs`: who did which work, checked by anybody."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eigen.node.commands import Invocation, pass_invocation
from eigen.node.control import call_daemon
from eigen.node.exit_codes import ExitCode, UserError
from eigen.node.run_file import TOKEN

if TYPE_CHECKING:
    from eigen.node.proof_file import Shown
    from eigen.protocol.messages import ContributionProof


REPLAY_TIMEOUT_S = 3600.0
"""A replay takes as long as the trainer's round."""


@click.group()
def command() -> None:
    """List, show and verify proofs of contributions."""


@command.command(name="list")
@click.option("--run", default="", help="Of the run whose id starts with this.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
@pass_invocation
def list_(invocation: Invocation, run: str, as_json: bool) -> None:
    """List the proofs that the running node holds, with what replays came to."""
    rows = call_daemon(invocation.paths.control_socket, "proofs", run=run)
    if as_json:
        click.echo(json.dumps(rows))
        return
    for row in rows:
        click.echo(
            f"{row['id'][:16]}  run {row['run'][:8]}  round {row['round']:>4}  {row['trainer']}  "
            f"{row['state']}"
        )
    if not rows:
        click.echo("no proofs")


@command.command()
@click.argument("proof")
@click.option("--out", type=click.Path(path_type=Path), help="Write the proof to this file.")
@pass_invocation
def show(invocation: Invocation, proof: str, out: Path | None) -> None:
    """Show PROOF (the beginning of an id, or a file), and with --out write it to a file."""
    found, data = _find(invocation, proof)
    _tell(_check(invocation, found), found)
    if out is not None:
        try:
            out.write_bytes(data)
        except OSError as error:
            raise UserError(f"--out: {out}: {error.strerror}", ExitCode.FAILED) from error
        click.echo(f"written to {out}, {len(data)} bytes")


@command.command()
@click.argument("proof")
@click.option("--replay", is_flag=True, help="Have the running validator do the round again, too.")
@pass_invocation
def verify(invocation: Invocation, proof: str, replay: bool) -> None:
    """Verify PROOF: the beginning of an id that the running node knows, or a file.

    A file needs this home's network file and nothing else: signatures, seat, record and
    attestations are checked off line. Who the DAO's validators are the ledger tells. With
    --replay the running validator asks the trainer for its update and does the work again,
    which is possible while the round is drawn and its check is due. Ends with status 0 if
    the proof holds.
    """
    found, _ = _find(invocation, proof)
    shown = _check(invocation, found)
    _tell(shown, found)
    if not replay:
        click.echo("verdict: all parts fit and are signed")
        click.echo("not shown: that the signers are the DAO's validators (see its ledger),")
        click.echo("nor that the work was done (see --replay)")
        return
    at = found.record.attempt
    result = call_daemon(
        invocation.paths.control_socket,
        "replay",
        timeout_s=REPLAY_TIMEOUT_S,
        run=at.run.hex(),
        round=at.round,
        trainer=shown.trainer.hex(),
    )
    click.echo(f"replayed: it is off by {result['deviation']:.2e} (relative)")
    click.echo(f"verdict: {result['finding']}")
    if result["finding"] == "false":
        raise click.exceptions.Exit(ExitCode.FAILED)


def _find(invocation: Invocation, name: str) -> tuple["ContributionProof", bytes]:
    from eigen.node.proof_file import PROOF_BYTES_MAX, ProofRefused, read_proof
    from eigen.protocol.messages import ContributionProof
    from eigen.protocol.wire import decode, encode

    if Path(name).exists():
        try:
            proof = read_proof(Path(name))
        except ProofRefused as error:
            raise UserError(str(error), ExitCode.FAILED) from error
        return proof, encode(proof)
    row: dict[str, Any] = call_daemon(invocation.paths.control_socket, "proof", id=name)
    data = bytes.fromhex(row["proof"])
    return decode(data, ContributionProof, bytes_max=PROOF_BYTES_MAX), data


def _check(invocation: Invocation, proof: "ContributionProof") -> "Shown":
    from eigen.crypto.statements import ledger_domain
    from eigen.node.proof_file import ProofRefused, check_proof

    network = invocation.network(invocation.load())
    ledger = ledger_domain(network.chain_id, network.contracts.ledger)
    try:
        return check_proof(proof, network.network_id, lambda root: root.signed_digest(ledger))
    except ProofRefused as error:
        raise UserError(f"verdict: no proof: {error}", ExitCode.FAILED) from error


def _tell(shown: "Shown", proof: "ContributionProof") -> None:
    from eigen.config.addresses import format_address
    from eigen.protocol.messages import digest

    at, made = proof.record.attempt, shown.made
    click.echo(f"proof        {digest(made).hex()}")
    click.echo(f"trainer      {format_address(shown.trainer)}")
    click.echo(f"run          {at.run.hex()}, round {at.round}, attempt {at.number}")
    click.echo(f"from         {made.base}")
    click.echo(f"to           {proof.record.checkpoint}")
    click.echo(f"shards       {', '.join(map(str, shown.shards))}")
    click.echo(f"samples      {made.samples}")
    if made.loss_trace:
        click.echo(f"loss         {made.loss_trace[0]:.4f} to {made.loss_trace[-1]:.4f}")
    click.echo(f"update       {made.parts_root.hex()}")
    click.echo(f"earned       {shown.earned / TOKEN:.4f} tokens")
    click.echo(f"attested by  {', '.join(map(format_address, shown.signers))}")
