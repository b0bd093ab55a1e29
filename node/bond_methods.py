"""Validators' bonds, in plain JSON values."""

from typing import Any

from eigen.chain.account_calls import AccountCalls, Asset
from eigen.chain.bonds import Bond, Bonds
from eigen.chain.port import Receipt
from eigen.config.addresses import format_address, parse_address
from eigen.node.asset_amounts import units_of
from eigen.node.control import Method


class BondMethods:
    """One coroutine a call; `table` names them."""

    def __init__(self, calls: AccountCalls) -> None:
        self._calls = calls
        self._bonds = Bonds(calls)

    def table(self) -> dict[str, Method]:
        """Methods by name."""
        return {
            "bonds": self.bonds,
            "bond": self.bond,
            "unbond": self.unbond,
            "withdraw_bond": self.withdraw,
        }

    async def bonds(self, _: dict[str, Any]) -> dict[str, Any]:
        """What the DAO asks of validators, and what they have bonded; whole tokens."""
        token, terms = await self._bonds.token(), await self._bonds.terms()
        mine = await self._bonds.of(self._calls.address)
        return {
            "symbol": token.symbol,
            "required": token.shown(terms.bond),
            "unbonding_delay_s": terms.unbonding_delay_s,
            "mine": _view(token, mine),
            "validators": [_view(token, bond) for bond in await self._bonds.validators()],
        }

    async def bond(self, params: dict[str, Any]) -> dict[str, Any]:
        """Bond so many of this account's tokens, for it or for the validator `to`."""
        token, text = await self._bonds.token(), str(params.get("to") or "")
        validator = parse_address(text) if text else self._calls.address
        amount = units_of(str(params["amount"]), token)
        receipt = await self._bonds.bond(validator, amount)
        return await self._done(token, receipt, await self._bonds.of(validator))

    async def unbond(self, params: dict[str, Any]) -> dict[str, Any]:
        """Take so many out of this account's bond; `leave` agrees to lose its seat by that."""
        token = await self._bonds.token()
        amount = units_of(str(params["amount"]), token)
        receipt = await self._bonds.unbond(amount, leave=bool(params.get("leave")))
        return await self._done(token, receipt, await self._bonds.of(self._calls.address))

    async def withdraw(self, _: dict[str, Any]) -> dict[str, Any]:
        """Fetch what was unbonded."""
        token = await self._bonds.token()
        amount, receipt = await self._bonds.withdraw()
        done = await self._done(token, receipt, await self._bonds.of(self._calls.address))
        return done | {"amount": token.shown(amount)}

    async def _done(self, token: Asset, receipt: Receipt, bond: Bond) -> dict[str, Any]:
        return _view(token, bond) | {"symbol": token.symbol, "tx": receipt.tx}


def _view(token: Asset, bond: Bond) -> dict[str, Any]:
    return {
        "validator": format_address(bond.validator),
        "bond": token.shown(bond.amount),
        "leaving": token.shown(bond.leaving),
        "available_at_s": bond.available_at_s,
        "slashed": bond.slashed,
    }
