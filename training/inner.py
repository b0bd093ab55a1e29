"""One trainer's local work: H AdamW steps from the canonical parameters, and their judgement.

The result is a function of parameters, moments, samples, order seed and hyperparameters: nothing is
drawn but the order, and torch's deterministic algorithms are on. So a validator can replay it: bit
for bit with the same instruction set and thread count, closely with others. Knows no codec and no
peer.

Shape legend: P parameters, B samples of a batch; X and Y stand for what a sample reads (features
or tokens) and foretells (one label, or one a token).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from eigen.protocol.run import InnerSpec
from eigen.training.adamw import AdamW, Begun, State
from eigen.training.datasets import Samples
from eigen.training.errors import Diverged, ShardError
from eigen.training.models import Model, Parameters, unflatten
from eigen.training.ranks import Ranks
from eigen.training.results import Evaluation
from eigen.training.streams import batch_indices

ALONE = Ranks()
"""One process does all the work."""
_EVALUATION_LABELS = 1024
"""Labels of one forward pass: bounds memory, does not change the result beyond rounding."""


@dataclass(frozen=True, slots=True)
class LocalSteps:
    """The pseudo-gradient theta_r - theta_local [P], the loss before each step, samples seen.

    `second_P` is AdamW's second moment after the last step, corrected for its bias; `state` is what
    it goes on from.
    """

    delta_P: Tensor
    second_P: Tensor
    state: State
    loss_trace: list[float]
    samples: int


def local_steps(
    model: Model,
    theta_P: Tensor,
    samples: Samples,
    spec: InnerSpec,
    order_seed: bytes,
    *,
    rates: Sequence[float] | None = None,
    before: Begun | State | None = None,
    taken: int = 0,
    device: str = "cpu",
    ranks: Ranks = ALONE,
) -> LocalSteps:
    """Train for `spec.steps` mini-batches in the order that `batch_indices` gives.

    `rates` has the learning rate of each step; without it, it is always `spec.lr`. AdamW's moments
    go on from `before`, if there is something, and the order from where `taken` samples of it were
    used. Several `ranks` call this with the
    same arguments, share the work and get the same result. What is given and returned lies in
    main memory, whatever the device. Raises `ShardError` where there are fewer samples than one
    batch, `Diverged` where a loss or the result is not finite. `theta_P` is not changed.
    """
    if len(samples) < spec.batch:
        raise ShardError(f"{len(samples)} samples, at least one batch of {spec.batch} is needed")
    local_P = theta_P.to(device, copy=True)
    views = unflatten(model.declared.layout, local_P)
    parameters = {name: view.detach().requires_grad_() for name, view in views.items()}
    optimizer = AdamW(local_P, spec, before)
    loss_trace: list[float] = []
    batches = batch_indices(order_seed, len(samples), spec.steps, spec.batch, taken)
    for index_B, rate in zip(batches, rates or [spec.lr] * spec.steps, strict=True):
        loss, grad_P = gradient(model, parameters, samples, index_B, spec, ranks)
        loss_trace.append(loss)
        if not math.isfinite(loss):
            raise Diverged(f"the loss of inner step {len(loss_trace) - 1} is {loss}")
        optimizer.step(grad_P, rate)
    delta_P = theta_P - local_P.cpu()
    if not bool(delta_P.isfinite().all()):
        raise Diverged("the parameters are not finite after the last inner step")
    second_P = optimizer.second().cpu()
    return LocalSteps(delta_P, second_P, optimizer.state(), loss_trace, spec.steps * spec.batch)


def gradient(
    model: Model,
    parameters: Parameters,
    samples: Samples,
    index_B: NDArray[np.int64],
    spec: InnerSpec,
    ranks: Ranks,
) -> tuple[float, Tensor]:
    """Loss of one mini-batch and its gradient [P]: the pieces' own, added up one after another."""
    weights = list(parameters.values())
    device = weights[0].device
    loss, grad_P = torch.zeros((), device=device), None
    for piece in ranks.mine(np.split(index_B, spec.micro_batches)):
        x_BX, y_BY = _tensors(samples, piece, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=spec.precision == "bf16"):
            logits = model.logits(parameters, x_BX)
        # In fp32 the gradient p - 1 of a sample that is well known is rounding in its last digits:
        # AdamW makes steps of them, and two instruction sets part ways.
        piece_loss = _cross_entropy(logits.double(), y_BY) / spec.micro_batches
        grads = torch.autograd.grad(piece_loss, weights)
        piece_P = torch.cat([grad.reshape(-1) for grad in grads])
        loss += piece_loss.detach()
        grad_P = piece_P if grad_P is None else grad_P.add_(piece_P)
    if grad_P is None:  # more processes than pieces
        grad_P = torch.zeros(model.declared.layout.values, device=device)
    ranks.add_up(loss)
    ranks.add_up(grad_P)
    return loss.item(), grad_P


@torch.no_grad()
def evaluate(model: Model, theta_P: Tensor, samples: Samples, *, device: str = "cpu") -> Evaluation:
    """Mean loss and accuracy over all labels, in fp32. Raises `Diverged` where it is not finite."""
    parameters = unflatten(model.declared.layout, theta_P.to(device))
    loss, right = 0.0, 0
    for start, stop in _pieces(samples):
        x_BX, y_BY = _tensors(samples, np.arange(start, stop), device)
        logits = model.logits(parameters, x_BX)
        loss += _cross_entropy(logits, y_BY, "sum").item()
        right += int((logits.argmax(-1) == y_BY).sum())
    if not math.isfinite(loss):
        raise Diverged(f"the loss is {loss}")
    labels = samples.y_N.size
    return Evaluation(loss / labels, right / labels, len(samples))


@torch.no_grad()
def sample_losses(
    model: Model, theta_P: Tensor, samples: Samples, *, device: str = "cpu"
) -> NDArray[np.float64]:
    """The mean loss over each sample's labels, in fp32, be it finite or not. [N]."""
    parameters = unflatten(model.declared.layout, theta_P.to(device))
    found = []
    for start, stop in _pieces(samples):
        x_BX, y_BY = _tensors(samples, np.arange(start, stop), device)
        loss_BY = _cross_entropy(model.logits(parameters, x_BX), y_BY, "none")
        found.append(loss_BY.view(stop - start, -1).mean(1).cpu().numpy())
    return np.concatenate(found).astype(np.float64)


def _pieces(samples: Samples) -> Iterator[tuple[int, int]]:
    """Where each forward pass over samples begins and ends."""
    size = max(1, _EVALUATION_LABELS * len(samples) // samples.y_N.size)
    for start in range(0, len(samples), size):
        yield start, min(start + size, len(samples))


def _cross_entropy(logits: Tensor, y_BY: Tensor, reduction: str = "mean") -> Tensor:
    """Over all labels, whatever the shape in which they lie. In nats."""
    return functional.cross_entropy(logits.flatten(0, -2), y_BY.flatten(), reduction=reduction)


def _tensors(
    samples: Samples, index_B: NDArray[np.int64], device: torch.device | str
) -> tuple[Tensor, Tensor]:
    batch = samples.take(index_B)
    x_BX, y_BY = torch.from_numpy(batch.x_NF), torch.from_numpy(batch.y_N)
    return x_BX.to(device), y_BY.to(device, torch.int64)
