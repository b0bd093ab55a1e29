"""What a trainer's update contributed to a round, as integers that are equal on every machine.

The inner product of an update with what the others' came to: it is large where an update points
where the average of the others goes, which follows the Shapley value closely and costs nothing
(docs/contribution-proofs.md). Values of parts add up to that of the update.

Shape legend: P values of a part, N inputs.
"""

import math

from eigen.protocol import limits
from eigen.protocol.run import RunSpec
from eigen.training.aggregation.arithmetic import products, squares
from eigen.training.averaging import Inputs, decode_part
from eigen.training.codecs.registry import CODECS
from eigen.training.errors import BadInput, CodecError
from eigen.training.spec import part_count, part_sizes

UNIT = 2.0**-40
"""One of a contribution's integer. Inner products of updates are some 1e-4 to 1e2."""
CONTRIBUTION_MAX = 2**53
"""A part's contribution is cut to ± this (8,192): the sum over 1,024 parts fits in 64 bits."""


def contributions(
    spec: RunSpec, part: int, inputs: Inputs, result: bytes, samples: int = 0
) -> list[int]:
    """Of each input the inner product with the aggregate of the others, in units of 2^-40.

    The aggregate of the others is the part's `result` less the input's own share of it, which is
    its samples over all `samples` (of the inputs, where 0 is given). An input longer than the lower
    median is taken to be as long, so that nobody gains by exaggeration. Parts of the second moment
    contribute nothing. Each value is within ± `CONTRIBUTION_MAX`. Raises `SpecError`, ValueError
    for a part that the run has not, or `BadInput` with the index of the input that does not decode;
    the result's index is the number of inputs.
    """
    sizes = part_sizes(spec)
    if not 0 <= part < part_count(spec):
        raise ValueError(f"part {part}, the run has parts 0 to {part_count(spec) - 1}")
    if not 1 <= len(inputs) <= limits.TRAINERS_MAX:
        raise ValueError(f"{len(inputs)} inputs, there are 1 to {limits.TRAINERS_MAX}")
    if part >= len(sizes):
        return [0] * len(inputs)
    codec, values = CODECS[spec.codec], sizes[part]
    parts = [decode_part(codec, i, data, values) for i, (data, _) in enumerate(inputs)]
    try:
        result_P = CODECS[spec.result_codec].decode(result, values)
    except CodecError as error:
        raise BadInput(len(inputs), f"the result does not decode: {error}") from None
    total = samples or sum(count for _, count in inputs)
    squared_N = squares(parts)
    usual = math.sqrt(sorted(squared_N)[(len(squared_N) - 1) // 2])
    return [
        _in_units(_with_others(product, squared, count / total, usual))
        for product, squared, (_, count) in zip(
            products(parts, result_P), squared_N, inputs, strict=True
        )
    ]


def _with_others(product: float, squared: float, share: float, usual: float) -> float:
    """<input, result - share · input>, times by how much the input is longer than is usual."""
    length = math.sqrt(squared)
    shorter = min(1.0, usual / length) if length else 0.0
    return shorter * (product - share * squared)


def _in_units(value: float) -> int:
    """Scaling by a power of two is exact; what is left of one unit is cut off."""
    return max(-CONTRIBUTION_MAX, min(int(value / UNIT), CONTRIBUTION_MAX))
