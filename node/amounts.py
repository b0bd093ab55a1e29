"""Amounts of tokens as people read and write them. Exact: no float, no rounding."""

from decimal import Decimal, localcontext

DECIMALS = 18
"""Of the DAO's token and of a chain's coin."""
DIGITS_MAX = 80
"""A uint256 has 78; a person's number may have no more, on either side of its point."""


def whole(units: int, decimals: int = DECIMALS) -> str:
    """Base units, not negative, as whole tokens, without trailing zeros."""
    tokens, rest = divmod(units, 10**decimals)
    return f"{tokens}.{rest:0{decimals}d}".rstrip("0").rstrip(".") if rest else str(tokens)


def base_units(amount: Decimal, decimals: int = DECIMALS) -> int:
    """Whole tokens as base units. Raises ValueError where that is no whole number of them, or one
    with more than `DIGITS_MAX` digits."""
    if not amount.is_finite() or abs(amount.adjusted()) > DIGITS_MAX:
        raise ValueError("no number of tokens")
    with localcontext(prec=4 * DIGITS_MAX):
        units = amount.scaleb(decimals)
        if units != units.to_integral_value():
            raise ValueError(f"the token counts {decimals} decimals, not more")
        return int(units)
