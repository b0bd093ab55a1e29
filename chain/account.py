"""What one account holds and chose on a DAO's chain, read without its key."""

from dataclasses import dataclass
from typing import Any

from eth_utils.address import to_checksum_address
from web3.providers.async_base import AsyncBaseProvider

from eigen.chain.abi import Abi, AbiMismatch
from eigen.chain.bindings import LEDGER, REVERTS, TOKEN
from eigen.chain.port import Contracts, WrongChain
from eigen.chain.rpc import Call, Rpc
from eigen.protocol.types import Address


@dataclass(frozen=True, slots=True)
class AccountFacts:
    """Gas money in wei of the chain's coin; tokens and votes in the DAO token's base units.

    `votes` are those that others and the account itself delegated to it. `delegate` is who votes
    for its own tokens, zero bytes where nobody does. `payee` is where its earnings go.
    """

    gas_money_wei: int
    tokens: int
    votes: int
    delegate: Address
    payee: Address


async def account_facts(
    provider: AsyncBaseProvider, contracts: Contracts, account: Address
) -> AccountFacts:
    """An account as the newest block has it. Leaves the provider open.

    Raises `WrongChain` where a contract is not there, `ChainUnreachable` and `EndpointRefused`.
    """
    rpc = Rpc(provider, REVERTS)

    async def read(to: Address, abi: Abi, function: str) -> Any:
        data = await rpc.call(Call(account, to, abi.calldata(function, account)))
        try:
            return abi.results(function, data)[0]
        except AbiMismatch as error:
            raise WrongChain(
                f"there is no contract of ours at {to_checksum_address(to)} on this chain: {error}"
            ) from error

    return AccountFacts(
        gas_money_wei=await rpc.balance_wei(account),
        tokens=int(await read(contracts.token, TOKEN, "balanceOf")),
        votes=int(await read(contracts.token, TOKEN, "getVotes")),
        delegate=Address(await read(contracts.token, TOKEN, "delegates")),
        payee=Address(await read(contracts.ledger, LEDGER, "payoutOf")),
    )
