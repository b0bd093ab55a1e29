"""Levels and scales of one encrypted gradient, for both sides. Where each multiplication leads.

    level 0   z = Σ_c X_c ⊙ W_c, weights at the scale of the prime that is dropped: z has scale Δ
    level 1   z rotated and added; z²
    level 2   q = k - z²; q · z
    level 3   r = q · z + u for the logistic function, r = z + u for linear regression; X_c ⊙ r
    level 4   the gradient, one ciphertext for each of the features' ciphertexts

u is the shard's targets, encrypted at level 3 with the scale that r has: ½ - y, or -y.
"""

from dataclasses import dataclass

from eigen.crypto.ckks.parameters import SCALE, Parameters

TARGET_LEVEL = 3
GRADIENT_LEVEL = 4


@dataclass(frozen=True, slots=True)
class Circuit:
    """Scales of one kind of head."""

    weights: float
    square: float
    residual: float
    gradient: float
    linear: bool

    @classmethod
    def of(cls, made: Parameters, *, linear: bool) -> "Circuit":
        """For these parameters. `linear` heads have no polynomial."""
        square = SCALE * SCALE / made.dropped(1)
        residual = SCALE if linear else square * SCALE / made.dropped(2)
        gradient = residual * SCALE / made.dropped(3)
        return cls(float(made.dropped(0)), square, residual, gradient, linear)
