"""`eigen init`: make the home folder, the keys and the settings file, and never touch old ones."""

import json
from pathlib import Path

import click

from eigen.config.addresses import format_address
from eigen.config.loader import Loaded
from eigen.config.reference import config_template
from eigen.config.schema import OPTIONS
from eigen.crypto.keystore import address_in_key_file, create_identity
from eigen.crypto.private_files import write_private
from eigen.crypto.sealing_key import create_sealing_key
from eigen.node.commands import Invocation, pass_invocation
from eigen.node.exit_codes import ExitCode, UserError
from eigen.protocol.types import Address


@click.command()
@click.option("--encrypt", is_flag=True, help="Encrypt the key files with a passphrase.")
@click.option("--payout", metavar="ADDRESS", help="The account that rewards are paid to.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@pass_invocation
def command(invocation: Invocation, encrypt: bool, payout: str | None, as_json: bool) -> None:
    """Make this node's home folder, keys and settings.

    What is there already is kept as it is, so the command may be run again. Settings given with
    --set are written into the new config.toml.
    """
    chosen = dict(invocation.settings)
    if encrypt:
        chosen["keys.encrypted"] = "true"
    if payout is not None:
        chosen["payout.address"] = payout
    invocation.settings = chosen
    loaded = invocation.load()

    paths = invocation.paths
    wanted = (paths.key_file, paths.sealing_key_file, paths.config_file)
    missing = [path for path in wanted if not path.exists()]
    passphrase = _new_passphrase(invocation, loaded, missing)
    _make_home(paths.home)
    for path in missing:
        if path == paths.key_file:
            create_identity(path, passphrase)
        elif path == paths.sealing_key_file:
            create_sealing_key(path, passphrase)
        else:
            _write_config(path, chosen, loaded)
    kept = [path for path in wanted if path not in missing]
    if paths.config_file in kept and chosen:
        click.echo(f"{paths.config_file} is kept: the settings given now are not in it", err=True)
    address = address_in_key_file(paths.key_file)
    _report(paths.home, missing, kept, address, as_json)


def _make_home(home: Path) -> None:
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"the home folder {home} cannot be made: {error.strerror}; choose another with --home",
            ExitCode.CONFIGURATION,
        ) from error


def _new_passphrase(invocation: Invocation, loaded: Loaded, missing: list[Path]) -> bytes | None:
    """The passphrase for new key files: asked once, and not at all where none is to be made."""
    keys = {invocation.paths.key_file, invocation.paths.sealing_key_file}
    if not loaded.config.keys.encrypted or keys.isdisjoint(missing):
        return None
    return invocation.passphrase(loaded, confirm=True)()


def _write_config(path: Path, chosen: dict[str, str], loaded: Loaded) -> None:
    values = {}
    for key in chosen:
        option = OPTIONS[key]
        plain = option.kind.plain(getattr(getattr(loaded.config, option.section), option.name))
        if plain is not None:
            values[key] = plain
    # Endpoints may carry access keys, so others do not read this file.
    write_private(path, config_template(values).encode(), folder_too=False)


def _report(
    home: Path, made: list[Path], kept: list[Path], address: Address | None, as_json: bool
) -> None:
    shown = None if address is None else format_address(address)
    if as_json:
        facts = {
            "home": str(home),
            "address": shown,
            "made": [str(path) for path in made],
            "kept": [str(path) for path in kept],
        }
        click.echo(json.dumps(facts, indent=2))
        return
    for path in made:
        click.echo(f"made     {path}")
    for path in kept:
        click.echo(f"kept     {path}")
    click.echo(f"address  {shown or 'in the encrypted key file'}")
    click.echo("next: eigen join NETWORK_FILE")
