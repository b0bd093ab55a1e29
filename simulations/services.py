"""What daemons of tiers 2 and 3 are given to train: the run's spec, and its dataset."""

from dataclasses import replace
from typing import Final

from eigen.node.datasets import Dataset
from eigen.protocol.run import AggregationSpec, ModelSpec, RunSpec
from eigen.simulations.scenario import Scenario
from eigen.simulations.tier1 import cost_spec
from eigen.training.aggregation import RULES
from eigen.training.spec import check

INPUTS: Final = 64
CLASSES: Final = 10
"""Of a model that costs: digits' own, with as wide a layer as makes its parameters."""


def work(scenario: Scenario) -> tuple[RunSpec, Dataset]:
    """What is trained, and on what."""
    run = scenario.run
    if run.model != "cost":
        from eigen.simulations.learning import deal, digits_spec
        from eigen.training.datasets import digits, write_shard

        training, held_out = digits(seed=0)
        shards = [(write_shard(s), len(s)) for s in deal(training, run, scenario.seed)]
        return digits_spec(scenario), Dataset("digits", shards, write_shard(held_out), run.sealed)
    hidden = max(1, round((run.values - CLASSES) / (INPUTS + 1 + CLASSES)))
    fields = {"classes": CLASSES, "depth": 1, "hidden": hidden, "inputs": INPUTS}
    model = ModelSpec("mlp", tuple(sorted(fields.items())))
    tolerated = round(run.tolerated * 10_000) if RULES[run.rule].robust else 0
    spec = replace(
        cost_spec(scenario), model=model, aggregation=AggregationSpec(run.rule, tolerated)
    )
    spec = replace(spec, part_values=-(-check(spec).layout.values // run.parts))
    named = [(f"shard {i} of {scenario.seed}".encode(), 100) for i in range(run.shards)]
    return spec, Dataset("cost", named, b"held out", run.sealed)
