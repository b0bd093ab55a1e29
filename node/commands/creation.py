"""`eigen creation`: put works that a model generated on record, with where they come from."""

import hashlib
import json
from pathlib import Path
from typing import Any

import click

from eigen.config.addresses import format_address, parse_address
from eigen.node.commands import Invocation, pass_invocation
from eigen.node.exit_codes import ExitCode, UserError
from eigen.node.member_calls import member_call
from eigen.protocol.cid import CidError, parse_cid


@click.group()
def command() -> None:
    """Put generated works on record with their provenance; needs no running node."""


@command.command()
@click.argument("model")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--prompt",
    type=click.Path(path_type=Path),
    required=True,
    help="A file with the prompt and its sampling parameters.",
)
@click.option("--checkpoint", default="", help="Content id of one on record.  [default: newest]")
@click.option("--to", default="", help="Who shall own it.  [default: this account]")
@click.option("--uri", default="", help="Where the work is, such as ipfs://CID.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@pass_invocation
def mint(
    invocation: Invocation,
    model: str,
    file: Path,
    prompt: Path,
    checkpoint: str,
    to: str,
    uri: str,
    as_json: bool,
) -> None:
    """Mint the work in FILE, made by MODEL (the beginning of its id). Costs gas.

    The chain gets digests alone, of the work and of the prompt: keep both files.
    """
    if to:
        try:
            to = format_address(parse_address(to))
        except ValueError as error:
            raise UserError(f"--to: {to[:60]!r}: {error}", ExitCode.USAGE) from error
    if checkpoint:
        try:
            parse_cid(checkpoint)
        except CidError as error:
            raise UserError(f"--checkpoint: {error}", ExitCode.USAGE) from error
    made = member_call(
        invocation,
        "mint_creation",
        model=model,
        checkpoint=checkpoint,
        prompt=_digest(prompt),
        content=_digest(file),
        to=to,
        uri=uri,
    )
    if as_json:
        click.echo(json.dumps(made))
        return
    _tell(made)
    click.echo(f"minted in {made['tx']}")


@command.command()
@click.argument("id_", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@pass_invocation
def show(invocation: Invocation, id_: str, as_json: bool) -> None:
    """Show a work: its model, checkpoint, digests, creator and owner."""
    work = member_call(invocation, "creation", id=id_)
    if as_json:
        click.echo(json.dumps(work))
        return
    _tell(work)


def _tell(work: dict[str, Any]) -> None:
    click.echo(f"work        {work['id']}")
    click.echo(f"owner       {work['owner']}, made by {work['creator']}")
    click.echo(f"model       {work['model']}, round {work['round']}")
    click.echo(f"checkpoint  {work['checkpoint']}")
    click.echo(f"prompt      {work['prompt']}")
    click.echo(f"content     {work['content']}")
    if work["uri"]:
        click.echo(f"where       {work['uri']!r}")


def _digest(path: Path) -> str:
    """SHA-256 of a file of any size."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}", ExitCode.USAGE) from error
