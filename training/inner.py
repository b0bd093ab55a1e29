"""One trainer's local work: H AdamW steps from the canonical parameters, and their judgement.

The result is a function of parameters, samples, order seed and hyperparameters: the optimizer
starts afresh each round, nothing is drawn but the order, and torch's deterministic algorithms are
on. So a validator can replay it: bit for bit with the same instruction set and thread count,
closely with others. Knows no codec and no peer.

Shape legend: P parameters, B samples of a batch; X and Y stand for what a sample reads (features
or tokens) and foretells (one label, or one a token).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from eigen.protocol.run import InnerSpec
from eigen.training.datasets import Samples
from eigen.training.errors import Diverged, ShardError
from eigen.training.models import Model, flatten, unflatten
from eigen.training.results import Evaluation
from eigen.training.streams import batch_indices

BETAS = (0.9, 0.999)
EPSILON = 1e-8
"""AdamW as in Loshchilov and Hutter (arXiv:1711.05101), with Adam's usual constants."""
_EVALUATION_LABELS = 1024
"""Labels of one forward pass: bounds memory, does not change the result beyond rounding."""


@dataclass(frozen=True, slots=True)
class LocalSteps:
    """The pseudo-gradient theta_r - theta_local [P], the loss before each step, samples seen."""

    delta_P: Tensor
    loss_trace: list[float]
    samples: int


def local_steps(
    model: Model, theta_P: Tensor, samples: Samples, spec: InnerSpec, order_seed: bytes
) -> LocalSteps:
    """Train for `spec.steps` mini-batches in the order that `batch_indices` gives.

    Raises `ShardError` where there are fewer samples than one batch, `Diverged` where a loss or the
    result is not finite. `theta_P` is not changed.
    """
    if len(samples) < spec.batch:
        raise ShardError(f"{len(samples)} samples, at least one batch of {spec.batch} is needed")
    layout = model.declared.layout
    parameters = {
        name: view.clone().requires_grad_() for name, view in unflatten(layout, theta_P).items()
    }
    optimizer = torch.optim.AdamW(
        parameters.values(),
        lr=spec.lr,
        betas=BETAS,
        eps=EPSILON,
        weight_decay=spec.weight_decay,
        foreach=False,
    )
    loss_trace: list[float] = []
    for index_B in batch_indices(order_seed, len(samples), spec.steps, spec.batch):
        x_BX, y_BY = _tensors(samples, index_B)
        loss = _cross_entropy(model.logits(parameters, x_BX), y_BY)
        loss_trace.append(loss.item())
        if not math.isfinite(loss_trace[-1]):
            raise Diverged(f"the loss of inner step {len(loss_trace) - 1} is {loss_trace[-1]}")
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    with torch.no_grad():
        delta_P = theta_P - flatten(layout, parameters)
    if not bool(delta_P.isfinite().all()):
        raise Diverged("the parameters are not finite after the last inner step")
    return LocalSteps(delta_P, loss_trace, spec.steps * spec.batch)


@torch.no_grad()
def evaluate(model: Model, theta_P: Tensor, samples: Samples) -> Evaluation:
    """Mean loss and accuracy over all labels. Raises `Diverged` where the loss is not finite."""
    parameters = unflatten(model.declared.layout, theta_P)
    loss, right = 0.0, 0
    batch = max(1, _EVALUATION_LABELS * len(samples) // samples.y_N.size)
    for start in range(0, len(samples), batch):
        stop = min(start + batch, len(samples))
        x_BX, y_BY = _tensors(samples, np.arange(start, stop))
        logits = model.logits(parameters, x_BX)
        loss += _cross_entropy(logits, y_BY, "sum").item()
        right += int((logits.argmax(-1) == y_BY).sum())
    if not math.isfinite(loss):
        raise Diverged(f"the loss is {loss}")
    labels = samples.y_N.size
    return Evaluation(loss / labels, right / labels, len(samples))


def _cross_entropy(logits: Tensor, y_BY: Tensor, reduction: str = "mean") -> Tensor:
    """Over all labels, whatever the shape in which they lie. In nats."""
    return functional.cross_entropy(logits.flatten(0, -2), y_BY.flatten(), reduction=reduction)


def _tensors(samples: Samples, index_B: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    batch = samples.take(index_B)
    return torch.from_numpy(batch.x_NF), torch.from_numpy(batch.y_N).to(torch.int64)
