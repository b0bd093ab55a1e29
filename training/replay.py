"""A trainer's round done again by a validator: what is opened, and how far its claims are off.

What was sent is C(Δ + e), with e the residual before, decayed where the codec says so; what that
left out is the residual after. Both residuals are committed to, so on chunks that are opened the
claimed pseudo-gradient is

    Δ = decoded parts + residual after - decayed residual before

and must be the replayed one. Nor may a trainer send what it likes and put the difference into its
residual: the sum of what was sent and what was left out, encoded again, must give what was sent.
The chunks are drawn after the commitment. Knows no torch until it compares.

Shape legend: P parameters of the model, or values of a part; C values of a chunk; S values of a
span of neighbouring chunks.
"""

import math
import statistics
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from eigen.protocol import limits
from eigen.protocol.run import RunSpec
from eigen.training import moments
from eigen.training.codecs.blocks import VALUE_MAX
from eigen.training.codecs.codec import Codec
from eigen.training.codecs.registry import CODECS
from eigen.training.errors import BadInput, CodecError
from eigen.training.results import LocalDelta, Replay
from eigen.training.spec import part_count, part_sizes
from eigen.training.streams import random_bytes

CHUNK_VALUES = limits.RESIDUAL_CHUNK_BYTES // 4
"""fp32 values of a chunk; the vector's last one may have fewer."""
OPENED_CHUNKS = 8
"""Chunks that one replay opens. Work that was not done shows in each of them."""

Opened = Sequence[tuple[int, bytes, bytes]]
"""A chunk's number, and its residual before (empty for zeros) and after. Of a lossless codec both
are empty."""
Claimed = tuple[Sequence[float], bytes]
"""A commitment's loss trace and sketch."""
Vector = NDArray[np.float32]


def opened_chunks(seed: bytes, values: int, count: int, run: int = 1) -> tuple[int, ...]:
    """The `count` chunks that a seed opens of a vector of so many `values`, in ascending order.

    They are drawn in runs of `run` neighbours; where there are no more than `count`, all are
    opened. `count` and `run` are at least 1.
    """
    chunks = -(-values // CHUNK_VALUES)
    if count >= chunks:
        return tuple(range(chunks))
    found: set[int] = set()
    draws = 0
    while len(found) < count:
        draws += 1
        first = int(random_bytes("opened", seed, 8 * draws).view("<u8")[-1]) * chunks >> 64
        found.update(range(first, min(first + run, first + count - len(found), chunks)))
    return tuple(sorted(found))


def chunks_to_open(spec: RunSpec, seed: bytes) -> tuple[int, ...]:
    """The chunks that a replay opens in this run, in ascending order. Raises `SpecError`.

    They lie apart where each holds whole blocks of the codec. Blocks of sparse codecs are longer:
    two runs of neighbours each hold one at least.
    """
    values, block = sum(part_sizes(spec)), CODECS[spec.codec].block_values
    if 2 * block <= CHUNK_VALUES:
        return opened_chunks(seed, values, OPENED_CHUNKS)
    run = 2 * -(-block // CHUNK_VALUES)
    return opened_chunks(seed, values, 2 * run, run)


def open_chunks(
    numbers: Sequence[int], before: bytes, after: bytes
) -> list[tuple[int, bytes, bytes]]:
    """These chunks of a residual before and after a round, as `compare` wants them."""
    size = limits.RESIDUAL_CHUNK_BYTES
    places = [slice(size * number, size * (number + 1)) for number in numbers]
    return [(n, before[p], after[p]) for n, p in zip(numbers, places, strict=True)]


def compare(
    spec: RunSpec, again: LocalDelta, parts: Sequence[bytes], opened: Opened, claimed: Claimed
) -> Replay:
    """A trainer's parts, opened residuals and commitment against the same work done `again`.

    Raises `BadInput` with the number of the part that does not decode, or of the chunk whose
    residual no honest trainer has; ValueError where no chunk is given, or one that the run has not.
    """
    codec, sizes = CODECS[spec.codec], part_sizes(spec)
    if len(parts) != part_count(spec):
        raise BadInput(len(parts), f"there are {len(parts)} parts, the run has {part_count(spec)}")
    sent_P = np.concatenate([_decoded(codec, i, parts[i], size) for i, size in enumerate(sizes)])
    again_P = np.frombuffer(again.delta, "<f4")
    chunks = [_chunk(codec, sent_P, *one) for one in sorted(opened)]
    if not chunks:
        raise ValueError("no chunk was opened")
    losses, sketch = claimed
    most = statistics.median(_distance(chunk.delta_C, again_P[chunk.place]) for chunk in chunks)
    opened_whole = _distance(
        np.concatenate([chunk.delta_C for chunk in chunks]),
        np.concatenate([again_P[chunk.place] for chunk in chunks]),
    )
    return Replay(
        max(most, _moments_distance(parts[len(sizes) :], again.moments)),
        _distance(_losses(spec, losses), np.array(again.loss_trace, np.float32)),
        max(opened_whole, _distance(_sketch(sketch), np.frombuffer(again.sketch, "<f4"))),
        _encoding_distance(codec, sizes, sent_P, chunks),
        again.samples,
    )


def _decoded(codec: Codec, part: int, data: bytes, values: int) -> Vector:
    try:
        sent_P: Vector = codec.decode(data, values).numpy()
    except CodecError as error:
        raise BadInput(part, str(error)) from None
    return sent_P


class _Chunk(NamedTuple):
    """Where it lies in the vector, the claimed pseudo-gradient, and what was to be encoded."""

    place: slice
    delta_C: Vector
    wanted_C: Vector


def _chunk(codec: Codec, sent_P: Vector, number: int, before: bytes, after: bytes) -> _Chunk:
    start = number * CHUNK_VALUES
    if not 0 <= start < len(sent_P):
        raise ValueError(f"chunk {number}, the vector has {-(-len(sent_P) // CHUNK_VALUES)}")
    sent_C = sent_P[start : start + CHUNK_VALUES]
    place = slice(start, start + len(sent_C))
    if codec.lossless:
        if before or after:
            raise BadInput(number, "a residual, where the codec leaves none")
        return _Chunk(place, sent_C, sent_C)
    wanted_C = sent_C + _residual(number, after, len(sent_C))
    if not before:
        return _Chunk(place, wanted_C, wanted_C)
    old_C = _residual(number, before, len(sent_C)) * np.float32(codec.residual_decay)
    return _Chunk(place, wanted_C - old_C, wanted_C)


def _residual(number: int, data: bytes, values: int) -> Vector:
    if len(data) != 4 * values:
        raise BadInput(number, f"{len(data)} bytes of residual, the chunk has {4 * values}")
    residual_C = np.frombuffer(data, "<f4")
    if not -VALUE_MAX <= residual_C.min() <= residual_C.max() <= VALUE_MAX:
        raise BadInput(number, "the residual has values that are NaN or above 2^63")
    return residual_C


def _losses(spec: RunSpec, trace: Sequence[float]) -> Vector:
    if len(trace) != spec.inner.steps or not all(abs(loss) <= VALUE_MAX for loss in trace):
        raise BadInput(0, f"the loss trace is not one finite loss for {spec.inner.steps} steps")
    return np.array(trace, np.float32)


def _sketch(data: bytes) -> Vector:
    if len(data) != limits.SKETCH_BYTES:
        raise BadInput(0, f"a sketch of {len(data)} bytes, there are {limits.SKETCH_BYTES}")
    sums_S = np.frombuffer(data, "<f4")
    if not np.isfinite(sums_S).all():
        raise BadInput(0, "the sketch has NaN or infinite values")
    return sums_S


def _distance(claimed_P: Vector, again_P: Vector) -> float:
    """|claimed - again| / |again|, in fp64; 0 / 0 is 0."""
    wanted_P = again_P.astype(np.float64)
    off, length = float(np.linalg.norm(claimed_P - wanted_P)), float(np.linalg.norm(wanted_P))
    return off / length if length else (math.inf if off else 0.0)


def _moments_distance(claimed: Sequence[bytes], again: Sequence[bytes]) -> float:
    """The mean relative distance of second moments, from their codes.

    Two moments whose distance is a small part of a code's step are coded apart as seldom as that,
    so that over many of them the mean is about right.
    """
    off, values = 0, 0
    for claimed_part, again_part in zip(claimed, again, strict=True):
        claimed_M, again_M = (np.frombuffer(part, np.uint8) for part in (claimed_part, again_part))
        off += int(np.abs(claimed_M.astype(np.int64) - again_M).sum())
        values += len(again_M)
    return moments.CODE_STEP * off / values if values else 0.0


def _encoding_distance(
    codec: Codec, sizes: Sequence[int], sent_P: Vector, chunks: Sequence[_Chunk]
) -> float:
    """How far what was sent is from what the codec gives for it, on whole blocks in the chunks."""
    if codec.lossless:
        return 0.0
    sent, wanted = [], []
    for start, wanted_S in _spans(chunks):
        for first, last in _whole_blocks(codec.block_values, sizes, start, start + len(wanted_S)):
            sent.append(sent_P[first:last])
            wanted.append(_encoded_again(codec, wanted_S[first - start : last - start]))
    return _distance(np.concatenate(sent), np.concatenate(wanted)) if sent else 0.0


def _encoded_again(codec: Codec, wanted_P: Vector) -> Vector:
    import torch

    wanted_P = wanted_P.clip(-VALUE_MAX, VALUE_MAX)
    again_P: Vector = codec.decode(codec.encode(torch.from_numpy(wanted_P)), len(wanted_P)).numpy()
    return again_P


def _spans(chunks: Sequence[_Chunk]) -> Iterator[tuple[int, Vector]]:
    """Neighbours among ascending chunks as one: where it starts, and what was to be encoded."""
    span = list(chunks[:1])
    for chunk in chunks[1:]:
        if chunk.place.start != span[-1].place.stop:
            yield span[0].place.start, np.concatenate([one.wanted_C for one in span])
            span = []
        span.append(chunk)
    yield span[0].place.start, np.concatenate([one.wanted_C for one in span])


def _whole_blocks(
    width: int, sizes: Sequence[int], start: int, stop: int
) -> Iterator[tuple[int, int]]:
    """The stretches of the vector between `start` and `stop` that hold whole blocks of a part."""
    for end, values in zip(accumulate(sizes), sizes, strict=True):
        begin = end - values
        first = begin + -(-max(start - begin, 0) // width) * width
        last = end if stop >= end else stop - (stop - begin) % width
        if first < last:
            yield first, last
