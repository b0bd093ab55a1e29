"""One part of all trainers as one: decoded, combined by the run's rule, encoded once.

In one step, or where trainers form groups in two: `collect` within each, `combine` over them. A
part of the second moment is combined by its median, whatever the run's rule is. Everything is a
function of its arguments, the same bytes on every machine; the order of the inputs is part of the
result.

Shape legend: P values of a part.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from eigen.protocol import limits
from eigen.protocol.run import RunSpec
from eigen.training import moments as folding
from eigen.training.aggregation import RULES, AggregationRule
from eigen.training.codecs.blocks import VALUE_MAX
from eigen.training.codecs.codec import Codec, encode_with_feedback
from eigen.training.codecs.registry import CODECS, GROUP_CODEC
from eigen.training.errors import BadInput, CodecError, ResidualError
from eigen.training.results import PartAverage
from eigen.training.spec import moment_sizes, part_count, part_sizes

Inputs = Sequence[tuple[bytes, int]]
"""Encoded parts and how many samples stand behind each."""


def aggregate(spec: RunSpec, part: int, inputs: Inputs, carried: bytes) -> PartAverage:
    """One part of all trainers as one encoded part.

    `carried` is what the same part's aggregation left in the round before, or empty: with error
    feedback on the way down too, what one result leaves out goes into the next; and a rule that
    keeps a history starts from the last result, as everybody got it. A part of the second moment
    carries nothing. Raises `SpecError`, `ResidualError` where `carried` does not fit the run, or
    `BadInput` with the index of the first input that does not decode or claims samples that a round
    does not have.
    """
    return _average(spec, part, inputs, spec.codec, 1, carried)


def collect(spec: RunSpec, part: int, inputs: Inputs) -> bytes:
    """One part of a group's trainers as one, for `combine`. Nothing is carried.

    A rule that keeps a history starts from zeros. Raises as `aggregate`.
    """
    sizes = part_sizes(spec)
    _check(spec, part, inputs, 1)
    if part >= len(sizes):
        return _median(moment_sizes(spec)[part - len(sizes)], inputs, b"").data
    return CODECS[GROUP_CODEC].encode(
        _combined(spec, inputs, CODECS[spec.codec], sizes[part], None)
    )


def combine(spec: RunSpec, part: int, inputs: Inputs, carried: bytes) -> PartAverage:
    """One part of all trainers from what each group comes to; the rest as `aggregate`.

    The run's rule judges groups here as it judges trainers in `collect`.
    """
    return _average(spec, part, inputs, GROUP_CODEC, limits.GROUP_MAX, carried)


def _average(
    spec: RunSpec, part: int, inputs: Inputs, codec: str, trainers: int, carried: bytes
) -> PartAverage:
    """`trainers` is how many may stand behind one input."""
    sizes = part_sizes(spec)
    _check(spec, part, inputs, trainers)
    if part >= len(sizes):
        return _median(moment_sizes(spec)[part - len(sizes)], inputs, carried)
    values = sizes[part]
    rule, result_codec = RULES[spec.aggregation.rule], CODECS[spec.result_codec]
    left_P, history_P = _read_carried(rule, result_codec, values, carried)
    result_P = _combined(spec, inputs, CODECS[codec], values, history_P)
    data, left_P = encode_with_feedback(result_codec, result_P, left_P)
    left = b"" if result_codec.lossless else left_P.numpy().tobytes()
    return PartAverage(data, left + (data if rule.keeps_history else b""))


def _check(spec: RunSpec, part: int, inputs: Inputs, trainers: int) -> None:
    count = part_count(spec)
    if not 0 <= part < count:
        raise ValueError(f"part {part}, the run has parts 0 to {count - 1}")
    if not 1 <= len(inputs) <= limits.TRAINERS_MAX:
        raise ValueError(f"{len(inputs)} inputs, 1 to {limits.TRAINERS_MAX} can be aggregated")
    samples_most = spec.inner.steps * spec.inner.batch * trainers
    for index, (_, samples) in enumerate(inputs):
        if not 1 <= samples <= samples_most:
            raise BadInput(index, f"{samples} samples, a round has 1 to {samples_most}")


def _combined(
    spec: RunSpec, inputs: Inputs, codec: Codec, values: int, history_P: Tensor | None
) -> Tensor:
    """Rounding may put a mean of largest values one step above what codecs take: it is clamped."""
    parts = [decode_part(codec, index, data, values) for index, (data, _) in enumerate(inputs)]
    samples_N = [samples for _, samples in inputs]
    result_P = RULES[spec.aggregation.rule](parts, samples_N, spec.aggregation, history_P)
    return result_P.clamp_(-VALUE_MAX, VALUE_MAX)


def _median(values: int, inputs: Inputs, carried: bytes) -> PartAverage:
    if carried:
        raise ResidualError(f"of moments nothing is carried, {len(carried)} bytes given")
    for index, (data, _) in enumerate(inputs):
        if len(data) != values:
            raise BadInput(index, f"{len(data)} bytes where {values} are expected")
    parts, samples = [data for data, _ in inputs], [samples for _, samples in inputs]
    return PartAverage(folding.median(parts, samples), b"")


def _read_carried(
    rule: AggregationRule, codec: Codec, values: int, carried: bytes
) -> tuple[Tensor, Tensor | None]:
    """The residual [P] and the rule's history [P]: fp32, then the last result as it was encoded."""
    if not carried or not rule.keeps_history:
        return read_residual(codec, values, carried), None
    cut = 0 if codec.lossless else 4 * values
    try:
        history_P = codec.decode(carried[cut:], values)
    except CodecError as error:
        raise ResidualError(f"the last result does not decode: {error}") from None
    return read_residual(codec, values, carried[:cut]), history_P


def read_residual(codec: Codec, values: int, residual: bytes) -> Tensor:
    """The residual [P]; zeros where there is none yet. Raises `ResidualError`."""
    if not residual:
        return torch.zeros(values)
    if codec.lossless:
        raise ResidualError(f"the codec leaves no residual, {len(residual)} bytes given")
    if len(residual) != 4 * values:
        raise ResidualError(f"{len(residual)} bytes of residual for {values} values")
    residual_P = torch.from_numpy(np.frombuffer(residual, "<f4").copy())
    if not -np.inf < residual_P.numpy().min() <= residual_P.numpy().max() < np.inf:
        raise ResidualError("the residual has NaN or infinite values")
    return residual_P


def decode_part(codec: Codec, index: int, data: bytes, values: int) -> Tensor:
    """One encoded part [P]. Raises `BadInput` with its index."""
    try:
        return codec.decode(data, values)
    except CodecError as error:
        raise BadInput(index, str(error)) from None
