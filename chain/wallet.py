"""One account on one chain: what it can pay, what a call would cost, and its signature.

Knows no journal: which nonce is free is the outbox's to say.
"""

import time
from collections.abc import Callable
from decimal import Decimal
from typing import Final

from eth_account import Account
from eth_utils.address import to_checksum_address

from eigen.chain import fees
from eigen.chain.fees import Fee
from eigen.chain.journal import Attempt
from eigen.chain.pool import Answer, classified
from eigen.chain.port import EndpointRefused, InsufficientGasMoney, TransactionReverted
from eigen.chain.rpc import Call, Rpc
from eigen.protocol.types import Address, Digest

GAS_MARGIN: Final = 1.25
"""Over the estimate: between it and the block, others change storage that ours touches."""
GAS_EXTRA: Final = 66_000
"""Besides: a vote checkpoint costs 22,000 more in a new second than in that of the dry run."""
GAS_MAX: Final = 1 << 24
"""EIP-7825 (Osaka): no transaction may ask for more."""
WEI_A_COIN: Final = 10**18


class Wallet:
    """Signs EIP-1559 transactions of one account. Its `repr` does not show the secret."""

    def __init__(
        self,
        rpc: Rpc,
        secret: bytes,
        *,
        chain_id: int,
        fee_ceiling_wei: int = fees.MAX_FEE_WEI,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`now` dates attempts, in unix seconds, so that their age survives a restart."""
        self._rpc = rpc
        self._account = Account.from_key(secret)
        self._chain_id = chain_id
        self._fee_ceiling_wei = fee_ceiling_wei
        self.now = now
        self.address = Address(bytes.fromhex(self._account.address[2:]))

    async def gas_limit(self, call: Call) -> int:
        """Dry run: the gas to allow for a call that would succeed now.

        Raises `TransactionReverted` where it would not, or where one transaction cannot hold it,
        `InsufficientGasMoney` where the account does not have the value that the call carries.
        """
        try:
            estimate = await self._rpc.estimate_gas(call)
        except EndpointRefused as error:
            if classified(error) is Answer.NO_MONEY:
                raise await self.no_money(call.value_wei) from error
            raise
        if estimate > GAS_MAX:
            raise TransactionReverted(
                f"needs {estimate} gas, a transaction may use {GAS_MAX} (EIP-7825): split it"
            )
        return min(int(estimate * GAS_MARGIN) + GAS_EXTRA, GAS_MAX)

    async def market(self) -> Fee:
        """A first offer at today's prices. Raises `FeeTooHigh`."""
        base_fee_wei, tips_wei = await self._rpc.fee_market()
        return fees.offer(base_fee_wei, tips_wei, self._fee_ceiling_wei)

    async def replacement(self, previous: Fee) -> Fee | None:
        """An offer that replaces a previous one, None above the ceiling."""
        base_fee_wei, tips_wei = await self._rpc.fee_market()
        return fees.replacement(previous, base_fee_wei, tips_wei, self._fee_ceiling_wei)

    async def require(self, cost_wei: int) -> None:
        """Raises `InsufficientGasMoney` where the account holds less."""
        if await self._rpc.balance_wei(self.address) < cost_wei:
            raise await self.no_money(cost_wei)

    async def no_money(self, needed_wei: int) -> InsufficientGasMoney:
        """The error that tells a person how much to send where."""
        held_wei = await self._rpc.balance_wei(self.address)
        missing_wei = max(needed_wei - held_wei, 1)
        return InsufficientGasMoney(
            f"this node's account needs up to {_coins(needed_wei)} for gas and holds"
            f" {_coins(held_wei)}: send {_coins(missing_wei)} of the coin of chain"
            f" {self._chain_id} to {to_checksum_address(self.address)}"
        )

    def signed(self, nonce: int, call: Call, gas: int, fee: Fee) -> Attempt:
        """A signed type 2 transaction (EIP-1559), dated now."""
        fields: dict[str, object] = {
            "type": 2,
            "chainId": self._chain_id,
            "nonce": nonce,
            "value": call.value_wei,
            "data": call.data,
            "gas": gas,
            "maxFeePerGas": fee.max_wei,
            "maxPriorityFeePerGas": fee.priority_wei,
        }
        if call.to is not None:
            fields["to"] = call.to
        signed = self._account.sign_transaction(fields)
        return Attempt(Digest(bytes(signed.hash)), bytes(signed.raw_transaction), fee, self.now())

    def __repr__(self) -> str:
        return f"Wallet({to_checksum_address(self.address)})"


def _coins(wei: int) -> str:
    """Exact, without an exponent, without trailing zeros."""
    text = f"{Decimal(wei) / WEI_A_COIN:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
