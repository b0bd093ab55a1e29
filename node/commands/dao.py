"""`eigen dao`: found a DAO, look at it, and say who is a member."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eigen.config.addresses import format_address, parse_address
from eigen.node.commands import Invocation, pass_invocation
from eigen.node.commands.validator import bond_line
from eigen.node.control import call_daemon
from eigen.node.exit_codes import ExitCode, UserError

if TYPE_CHECKING:
    from eigen.chain.port import Contracts
    from eigen.crypto.identity import Identity
    from eigen.node.dao_file import DaoFile

CHAIN_TIMEOUT_S = 120.0
"""Two confirmations on a slow chain."""


@click.group()
def command() -> None:
    """Found a DAO, look at it, and say who is a member."""


@command.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("network.toml"),
    show_default=True,
    help="Where the network file goes that members join with.",
)
@pass_invocation
def create(invocation: Invocation, file: Path, out: Path) -> None:
    """Found the DAO that FILE describes; this home's account pays the gas.

    Afterwards this account has no power that FILE does not give it. If the command is interrupted,
    the same command goes on where it stopped. See docs/dao.md for what stands in FILE.
    """
    from eigen.config.network import dump_network
    from eigen.crypto.keystore import load_identity
    from eigen.node.dao_file import load_dao_file
    from eigen.node.lock import HomeLock

    if out.exists():
        raise UserError(f"{out} exists; name another file with --out", ExitCode.CONFIGURATION)
    read = load_dao_file(file)
    loaded = invocation.load()
    identity = load_identity(invocation.paths.key_file, invocation.passphrase(loaded))
    with HomeLock(invocation.paths.lock_file):  # the daemon would send from the same account
        contracts, block = _found(read, identity, invocation.paths.home)
    out.write_text(dump_network(read.network(contracts, block)))
    click.echo(f"founded {read.name}: its ledger is {format_address(contracts.ledger)}")
    click.echo(f"wrote {out}; next: eigen join {out}")


def _found(read: "DaoFile", identity: "Identity", home: Path) -> "tuple[Contracts, int]":
    """The contracts, and the block in which they began."""
    import hashlib

    import trio

    from eigen.chain.bindings import LEDGER, REVERTS
    from eigen.chain.deploy import deploy_dao
    from eigen.chain.foundry import deploy_foundry
    from eigen.chain.outbox import Outbox
    from eigen.chain.provider import TrioHTTPProvider
    from eigen.chain.rpc import Rpc
    from eigen.chain.watch import last_log

    name = hashlib.sha256(read.path.read_bytes()).hexdigest()[:16]
    path = home / f"founding-{name}.sqlite3"  # of this file: it is founded once

    async def work() -> "tuple[Contracts, int]":
        async with TrioHTTPProvider(read.rpc_urls, chain_id=read.chain_id) as provider:
            rpc, foundry = Rpc(provider, REVERTS), read.foundry
            if foundry is None:
                click.echo("putting a factory on the chain: twelve transactions", err=True)
                async with Outbox(rpc, identity.secret, path, chain_id=read.chain_id) as outbox:
                    foundry = await deploy_foundry(rpc, outbox)
                for key, at in (("factory", foundry.factory), ("market", foundry.market)):
                    click.echo(f'{key} = "{format_address(at)}"', err=True)
            contracts = await deploy_dao(
                provider, identity.secret, read.spec, outbox_path=path, foundry=foundry
            )
            began = [[LEDGER.topic("ValidatorsChanged")]]  # its constructor does it first
            log = await last_log(rpc, contracts.ledger, began, 0)
            contracts = replace(contracts, market=foundry.market)
            return contracts, log.block if log else 0

    return trio.run(work)


@command.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@pass_invocation
def show(invocation: Invocation, as_json: bool) -> None:
    """Show the DAO: treasury, validators, members, and where this node stands."""
    facts = call_daemon(invocation.paths.control_socket, "dao", CHAIN_TIMEOUT_S)
    bonds = call_daemon(invocation.paths.control_socket, "bonds", CHAIN_TIMEOUT_S)
    facts["bonds"] = bonds
    if as_json:
        click.echo(json.dumps(facts))
        return
    click.echo(f"{facts['name']} on chain {facts['chain']}")
    treasury = f"{facts['treasury']['tokens']} tokens, {facts['treasury']['coin']} of the coin"
    click.echo(f"treasury    {facts['contracts']['timelock']}: {treasury}")
    click.echo(f"validators  {facts['quorum']} of {len(facts['validators'])} attest a round")
    click.echo(f"            each has bonded {bonds['required']} {bonds['symbol']} when named")
    for bond in bonds["validators"]:
        click.echo(f"            {bond_line(bond, bonds['symbol'])}")
    rules = facts["membership"]
    if rules is None:
        click.echo("members     whoever joins the network takes part")
    else:
        how = "asking is enough" if rules["open"] else "the DAO admits by a vote"
        owner = f", or {rules['owner']} does" if rules["owner"] and not rules["open"] else ""
        click.echo(f"members     {how}{owner}; this node: {rules['standing']}")
        for account, standing in rules["accounts"].items():
            click.echo(f"            {account}  {standing}")
    click.echo(f"holders     {len(facts['holders'])}, as of block {facts['through_block']}")
    for holder in facts["holders"][:20]:
        click.echo(f"            {holder['account']}  {holder['tokens']} tokens")


@command.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@pass_invocation
def request(invocation: Invocation, as_json: bool) -> None:
    """Ask to be a member; in an open DAO this node is one then. Costs gas."""
    _tell(call_daemon(invocation.paths.control_socket, "join_dao", CHAIN_TIMEOUT_S), as_json)


@command.command()
@click.argument("address")
@click.option("--vote", "by_vote", is_flag=True, help="Propose it to the DAO instead.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@pass_invocation
def approve(invocation: Invocation, address: str, by_vote: bool, as_json: bool) -> None:
    """Make ADDRESS a member: as the owner, or with --vote by a proposal. Costs gas."""
    _admit(invocation, address, approved=True, by_vote=by_vote, as_json=as_json)


@command.command()
@click.argument("address")
@click.option("--vote", "by_vote", is_flag=True, help="Propose it to the DAO instead.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@pass_invocation
def refuse(invocation: Invocation, address: str, by_vote: bool, as_json: bool) -> None:
    """Refuse ADDRESS, or end its membership: as the owner, or with --vote by a proposal."""
    _admit(invocation, address, approved=False, by_vote=by_vote, as_json=as_json)


def _admit(
    invocation: Invocation, address: str, *, approved: bool, by_vote: bool, as_json: bool
) -> None:
    try:
        account = format_address(parse_address(address))
    except ValueError as error:
        raise UserError(f"{address[:60]!r}: {error}", ExitCode.USAGE) from error
    socket, terms = invocation.paths.control_socket, {"account": account, "approved": approved}
    if not by_vote:
        _tell(call_daemon(socket, "admit", CHAIN_TIMEOUT_S, **terms), as_json)
        return
    made = call_daemon(socket, "propose", CHAIN_TIMEOUT_S, kind="membership", **terms)
    if as_json:
        click.echo(json.dumps(made))
        return
    click.echo(f"proposal {made['proposal']}")
    click.echo(f"vote with: eigen vote {made['proposal'][:12]} --for")


def _tell(done: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(done))
    else:
        click.echo(f"{done['account']} is now: {done['standing']} ({done['tx']})")
