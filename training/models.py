"""Computes with the declared architectures: initial parameters and logits.

A model is a pure function of named parameters, so that one flat vector is all the state there is.

Shape legend: P parameters of the model, B samples of a batch, F features, C classes.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from eigen.training.architectures import Declaration
from eigen.training.layout import Layout
from eigen.training.streams import uniform

Parameters = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Model:
    """A declared model that can be computed: `logits(parameters, features_BF)` gives [B, C]."""

    declared: Declaration
    logits: Callable[[Parameters, Tensor], Tensor]


def build(declared: Declaration) -> Model:
    """The model of a checked declaration."""
    return Model(declared, _LOGITS[declared.architecture](declared.options))


def initial_vector(layout: Layout, seed: int) -> Tensor:
    """Parameters before the first round, shape [P]: a function of layout and seed alone.

    Weights are uniform within ± sqrt(6 / fan-in) (He et al., arXiv:1502.01852) from the stream
    "init/<name>"; biases are zero. The same bytes on every machine.
    """
    theta_P = torch.zeros(layout.values)
    for name, shape, place in layout.slots():
        if len(shape) > 1:
            fan_in = math.prod(shape[1:])
            unit = uniform(f"init/{name}", seed.to_bytes(8, "little"), math.prod(shape))
            theta_P[place] = torch.from_numpy(unit) * math.sqrt(6.0 / fan_in)
    return theta_P


def flatten(layout: Layout, parameters: Parameters) -> Tensor:
    """Named parameters as one vector [P], in sorted-name order."""
    return torch.cat([parameters[name].reshape(-1) for name in layout.names])


def unflatten(layout: Layout, theta_P: Tensor) -> dict[str, Tensor]:
    """Named views of a vector [P]."""
    return {name: theta_P[place].view(shape) for name, shape, place in layout.slots()}


def _mlp(options: Mapping[str, int]) -> Callable[[Parameters, Tensor], Tensor]:
    depth = options["depth"]

    def logits(parameters: Parameters, features_BF: Tensor) -> Tensor:
        hidden = features_BF
        for i in range(depth + 1):
            layer = f"layer{i:02}"
            hidden = functional.linear(
                hidden, parameters[f"{layer}.weight"], parameters[f"{layer}.bias"]
            )
            if i < depth:
                hidden = functional.relu(hidden)
        return hidden

    return logits


def _cnn(options: Mapping[str, int]) -> Callable[[Parameters, Tensor], Tensor]:
    side, planes = options["side"], options["planes"]

    def logits(parameters: Parameters, features_BF: Tensor) -> Tensor:
        hidden = features_BF.view(-1, planes, side, side)
        for layer in ("conv0", "conv1"):
            weight, bias = parameters[f"{layer}.weight"], parameters[f"{layer}.bias"]
            hidden = functional.relu(functional.conv2d(hidden, weight, bias, padding=1))
        hidden = functional.max_pool2d(hidden, 2).flatten(1)
        hidden = functional.relu(
            functional.linear(hidden, parameters["hidden.weight"], parameters["hidden.bias"])
        )
        return functional.linear(hidden, parameters["output.weight"], parameters["output.bias"])

    return logits


_LOGITS: dict[str, Callable[[Mapping[str, int]], Callable[[Parameters, Tensor], Tensor]]] = {
    "mlp": _mlp,
    "cnn": _cnn,
}
