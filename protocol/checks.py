"""Which rounds of which trainers are replayed, by whom, and what the verdicts come to.

The digest of a round's record is the beacon: it follows from every commitment and result, so nobody
knows who is drawn before all are committed. A check that is drawn stays due in the records that
follow until an examiner finds the round sound, or a quorum finds it false. The first examiner is
drawn with the check; the next one joins in after each `ROUNDS_PER_EXAMINER` rounds, or at once
where the one before is not sure. What one validator calls false all the others replay.

Besides, a leader may name a few trainers of the round whom it suspects: their checks are in the
round's own record, so that they learn of it when they have committed.
"""

from collections.abc import Iterable

from eigen.protocol import limits
from eigen.protocol.context import RunContext
from eigen.protocol.effects import Effect, Publish, Replay, Replayed
from eigen.protocol.messages import (
    Attempt,
    Check,
    Finding,
    RoundRecord,
    Topic,
    Verdict,
    digest,
)
from eigen.protocol.seat import draw, ranked
from eigen.protocol.types import Address

ROUNDS_PER_EXAMINER = 2
"""How long an examiner may be silent before the next one joins in: a replay takes about a round."""
UNSURE_ENOUGH = 2
"""Examiners who cannot tell: the trainer has the benefit of the doubt."""
TRAINERS_PER_SUSPECT = 16
"""A leader may name one of a round's trainers, and one more of so many: replays cost validators."""


def drawn(context: RunContext, record: RoundRecord) -> tuple[Check, ...]:
    """The checks that a record's own digest draws: each credited trainer by the same chance."""
    chance, beacon = context.spec.pay.replay_bps, digest(record)
    round_ = record.attempt.round
    if round_ >= context.spec.rounds:
        return ()  # no record comes after it
    return tuple(
        Check(credit.account, round_)
        for credit in record.trainers
        if int.from_bytes(draw(b"eigen/check/1", beacon, credit.account)[:8], "big") * 10_000
        < chance << 64
    )


def due(context: RunContext, record: RoundRecord | None) -> tuple[Check, ...]:
    """What is to be replayed after a record, oldest first, as many as there is room for."""
    if record is None:
        return ()
    by_chance = (c for c in drawn(context, record) if c not in record.checks)
    return (*record.checks, *by_chance)[: limits.CHECKS_MAX]


def named(record: RoundRecord) -> frozenset[Address]:
    """Whom the leader of a round named for being suspected."""
    return frozenset(c.trainer for c in record.checks if c.round == record.attempt.round)


def may_name(context: RunContext, round_: int, credited: int) -> int:
    """How many of a round's credited trainers its leader may name."""
    replayed = context.spec.pay.replay_bps and round_ < context.spec.rounds
    return 1 + credited // TRAINERS_PER_SUSPECT if replayed and credited else 0


def examiners(context: RunContext, check: Check) -> list[Address]:
    """Validators in the order in which they replay a round; nobody can choose it."""
    seed = draw(b"eigen/examine/1", context.seed, check.round.to_bytes(8, "big"), check.trainer)
    return ranked(seed, b"examiner", context.validators)


class Checks:
    """One validator's replays, and the verdicts that it has heard on those that are due."""

    def __init__(self, context: RunContext, me: Address) -> None:
        self.context = context
        self.me = me
        self._due: tuple[Check, ...] = ()
        self._verdicts: dict[Check, dict[Address, Verdict]] = {}
        self._asked: set[Check] = set()
        self._suspects: set[Address] = set()

    def begin_round(self, record: RoundRecord, attempt: Attempt) -> list[Effect]:
        """A record is adopted: begin what is due, and say again what is not in it yet."""
        self._due = due(self.context, record)
        self._suspects -= named(record)  # their replay says more
        kept = set(self._due)
        self._verdicts = {c: said for c, said in self._verdicts.items() if c in kept}
        self._asked &= self._verdicts.keys()  # what could not be replayed is tried again
        effects: list[Effect] = []
        for check in self._due:
            own = self._verdicts.get(check, {}).get(self.me)
            if own is not None:
                effects.append(Publish(Topic.ROUNDS, self._said(own, attempt)))
            else:
                effects += self._replay(check, attempt.round)
        return effects

    def _said(self, verdict: Verdict, attempt: Attempt) -> Verdict:
        return Verdict(attempt, verdict.check, verdict.finding, verdict.deviation)

    def replayed(self, event: Replayed, attempt: Attempt) -> list[Effect]:
        """Our own replay is done: say what it came to, where that is still of use."""
        if event.check not in self._due:
            return []
        deviation = min(event.deviation, limits.DEVIATION_MAX)
        verdict = Verdict(attempt, event.check, int(event.finding), deviation)
        said: list[Effect] = [Publish(Topic.ROUNDS, verdict)]
        return said + self.add(self.me, verdict)

    def add(self, validator: Address, verdict: Verdict) -> list[Effect]:
        """A validator's verdict; its first on a check counts."""
        check = verdict.check
        if check not in self._due:
            return []
        self._verdicts.setdefault(check, {}).setdefault(validator, verdict)
        return self._replay(check, verdict.attempt.round)

    def _replay(self, check: Check, round_: int) -> list[Effect]:
        """Replay what falls to us: as the examiner whose turn it is, or where one found fault."""
        if check in self._asked or check.trainer == self.me:
            return []
        heard = self._verdicts.get(check, {}).values()
        accused = any(v.finding == Finding.FALSE for v in heard)
        turn = examiners(self.context, check).index(self.me)
        if not accused and turn >= self._examining(check, round_):
            return []
        self._asked.add(check)
        return [Replay(check)]

    def _examining(self, check: Check, round_: int) -> int:
        """How many examiners may have begun by a round."""
        unsure = sum(v.finding == Finding.UNCLEAR for v in self._verdicts.get(check, {}).values())
        return 1 + max(0, round_ - check.round - 1) // ROUNDS_PER_EXAMINER + unsure

    # conclusions ----------------------------------------------------------------------------------
    def sound(self, round_: int) -> frozenset[Check]:
        """Checks that an examiner found sound, or on which `UNSURE_ENOUGH` could not be sure.

        Where somebody finds one false, a quorum must find it sound.
        """
        return frozenset(check for check in self._due if self._is_sound(check, round_))

    def _is_sound(self, check: Check, round_: int) -> bool:
        heard = self._verdicts.get(check, {})
        said = [verdict.finding for verdict in heard.values()]
        if Finding.FALSE in said:
            return said.count(Finding.SOUND) >= self.context.quorum
        turn = examiners(self.context, check)[: self._examining(check, round_)]
        found = [heard[v].finding for v in turn if v in heard]
        unsure = found.count(Finding.UNCLEAR) >= min(UNSURE_ENOUGH, len(self.context.validators))
        return Finding.SOUND in found or unsure

    def false(self) -> frozenset[Address]:
        """Trainers a round of whom a quorum of validators found false."""
        return frozenset(
            check.trainer
            for check, heard in self._verdicts.items()
            if sum(v.finding == Finding.FALSE for v in heard.values()) >= self.context.quorum
        )

    def open(self, round_: int) -> bool:
        """Whether something is due on which there is no conclusion yet."""
        concluded, false = self.sound(round_), self.false()
        return any(c not in concluded and c.trainer not in false for c in self._due)

    # suspicion ------------------------------------------------------------------------------------
    def suspect(self, trainers: Iterable[Address]) -> None:
        """Whom our own measurements tell of; as many as a seat can have, the latest."""
        self._suspects = set(trainers)

    def suspects(self, round_: int, credited: frozenset[Address]) -> frozenset[Address]:
        """Those to name among a round's credited trainers, as many as we may."""
        awaited = {check.trainer for check in self._due}
        found = sorted((self._suspects & credited) - awaited)
        return frozenset(found[: may_name(self.context, round_, len(credited))])

    def after(self, closed: Iterable[Check], ejected: Iterable[Address]) -> tuple[Check, ...]:
        """What stays due once these are closed, and checks of these trainers with them."""
        done, gone = set(closed), set(ejected)
        return tuple(c for c in self._due if c not in done and c.trainer not in gone)
