"""Revenue and stakes, in plain JSON values."""

from typing import Any

from eigen.chain.account_calls import AccountCalls, Asset
from eigen.chain.port import Receipt
from eigen.chain.revenue import RevenueShare
from eigen.config.addresses import format_address
from eigen.node.asset_amounts import units_of
from eigen.node.control import Method


class RevenueMethods:
    """One coroutine a call; `table` names them."""

    def __init__(self, calls: AccountCalls) -> None:
        self._share = RevenueShare(calls)

    def table(self) -> dict[str, Method]:
        """Methods by name."""
        return {
            "revenue": self.revenue,
            "stake": self.stake,
            "unstake": self.unstake,
            "withdraw_stake": self.withdraw,
            "deposit_revenue": self.deposit,
            "claim_revenue": self.claim,
        }

    async def revenue(self, _: dict[str, Any]) -> dict[str, Any]:
        """What is shared, and this account's part; whole tokens."""
        now = await self._share.revenue()
        return {
            "token": now.token.symbol,
            "asset": now.asset.symbol,
            "asset_address": format_address(now.asset.at),
            "total_staked": now.token.shown(now.total_staked),
            "deposited": now.asset.shown(now.deposited),
            "paid": now.asset.shown(now.paid),
            "staked": now.token.shown(now.staked),
            "leaving": now.token.shown(now.leaving),
            "available_at_s": now.available_at_s,
            "unstake_delay_s": now.unstake_delay_s,
            "owed": now.asset.shown(now.owed),
        }

    async def stake(self, params: dict[str, Any]) -> dict[str, Any]:
        """Lock so many DAO tokens."""
        token = await self._share.token()
        amount = units_of(str(params["amount"]), token)
        return _done(token, amount, await self._share.stake(amount))

    async def unstake(self, params: dict[str, Any]) -> dict[str, Any]:
        """Stop staking so many."""
        token = await self._share.token()
        amount = units_of(str(params["amount"]), token)
        done = _done(token, amount, await self._share.unstake(amount))
        return done | {"available_at_s": (await self._share.revenue()).available_at_s}

    async def withdraw(self, _: dict[str, Any]) -> dict[str, Any]:
        """Fetch what was unstaked."""
        return _done(await self._share.token(), *await self._share.withdraw())

    async def deposit(self, params: dict[str, Any]) -> dict[str, Any]:
        """Share so much among those who stake now."""
        asset = await self._share.asset()
        amount = units_of(str(params["amount"]), asset)
        return _done(asset, amount, await self._share.deposit(amount))

    async def claim(self, _: dict[str, Any]) -> dict[str, Any]:
        """Fetch this account's share."""
        return _done(await self._share.asset(), *await self._share.claim())


def _done(asset: Asset, amount: int, receipt: Receipt) -> dict[str, Any]:
    return {"amount": asset.shown(amount), "symbol": asset.symbol, "tx": receipt.tx}
