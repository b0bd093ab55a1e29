"""The canary: says when something held up the event loop.

Work over some milliseconds belongs in a thread or a process; the canary proves that it is there.
"""

from dataclasses import dataclass

import structlog
import trio

log = structlog.get_logger()

PERIOD_S = 0.25
"""Four wake-ups a second cost about 0.05% of a core."""
LAG_WARN_S = 0.25
"""A lag that people notice in the exchange; shorter ones are counted only."""


@dataclass(slots=True)
class Canary:
    """Worst lag of the event loop so far, and how often it was over the warning level."""

    lag_s_max: float = 0.0
    warnings: int = 0

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            due = trio.current_time() + PERIOD_S
            await trio.sleep_until(due)
            lag_s = trio.current_time() - due
            self.lag_s_max = max(self.lag_s_max, lag_s)
            if lag_s > LAG_WARN_S:
                self.warnings += 1
                log.warning("the event loop was held up", lag_ms=round(lag_s * 1000))
