"""Computes with the declared architectures: initial parameters and logits.

A model is a pure function of named parameters, so that one flat vector is all the state there is.

Shape legend: P parameters of the model, B samples of a batch, F features, C classes; T tokens of a
sequence, D width, H heads, K width of a head.
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
    """A declared model that can be computed.

    `logits(parameters, x)` takes samples as shards hold them: features [B, F], uint8 (pictures,
    read as 0 to 1) or fp32, and gives [B, C]; or tokens [B, T], uint8, and gives [B, T, C].
    """

    declared: Declaration
    logits: Callable[[Parameters, Tensor], Tensor]


def build(declared: Declaration) -> Model:
    """The model of a checked declaration."""
    return Model(declared, _LOGITS[declared.architecture](declared.options))


def initial_vector(layout: Layout, seed: int, scales: Mapping[str, float]) -> Tensor:
    """Parameters before the first round, shape [P]: a function of the arguments alone.

    Weights are uniform within ± sqrt(6 / fan-in) (He et al., arXiv:1502.01852), times their factor
    in `scales` where there is one, from the stream "init/<name>"; vectors (biases, and gains, which
    count from one) are zero. The same bytes on every machine.
    """
    theta_P = torch.zeros(layout.values)
    for name, shape, place in layout.slots():
        if len(shape) > 1:
            fan_in = math.prod(shape[1:])
            unit = uniform(f"init/{name}", seed.to_bytes(8, "little"), math.prod(shape))
            bound = math.sqrt(6.0 / fan_in) * scales.get(name, 1.0)
            theta_P[place] = torch.from_numpy(unit) * bound
    return theta_P


def flatten(layout: Layout, parameters: Parameters) -> Tensor:
    """Named parameters as one vector [P], in sorted-name order."""
    return torch.cat([parameters[name].reshape(-1) for name in layout.names])


def unflatten(layout: Layout, theta_P: Tensor) -> dict[str, Tensor]:
    """Named views of a vector [P]."""
    return {name: theta_P[place].view(shape) for name, shape, place in layout.slots()}


def _features(x_BF: Tensor) -> Tensor:
    return x_BF.to(torch.float32) / 255.0 if x_BF.dtype == torch.uint8 else x_BF


def _mlp(options: Mapping[str, int]) -> Callable[[Parameters, Tensor], Tensor]:
    depth = options["depth"]

    def logits(parameters: Parameters, x_BF: Tensor) -> Tensor:
        hidden = _features(x_BF)
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

    def logits(parameters: Parameters, x_BF: Tensor) -> Tensor:
        hidden = _features(x_BF).view(-1, planes, side, side)
        for layer in ("conv0", "conv1"):
            weight, bias = parameters[f"{layer}.weight"], parameters[f"{layer}.bias"]
            hidden = functional.relu(functional.conv2d(hidden, weight, bias, padding=1))
        hidden = functional.max_pool2d(hidden, 2).flatten(1)
        hidden = functional.relu(
            functional.linear(hidden, parameters["hidden.weight"], parameters["hidden.bias"])
        )
        return functional.linear(hidden, parameters["output.weight"], parameters["output.bias"])

    return logits


def _gpt(options: Mapping[str, int]) -> Callable[[Parameters, Tensor], Tensor]:
    """A decoder with norms before its blocks (Radford et al., GPT-2), without biases.

    The tokens' table is the output's matrix too (Press and Wolf, arXiv:1608.05859).
    """
    width, heads = options["width"], options["heads"]

    def norm(parameters: Parameters, name: str, hidden_BTD: Tensor) -> Tensor:
        return functional.layer_norm(hidden_BTD, (width,), 1.0 + parameters[f"{name}.gain"])

    def attention(parameters: Parameters, block: str, hidden_BTD: Tensor) -> Tensor:
        qkv_BTX = functional.linear(hidden_BTD, parameters[f"{block}.qkv.weight"])
        q_BHTK, k_BHTK, v_BHTK = (
            part_BTD.view(*part_BTD.shape[:2], heads, -1).transpose(1, 2)
            for part_BTD in torch.chunk(qkv_BTX, 3, dim=-1)
        )
        # Plain products and a softmax: a fused kernel's order of summing is not ours to know.
        score_BHTT = (q_BHTK * (width / heads) ** -0.5) @ k_BHTK.transpose(-2, -1)
        tokens = hidden_BTD.shape[1]
        future_TT = torch.ones(tokens, tokens, dtype=torch.bool, device=hidden_BTD.device).triu(1)
        weight_BHTT = score_BHTT.masked_fill(future_TT, -math.inf).softmax(-1)
        mixed_BTD = (weight_BHTT @ v_BHTK).transpose(1, 2).flatten(2)
        return functional.linear(mixed_BTD, parameters[f"{block}.out.weight"])

    def logits(parameters: Parameters, x_BT: Tensor) -> Tensor:
        table_CD = parameters["tokens.weight"]
        hidden_BTD = functional.embedding(x_BT.to(torch.int64), table_CD)
        hidden_BTD = hidden_BTD + parameters["positions.weight"][: x_BT.shape[1]]
        for i in range(options["depth"]):
            block = f"block{i:02}"
            normed_BTD = norm(parameters, f"{block}.attention.norm", hidden_BTD)
            hidden_BTD = hidden_BTD + attention(parameters, f"{block}.attention", normed_BTD)
            normed_BTD = norm(parameters, f"{block}.mlp.norm", hidden_BTD)
            wide = functional.gelu(
                functional.linear(normed_BTD, parameters[f"{block}.mlp.up.weight"])
            )
            hidden_BTD = hidden_BTD + functional.linear(
                wide, parameters[f"{block}.mlp.down.weight"]
            )
        return functional.linear(norm(parameters, "norm", hidden_BTD), table_CD)

    return logits


_LOGITS: dict[str, Callable[[Mapping[str, int]], Callable[[Parameters, Tensor], Tensor]]] = {
    "mlp": _mlp,
    "cnn": _cnn,
    "gpt": _gpt,
}
