"""The outer step: how an averaged pseudo-gradient moves the parameters (DiLoCo, arXiv:2311.08105).

As in `aggregation`, arithmetic is separate fp32 elementwise operations with rates rounded to fp32
once, so that the next checkpoint is the same on every machine and thread count.
"""

from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from eigen.protocol.run import OuterSpec


class OuterRule(Protocol):
    """One way to make the outer step."""

    @property
    def has_momentum(self) -> bool:
        """Whether checkpoints of such a run carry a momentum vector."""
        ...

    def step(
        self, theta_P: "Tensor", momentum_P: "Tensor | None", delta_P: "Tensor", spec: "OuterSpec"
    ) -> tuple["Tensor", "Tensor | None"]:
        """New parameters and momentum from old ones and delta = theta_r - theta_local, averaged."""
        ...


class Sgd:
    """theta - lr · delta."""

    has_momentum = False

    def step(
        self, theta_P: "Tensor", momentum_P: "Tensor | None", delta_P: "Tensor", spec: "OuterSpec"
    ) -> tuple["Tensor", "Tensor | None"]:
        """See `OuterRule`; there is no momentum."""
        assert momentum_P is None
        return theta_P - delta_P * _fp32(spec.lr), None


class Nesterov:
    """m' = mu · m + delta; theta - lr · (delta + mu · m'), as in Sutskever et al. (ICML 2013)."""

    has_momentum = True

    def step(
        self, theta_P: "Tensor", momentum_P: "Tensor | None", delta_P: "Tensor", spec: "OuterSpec"
    ) -> tuple["Tensor", "Tensor | None"]:
        """See `OuterRule`; the momentum is there from the first checkpoint on, zeros at first."""
        assert momentum_P is not None
        mu, lr = _fp32(spec.momentum), _fp32(spec.lr)
        momentum_P = momentum_P * mu + delta_P
        ahead_P = momentum_P * mu + delta_P
        return theta_P - ahead_P * lr, momentum_P


OUTER_RULES: dict[str, OuterRule] = {"sgd": Sgd(), "nesterov": Nesterov()}
"""Outer steps that a run spec may name."""


def _fp32(value: float) -> float:
    return float(np.float32(value))
