"""The run spec: what a DAO votes on. Declarative, canonical, content-addressed.

A run trains one model on one dataset for a number of rounds; each round is H local steps and one
averaged outer step (DiLoCo, arXiv:2311.08105). It does not know how a model is built or a chain
asked: names such as `architecture` or `codec` are looked up by whoever does the work.
"""

import hashlib
from dataclasses import dataclass
from typing import Annotated

from eigen.protocol import limits
from eigen.protocol.types import Cid, Digest, RunId
from eigen.protocol.wire import Amount, Length, Range, Text, encode_bare

Count = Annotated[int, Range(2**31 - 1, 1)]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """An architecture of the registry and its options, sorted by name: (("hidden", 128), …)."""

    architecture: Text
    options: Annotated[tuple[tuple[Text, int], ...], Length(limits.MODEL_OPTIONS_MAX)]


@dataclass(frozen=True, slots=True)
class InnerSpec:
    """AdamW on the shard: `steps` (H) mini-batches of `batch` samples.

    A mini-batch is worked through in `micro_batches` equal pieces, whose gradients add up.
    `moments` says where Adam's moments start each round: `fresh` at zero, `shared` at what the
    peers agreed on in the round before, `kept` at each trainer's own. `precision` is `fp32` or
    `bf16` (forward and backward). `schedule` is `constant`, `linear` or `cosine`: how the rate
    falls from `lr` over all rounds, once it has risen to it over the run's first `warmup` steps.
    """

    steps: Annotated[int, Range(limits.LOSS_TRACE_MAX, 1)]
    batch: Count
    lr: float
    weight_decay: float
    micro_batches: Count = 1
    moments: Text = "fresh"
    precision: Text = "fp32"
    schedule: Text = "constant"
    warmup: Annotated[int, Range(limits.ROUNDS_MAX * limits.LOSS_TRACE_MAX)] = 0


@dataclass(frozen=True, slots=True)
class OuterSpec:
    """The averaged step: `rule` is `sgd` or `nesterov`."""

    rule: Text
    lr: float
    momentum: float


@dataclass(frozen=True, slots=True)
class AggregationSpec:
    """How the trainers' updates become one: `rule`, and the share of trainers that may lie.

    `tolerated_bps` is in hundredths of a percent; rules that trim or select go by it.
    """

    rule: Text
    tolerated_bps: Annotated[int, Range(5_000)] = 0


@dataclass(frozen=True, slots=True)
class PaySpec:
    """How trainers earn a round's reward, and how long it waits for validators to find fault.

    `by` is `samples`, or `contribution`: the samples times the inner product of an update with the
    others' average. No trainer gets more than `share_max_bps` hundredths of a percent of a round,
    or than an equal share where that is more. One part in `held_rounds` of what an account has
    coming is released each round, all of it in the last. `replay_bps` is the chance that a credited
    trainer's round is replayed.
    """

    by: Text = "samples"
    share_max_bps: Annotated[int, Range(10_000, 1)] = 10_000
    held_rounds: Annotated[int, Range(limits.HELD_ROUNDS_MAX, 1)] = 1
    replay_bps: Annotated[int, Range(10_000)] = 0


@dataclass(frozen=True, slots=True)
class RunSpec:
    """Everything that two honest nodes need to compute the same rounds.

    `codec` is how a trainer's update travels to the parts' owners, `result_codec` how their answer
    travels back. `part_values` is how many fp32 values one exchanged part holds at most;
    `reward_per_round` is in token base units, of which validators get `validator_share_bps`
    hundredths of a percent. With `overlap`, trainers work at their next update while the last one
    is exchanged: from the checkpoint of the round before.
    """

    name: Text
    model: ModelSpec
    dataset: Cid  # the dataset manifest
    rounds: Annotated[int, Range(limits.ROUNDS_MAX, 1)]
    inner: InnerSpec
    outer: OuterSpec
    codec: Text
    result_codec: Text
    aggregation: AggregationSpec
    part_values: Annotated[int, Range(limits.PART_VALUES_MAX, 256)]
    trainers_min: Annotated[int, Range(limits.TRAINERS_MAX, 1)]
    trainers_max: Annotated[int, Range(limits.TRAINERS_MAX, 1)]
    reward_per_round: Amount
    validator_share_bps: Annotated[int, Range(10_000)]
    seed: Annotated[int, Range(2**63 - 1)]
    overlap: bool = False
    pay: PaySpec = PaySpec()

    def __post_init__(self) -> None:
        """Raises ValueError where two fields contradict each other."""
        if self.trainers_min > self.trainers_max:
            raise ValueError("trainers_min is above trainers_max")
        if self.reward_per_round >= 2**128:
            raise ValueError("reward_per_round does not fit uint128")


def spec_digest(spec: RunSpec) -> Digest:
    """SHA-256 of the canonical spec: what the ledger stores."""
    return Digest(hashlib.sha256(encode_bare(spec)).digest())


def run_id(spec: RunSpec) -> RunId:
    """The run's name everywhere. Two specs that differ in a bit are two runs."""
    return RunId(hashlib.sha256(b"eigen/run/1" + spec_digest(spec)).digest())
