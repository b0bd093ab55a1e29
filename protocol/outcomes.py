"""The outcome of a round: what leaders propose, what our evidence bears out, what is prepared.

Decides and counts; `committee` publishes, stores and attests.
"""

from eigen.protocol.checks import may_name, named
from eigen.protocol.context import RunContext
from eigen.protocol.evidence import RoundEvidence
from eigen.protocol.messages import Outcome, OutcomeVote, RoundRecord, digest
from eigen.protocol.promises import Promised
from eigen.protocol.tally import Tally
from eigen.protocol.timeouts import Timeouts
from eigen.protocol.types import Address, Digest


class Outcomes:
    """Outcomes of one round and the votes for them. `promised` is shared with the committee."""

    def __init__(self, context: RunContext, evidence: RoundEvidence, promised: Promised) -> None:
        self.context = context
        self.attested = False
        self._evidence = evidence
        self._promised = promised
        self._proposed: dict[int, Outcome] = {}
        self._votes: Tally[int, Digest] = Tally()

    def settled(self, number: int) -> bool:
        """Whether an outcome was proposed or voted for in an attempt: no room for another."""
        return number in self._proposed or number in self._promised.outcome_votes

    def add(self, outcome: Outcome, current: int) -> bool:
        """An outcome its leader proposed. False where it proposed another in that attempt.

        Those of attempts before the `current` one are forgotten.
        """
        self._proposed = {n: o for n, o in self._proposed.items() if n >= current}
        return self._proposed.setdefault(outcome.attempt.number, outcome) == outcome

    def add_vote(self, voter: Address, vote: OutcomeVote) -> None:
        """A validator's vote; its first in an attempt counts."""
        self._votes.add(vote.attempt.number, voter, vote.record)

    def carried(self, timeouts: Timeouts) -> Outcome | None:
        """What an earlier attempt came to: our own, else the latest told that we can bear out.

        What too few have voted for to be prepared anywhere is carried into the next attempt alone:
        if the others could bear it out, they would have by then.
        """
        if self._promised.prepared is not None:
            return self._promised.prepared
        known = list(timeouts.told())
        if self._promised.checked is not None:
            known.append(self._promised.checked)
        known.sort(key=lambda o: o.attempt.number, reverse=True)
        last = timeouts.passed()
        return next(
            (
                o
                for o in known
                if (timeouts.may_be_prepared(o.record) or o.record.attempt.number == last)
                and self._borne_out(o.record)
            ),
            None,
        )

    def vote(self, number: int) -> OutcomeVote | None:
        """Promise to vote once our own evidence bears the record out; until then it is pending."""
        outcome = self._open(number)
        if outcome is None or number in self._promised.outcome_votes:
            return None
        if not self._borne_out(outcome.record):
            return None
        self._promised.outcome_votes.add(number)
        self._promised.checked = outcome
        return OutcomeVote(outcome.attempt, digest(outcome.record))

    def prepare(self, number: int) -> Outcome | None:
        """With a quorum of votes, what to attest, once: only what we have voted for ourselves."""
        outcome = self._open(number)
        if outcome is None or self.attested or number not in self._promised.outcome_votes:
            return None
        if self._votes.leading(number, self.context.quorum) != digest(outcome.record):
            return None
        self._promised.prepared = outcome
        self.attested = True
        return outcome

    def _open(self, number: int) -> Outcome | None:
        """What was proposed in an attempt, unless a promise of ours rules it out."""
        outcome, prepared = self._proposed.get(number), self._promised.prepared
        if outcome is None or number < self._promised.given_up:
            return None
        if prepared is not None and prepared.record != outcome.record:
            return None  # we have attested another record, and never sign two
        return outcome

    def _borne_out(self, record: RoundRecord) -> bool:
        """Whether we have voted for this record before, or our evidence comes to the same."""
        ours = (self._promised.prepared, self._promised.checked)
        if any(o is not None and o.record == record for o in ours):
            return True
        evidence, shown = self._evidence, record.attempt.number
        if shown not in evidence.audited:
            return False
        credited = frozenset(c.account for c in record.trainers)
        watching = frozenset(c.account for c in record.validators)
        if not credited or not credited <= evidence.creditable(shown):
            return False
        if not watching <= evidence.spoke(shown):
            return False
        checks = evidence.checks
        ejected = frozenset(record.ejected) - evidence.ejected
        if not ejected <= checks.false():
            return False
        closed = frozenset(checks.after(record.checks, record.ejected))
        if not closed <= checks.sound(evidence.round):
            return False
        suspects = named(record)
        if not suspects <= credited:
            return False
        if len(suspects) > may_name(self.context, evidence.round, len(credited)):
            return False
        return evidence.record(shown, credited, watching, closed, ejected, suspects) == record


def misplaced(outcome: Outcome) -> bool:
    """Whether an outcome shows a record of another round, or of an attempt after its own."""
    at, shown = outcome.attempt, outcome.record.attempt
    return (at.run, at.round) != (shown.run, shown.round) or shown.number > at.number
