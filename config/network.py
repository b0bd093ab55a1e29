"""The network file: what all nodes of one DAO must agree on before they meet.

It names the chain, the contracts, peers to dial first, and the deadlines of rounds. It holds no
secret: it is published, and `eigen join` copies it into the home folder.
"""

# ruff: noqa: RUF009 - option() and required() are dataclasses.field(), which that rule allows

import hashlib
import re
import tomllib
from base64 import b32encode
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final, TypeVar

from eigen.config import kinds
from eigen.config.errors import NetworkFileError, NotAccepted
from eigen.config.kinds import Kind
from eigen.config.schema import option
from eigen.config.tables import TableReader, required
from eigen.config.toml_text import Plain, document
from eigen.protocol.types import Address

T = TypeVar("T")

NETWORK_FILE_BYTES_MAX: Final = 256 * 1024
"""A network file comes from somebody else; a thousand bootstrap peers would fit."""

CHAIN_ID_MAX: Final = 2**63 - 1
"""TOML promises 64-bit signed integers, and no chain's id comes near."""

NETWORK_ID_BYTES: Final = 10
"""80 bits: 16 characters in a topic, and too many to find a second network with the same id."""

_ABSENT: Final = kinds.optional(kinds.address, "this DAO has none")
_SECONDS: Final = kinds.number(0.01, 86_400)


def _parse_name(value: object, _: Path) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,39}", value):
        raise NotAccepted(f"{str(value)[:60]!r} is no network name")
    return value


_NAME: Final = Kind(
    "1 to 40 of a-z, 0-9 and -, not beginning with -", _parse_name, str, lambda name: name
)


@dataclass(frozen=True, slots=True)
class ContractAddresses:
    """The DAO's contracts."""

    token: Address = required(kinds.address, "`DaoToken`: votes and rewards.")
    governor: Address = required(kinds.address, "`DaoGovernor`: proposals and ballots.")
    timelock: Address = required(kinds.address, "The governor's timelock, owner of the rest.")
    ledger: Address = required(kinds.address, "`ContributionLedger`: runs, round roots and claims.")
    registry: Address | None = option(None, _ABSENT, "`ModelRegistry`: models and their lineage.")
    escrow: Address | None = option(None, _ABSENT, "`JobEscrow`: money of private jobs.")
    revenue: Address | None = option(None, _ABSENT, "`RevenueShare`: revenue for stakers.")
    membership: Address | None = option(None, _ABSENT, "`Membership`: whose nodes the DAO takes.")
    creations: Address | None = option(None, _ABSENT, "`CreationNFT`: generated works.")
    market: Address | None = option(None, _ABSENT, "`ModelMarket`: the chain's, for all DAOs.")


@dataclass(frozen=True, slots=True)
class Parameters:
    """Times that hold for all nodes, seconds; a node that differs is out of step with the rest."""

    heartbeat_s: float = option(10.0, _SECONDS, "A node announces itself so often.")
    heartbeat_ttl_s: float = option(
        35.0, _SECONDS, "A node that was silent for so long is not a member any more."
    )
    commit_s: float = option(60.0, _SECONDS, "From a round's open seat to its last commitment.")
    inputs_s: float = option(30.0, _SECONDS, "A part's owner waits so long for its inputs.")
    owner_s: float = option(20.0, _SECONDS, "Trainers wait so long before they try the next owner.")
    notices_s: float = option(20.0, _SECONDS, "Validators wait so long for trainers' step notices.")
    attempt_s: float = option(300.0, _SECONDS, "An attempt at a round is given up after this.")
    resend_s: float = option(5.0, _SECONDS, "Messages that others still need are sent again.")
    relay_delay_s: float = option(
        10.0, _SECONDS, "Ballots are gathered so long before one transaction casts them all."
    )
    confirmations: int = option(
        2, kinds.integer(0, 1000), "Blocks on top of a transaction before it counts."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkFile:
    """One network: a DAO on a chain, and how its nodes find and time each other."""

    name: str = required(_NAME, "A short name, for people and for the network's id.")
    chain_id: int = required(kinds.integer(1, CHAIN_ID_MAX), "The chain's id (EIP-155).")
    rpc_urls: tuple[str, ...] = required(
        kinds.listing(kinds.url), "JSON-RPC endpoints that members may use, tried in order."
    )
    contracts: ContractAddresses
    bootstrap: tuple[str, ...] = option(
        (), kinds.listing(kinds.multiaddr(with_peer=True)), "Peers to dial first."
    )
    start_block: int = option(
        0, kinds.integer(0, 2**63 - 1), "Block from which the contracts' events are read."
    )
    parameters: Parameters = Parameters()

    @property
    def network_id(self) -> str:
        """16 characters that name this network in topics and handshakes.

        SHA-256 over name, chain id and ledger, first 80 bits in base32: two DAOs on one chain, and
        one DAO moved to another chain, never hear each other.
        """
        facts = f"eigen/network/1\n{self.name}\n{self.chain_id}\n{self.contracts.ledger.hex()}"
        digest = hashlib.sha256(facts.encode()).digest()
        return b32encode(digest[:NETWORK_ID_BYTES]).decode().lower()


def load_network(path: Path) -> NetworkFile:
    """Read and check a network file. Raises `NetworkFileError`, which names file and key."""
    return parse_network(read_network_text(path), path)


def read_network_text(path: Path) -> str:
    """A network file's text, not checked yet, read once: `path` may be a pipe.

    Raises `NetworkFileError` where it cannot be read, is too large or is no text.
    """
    try:
        with path.open("rb") as file:
            data = file.read(NETWORK_FILE_BYTES_MAX + 1)
    except FileNotFoundError as error:
        raise NetworkFileError(f"there is no network file {path}") from error
    except OSError as error:
        raise NetworkFileError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > NETWORK_FILE_BYTES_MAX:
        raise NetworkFileError(f"{path} is over {NETWORK_FILE_BYTES_MAX} bytes: no network file")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise NetworkFileError(f"{path}: not UTF-8 text") from error


def parse_network(text: str, source: Path) -> NetworkFile:
    """A network from the text of its file; `source` is what messages call it.

    Raises `NetworkFileError` for bad TOML, a missing or unknown key, a value of the wrong type,
    two contracts at one address, or times that contradict each other.
    """
    try:
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise NetworkFileError(f"{source}: not valid TOML: {error}") from error
    network = TableReader(text, source, NetworkFileError).table(NetworkFile, table)
    _check(network, source)
    return network


def dump_network(network: NetworkFile) -> str:
    """The file's text; `parse_network` reads the same network back."""
    tables: dict[str, dict[str, Plain]] = {"": {}}
    for f in fields(network):
        value = getattr(network, f.name)
        if "kind" in f.metadata:
            tables[""][f.name] = f.metadata["kind"].plain(value)
        else:
            tables[f.name] = {
                inner.name: plain
                for inner in fields(value)
                if (plain := inner.metadata["kind"].plain(getattr(value, inner.name))) is not None
            }
    return document(tables)


def _check(network: NetworkFile, source: Path) -> None:
    """What single values cannot show."""
    contracts = network.contracts
    addresses = [at for f in fields(contracts) if (at := getattr(contracts, f.name)) is not None]
    if len(set(addresses)) != len(addresses) or bytes(20) in addresses:
        raise NetworkFileError(f"{source}: contracts: different addresses, none of them zero")
    if not network.rpc_urls:
        raise NetworkFileError(f"{source}: rpc_urls: at least one endpoint")
    times = network.parameters
    if times.heartbeat_ttl_s < 2 * times.heartbeat_s:
        raise NetworkFileError(
            f"{source}: parameters.heartbeat_ttl_s: at least twice heartbeat_s "
            f"({times.heartbeat_s:g} s), or one lost heartbeat ends a membership"
        )
    phases_s = times.commit_s + times.inputs_s + times.owner_s
    if times.attempt_s <= phases_s:
        raise NetworkFileError(
            f"{source}: parameters.attempt_s: more than commit_s + inputs_s + owner_s "
            f"({phases_s:g} s), or no attempt can end well"
        )
