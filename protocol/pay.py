"""What a round pays whom, and when: pure functions of public state, the same on every node.

Pay is earned in one round and released over the next ones: in each round one part in
`PaySpec.held_rounds` of what an account has coming, at last all of it. So an account that earns the
same each round has about `held_rounds` rounds' pay to lose, and its table needs two numbers only.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from eigen.protocol.messages import Credit, Payout, RoundRecord
from eigen.protocol.run import RunSpec
from eigen.protocol.types import Address, Digest

BPS = 10_000


@dataclass(frozen=True, slots=True)
class Work:
    """What a trainer did in a round.

    `contribution` is the inner product of its update with the others' average, in the units of
    `training.contributions`; `commitment` is the digest of what it committed to.
    """

    trainer: Address
    samples: int
    contribution: int
    commitment: Digest


def credits_of(
    spec: RunSpec, work: Sequence[Work], validators: Sequence[Address]
) -> tuple[tuple[Credit, ...], tuple[Credit, ...]]:
    """A round's reward: validators share theirs equally, trainers by their work; floors, no dust.

    Where pay goes by contribution, an update that points against the others' average earns nothing;
    where no update points with it, samples decide. Both results are sorted by account. What
    division and the cap leave over is not paid.
    """
    pool = spec.reward_per_round * spec.validator_share_bps // BPS
    share = pool // len(validators) if validators else 0
    rest = spec.reward_per_round - pool
    weights = _weights(spec, work)
    total = sum(weights)
    most = max(rest * spec.pay.share_max_bps // BPS, rest // len(work)) if work else 0
    trainers = tuple(
        Credit(
            done.trainer,
            done.samples,
            min(rest * weight // total, most) if total else 0,
            done.commitment,
        )
        for done, weight in sorted(zip(work, weights, strict=True), key=lambda w: w[0].trainer)
    )
    return trainers, tuple(Credit(account, 0, share) for account in sorted(validators))


def _weights(spec: RunSpec, work: Sequence[Work]) -> list[int]:
    samples = [done.samples for done in work]
    if spec.pay.by != "contribution":
        return samples
    weighted = [done.samples * max(0, done.contribution) for done in work]
    return weighted if any(weighted) else samples


def payouts_after(
    spec: RunSpec,
    round_: int,
    previous: RoundRecord | None,
    earned: Sequence[Credit],
    *,
    awaited: Collection[Address] = (),
    ejected: Collection[Address] = (),
) -> tuple[Payout, ...]:
    """The table after a round, by account.

    Nothing is released to those whose replay is awaited, and nothing is held for those ejected.
    """
    table = {p.account: p for p in previous.payouts} if previous else {}
    coming = {account: payout.held for account, payout in table.items()}
    for credit in earned:
        if credit.amount:
            coming[credit.account] = coming.get(credit.account, 0) + credit.amount
    last = round_ >= spec.rounds
    after = []
    for account in sorted(coming):
        held = 0 if account in ejected else coming[account]
        parts = 1 if last else spec.pay.held_rounds
        released = 0 if account in awaited else held // parts
        paid = table[account].cumulative if account in table else 0
        left = 0 if last else held - released
        after.append(Payout(account, paid + released, left))
    return tuple(after)
