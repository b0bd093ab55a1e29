"""The logistic function as a polynomial of degree 3, fitted anew to the activations of each round.

logistic(z) - ½ ≈ c₁z + c₃z³ with c₃ < 0, by least squares on [-R, R], weighted by where rows are:
most near the middle. Beyond R the cubic turns and training would diverge, so the owner, who knows
its data, takes R above the largest |z|. With a = ∛|c₃| and weights times a, the polynomial is
(k - z̃²)·z̃ with z̃ = a·z and k = c₁ / a: two multiplications.
(Kim et al., Secure logistic regression based on homomorphic encryption, 2018, fits once.)
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

RANGE_MIN = 6.0
RANGE_STEP = 1.1
"""R takes one of few values: k is public, and should say little of the activations."""
RANGE_MAX = 1e4
"""A cubic is no sigmoid any more long before."""
BULK = 0.4
"""Deviation of the activations, as a share of R, that the fit is made for."""
ENDS = 0.05
"""Weight of the ends against the middle's: enough that the cubic does not turn wild there."""


@dataclass(frozen=True, slots=True)
class Cubic:
    """The polynomial for [-range, range]: `scale` is a, `k` is public."""

    range: float
    scale: float
    k: float

    def __call__(self, z: Values) -> Values:
        """About logistic(z) - ½."""
        scaled = self.scale * z
        return (self.k - scaled * scaled) * scaled


def fitted(magnitude: float) -> Cubic:
    """The polynomial for activations up to `magnitude`.

    Raises OverflowError above `RANGE_MAX`: the learning rate is too high or the features too large.
    """
    if not magnitude <= RANGE_MAX:
        raise OverflowError(
            f"activations reach {magnitude:.3g}, at most {RANGE_MAX:g}: lower the learning rate or "
            "scale the features down"
        )
    return _fit(max(0, math.ceil(math.log(max(magnitude, 1e-9) / RANGE_MIN, RANGE_STEP))))


@lru_cache(maxsize=64)
def _fit(step: int) -> Cubic:
    radius = RANGE_MIN * RANGE_STEP**step
    z = np.linspace(-radius, radius, 2001)
    weights = np.sqrt(np.exp(-0.5 * (z / (BULK * radius)) ** 2) + ENDS)
    terms = np.stack([z, z**3], axis=1) * weights[:, None]
    first, third = np.linalg.lstsq(terms, (logistic(z) - 0.5) * weights, rcond=None)[0]
    scale = abs(float(third)) ** (1 / 3)
    return Cubic(radius, scale, float(first) / scale)


def logistic(z: Values) -> Values:
    """1 / (1 + e^-z), without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * z))
