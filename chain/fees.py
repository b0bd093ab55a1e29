"""What to offer for gas (EIP-1559): first offers, replacements, and the limit of both.

Pure arithmetic over what an endpoint reports; a lying endpoint can cost at most the limits here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median_low
from typing import Final

from eigen.chain.port import FeeTooHigh

GWEI: Final = 10**9

MAX_FEE_WEI: Final = 500 * GWEI
"""Default ceiling of the fee for one gas; mainnet passes it only in rare panics."""
PRIORITY_WEI_MIN: Final = GWEI // 1000
"""A tip of zero is dropped by some pools; this one costs 1e-6 of a coin for a million gas."""
PRIORITY_WEI_MAX: Final = 50 * GWEI
"""An endpoint reports what others tip, and may lie."""
BASE_FEE_HEADROOM: Final = 2
"""The base fee rises by 12.5 % a full block at most: six blocks until it doubles."""
BUMP_NUMERATOR: Final = 1125
BUMP_DENOMINATOR: Final = 1000
"""A replacement offers 12.5 % more of both fees: pools ask for 10 (geth) to 12.5 (others)."""


@dataclass(frozen=True, slots=True)
class Fee:
    """Wei for one gas: the most to pay in all, and the part of it that tips the block's builder."""

    max_wei: int
    priority_wei: int


def offer(base_fee_wei: int, tips_wei: Sequence[int], ceiling_wei: int = MAX_FEE_WEI) -> Fee:
    """A first offer: twice the next block's base fee and the median of recent tips.

    Raises `FeeTooHigh` where the ceiling would not even pay the base fee with a tip.
    """
    tip_wei = _tip(tips_wei)
    if base_fee_wei + tip_wei > ceiling_wei:
        raise FeeTooHigh(
            f"gas costs {(base_fee_wei + tip_wei) / GWEI:.3f} gwei now, the ceiling is"
            f" {ceiling_wei / GWEI:.3f}; wait, or raise the ceiling"
        )
    return Fee(min(base_fee_wei * BASE_FEE_HEADROOM + tip_wei, ceiling_wei), tip_wei)


def replacement(
    previous: Fee, base_fee_wei: int, tips_wei: Sequence[int], ceiling_wei: int = MAX_FEE_WEI
) -> Fee | None:
    """An offer that replaces the previous one in any pool; None where it passes the ceiling."""
    tip_wei = max(_bumped(previous.priority_wei), _tip(tips_wei))
    least_wei = max(_bumped(previous.max_wei), tip_wei)
    if least_wei > ceiling_wei:
        return None
    wanted_wei = base_fee_wei * BASE_FEE_HEADROOM + tip_wei
    return Fee(max(least_wei, min(wanted_wei, ceiling_wei)), tip_wei)


def _tip(tips_wei: Sequence[int]) -> int:
    median_wei = median_low(tips_wei) if tips_wei else 0
    return min(max(median_wei, PRIORITY_WEI_MIN), PRIORITY_WEI_MAX)


def _bumped(wei: int) -> int:
    return -(-wei * BUMP_NUMERATOR // BUMP_DENOMINATOR)
