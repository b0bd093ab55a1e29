"""What a member may do by hand of the DAO's contracts, as control methods in JSON values."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from eigen.chain.account_calls import AccountCalls
from eigen.chain.port import ChainError, ChainUnreachable, TransactionReverted, WrongChain
from eigen.node.bond_methods import BondMethods
from eigen.node.control import ControlError, Method
from eigen.node.creation_methods import CreationMethods
from eigen.node.exit_codes import ExitCode
from eigen.node.market_methods import MarketMethods
from eigen.node.model_methods import ModelMethods
from eigen.node.revenue_methods import RevenueMethods
from eigen.protocol.messages import RoundRecord
from eigen.protocol.types import RunId

History = Callable[[RunId], dict[int, RoundRecord]]
"""Records of a run's rounds that are at hand."""


def no_records(_: RunId) -> dict[int, RoundRecord]:
    """Without a running node there are none."""
    return {}


def member_methods(calls: AccountCalls, history: History = no_records) -> dict[str, Method]:
    """Methods by name. Each raises `ControlError`, in words, for what a member can mend."""
    tables = (
        ModelMethods(calls, history).table(),
        MarketMethods(calls).table(),
        RevenueMethods(calls).table(),
        BondMethods(calls).table(),
        CreationMethods(calls).table(),
    )
    return {name: _in_words(method) for table in tables for name, method in table.items()}


def _in_words(method: Method) -> Method:
    @wraps(method)
    async def told(params: dict[str, Any]) -> Any:
        try:
            return await method(params)
        except TransactionReverted as error:
            raise ControlError(f"the contract refuses: {error.error}", ExitCode.FAILED) from error
        except WrongChain as error:
            raise ControlError(str(error), ExitCode.WRONG_NETWORK) from error
        except ChainUnreachable as error:
            raise ControlError(str(error), ExitCode.CHAIN_UNREACHABLE) from error
        except ChainError as error:
            raise ControlError(str(error), ExitCode.FAILED) from error
        except (KeyError, TypeError, ValueError) as error:
            raise ControlError(f"no such call: {error}", ExitCode.USAGE) from error

    return told
