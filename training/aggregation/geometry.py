"""Rules that see inputs only through their inner products, and answer with a weight for each.

The inputs stay where they are: a rule is scalar arithmetic on a small table, and one weighted sum
at the end. A table row after the last input, where there is one, is the history's.

Shape legend: N inputs; weights_N are the inputs' shares of all samples, which add up to 1.
"""

from collections.abc import Sequence

from eigen.training.aggregation.arithmetic import Gram, added
from eigen.training.aggregation.gate import length

CLIP_ITERATIONS = 3
"""Steps of centered clipping; the paper uses one with a history, and more without."""
MEDIAN_ITERATIONS = 8
"""Weiszfeld steps: the paper finds 3 enough; each costs a few microseconds here."""
MEDIAN_SMOOTHING = 1e-6
"""The least distance that counts, as a share of the largest: no division by zero."""
COSINE_MIN = 0.0
"""An input whose cosine with the mean of the others is not above this is dropped."""


def centered_clip(products: Gram, shares_N: Sequence[float], _liars: int) -> list[float]:
    """Steps from the history to the inputs, each no longer than the median one.

    Karimireddy et al., "Learning from History for Byzantine Robust Optimization"
    (arXiv:2012.10333). The radius is the lower median distance at each step, for no fixed one suits
    every part and round. The last row of `products` is the history's; its weight comes last.
    """
    inputs = len(shares_N)
    weights = [0.0] * inputs + [1.0]
    for _ in range(CLIP_ITERATIONS):
        distances = _distances(products, weights)[:inputs]
        radius = sorted(distances)[(inputs - 1) // 2]
        steps = [
            share * (1.0 if distance <= radius else radius / distance)
            for share, distance in zip(shares_N, distances, strict=True)
        ]
        rest = 1.0 - added(steps)
        weights = [rest * weight for weight in weights]
        for i, step in enumerate(steps):
            weights[i] += step
    return weights


def krum(products: Gram, shares_N: Sequence[float], liars: int) -> list[float]:
    """The one input that is nearest to its N - liars - 2 nearest others.

    Blanchard et al., "Machine Learning with Adversaries" (NeurIPS 2017). Two that are each
    other's nearest tie; the one that is nearer to all others wins.
    """
    nearest = _by_krum_score(products, liars)[0]
    return [float(i == nearest) for i in range(len(shares_N))]


def multi_krum(products: Gram, shares_N: Sequence[float], liars: int) -> list[float]:
    """The weighted mean of the N - liars - 2 inputs with the best Krum scores, at least one."""
    count = max(1, len(shares_N) - liars - 2)
    return _mean_of(_by_krum_score(products, liars)[:count], shares_N)


def geometric_median(products: Gram, shares_N: Sequence[float], _liars: int) -> list[float]:
    """The point whose weighted distances to the inputs add up to the least.

    Smoothed Weiszfeld from the weighted mean: Pillutla et al., "Robust Aggregation for Federated
    Learning" (arXiv:1912.13445).
    """
    weights = list(shares_N)
    for _ in range(MEDIAN_ITERATIONS):
        distances = _distances(products, weights)
        least = MEDIAN_SMOOTHING * max(distances)
        if least == 0.0:
            break
        pulls = [
            share / max(distance, least)
            for share, distance in zip(shares_N, distances, strict=True)
        ]
        total = added(pulls)
        weights = [pull / total for pull in pulls]
    return weights


def cosine_filter(products: Gram, shares_N: Sequence[float], liars: int) -> list[float]:
    """The mean of the inputs that point where the others do, clipped to the median length.

    Inputs longer than the lower median length are shortened to it. Then the input whose cosine with
    the weighted mean of the others is least is dropped where that cosine is not above `COSINE_MIN`,
    and so on with those that are left, but never more than may lie: with shards that differ, an
    honest input can stand alone, too.
    """
    lengths = [length(row[i]) for i, row in enumerate(products)]
    median = sorted(lengths)[(len(lengths) - 1) // 2]
    if median == 0.0:
        return list(shares_N)
    clips = [min(1.0, median / own) for own in lengths]
    scaled = [share * clip for share, clip in zip(shares_N, clips, strict=True)]
    kept = list(range(len(scaled)))
    for _ in range(liars):
        cosines = {i: _cosine_with_others(products, scaled, kept, i) for i in kept}
        worst = min(kept, key=lambda i: cosines[i])
        if cosines[worst] > COSINE_MIN:
            break
        kept.remove(worst)
    total = added(shares_N[i] for i in kept)
    return [scaled[i] / total if i in kept else 0.0 for i in range(len(scaled))]


def _cosine_with_others(
    products: Gram, scaled_N: Sequence[float], kept: Sequence[int], i: int
) -> float:
    others = [j for j in kept if j != i]
    along = added(scaled_N[j] * products[i][j] for j in others)
    own = length(products[i][i])
    of_others = length(
        added(scaled_N[j] * scaled_N[k] * products[j][k] for j in others for k in others)
    )
    return along / (own * of_others) if own * of_others > 0.0 else 0.0


def _distances(products: Gram, weights: Sequence[float]) -> list[float]:
    """Of each vector of the table to the weighted sum of all."""
    along = [
        added(product * weight for product, weight in zip(row, weights, strict=True))
        for row in products
    ]
    squared = added(weight * product for weight, product in zip(weights, along, strict=True))
    return [length(row[i] - 2.0 * along[i] + squared) for i, row in enumerate(products)]


def _by_krum_score(products: Gram, liars: int) -> list[int]:
    count = len(products)
    near = max(1, count - liars - 2)

    def score(i: int) -> tuple[float, float]:
        squared = [
            products[i][i] + products[j][j] - 2.0 * products[i][j] for j in range(count) if j != i
        ]
        return added(sorted(squared)[:near]), added(squared)

    return sorted(range(count), key=score)


def _mean_of(kept: Sequence[int], shares_N: Sequence[float]) -> list[float]:
    total = added(shares_N[i] for i in kept)
    return [share / total if i in kept else 0.0 for i, share in enumerate(shares_N)]
