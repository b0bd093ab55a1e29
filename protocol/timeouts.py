"""Which attempts of a round the validators have given up, by the latest time-out of each."""

from collections.abc import Iterator

from eigen.protocol.context import RunContext
from eigen.protocol.messages import Outcome, RoundRecord, Timeout
from eigen.protocol.types import Address


class Timeouts:
    """Who gives an attempt up gives all before it up, so each validator's latest is enough."""

    def __init__(self, context: RunContext, me: Address) -> None:
        self.context = context
        self.me = me
        self._latest: dict[Address, Timeout] = {}

    def add(self, sender: Address, timeout: Timeout) -> None:
        """A validator's time-out; one of an attempt before its latest changes nothing."""
        known = self._latest.get(sender)
        if known is None or known.attempt.number <= timeout.attempt.number:
            self._latest[sender] = timeout

    def told(self) -> Iterator[Outcome]:
        """Outcomes that validators say they prepared, or voted for."""
        return (outcome for timeout in self._latest.values() for outcome in timeout.prepared)

    def may_be_prepared(self, record: RoundRecord) -> bool:
        """Whether a quorum can have voted for a record: who tells it, or has not told, or lies."""
        telling = sum(any(o.record == record for o in t.prepared) for t in self._latest.values())
        silent = len(self.context.validators) - len(self._latest)
        return telling + silent + self.context.tolerated >= self.context.quorum

    def passed(self) -> int | None:
        """The last attempt that a quorum has given up, if there is one."""
        given_up = sorted((t.attempt.number for t in self._latest.values()), reverse=True)
        quorum = self.context.quorum
        return given_up[quorum - 1] if len(given_up) >= quorum else None

    def joined(self) -> int | None:
        """The last attempt that some other honest validator has given up, if there is one.

        So many must say so that one is honest: a liar alone could drag everybody on for ever.
        """
        others = (t.attempt.number for v, t in self._latest.items() if v != self.me)
        latest, liars = sorted(others, reverse=True), self.context.tolerated
        return latest[liars] if len(latest) > liars else None
