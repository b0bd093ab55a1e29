"""A token bucket that knows no clock: whoever uses it says what time it is."""


class TokenBucket:
    """`per_s` tokens a second, at most `burst` at once; full at the start."""

    __slots__ = ("_at_s", "_burst", "_per_s", "_tokens")

    def __init__(self, per_s: float, burst: float, now_s: float) -> None:
        self._per_s = per_s
        self._burst = burst
        self._tokens = burst
        self._at_s = now_s

    def _refill(self, now_s: float) -> None:
        self._tokens = min(self._burst, self._tokens + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s

    def take(self, count: float, now_s: float) -> bool:
        """Take tokens if they are there."""
        self._refill(now_s)
        if self._tokens < count:
            return False
        self._tokens -= count
        return True

    def owe(self, count: float, now_s: float) -> float:
        """Take tokens in any case; returns the seconds to wait until they are paid for."""
        self._refill(now_s)
        self._tokens -= count
        return max(0.0, -self._tokens / self._per_s)
