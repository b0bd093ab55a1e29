"""Amounts of any token as members write them, in its own base units."""

from decimal import Decimal, InvalidOperation

from eigen.chain.account_calls import Asset, NotPossible
from eigen.node.amounts import base_units


def units_of(text: str, asset: Asset, name: str = "amount", *, least: int = 1) -> int:
    """Whole tokens as base units, exactly. Raises `NotPossible`, which names the argument."""
    try:
        units = base_units(Decimal(text), asset.decimals)
    except InvalidOperation:
        raise NotPossible(f"{name}: {text[:40]!r} is no number") from None
    except ValueError as error:
        raise NotPossible(f"{name}: {text[:40]!r}: {error}") from error
    if units < least:
        raise NotPossible(f"{name}: a number of tokens, {'positive' if least else 'not negative'}")
    return units
