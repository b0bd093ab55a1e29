"""Whether endpoints tell of the same chain: who is believed when they do not.

Knows answers, not how they are asked for.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median_low
from typing import Final

COMPARED_EVERY_S: Final = 30.0
"""Two short questions to each endpoint; a daemon asks hundreds meanwhile."""
LAG_BLOCKS_MAX: Final = 16
"""An endpoint that is further behind the middle one is asked last: 30 s of quick blocks."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a comparison of one block showed; reasons by endpoint, for people."""

    doubted: Mapping[str, str] = field(default_factory=dict)
    """They tell of another chain than most do, or, where there is no majority, any of them."""
    lagging: Mapping[str, str] = field(default_factory=dict)


def common_block(heads: Mapping[str, int], depth: int) -> int:
    """The block to compare: below the lowest head that does not lag, `depth` blocks deep."""
    middle = median_low(heads.values())
    near = [head for head in heads.values() if head >= middle - LAG_BLOCKS_MAX]
    return max(0, min(near) - depth)


def judged(heads: Mapping[str, int], block: int, hashes: Mapping[str, str]) -> Judgement:
    """Who is believed: a hash that more than half of those who answered name.

    `hashes` are of the block compared; who has no such block is not in it.
    """
    middle = median_low(heads.values())
    lagging = {
        name: f"its head is {head}, that of others {middle}"
        for name, head in heads.items()
        if head < middle - LAG_BLOCKS_MAX
    }
    if len(set(hashes.values())) <= 1:
        return Judgement({}, lagging)
    [(most, count)] = Counter(hashes.values()).most_common(1)
    majority = most if 2 * count > len(hashes) else None
    doubted = {
        name: f"block {block} has the hash {told} there, {_others(hashes, told)} elsewhere"
        for name, told in hashes.items()
        if told != majority
    }
    return Judgement(doubted, lagging)


def _others(hashes: Mapping[str, str], told: str) -> str:
    return " or ".join(sorted({other for other in hashes.values() if other != told}))
