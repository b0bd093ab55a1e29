"""What is trained: a linear map of the features, and the loss that its gradient comes from.

    logistic   two classes, one output       target y ∈ {0, 1}, residual p(z) - y
    softmax    K classes, one against the rest for each, K outputs; the largest output wins
    linear     K numbers by least squares    target y / max|y|, residual z - y

Shapes: n rows, d features, K outputs.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eigen.training.homomorphic.sigmoid import Cubic, fitted, logistic

Values = NDArray[np.float64]

KINDS = ("logistic", "softmax", "linear")


@dataclass(frozen=True, slots=True)
class Head:
    """One kind of head and its number of outputs; linear targets are divided by `scale`."""

    kind: str
    outputs: int
    scale: float = 1.0

    @classmethod
    def fitting(cls, kind: str, y_n: Values) -> "Head":
        """The head for these targets. Raises ValueError, naming what is wrong with them."""
        if kind == "linear":
            return cls(kind, 1, float(np.abs(y_n).max()) or 1.0)
        classes = np.unique(y_n)
        if not np.array_equal(classes, np.arange(len(classes))) or len(classes) < 2:
            raise ValueError(f"labels must be 0, 1, … without gaps; there are {classes[:8]}")
        if kind == "logistic" and len(classes) != 2:
            raise ValueError(
                f"head.kind = logistic has 2 classes, the data {len(classes)}: softmax"
            )
        return cls(kind, 1 if kind == "logistic" else len(classes))

    @property
    def linear(self) -> bool:
        """Whether it has no polynomial."""
        return self.kind == "linear"

    def targets(self, y_n: Values) -> Values:
        """n x K numbers within [-1, 1]."""
        if self.kind == "softmax":
            return np.where(y_n[:, None] == np.arange(self.outputs), 1.0, 0.0)
        return y_n[:, None] / self.scale

    def offsets(self, y_n: Values) -> Values:
        """What is encrypted as targets: added to the polynomial it gives the residual."""
        return (0.0 if self.linear else 0.5) - self.targets(y_n)

    def fit(self, x_nd: Values, w_dK: Values) -> Cubic:
        """The polynomial of a round; for linear heads one that changes nothing."""
        if self.linear:
            return Cubic(0.0, 1.0, 0.0)
        return fitted(float(np.abs(x_nd @ w_dK).max()))

    def residual(self, x_nd: Values, y_n: Values, w_dK: Values, cubic: Cubic | None) -> Values:
        """n x K: p(z) - y in the clear; with the logistic function itself where `cubic` is None."""
        z_nK = x_nd @ w_dK
        if self.linear:
            return z_nK - self.targets(y_n)
        return (logistic(z_nK) if cubic is None else cubic(z_nK) + 0.5) - self.targets(y_n)

    def loss(self, x_nd: Values, y_n: Values, w_dK: Values) -> float:
        """Mean logistic loss over outputs, or mean squared error."""
        z_nK, target_nK = x_nd @ w_dK, self.targets(y_n)
        if self.linear:
            return float(((z_nK - target_nK) ** 2).mean())
        return float((np.logaddexp(0, z_nK) - target_nK * z_nK).mean())

    def score(self, x_nd: Values, y_n: Values, w_dK: Values) -> float:
        """The share of rows that are classified rightly, or R² of a linear head."""
        z_nK = x_nd @ w_dK
        if self.linear:
            spread = float(((y_n - y_n.mean()) ** 2).sum()) or 1.0
            return 1 - float(((self.scale * z_nK[:, 0] - y_n) ** 2).sum()) / spread
        found = z_nK.argmax(1) if self.kind == "softmax" else (z_nK[:, 0] > 0).astype(int)
        return float((found == y_n).mean())
