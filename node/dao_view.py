"""The DAO as `eigen dao show` tells it, in plain JSON values."""

from dataclasses import fields
from typing import Any

from eigen.chain.port import Chain, ChainError, NoMembership
from eigen.config.addresses import format_address
from eigen.config.network import NetworkFile
from eigen.node.amounts import whole
from eigen.node.control import ControlError
from eigen.node.exit_codes import ExitCode
from eigen.protocol.types import Address


async def dao_view(network: NetworkFile, chain: Chain, me: Address) -> dict[str, Any]:
    """What the chain says now; holders as far as the index has read. Raises `ControlError`."""
    named = network.contracts
    try:
        validators, quorum = await chain.validators()
        tokens = await chain.treasury(named.token)
        coin = await chain.treasury(None)
        found = await chain.holders()
        rules = await _rules(chain, me)
    except ChainError as error:
        raise ControlError(f"the chain cannot be read: {error}", ExitCode.FAILED) from error
    return {
        "name": network.name,
        "chain": network.chain_id,
        "contracts": {
            f.name: format_address(at) for f in fields(named) if (at := getattr(named, f.name))
        },
        "treasury": {
            "tokens": whole(tokens.amount, tokens.decimals),
            "coin": whole(coin.amount, coin.decimals),
        },
        "validators": [format_address(v) for v in sorted(validators)],
        "quorum": quorum,
        "membership": rules,
        "through_block": found.through_block,
        "holders": [
            {
                "account": format_address(m.account),
                "tokens": whole(m.tokens),
                "votes": whole(m.votes),
            }
            for m in found.holders
        ],
    }


async def _rules(chain: Chain, me: Address) -> dict[str, Any] | None:
    try:
        rules = await chain.membership()
    except NoMembership:
        return None
    standing = (await chain.standing(me)).name.lower()
    owner = format_address(rules.owner) if rules.owner else ""
    return {
        "open": rules.is_open,
        "owner": owner,
        "standing": standing,
        "accounts": {
            format_address(account): found.name.lower()
            for account, found in sorted((await chain.standings()).items())
        },
    }
