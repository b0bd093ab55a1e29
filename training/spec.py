"""Checks a run spec for trainability, and cuts its vector into parts. Knows no torch.

The wire checked types and counts already; here is what needs the registries: names, finite rates,
and whether the vector fits the bound on parts.
"""

import math
from collections.abc import Collection

from eigen.protocol import limits
from eigen.protocol.run import AggregationSpec, RunSpec
from eigen.training.aggregation import RULES
from eigen.training.architectures import Declaration, declare
from eigen.training.codecs.registry import CODECS, GROUP_CODEC
from eigen.training.errors import SpecError
from eigen.training.moments import folded
from eigen.training.outer import OUTER_RULES
from eigen.training.schedule import SCHEDULES

BATCH_MAX = 65_536
"""Samples of one inner step: with the largest input of an `mlp`, 16 GiB of fp32 at most."""
MOMENTS = ("fresh", "shared", "kept")
"""Where Adam's moments may start."""
PAID_BY = ("samples", "contribution")
"""What a round's reward may go by."""
PRECISIONS = ("fp32", "bf16")
"""What forward and backward passes may be computed in."""
TOLERATED_BPS_MAX = 4_999
"""No rule tells a half from the other."""
SPARSE_MOMENTUM_MAX = 0.5
"""What a sparse codec sends is late already; more momentum than this costs accuracy."""
RATE_MAX = 10.0
"""A learning rate above this is a slip of the pen."""


def check(spec: RunSpec) -> Declaration:
    """The checked model of a run. Raises `SpecError` that names the first field at fault."""
    declared = declare(spec.model)
    _within("inner.steps", spec.inner.steps, 1, limits.LOSS_TRACE_MAX)
    _within("inner.batch", spec.inner.batch, 1, BATCH_MAX)
    _rate("inner.lr", spec.inner.lr)
    if not 0.0 <= spec.inner.weight_decay * spec.inner.lr < 1.0:
        raise SpecError("inner.weight_decay", "times inner.lr must be at least 0 and below 1")
    _known("outer.rule", spec.outer.rule, OUTER_RULES)
    _rate("outer.lr", spec.outer.lr)
    if OUTER_RULES[spec.outer.rule].has_momentum:
        if not 0.0 < spec.outer.momentum < 1.0:
            raise SpecError("outer.momentum", f"{spec.outer.momentum} is not between 0 and 1")
    elif spec.outer.momentum != 0.0:
        raise SpecError("outer.momentum", f"must be 0, for {spec.outer.rule} has no momentum")
    _within("inner.micro_batches", spec.inner.micro_batches, 1, spec.inner.batch)
    if spec.inner.batch % spec.inner.micro_batches:
        raise SpecError("inner.micro_batches", f"does not divide the batch of {spec.inner.batch}")
    _known("inner.moments", spec.inner.moments, MOMENTS)
    _known("inner.precision", spec.inner.precision, PRECISIONS)
    _known("inner.schedule", spec.inner.schedule, SCHEDULES)
    _within("inner.warmup", spec.inner.warmup, 0, spec.rounds * spec.inner.steps - 1)
    _known("codec", spec.codec, CODECS)
    _known("result_codec", spec.result_codec, CODECS)
    _steady(spec)
    _known("aggregation.rule", spec.aggregation.rule, RULES)
    _tolerated(spec.aggregation)
    _payable(spec)
    _within("part_values", spec.part_values, 1, limits.PART_VALUES_MAX)
    if _parts(declared, spec) > limits.PARTS_MAX:
        raise SpecError(
            "part_values",
            f"{spec.part_values} cuts {declared.layout.values} values into more than "
            f"{limits.PARTS_MAX} parts",
        )
    return declared


def shares_moments(spec: RunSpec) -> bool:
    """Whether rounds of this run go on from the second moment of the round before."""
    return spec.inner.moments == "shared"


def keeps_moments(spec: RunSpec) -> bool:
    """Whether each trainer of this run goes on with its own optimizer and its own data order."""
    return spec.inner.moments == "kept"


def part_count(spec: RunSpec) -> int:
    """Parts of an update: those of the pseudo-gradient, then those of the second moment, if shared.

    Raises `SpecError`.
    """
    return _parts(check(spec), spec)


def part_sizes(spec: RunSpec) -> list[int]:
    """Values of each part of the pseudo-gradient. Raises `SpecError`."""
    return _even(check(spec).layout.values, spec.part_values)


def moment_sizes(spec: RunSpec) -> list[int]:
    """Values of each part of the folded second moment; none where it is not shared.

    Raises `SpecError`.
    """
    declared = check(spec)
    return _even(_moment_values(declared, spec), spec.part_values)


def part_bytes(spec: RunSpec) -> list[int]:
    """The most bytes of each part of an update: what its owner has to allow. Raises `SpecError`."""
    return _bytes(spec, spec.codec)


def group_bytes(spec: RunSpec) -> list[int]:
    """The most bytes of what a group's part comes to. Raises `SpecError`."""
    return _bytes(spec, GROUP_CODEC)


def result_bytes(spec: RunSpec) -> list[int]:
    """The most bytes of each part's result: what a trainer has to allow. Raises `SpecError`."""
    return _bytes(spec, spec.result_codec)


def _bytes(spec: RunSpec, codec: str) -> list[int]:
    encoded = [CODECS[codec].encoded_bytes(values) for values in part_sizes(spec)]
    return encoded + moment_sizes(spec)


def carries(spec: RunSpec) -> bool:
    """Whether aggregating a part leaves state for the next round: see `PartAverage.carried`."""
    keeps_history = RULES[spec.aggregation.rule].keeps_history
    return keeps_history or not CODECS[spec.result_codec].lossless


def _even(values: int, part_values: int) -> list[int]:
    """As few parts of at most `part_values` as there can be, whose sizes differ by at most one.

    Rules judge a trainer part by part, and a part of few values would tell them little.
    """
    parts = _ceil(values, part_values)
    return [values // parts + (part < values % parts) for part in range(parts)]


def _parts(declared: Declaration, spec: RunSpec) -> int:
    return _ceil(declared.layout.values, spec.part_values) + _ceil(
        _moment_values(declared, spec), spec.part_values
    )


def _moment_values(declared: Declaration, spec: RunSpec) -> int:
    return folded(declared.layout).values if shares_moments(spec) else 0


def _ceil(values: int, size: int) -> int:
    return -(-values // size)


def _within(field: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise SpecError(field, f"{value} is not within {least} to {most}")


def _rate(field: str, value: float) -> None:
    if not (math.isfinite(value) and 0.0 < value <= RATE_MAX):
        raise SpecError(field, f"{value} is not above 0 and at most {RATE_MAX:g}")


def _steady(spec: RunSpec) -> None:
    sparse = [name for name in (spec.codec, spec.result_codec) if CODECS[name].sparse]
    if sparse and spec.outer.momentum > SPARSE_MOMENTUM_MAX:
        raise SpecError(
            "outer.momentum",
            f"{spec.outer.momentum} is above {SPARSE_MOMENTUM_MAX:g}, the most with the sparse "
            f"codec {sparse[0]}: take less, or outer.rule sgd, or a dense codec",
        )


def _payable(spec: RunSpec) -> None:
    _known("pay.by", spec.pay.by, PAID_BY)
    if spec.pay.replay_bps and keeps_moments(spec):
        raise SpecError("pay.replay_bps", "must be 0 where moments are kept: nobody else has them")
    if spec.pay.replay_bps and spec.overlap:
        raise SpecError("pay.replay_bps", "must be 0 where rounds overlap: that is not replayed")


def _tolerated(aggregation: AggregationSpec) -> None:
    share = aggregation.tolerated_bps
    if RULES[aggregation.rule].robust:
        _within("aggregation.tolerated_bps", share, 1, TOLERATED_BPS_MAX)
    elif share:
        raise SpecError(
            "aggregation.tolerated_bps", f"must be 0: {aggregation.rule} tolerates none"
        )


def _known(field: str, name: str, registry: Collection[str]) -> None:
    if name not in registry:
        raise SpecError(field, f"{name!r} is unknown; known: {', '.join(sorted(registry))}")
