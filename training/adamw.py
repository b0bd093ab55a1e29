"""The inner optimizer: AdamW on one vector, whose second moment may begin where peers left it.

Loshchilov and Hutter (arXiv:1711.05101) with Adam's usual constants. torch's own counts the steps
of both moments together; here the first starts afresh each round, and the second need not.

Shape legend: P parameters.
"""

import torch
from torch import Tensor

from eigen.protocol.run import InnerSpec

BETAS = (0.9, 0.999)
EPSILON = 1e-8


class AdamW:
    """Moves `theta_P` in place.

    `second_P` is the second moment, corrected for its bias, after `steps_before` steps that others
    made; without any, it is not looked at and begins at zero.
    """

    def __init__(
        self, theta_P: Tensor, spec: InnerSpec, second_P: Tensor, steps_before: int = 0
    ) -> None:
        self._theta_P = theta_P
        self._lr, self._decay = spec.lr, 1.0 - spec.lr * spec.weight_decay
        self._first_P = torch.zeros_like(theta_P)
        self._second_P = second_P * (1.0 - BETAS[1] ** steps_before)
        self._steps, self._steps_before = 0, steps_before

    @torch.no_grad()
    def step(self, grad_P: Tensor) -> None:
        """One step against the gradient."""
        self._steps += 1
        self._theta_P.mul_(self._decay)
        self._first_P.lerp_(grad_P, 1.0 - BETAS[0])
        self._second_P.mul_(BETAS[1]).addcmul_(grad_P, grad_P, value=1.0 - BETAS[1])
        rate = self._lr / (1.0 - BETAS[0] ** self._steps)
        self._theta_P.addcdiv_(self._first_P, self.corrected().sqrt_().add_(EPSILON), value=-rate)

    def corrected(self) -> Tensor:
        """The second moment, corrected for its bias; zero before the first step of all."""
        steps = self._steps_before + self._steps
        return self._second_P / (1.0 - BETAS[1] ** steps) if steps else self._second_P.clone()
