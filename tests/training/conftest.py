"""What the training tests start from: small run specs, and the digits in four shards."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from eigen.protocol.run import AggregationSpec, InnerSpec, ModelSpec, OuterSpec, RunSpec
from eigen.protocol.types import Cid
from eigen.training.datasets import digits, split, write_shard
from eigen.training.engine import Engine

MakeSpec = Callable[..., RunSpec]


@pytest.fixture
def make_spec() -> MakeSpec:
    """`make_spec(codec="fp32", mlp={"hidden": 8})`: a run on the digits, with fields replaced."""

    def make(mlp: dict[str, int] | None = None, **fields: Any) -> RunSpec:
        options = {"inputs": 64, "hidden": 32, "depth": 1, "classes": 10} | (mlp or {})
        spec = RunSpec(
            name="digits",
            model=ModelSpec("mlp", tuple(sorted(options.items()))),
            dataset=Cid("bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"),
            rounds=6,
            inner=InnerSpec(steps=4, batch=16, lr=0.01, weight_decay=0.01),
            outer=OuterSpec("nesterov", 0.7, 0.5),
            codec="int8",
            result_codec="int8",
            aggregation=AggregationSpec("mean"),
            part_values=1000,
            trainers_min=1,
            trainers_max=4,
            reward_per_round=0,
            validator_share_bps=0,
            seed=7,
        )
        return replace(spec, **fields)

    return make


@pytest.fixture(scope="session")
def engine() -> Engine:
    return Engine(threads=1)


@pytest.fixture(scope="session")
def shards() -> list[bytes]:
    """The digits' training samples in four shards."""
    training, _ = digits(seed=0)
    return [write_shard(shard) for shard in split(training, 4, seed=0)]


@pytest.fixture(scope="session")
def held_out() -> bytes:
    """360 digits that no shard holds."""
    return write_shard(digits(seed=0)[1])
