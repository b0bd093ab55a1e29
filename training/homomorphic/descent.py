"""The owner's steps: Nesterov's accelerated gradient, with early stopping on held-out rows.

Gradients are taken where the momentum leads (Nesterov, 1983; Sutskever et al., 2013), so the point
that is sent to trainers is `ahead`, not the weights themselves. The state goes through bytes
exactly: an owner that was killed goes on from its last step as if nothing had been.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from eigen.training import tensorfile
from eigen.training.errors import StateError, TensorFileError

Values = NDArray[np.float64]

START = 1e-3
"""First weights: SEAL refuses to multiply by zeros, which would show in the clear."""


@dataclass(frozen=True, slots=True)
class Rates:
    """How steps are made. `patience` rounds without a lower held-out loss end the training."""

    lr: float
    momentum: float = 0.9
    l2: float = 0.0
    patience: int = 5


@dataclass(frozen=True, slots=True)
class State:
    """After `round` steps: weights, velocity, and the best weights so far with their loss."""

    round: int
    w_dK: Values
    v_dK: Values
    best_dK: Values
    best_loss: float
    best_round: int

    @classmethod
    def start(cls, features: int, outputs: int) -> "State":
        """Before the first step."""
        w_dK = np.full((features, outputs), START)
        return cls(0, w_dK, np.zeros_like(w_dK), w_dK, float("inf"), 0)

    def ahead(self, rates: Rates) -> Values:
        """Where the next gradient is taken."""
        return self.w_dK + rates.momentum * self.v_dK

    def step(self, gradient_dK: Values, rates: Rates) -> "State":
        """One step by the mean gradient at `ahead`."""
        full = gradient_dK + rates.l2 * self.ahead(rates)
        v_dK = rates.momentum * self.v_dK - rates.lr * full
        return replace(self, round=self.round + 1, w_dK=self.w_dK + v_dK, v_dK=v_dK)

    def judged(self, loss: float) -> "State":
        """With the held-out loss of the present weights taken into account."""
        if not loss < self.best_loss:
            return self
        return replace(self, best_dK=self.w_dK, best_loss=loss, best_round=self.round)

    def done(self, rates: Rates, rounds: int) -> bool:
        """Whether training ends here."""
        return self.round >= rounds or self.round - self.best_round >= rates.patience > 0

    def to_bytes(self) -> bytes:
        """The state, exactly."""
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        numbers = {
            "round": str(self.round),
            "best_loss": self.best_loss.hex(),
            "best_round": str(self.best_round),
            "outputs": str(self.w_dK.shape[1]),
        }
        return tensorfile.write(
            {
                name: np.frombuffer(np.ascontiguousarray(a, "<f8").tobytes(), "u1")
                for name, a in arrays.items()
            },
            numbers,
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> "State":
        """What `to_bytes` gave. Raises `StateError`."""
        try:
            numbers, arrays = tensorfile.read(data)
            outputs = int(numbers["outputs"])
            w, v, best = (
                np.frombuffer(arrays[name].tobytes(), "<f8").reshape(-1, outputs)
                for name in _ARRAYS
            )
            loss = float.fromhex(numbers["best_loss"])
            return cls(int(numbers["round"]), w, v, best, loss, int(numbers["best_round"]))
        except (TensorFileError, KeyError, ValueError) as error:
            raise StateError(f"no state of a private job: {error}") from None


_ARRAYS = ("w_dK", "v_dK", "best_dK")
