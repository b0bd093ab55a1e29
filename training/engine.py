"""Everything a node computes for a run, as synchronous functions from bytes to bytes.

The engine is stateless: spec, checkpoint, shards and residual come in, results go out. It knows no
peer, file or clock. It runs in the worker process (`worker`), and in tests directly.

Shape legend: P parameters of the model, or values of a part where the name says so.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from eigen.protocol import limits
from eigen.protocol.run import RunSpec
from eigen.training import checkpoint as checkpoints
from eigen.training.aggregation import RULES
from eigen.training.architectures import Declaration
from eigen.training.codec import CODECS, VALUE_MAX, Codec, encode_with_feedback
from eigen.training.datasets import Samples, join, read_shard
from eigen.training.errors import BadInput, CodecError, Diverged, ResidualError, ShardError
from eigen.training.inner import evaluate, local_steps
from eigen.training.models import build
from eigen.training.outer import OUTER_RULES
from eigen.training.results import Evaluation, LocalUpdate, PartAverage
from eigen.training.sketch import sketch, sketch_seed
from eigen.training.spec import check, part_count, part_sizes


class Engine:
    """Computes with torch in this process, whose torch settings it owns from then on.

    `threads` bounds torch's threads. Aggregation, outer steps and codecs give the same bytes for
    every thread count and instruction set; `train` only for equal ones.
    """

    def __init__(self, threads: int = 1) -> None:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(True)
        torch.set_flush_denormal(False)

    def initial_checkpoint(self, spec: RunSpec) -> bytes:
        """The canonical checkpoint before round 0. Raises `SpecError`."""
        declared = check(spec)
        return checkpoints.write(checkpoints.initial(spec, declared), declared)

    def part_count(self, spec: RunSpec) -> int:
        """Parts of an update. Raises `SpecError`."""
        return part_count(spec)

    def train(
        self,
        spec: RunSpec,
        base: bytes,
        shards: Sequence[bytes],
        order_seed: bytes,
        residual: bytes,
    ) -> LocalUpdate:
        """One round of local steps from checkpoint `base` on `shards`, encoded part by part.

        `residual` is that of this trainer's last credited update, or empty. Raises `SpecError`,
        `CheckpointError`, `ShardError`, `ResidualError` or `Diverged`.
        """
        declared, codec = check(spec), CODECS[spec.codec]
        start = checkpoints.read(base, spec, declared)
        samples = join([_shard(declared, data, f"shard {i}: ") for i, data in enumerate(shards)])
        residual_P = _read_residual(codec, declared.layout.values, residual)
        local = local_steps(build(declared), start.theta_P, samples, spec.inner, order_seed)
        sizes = part_sizes(spec)
        updates = torch.split(local.delta_P, sizes)
        residuals = torch.split(residual_P, sizes)
        try:
            encoded = [
                encode_with_feedback(codec, update_P, old_P)
                for update_P, old_P in zip(updates, residuals, strict=True)
            ]
        except CodecError as error:
            raise Diverged(f"the update cannot be encoded: {error}") from None
        left_P = torch.cat([new_P for _, new_P in encoded])
        return LocalUpdate(
            [data for data, _ in encoded],
            b"" if codec.lossless else left_P.numpy().tobytes(),
            local.samples,
            local.loss_trace,
            sketch(local.delta_P, sketch_seed(base)),
        )

    def aggregate(
        self, spec: RunSpec, part: int, inputs: Sequence[tuple[bytes, int]], carried: bytes
    ) -> PartAverage:
        """One part of all trainers, (encoded, samples) each, as one encoded part.

        `carried` is what the same part's aggregation left in the round before, or empty: with error
        feedback on the way down too, what one result leaves out goes into the next. The order of
        the inputs is part of the result. Raises `SpecError`, `ResidualError` where `carried` does
        not fit the run, or `BadInput` with the index of the first input that does not decode or
        claims samples that a round does not have.
        """
        check(spec)
        values = _part_values(spec, part)
        if not 1 <= len(inputs) <= limits.TRAINERS_MAX:
            raise ValueError(f"{len(inputs)} inputs, 1 to {limits.TRAINERS_MAX} can be aggregated")
        samples_most = spec.inner.steps * spec.inner.batch
        for index, (_, samples) in enumerate(inputs):
            if not 1 <= samples <= samples_most:
                raise BadInput(index, f"{samples} samples, a round has 1 to {samples_most}")
        codec = CODECS[spec.codec]
        parts = [_decode(codec, index, data, values) for index, (data, _) in enumerate(inputs)]
        result_P = RULES[spec.aggregation.rule](parts, [samples for _, samples in inputs])
        result_codec = CODECS[spec.result_codec]
        left_P = _read_residual(result_codec, values, carried)
        # Rounding may put a mean of largest values one step above what the codec takes.
        wanted_P = (result_P + left_P).clamp_(-VALUE_MAX, VALUE_MAX)
        data = result_codec.encode(wanted_P)
        if result_codec.lossless:
            return PartAverage(data, b"")
        return PartAverage(data, (wanted_P - result_codec.decode(data, values)).numpy().tobytes())

    def outer_step(self, spec: RunSpec, base: bytes, results: Sequence[bytes]) -> bytes:
        """The next canonical checkpoint from `base` and the aggregated parts, in part order.

        Raises `SpecError`, `CheckpointError`, `BadInput` with the part's number, or `Diverged`.
        """
        declared = check(spec)
        start = checkpoints.read(base, spec, declared)
        sizes = part_sizes(spec)
        if len(results) != len(sizes):
            raise ValueError(f"{len(results)} results, the run has {len(sizes)} parts")
        delta_P = torch.cat(
            [
                _decode(CODECS[spec.result_codec], part, data, values)
                for part, (data, values) in enumerate(zip(results, sizes, strict=True))
            ]
        )
        theta_P, momentum_P = OUTER_RULES[spec.outer.rule].step(
            start.theta_P, start.momentum_P, delta_P, spec.outer
        )
        for vector_P in (theta_P, momentum_P):
            if vector_P is not None and not bool(vector_P.isfinite().all()):
                raise Diverged("the outer step gives values that are not finite")
        return checkpoints.write(checkpoints.Checkpoint(theta_P, momentum_P), declared)

    def evaluate(self, spec: RunSpec, checkpoint: bytes, data: bytes) -> Evaluation:
        """Loss and accuracy of a checkpoint on the samples in `data` (shard format).

        Raises `SpecError`, `CheckpointError`, `ShardError` or `Diverged`.
        """
        declared = check(spec)
        state = checkpoints.read(checkpoint, spec, declared)
        return evaluate(build(declared), state.theta_P, _shard(declared, data))


def _shard(declared: Declaration, data: bytes, prefix: str = "") -> Samples:
    try:
        return read_shard(
            data, inputs=declared.inputs, classes=declared.classes, text=declared.sequences
        )
    except ShardError as error:
        raise ShardError(f"{prefix}{error}") from None


def _read_residual(codec: Codec, values: int, residual: bytes) -> Tensor:
    """The residual [P]; zeros where there is none yet."""
    if not residual:
        return torch.zeros(values)
    if codec.lossless:
        raise ResidualError(f"the codec leaves no residual, {len(residual)} bytes given")
    if len(residual) != 4 * values:
        raise ResidualError(f"{len(residual)} bytes of residual for {values} values")
    residual_P = torch.from_numpy(np.frombuffer(residual, "<f4").copy())
    if not bool(residual_P.isfinite().all()):
        raise ResidualError("the residual has NaN or infinite values")
    return residual_P


def _part_values(spec: RunSpec, part: int) -> int:
    sizes = part_sizes(spec)
    if not 0 <= part < len(sizes):
        raise ValueError(f"part {part}, the run has parts 0 to {len(sizes) - 1}")
    return sizes[part]


def _decode(codec: Codec, index: int, data: bytes, values: int) -> Tensor:
    try:
        return codec.decode(data, values)
    except CodecError as error:
        raise BadInput(index, str(error)) from None
