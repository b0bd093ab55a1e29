"""The inner optimizer: AdamW on one vector, whose moments may begin where peers left them.

Loshchilov and Hutter (arXiv:1711.05101) with Adam's usual constants. Written out, because moments
that others agreed on come with their bias corrected, and not with torch's state.

Shape legend: P parameters.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eigen.protocol.run import InnerSpec

BETAS = (0.9, 0.999)
EPSILON = 1e-6
"""Usual are 1e-8 to 1e-5 (Llama 2). Gradients of 1e-8 are mostly rounding: where they make whole
steps, no two instruction sets agree."""


@dataclass(frozen=True, slots=True)
class Begun:
    """Both moments [P], corrected for their bias, after `steps` that were made before."""

    first_P: Tensor
    second_P: Tensor
    steps: int


@dataclass(frozen=True, slots=True)
class State:
    """Both moments [P] as AdamW sums them up, after so many `steps`: what it goes on from."""

    first_P: Tensor
    second_P: Tensor
    steps: int


def begun(delta_P: Tensor, second_P: Tensor, rates: Sequence[float], steps: int) -> Begun:
    """What a round begins with after one at these `rates` whose averaged update was `delta_P`.

    In each of its steps AdamW moved by rate · first / sqrt(second), so that quotient was delta over
    the sum of the rates, on average. A single step's is within ± 1 or little more, so no update,
    however large, is taken for more.
    """
    quotient_P = (delta_P / math.fsum(rates)).clamp_(-1.0, 1.0)
    return Begun(quotient_P * (second_P.sqrt() + EPSILON), second_P, steps)


class AdamW:
    """Moves `theta_P` in place, from fresh moments or from `before`."""

    def __init__(
        self, theta_P: Tensor, spec: InnerSpec, before: Begun | State | None = None
    ) -> None:
        if before is None:
            before = Begun(torch.zeros_like(theta_P), torch.zeros_like(theta_P), 0)
        self._theta_P = theta_P
        self._weight_decay = spec.weight_decay
        self._steps = before.steps
        kept = isinstance(before, State)
        first, second = (1.0, 1.0) if kept else self._corrections()
        self._first_P = before.first_P.to(theta_P.device) * first
        self._second_P = before.second_P.to(theta_P.device) * second

    @torch.no_grad()
    def step(self, grad_P: Tensor, rate: float) -> None:
        """One step against the gradient, at this learning rate."""
        self._steps += 1
        self._theta_P.mul_(1.0 - rate * self._weight_decay)
        self._first_P.lerp_(grad_P, 1.0 - BETAS[0])
        self._second_P.mul_(BETAS[1]).addcmul_(grad_P, grad_P, value=1.0 - BETAS[1])
        root_P = self.second().sqrt_().add_(EPSILON)
        self._theta_P.addcdiv_(self._first_P, root_P, value=-rate / self._corrections()[0])

    def second(self) -> Tensor:
        """The second moment [P], corrected for its bias. There was a step."""
        return self._second_P / self._corrections()[1]

    def state(self) -> State:
        """From which another one goes on, in main memory."""
        return State(self._first_P.cpu(), self._second_P.cpu(), self._steps)

    def _corrections(self) -> tuple[float, float]:
        return 1.0 - BETAS[0] ** self._steps, 1.0 - BETAS[1] ** self._steps
