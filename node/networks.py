"""What a network file says, in the chain's terms."""

from dataclasses import fields

from eigen.chain.port import Contracts
from eigen.config.network import ContractAddresses, NetworkFile


def contracts_of(network: NetworkFile) -> Contracts:
    """The DAO's contracts."""
    named = network.contracts
    return Contracts(**{field.name: getattr(named, field.name) for field in fields(named)})


def addresses_of(contracts: Contracts) -> ContractAddresses:
    """The same, as a network file has them."""
    return ContractAddresses(
        **{field.name: getattr(contracts, field.name) for field in fields(contracts)}
    )
