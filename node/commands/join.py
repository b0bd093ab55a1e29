"""`eigen join`: check a network file and keep it in the home."""

import os
import secrets
from pathlib import Path

import click

from eigen.config.network import NetworkFile, load_network, parse_network, read_network_text
from eigen.node.commands import Invocation, pass_invocation
from eigen.node.exit_codes import ExitCode, UserError


@click.command()
@click.argument("network_file", type=click.Path(path_type=Path))
@pass_invocation
def command(invocation: Invocation, network_file: Path) -> None:
    """Join the network that a network file describes.

    NETWORK_FILE is checked and copied into the home. A newer file of the same network replaces the
    old one; another network needs another home, because records and keys of two would mix.
    """
    text = read_network_text(network_file)
    network = parse_network(text, network_file)
    target = invocation.paths.network_file
    if target.exists():
        joined = load_network(target)
        if joined.network_id != network.network_id:
            raise UserError(
                f"this home belongs to the network {_named(joined)}, not to {_named(network)}; "
                "choose another home with --home",
                ExitCode.WRONG_NETWORK,
            )
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _replace(target, text.encode())
    except OSError as error:
        raise UserError(
            f"{target} cannot be written: {error.strerror}", ExitCode.CONFIGURATION
        ) from error
    click.echo(f"joined {_named(network)} on chain {network.chain_id}; next: eigen up")


def _named(network: NetworkFile) -> str:
    return f"{network.name} ({network.network_id})"


def _replace(target: Path, data: bytes) -> None:
    """Write a file whole or not at all, over an older one."""
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
