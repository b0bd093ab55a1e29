"""`eigen wallet`: the node's account: what it holds, where its earnings go, its key in and out."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eigen.config.addresses import format_address, parse_address
from eigen.node.amounts import whole
from eigen.node.commands import Invocation, pass_invocation
from eigen.node.control import call_daemon
from eigen.node.exit_codes import ExitCode, UserError

if TYPE_CHECKING:
    from eigen.chain.account import AccountFacts
    from eigen.config.network import NetworkFile
    from eigen.crypto.keystore import Passphrase
    from eigen.protocol.types import Address

PAYOUT_TIMEOUT_S = 120.0
"""Two confirmations on a slow chain."""


@click.group()
def command() -> None:
    """Show the node's account and its money; bring its key in or out."""


@command.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@pass_invocation
def show(invocation: Invocation, as_json: bool) -> None:
    """Show address, gas money, DAO tokens, votes and payout address.

    Needs no running node; without a joined network it shows the address alone.
    """
    loaded = invocation.load()
    address = _address(invocation)
    facts: dict[str, Any] = {"address": format_address(address)}
    if (loaded.config.network.file or invocation.paths.network_file).exists():
        network = invocation.network(loaded)
        urls = loaded.config.chain.rpc_urls or network.rpc_urls
        held = _facts(network, urls, address)
        nobody = not any(held.delegate)
        facts |= {
            "chain": network.chain_id,
            "gas_money": whole(held.gas_money_wei),
            "tokens": whole(held.tokens),
            "votes": whole(held.votes),
            "delegate": None if nobody else format_address(held.delegate),
            "payout": format_address(held.payee),
        }
    if as_json:
        click.echo(json.dumps(facts))
        return
    for name, value in facts.items():
        click.echo(f"{name.replace('_', ' '):<10} {'nobody' if value is None else value}")


@command.command()
@click.argument("address", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@pass_invocation
def payout(invocation: Invocation, address: str | None, as_json: bool) -> None:
    """Send what this node earns to ADDRESS; without one, show where it goes.

    ADDRESS may be a hardware or cold wallet: it never signs for this. Give the node's own address
    to have earnings stay with it. Costs gas; needs the running node.
    """
    wanted = "" if address is None else format_address(_parsed(address))
    result = call_daemon(
        invocation.paths.control_socket, "payout", PAYOUT_TIMEOUT_S, address=wanted
    )
    if as_json:
        click.echo(json.dumps(result))
        return
    click.echo(f"earnings go to {result['payout']}")
    if result["tx"]:
        click.echo(f"set in {result['tx']}")


@command.command("export")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--password-file",
    type=click.Path(path_type=Path),
    help="Read the new file's password from here; - is standard input.",
)
@pass_invocation
def export_key(invocation: Invocation, file: Path, password_file: Path | None) -> None:
    """Write the node's key to FILE as a version 3 key store, which wallets can read.

    A password for FILE is asked for, unless --password-file names one. FILE must be new.
    """
    from eigen.crypto.keystore import create_key_file, load_identity

    loaded = invocation.load()
    identity = load_identity(invocation.paths.key_file, invocation.passphrase(loaded))
    password = _password(password_file, confirm=True)
    create_key_file(file, identity.secret, password, address=identity.address, folder_too=False)
    click.echo(f"wrote {file}: the key of {format_address(identity.address)}")


@command.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--password-file",
    type=click.Path(path_type=Path),
    help="Read FILE's password from here; - is standard input.",
)
@pass_invocation
def import_key(invocation: Invocation, file: Path, password_file: Path | None) -> None:
    """Make the key in FILE, a wallet's version 3 key store, this node's.

    For a home that has no key yet; run eigen init afterwards. No key is ever overwritten.
    """
    from eigen.crypto.keystore import create_key_file, load_identity

    target = invocation.paths.key_file
    if target.exists():
        raise UserError(
            f"{target} exists, and is never overwritten; import into another home with --home",
            ExitCode.KEY_FILE,
        )
    loaded = invocation.load()
    identity = load_identity(file, lambda: _password(password_file), folder_too=False)
    encrypted = loaded.config.keys.encrypted
    passphrase = invocation.passphrase(loaded, confirm=True)() if encrypted else None
    create_key_file(target, identity.secret, passphrase, address=identity.address)
    click.echo(f"imported {format_address(identity.address)} into {target}; next: eigen init")


def _password(file: Path | None, *, confirm: bool = False) -> bytes:
    """A key store's password: from a file, from standard input, or typed. Never an argument."""
    if file is None and not sys.stdin.isatty():
        raise UserError(
            "there is no terminal to ask for the key store's password: give --password-file",
            ExitCode.USAGE,
        )
    if file is None:
        typed = click.prompt(
            "Key store password", hide_input=True, confirmation_prompt=confirm, err=True
        )
        return str(typed).encode()
    ask: Passphrase
    if str(file) == "-":
        ask = _first_line
    else:
        from eigen.crypto.keystore import passphrase_source

        ask = passphrase_source(file, {})
    return ask()


def _first_line() -> bytes:
    from eigen.crypto.keystore import PASSPHRASE_BYTES_MAX

    line = sys.stdin.buffer.readline(PASSPHRASE_BYTES_MAX).rstrip(b"\r\n")
    if not line:
        raise UserError("the password on standard input is empty", ExitCode.USAGE)
    return line


def _address(invocation: Invocation) -> "Address":
    from eigen.crypto.keystore import address_in_key_file, load_identity

    path = invocation.paths.key_file
    found = address_in_key_file(path)
    if found is None:  # a key store that keeps its address to itself
        found = load_identity(path, invocation.passphrase(invocation.load())).address
    return found


def _parsed(text: str) -> "Address":
    try:
        return parse_address(text)
    except ValueError as error:
        raise UserError(f"{text[:60]!r}: {error}", ExitCode.USAGE) from error


def _facts(network: "NetworkFile", urls: tuple[str, ...], address: "Address") -> "AccountFacts":
    import trio

    from eigen.chain.account import account_facts
    from eigen.chain.provider import TrioHTTPProvider
    from eigen.node.networks import contracts_of

    contracts = contracts_of(network)

    async def read() -> "AccountFacts":
        async with TrioHTTPProvider(urls, chain_id=network.chain_id) as provider:
            return await account_facts(provider, contracts, address)

    return trio.run(read)
