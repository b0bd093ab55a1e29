"""A DAO's revenue, shared among those who stake its tokens, for one account."""

from dataclasses import dataclass
from typing import Any, Final

from eigen.chain.account_calls import AccountCalls, Asset, NotPossible
from eigen.chain.bindings import REVENUE
from eigen.chain.port import Receipt

SCALE: Final = 1 << 96
"""Shares are kept in this fraction of a base unit (`RevenueShare.SCALE`)."""
AMOUNT_MAX: Final = (1 << 128) - 1
"""What the contract has room for, base units."""


@dataclass(frozen=True, slots=True)
class Revenue:
    """What is shared, and our account's part. Amounts in base units, times in seconds.

    `token` is what is staked, `asset` what is shared. `leaving` tokens of ours come back with a
    withdrawal from `available_at_s` on; `owed` is what a claim would pay.
    """

    token: Asset
    asset: Asset
    unstake_delay_s: int
    total_staked: int
    deposited: int
    paid: int
    staked: int
    leaving: int
    available_at_s: int
    owed: int


class RevenueShare:
    """Every write checks first what can be checked. All methods raise `ChainError`, of it
    `NotPossible` where nothing was signed."""

    def __init__(self, calls: AccountCalls) -> None:
        self._calls = calls

    async def token(self) -> Asset:
        """What is staked."""
        return await self._calls.asset(await self._read("token"))

    async def asset(self) -> Asset:
        """What is shared."""
        return await self._calls.asset(await self._read("asset"))

    async def revenue(self) -> Revenue:
        """As the newest block has it."""
        staked, leaving, available_at_s = await self._calls.read_all(
            self._calls.contract("revenue"), REVENUE, "stakeOf", self._calls.address
        )
        return Revenue(
            token=await self.token(),
            asset=await self.asset(),
            unstake_delay_s=await self._read("unstakeDelayS"),
            total_staked=await self._read("totalStaked"),
            deposited=await self._read("deposited"),
            paid=await self._read("paid"),
            staked=staked,
            leaving=leaving,
            available_at_s=available_at_s,
            owed=await self._read("owed", self._calls.address) // SCALE,
        )

    async def stake(self, amount: int) -> Receipt:
        """Lock DAO tokens of ours; they share in later deposits, and go on voting for us."""
        return await self._pay_in("stake", await self.token(), amount)

    async def deposit(self, amount: int) -> Receipt:
        """Share revenue among those who stake now."""
        if not await self._read("totalStaked"):
            raise NotPossible("nobody stakes: there is nobody to share with")
        return await self._pay_in("deposit", await self.asset(), amount)

    async def unstake(self, amount: int) -> Receipt:
        """Stop staking so much; it can be withdrawn after the delay, which starts anew for all that
        is on its way."""
        now = await self.revenue()
        if amount > now.staked:
            raise NotPossible(
                f"not so much is staked: {now.token.shown(now.staked)} {now.token.symbol}"
            )
        return await self._write(f"unstake {amount}", "unstake", amount)

    async def withdraw(self) -> tuple[int, Receipt]:
        """Fetch what was unstaked. How much that was."""
        now = await self.revenue()
        await self._calls.check_due(now.leaving, now.available_at_s, "unstaked")
        return now.leaving, await self._write("withdraw", "withdraw")

    async def claim(self) -> tuple[int, Receipt]:
        """Fetch our share of revenue. How much that is at least."""
        owed = (await self.revenue()).owed
        if not owed:
            raise NotPossible("this account has no revenue to its credit")
        return owed, await self._write("claim", "claim", self._calls.address)

    async def _pay_in(self, function: str, asset: Asset, amount: int) -> Receipt:
        if amount > AMOUNT_MAX:
            raise NotPossible(f"more than the contract has room for: {asset.shown(AMOUNT_MAX)}")
        await self._calls.require(asset, amount)
        await self._calls.allow(asset.at, self._calls.contract("revenue"), amount)
        return await self._write(f"{function} {amount}", function, amount)

    async def _write(self, what: str, function: str, *args: object) -> Receipt:
        data = REVENUE.calldata(function, *args)
        return await self._calls.write(what, self._calls.contract("revenue"), data)

    async def _read(self, function: str, *args: object) -> Any:
        return await self._calls.read(self._calls.contract("revenue"), REVENUE, function, *args)
