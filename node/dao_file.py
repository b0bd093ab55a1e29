"""DAO files: what founders write to create a DAO, as TOML.

name = "ada-models"           # the network's name
chain_id = 8453
rpc_urls = ["https://rpc.example"]
factory = "0x…"               # with the market, where this chain has them;
market = "0x…"                # left out, they are deployed first, which costs more gas
token_name = "Ada Models"
token_symbol = "ADA"
validators = ["0x…", "0x…", "0x…"]
quorum = 2                    # validators that must sign a round
bootstrap = ["/ip4/192.0.2.1/tcp/4001/p2p/16Uiu2…"]

[founders]                    # whole tokens at the start
"0x…" = 1000
"0x…" = 500

[votes]
delay_s = 3600                # from a proposal to its vote
period_s = 259200             # that it is open
timelock_s = 86400            # from a vote to its execution
threshold = 1                 # tokens that a proposer needs
quorum_percent = 10           # of the supply that must vote for it or abstain

[ledger]
challenge_window_s = 3600     # from a root's posting until it pays
unbonding_delay_s = 86400     # until a validator gets its bond back
bond = 0                      # tokens that a validator must have bonded
guardian = "0x…"              # may veto a root in its window; left out: nobody

[members]
open = true                   # whether asking is enough
owner = "0x…"                 # admits besides the DAO; left out: nobody
"""

from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from eigen.chain.deploy import NOBODY, DaoSpec
from eigen.chain.foundry import Foundry
from eigen.chain.port import Contracts
from eigen.config.addresses import parse_address
from eigen.config.errors import NetworkFileError
from eigen.config.network import NetworkFile, dump_network, parse_network
from eigen.node.amounts import base_units
from eigen.node.member_file import MemberFileError, Table, read_table
from eigen.node.networks import addresses_of
from eigen.protocol.types import Address

PLACEHOLDERS = Contracts(*(Address(bytes([n]) * 20) for n in (1, 2, 3, 4)))
"""Stand in for contracts while a file is checked before there are any."""


@dataclass(frozen=True, slots=True)
class DaoFile:
    """A DAO file that was read."""

    path: Path
    name: str
    chain_id: int
    rpc_urls: tuple[str, ...]
    bootstrap: tuple[str, ...]
    foundry: Foundry | None
    spec: DaoSpec

    def network(self, contracts: Contracts, start_block: int) -> NetworkFile:
        """The network file of the DAO. Raises `MemberFileError`."""
        made = NetworkFile(
            name=self.name,
            chain_id=self.chain_id,
            rpc_urls=self.rpc_urls,
            contracts=addresses_of(contracts),
            bootstrap=self.bootstrap,
            start_block=start_block,
        )
        try:
            return parse_network(dump_network(made), self.path)
        except NetworkFileError as error:
            raise MemberFileError(self.path, str(error).removeprefix(f"{self.path}: ")) from error


def load_dao_file(path: Path) -> DaoFile:
    """Read a DAO file and check all of it. Raises `MemberFileError`, which names file and key."""
    top = Table(path, read_table(path, "DAO file"))
    top.refuse_unknown(
        {
            "name",
            "chain_id",
            "rpc_urls",
            "factory",
            "market",
            "token_name",
            "token_symbol",
            "validators",
        }
        | {"quorum", "bootstrap", "founders", "votes", "ledger", "members"}
    )
    votes, ledger, members = (top.sub(name, {}) for name in ("votes", "ledger", "members"))
    votes.refuse_unknown({"delay_s", "period_s", "timelock_s", "threshold", "quorum_percent"})
    ledger.refuse_unknown({"challenge_window_s", "unbonding_delay_s", "bond", "guardian"})
    members.refuse_unknown({"open", "owner"})
    founders = top.sub("founders")
    window_s = ledger.take("challenge_window_s", int, 0)
    try:
        spec = DaoSpec(
            token_name=top.take("token_name", str),
            token_symbol=top.take("token_symbol", str),
            founders=[
                (_account(founders, name, name), _tokens(founders, name))
                for name in founders.rest(set())
            ],
            validators=[_account(top, "validators", name) for name in top.take("validators", list)],
            quorum=top.take("quorum", int),
            voting_delay_s=votes.take("delay_s", int, 3600),
            voting_period_s=votes.take("period_s", int, 3 * 86_400),
            timelock_delay_s=votes.take("timelock_s", int, 86_400),
            proposal_threshold=_tokens(votes, "threshold", 1),
            quorum_percent=votes.take("quorum_percent", int, 10),
            challenge_window_s=window_s,
            unbonding_delay_s=ledger.take("unbonding_delay_s", int, window_s),
            bond=_tokens(ledger, "bond", 0),
            guardian=_optional(ledger, "guardian"),
            owner=_optional(members, "owner"),
            open_membership=members.take("open", bool, True),
        )
    except ValueError as error:
        raise MemberFileError(path, str(error)) from error
    factory, market = _optional(top, "factory"), _optional(top, "market")
    if any(factory) != any(market):
        raise MemberFileError(path, "factory, market: give both, or neither")
    read = DaoFile(
        path,
        top.take("name", str),
        top.take("chain_id", int),
        tuple(map(str, top.take("rpc_urls", list))),
        tuple(map(str, top.take("bootstrap", list, []))),
        Foundry(factory, market) if any(factory) else None,
        spec,
    )
    read.network(PLACEHOLDERS, 0)  # its own fields are checked before anything is paid
    return read


def _account(table: Table, key: str, text: Any) -> Address:
    try:
        return parse_address(str(text))
    except ValueError as error:
        raise table.error(key, f"{str(text)[:60]!r}: {error}") from error


def _optional(table: Table, key: str) -> Address:
    return _account(table, key, table.take(key, str)) if key in table else NOBODY


def _tokens(table: Table, key: str, default: int | None = None) -> int:
    value = table.take(key, (int, float, str), default)
    try:
        amount = Decimal(value if isinstance(value, str) else repr(value))
        if amount < 0:
            raise table.error(key, "not a negative number")
        return base_units(amount)
    except (ArithmeticError, ValueError) as error:
        raise table.error(key, "a number of tokens, with 18 decimals at most") from error
