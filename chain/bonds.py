"""What validators stand to lose, for one account: DAO tokens bonded with the ledger."""

from dataclasses import dataclass
from typing import Final

from eigen.chain.account_calls import AccountCalls, Asset, NotPossible
from eigen.chain.bindings import LEDGER
from eigen.chain.port import Receipt
from eigen.protocol.types import Address

AMOUNT_MAX: Final = (1 << 128) - 1
"""What the ledger has room for, base units."""


@dataclass(frozen=True, slots=True)
class Bond:
    """Base units. `leaving` is being unbonded, can still be slashed, and may be withdrawn from
    `available_at_s` (unix seconds) on. Who was `slashed` is never a validator again."""

    validator: Address
    amount: int
    leaving: int
    available_at_s: int
    slashed: bool


@dataclass(frozen=True, slots=True)
class Terms:
    """What the DAO asks of validators: base units, seconds, and who may veto (None: nobody)."""

    bond: int
    unbonding_delay_s: int
    challenge_window_s: int
    guardian: Address | None


class Bonds:
    """Every write checks first what can be checked. All methods raise `ChainError`, of it
    `NotPossible` where nothing was signed."""

    def __init__(self, calls: AccountCalls) -> None:
        self._calls = calls
        self._ledger = calls.contracts.ledger

    async def token(self) -> Asset:
        """What is bonded."""
        return await self._calls.asset(self._calls.contracts.token)

    async def terms(self) -> Terms:
        """As the DAO set them."""
        window_s, delay_s, bond, guardian = await self._calls.read(self._ledger, LEDGER, "terms")
        return Terms(bond, delay_s, window_s, Address(guardian) if any(guardian) else None)

    async def of(self, validator: Address) -> Bond:
        """Anybody's."""
        amount, leaving, available_at_s = await self._calls.read_all(
            self._ledger, LEDGER, "bondOf", validator
        )
        slashed = await self._calls.read(self._ledger, LEDGER, "isSlashed", validator)
        return Bond(validator, amount, leaving, available_at_s, slashed)

    async def validators(self) -> list[Bond]:
        """All validators', in the order in which the DAO named them."""
        named = await self._calls.read(self._ledger, LEDGER, "validators")
        return [await self.of(Address(account)) for account in named]

    async def bond(self, validator: Address, amount: int) -> Receipt:
        """Bond tokens of ours for a validator, whose they are from then on."""
        if amount > AMOUNT_MAX:
            raise NotPossible("more than the ledger has room for")
        if (await self.of(validator)).slashed:
            raise NotPossible(f"0x{validator.hex()} was slashed: its key is not accepted again")
        await self._calls.require(await self.token(), amount)
        await self._calls.allow(self._calls.contracts.token, self._ledger, amount)
        data = LEDGER.calldata("bond", validator, amount)
        return await self._calls.write(f"bond {validator.hex()} {amount}", self._ledger, data)

    async def unbond(self, amount: int, *, leave: bool = False) -> Receipt:
        """Take tokens out of our bond, to be withdrawn after the delay.

        Below the bond that the DAO asks for we are no validator any more: only with `leave`.
        """
        account, token = self._calls.address, await self.token()
        bonded, required = (await self.of(account)).amount, (await self.terms()).bond
        if amount > bonded:
            raise NotPossible(f"not so much is bonded: {token.shown(bonded)} {token.symbol}")
        seated = await self._calls.read(self._ledger, LEDGER, "isValidator", account)
        if seated and bonded - amount < required and not leave:
            raise NotPossible(
                f"the DAO asks for {token.shown(required)} {token.symbol}: with less this account"
                " is no validator any more; agree to that with --leave"
            )
        data = LEDGER.calldata("unbond", amount)
        return await self._calls.write(f"unbond {amount}", self._ledger, data)

    async def withdraw(self) -> tuple[int, Receipt]:
        """Fetch what was unbonded. How much that was."""
        now = await self.of(self._calls.address)
        await self._calls.check_due(now.leaving, now.available_at_s, "unbonded")
        data = LEDGER.calldata("withdrawBond")
        return now.leaving, await self._calls.write("withdraw bond", self._ledger, data)
