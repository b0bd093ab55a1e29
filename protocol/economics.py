"""What cheating is worth: expected payoffs from how likely it is found and how much pay is held.

Amounts are in an honest trainer's pay for one round. A cheat does part of the work in each round,
until it is found; then what is held of its pay is lost, and it begins again as a newcomer, which
costs `Terms.entry`. Who is drawn is replayed, and so is whom the loss gap makes suspect; a replay
always finds work that was left out.

Pay of a round is released over the next ones as `pay` has it: 1 / `held_rounds` of what is held in
each round. After t rounds of the same pay, what is released in a round is 1 - (1 - 1/held_rounds)^t
of it. Rounds until the cheat is found are geometrically distributed; the closed forms follow.
"""

from dataclasses import dataclass

from eigen.protocol.run import PaySpec


@dataclass(frozen=True, slots=True)
class Terms:
    """What a DAO chooses, and what its trainers' work costs them.

    `replayed` is the share of rounds drawn for replay. `cost` is what an honest round costs a
    trainer, of its pay. `entry` is what beginning as a newcomer costs: a bond, or the work of being
    admitted.
    """

    replayed: float
    held_rounds: int
    cost: float = 0.8
    entry: float = 1.0

    def __post_init__(self) -> None:
        """Raises ValueError that names the field out of range."""
        if not 0.0 <= self.replayed <= 1.0:
            raise ValueError(f"replayed is {self.replayed:g}, not a share of 0 to 1")
        if self.held_rounds < 1:
            raise ValueError(f"held_rounds is {self.held_rounds}, at least 1 is needed")
        if not 0.0 <= self.cost <= 1.0:
            raise ValueError(f"cost is {self.cost:g}; nobody works for less than it costs")
        if not self.entry >= 0.0:
            raise ValueError(f"entry is {self.entry:g}, below 0")

    @classmethod
    def of(cls, pay: PaySpec, *, cost: float = 0.8, entry: float = 1.0) -> "Terms":
        """The terms of a run."""
        return cls(pay.replay_bps / 10_000, pay.held_rounds, cost, entry)


@dataclass(frozen=True, slots=True)
class Attack:
    """A way to cheat: how much of the cost it saves, and what share of honest pay it gets.

    `suspected` is the chance in a round that the loss gap makes it suspect, which brings a replay;
    0 where a run does without the gap.
    """

    name: str
    saves: float
    paid: float
    suspected: float = 0.0

    def without_gap(self) -> "Attack":
        """The same where nobody measures the gap."""
        return Attack(self.name, self.saves, self.paid)


ATTACKS = (
    Attack("a tenth of the steps left out", saves=0.1, paid=1.0, suspected=0.01),
    Attack("half of the steps left out", saves=0.5, paid=0.9, suspected=0.14),
    Attack("last round's update again", saves=1.0, paid=0.9, suspected=0.9),
    Attack("one update from two accounts", saves=0.5, paid=1.5, suspected=0.5),
    Attack("random values", saves=1.0, paid=0.05, suspected=0.6),
    Attack("zeros", saves=1.0, paid=0.0, suspected=0.0),
    Attack("other data than assigned", saves=0.0, paid=1.0, suspected=0.5),
)
"""Shares of pay and chances as docs/contribution-proofs.md measures them, rounded for the cheat."""


def detection(terms: Terms, attack: Attack) -> float:
    """The chance in a round that an attack is found: drawn, or suspect."""
    return terms.replayed + (1.0 - terms.replayed) * attack.suspected


def found_within(terms: Terms, attack: Attack, rounds: int) -> float:
    """The chance that an attack is found in one of so many rounds."""
    return 1.0 - (1.0 - detection(terms, attack)) ** rounds


def held(terms: Terms, rounds: float = float("inf")) -> float:
    """Pay held of a trainer who has earned the same for so many rounds, after the release."""
    kept = 1.0 - 1.0 / terms.held_rounds
    return float((terms.held_rounds - 1) * (1.0 - kept**rounds))


def payoff(terms: Terms, attack: Attack) -> float:
    """What a cheat has of a round, on average over many lives, less what an honest trainer has.

    Cheating from the first round on. Above 0, it pays.
    """
    return _cheating(terms, attack) - (1.0 - terms.cost)


def late_payoff(terms: Terms, attack: Attack) -> float:
    """What one cheated round is worth to a trainer who has been honest for long. Above 0, it pays.

    What it saves and loses of the round's pay, less what it may lose of what is held, and the pay
    of the round, which is held too.
    """
    at_stake = held(terms) + attack.paid + terms.entry
    return attack.saves * terms.cost + attack.paid - 1.0 - detection(terms, attack) * at_stake


def run_payoff(terms: Terms, attack: Attack, rounds: int) -> float:
    """What a cheat has of a whole run of so many rounds, less what an honest trainer has.

    At its end all that is held is released, so a short run holds pay for a short time, whatever
    `held_rounds` says. Takes time by the square of `rounds`.
    """
    found, kept = detection(terms, attack), 1.0 - 1.0 / terms.held_rounds
    ages = [1.0]  # the chance that the cheat has earned for so many rounds and was not found
    gained = 0.0
    for number in range(1, rounds + 1):
        ages = [found * sum(ages), *((1.0 - found) * chance for chance in ages)]
        gained -= ages[0] * terms.entry + (1.0 - attack.saves) * terms.cost
        for age, chance in enumerate(ages[1:], start=1):
            last = number == rounds
            coming = attack.paid * terms.held_rounds * (1.0 - kept**age)
            gained += chance * (coming if last else coming / terms.held_rounds)
    return gained - rounds * (1.0 - terms.cost)


def held_rounds_needed(terms: Terms, attack: Attack, most: int = 10_000) -> int | None:
    """The least `held_rounds` at which an attack does not pay, early or late; None above `most`."""
    least, enough = 1, most
    if not _deterred(terms, attack, most):
        return None
    while least < enough:
        middle = (least + enough) // 2
        if _deterred(terms, attack, middle):
            enough = middle
        else:
            least = middle + 1
    return enough


def _deterred(terms: Terms, attack: Attack, held_rounds: int) -> bool:
    other = Terms(terms.replayed, held_rounds, terms.cost, terms.entry)
    return payoff(other, attack) <= 0.0 and late_payoff(other, attack) <= 0.0


def _cheating(terms: Terms, attack: Attack) -> float:
    """Pay released less cost, of a round, over lives that each end when the cheat is found."""
    found = detection(terms, attack)
    work = (1.0 - attack.saves) * terms.cost
    if not found:
        return attack.paid - work
    alive, kept = 1.0 - found, 1.0 - 1.0 / terms.held_rounds
    released = attack.paid * (alive / found - alive * kept / (1.0 - alive * kept))
    return found * (released - terms.entry) - work
