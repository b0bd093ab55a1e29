"""The architectures that a run spec may name: their options, ranges and parameter shapes.

Declarative on purpose: a proposal carries names and integers, never code. Knows no torch, so that a
node can judge a proposal without loading it; `models` computes with what is declared here.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from eigen.protocol.run import ModelSpec
from eigen.training.errors import SpecError
from eigen.training.layout import Layout, Shape


@dataclass(frozen=True, slots=True)
class Option:
    """An integer that a model spec must set, within `least` to `most`."""

    name: str
    least: int
    most: int
    meaning: str


@dataclass(frozen=True, slots=True)
class Architecture:
    """A family of models. `shapes` and `inputs` take checked options; `classes` names one.

    A model of `sequences` reads tokens and gives logits for what follows each of them; any other
    reads features and gives logits for one label a sample. `scales` says by what factor a weight
    begins smaller than `initial_vector` has it.
    """

    name: str
    options: tuple[Option, ...]
    shapes: Callable[[Mapping[str, int]], dict[str, Shape]]
    inputs: Callable[[Mapping[str, int]], int]
    classes: str = "classes"
    sequences: bool = False
    scales: Callable[[Mapping[str, int]], dict[str, float]] = lambda _: {}


CLASSES_MAX = 256
"""A label, and a token, is one byte."""

_CLASSES = Option("classes", 2, CLASSES_MAX, "labels to tell apart")


def _mlp_shapes(options: Mapping[str, int]) -> dict[str, Shape]:
    widths = [options["inputs"], *[options["hidden"]] * options["depth"], options["classes"]]
    shapes: dict[str, Shape] = {}
    for i, (fan_in, fan_out) in enumerate(pairwise(widths)):
        shapes[f"layer{i:02}.weight"] = (fan_out, fan_in)
        shapes[f"layer{i:02}.bias"] = (fan_out,)
    return shapes


def _cnn_shapes(options: Mapping[str, int]) -> dict[str, Shape]:
    channels, side, hidden = options["channels"], options["side"], options["hidden"]
    if side % 2:
        raise SpecError("model.options.side", f"{side} is odd; the pictures are pooled by two")
    pooled = 2 * channels * (side // 2) ** 2
    return {
        "conv0.weight": (channels, options["planes"], 3, 3),
        "conv0.bias": (channels,),
        "conv1.weight": (2 * channels, channels, 3, 3),
        "conv1.bias": (2 * channels,),
        "hidden.weight": (hidden, pooled),
        "hidden.bias": (hidden,),
        "output.weight": (options["classes"], hidden),
        "output.bias": (options["classes"],),
    }


def _gpt_shapes(options: Mapping[str, int]) -> dict[str, Shape]:
    width = options["width"]
    if width % options["heads"]:
        raise SpecError("model.options.heads", f"{options['heads']} do not divide width {width}")
    shapes: dict[str, Shape] = {
        "tokens.weight": (options["vocabulary"], width),
        "positions.weight": (options["context"], width),
        "norm.gain": (width,),
    }
    for i in range(options["depth"]):
        block = f"block{i:02}"
        shapes[f"{block}.attention.norm.gain"] = (width,)
        shapes[f"{block}.attention.qkv.weight"] = (3 * width, width)
        shapes[f"{block}.attention.out.weight"] = (width, width)
        shapes[f"{block}.mlp.norm.gain"] = (width,)
        shapes[f"{block}.mlp.up.weight"] = (4 * width, width)
        shapes[f"{block}.mlp.down.weight"] = (width, 4 * width)
    return shapes


def _gpt_scales(options: Mapping[str, int]) -> dict[str, float]:
    """No rectifier doubles what a weight must pass on; tables begin small, for one is the output.

    What adds to the residual stream shrinks with depth (Radford et al., GPT-2).
    """
    scales = dict.fromkeys(_gpt_shapes(options), math.sqrt(1.0 / 3.0))
    for name in scales:
        if name.endswith(("out.weight", "down.weight")):
            scales[name] = math.sqrt(1.0 / (2 * options["depth"]))
    return scales | {"tokens.weight": 0.25, "positions.weight": 0.25}


ARCHITECTURES: dict[str, Architecture] = {
    "mlp": Architecture(
        "mlp",
        (
            Option("inputs", 1, 65_536, "features of a sample"),
            Option("hidden", 1, 8_192, "width of each hidden layer"),
            Option("depth", 0, 16, "hidden layers; 0 is softmax regression"),
            _CLASSES,
        ),
        _mlp_shapes,
        lambda options: options["inputs"],
    ),
    "cnn": Architecture(
        "cnn",
        (
            Option("side", 4, 256, "height and width of a picture, even"),
            Option("planes", 1, 4, "colour planes of a picture"),
            Option("channels", 1, 512, "filters of the first convolution; the second has twice"),
            Option("hidden", 1, 8_192, "width of the hidden layer"),
            _CLASSES,
        ),
        _cnn_shapes,
        lambda options: options["planes"] * options["side"] ** 2,
    ),
    "gpt": Architecture(
        "gpt",
        (
            Option("context", 2, 4_096, "tokens that the model looks back on"),
            Option("depth", 1, 32, "transformer blocks"),
            Option("heads", 1, 64, "attention heads of a block; they divide the width"),
            Option("vocabulary", 2, CLASSES_MAX, "tokens to tell apart"),
            Option("width", 8, 4_096, "values that stand for a token between blocks"),
        ),
        _gpt_shapes,
        lambda options: options["context"],
        classes="vocabulary",
        sequences=True,
        scales=_gpt_scales,
    ),
}


@dataclass(frozen=True, slots=True)
class Declaration:
    """A checked model spec: its architecture's name, its options, and what follows from them.

    `inputs` counts the features of a sample or the tokens of a sequence, `classes` the logits.
    """

    architecture: str
    options: Mapping[str, int]
    layout: Layout
    inputs: int
    classes: int
    sequences: bool
    scales: Mapping[str, float]


def declare(model: ModelSpec) -> Declaration:
    """Check a model spec against the registry.

    Every option must be set, so that a spec means the same in every version. Raises `SpecError`
    that names the architecture or option and what is allowed.
    """
    architecture = ARCHITECTURES.get(model.architecture)
    if architecture is None:
        known = ", ".join(sorted(ARCHITECTURES))
        raise SpecError("model.architecture", f"{model.architecture!r} is unknown; known: {known}")
    options = _check_options(architecture, model.options)
    return Declaration(
        architecture.name,
        options,
        Layout.of(architecture.shapes(options)),
        architecture.inputs(options),
        options[architecture.classes],
        architecture.sequences,
        architecture.scales(options),
    )


def _check_options(
    architecture: Architecture, given: tuple[tuple[str, int], ...]
) -> dict[str, int]:
    names = [name for name, _ in given]
    if names != sorted(set(names)):
        raise SpecError("model.options", "must be sorted by name, each once")
    known = {option.name: option for option in architecture.options}
    for name in names:
        if name not in known:
            allowed = ", ".join(sorted(known))
            raise SpecError(
                f"model.options.{name}", f"{architecture.name} has no such option; it has {allowed}"
            )
    values = dict(given)
    for name, option in sorted(known.items()):
        field = f"model.options.{name}"
        if name not in values:
            raise SpecError(field, f"is missing: {option.meaning}")
        if not option.least <= values[name] <= option.most:
            raise SpecError(field, f"{values[name]} is not within {option.least} to {option.most}")
    return values
