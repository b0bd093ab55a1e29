"""What a private job's price comes to for each trainer: a pure function of what they did."""

from collections.abc import Iterable

from eigen.protocol.messages import Payout
from eigen.protocol.private_job import JobContribution


def job_payouts(price: int, contributions: Iterable[JobContribution]) -> tuple[Payout, ...]:
    """The price in base units, by shard-rounds, ascending by account; floors, no dust.

    A trainer whose sum was false gets nothing, whatever it did besides.
    """
    counted = {c.trainer: c.shard_rounds for c in contributions if not c.excluded}
    total = sum(counted.values())
    return tuple(
        Payout(trainer, price * count // total)
        for trainer, count in sorted(counted.items())
        if price * count >= total > 0
    )
