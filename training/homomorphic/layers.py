"""A frozen encoder from a safetensors file: a stack of linear layers, as `nn.Sequential` saves it.

Names are `<number>.weight` (outputs x inputs) and, where there is one, `<number>.bias`; layers are
applied in the order of their numbers, with an activation between them and none after the last. The
activation is in the file's metadata under `activation`: `relu` (the default), `gelu` or `tanh`.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eigen.training.errors import SpecError
from eigen.training.homomorphic.tables import load_arrays

Values = NDArray[np.float64]

FIELD = "encoder.file"
HEADER_BYTES_MAX = 1 << 20
"""A stack of layers needs some kilobytes."""
_NAME = re.compile(r"(?:[a-z_]+\.)*(\d{1,4})\.(weight|bias)")


def _gelu(x: Values) -> Values:
    """The tanh form (Hendrycks and Gimpel, 2016)."""
    value: Values = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return value


def _relu(x: Values) -> Values:
    return np.maximum(x, 0.0)


ACTIVATIONS: dict[str, Callable[[Values], Values]] = {"relu": _relu, "gelu": _gelu, "tanh": np.tanh}


@dataclass(frozen=True, slots=True)
class Layers:
    """Rows of `inputs` numbers to rows of `outputs`."""

    weights: tuple[tuple[Values, Values], ...]
    activation: str

    @property
    def arrays(self) -> dict[str, Values]:
        """Nothing: the owner has the file."""
        return {}

    def __call__(self, x_np: Values) -> Values:
        """The encoded rows. Raises `SpecError` where they have another width than the file's."""
        expected = self.weights[0][0].shape[1]
        if x_np.shape[1] != expected:
            raise SpecError(FIELD, f"it takes {expected} inputs, the data have {x_np.shape[1]}")
        for index, (weight_oi, bias_o) in enumerate(self.weights):
            x_np = x_np @ weight_oi.T + bias_o
            if index + 1 < len(self.weights):
                x_np = ACTIVATIONS[self.activation](x_np)
        return x_np


def load_layers(path: Path) -> Layers:
    """The encoder in a file. Raises `SpecError`, which says what does not fit."""
    arrays = load_arrays(path, FIELD)
    activation = _metadata(path).get("activation", "relu")
    if activation not in ACTIVATIONS:
        raise SpecError(FIELD, f"activation {activation!r:.40}; there are {', '.join(ACTIVATIONS)}")
    weights: dict[int, Values] = {}
    biases: dict[int, Values] = {}
    for name, array in arrays.items():
        match = _NAME.fullmatch(name)
        if match is None or array.ndim != (2 if match[2] == "weight" else 1):
            raise SpecError(FIELD, f"{name!r:.60} of shape {array.shape} is no linear layer's")
        if not np.isfinite(array).all():
            raise SpecError(FIELD, f"{name!r:.60} has numbers that are not finite")
        (weights if match[2] == "weight" else biases)[int(match[1])] = array.astype(np.float64)
    if not weights or biases.keys() - weights.keys():
        raise SpecError(FIELD, "no layers, or a bias without weights")
    layers: list[tuple[Values, Values]] = []
    for number in sorted(weights):
        weight = weights[number]
        bias = biases.get(number, np.zeros(len(weight)))
        if len(bias) != len(weight) or (layers and weight.shape[1] != len(layers[-1][1])):
            raise SpecError(FIELD, f"layer {number} does not fit the one before it")
        layers.append((weight, bias))
    return Layers(tuple(layers), activation)


def _metadata(path: Path) -> dict[str, str]:
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(min(size, HEADER_BYTES_MAX))) if size else {}
    found = header.get("__metadata__", {})
    return found if isinstance(found, dict) else {}
