"""Hyperparameters that were measured to work; docs/training.md has the tables. Knows no torch."""

from dataclasses import dataclass

from eigen.protocol.run import AggregationSpec, InnerSpec, ModelSpec, OuterSpec


@dataclass(frozen=True, slots=True)
class Preset:
    """The part of a run spec that decides how well it trains; `rounds` reach `accuracy`.

    Every seed that was measured, ten of the digits and three of the text, reached at least
    `accuracy` on the held-out set.
    """

    model: ModelSpec
    inner: InnerSpec
    outer: OuterSpec
    codec: str
    result_codec: str
    aggregation: AggregationSpec
    part_values: int
    rounds: int
    accuracy: float


DIGITS = Preset(
    model=ModelSpec(
        "cnn",
        (("channels", 16), ("classes", 10), ("hidden", 64), ("planes", 1), ("side", 8)),
    ),
    inner=InnerSpec(steps=30, batch=32, lr=0.004, weight_decay=0.01),
    outer=OuterSpec("nesterov", 0.7, 0.5),
    codec="int8",
    result_codec="int8",
    aggregation=AggregationSpec("cosine-filter", 3_000),
    part_values=8192,
    rounds=6,
    accuracy=0.97,
)
"""Handwritten digits in four shards, four trainers: 38,282 parameters in five parts."""

CHAR_GPT = Preset(
    model=ModelSpec(
        "gpt",
        (("context", 64), ("depth", 2), ("heads", 4), ("vocabulary", 128), ("width", 128)),
    ),
    inner=InnerSpec(steps=25, batch=16, lr=0.004, weight_decay=0.01, moments="shared"),
    outer=OuterSpec("sgd", 1.0, 0.0),
    codec="int8",
    result_codec="int8",
    aggregation=AggregationSpec("mean"),
    part_values=65_536,
    rounds=30,
    accuracy=0.53,
)
"""Characters of Python's own library, four trainers: 418,432 parameters in eight parts."""
