"""Everything a node computes for a run, as synchronous functions from bytes to bytes.

The engine is stateless: spec, checkpoint, shards and residual come in, results go out. It knows no
peer, file or clock. It runs in the worker process (`worker`), and in tests directly.

Shape legend: P parameters of the model, or values of a part where the name says so.
"""

import os
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from eigen.protocol import limits
from eigen.protocol.run import RunSpec
from eigen.training import checkpoint as checkpoints
from eigen.training import moments as folding
from eigen.training.adamw import Begun, begun
from eigen.training.aggregation import RULES, AggregationRule
from eigen.training.architectures import Declaration
from eigen.training.codecs.blocks import VALUE_MAX
from eigen.training.codecs.codec import Codec, encode_with_feedback
from eigen.training.codecs.registry import CODECS
from eigen.training.datasets import Samples, join, read_shard
from eigen.training.errors import BadInput, CodecError, Diverged, ResidualError, ShardError
from eigen.training.inner import ALONE, evaluate, local_steps
from eigen.training.models import build
from eigen.training.outer import OUTER_RULES
from eigen.training.ranks import Ranks
from eigen.training.results import Evaluation, LocalUpdate, PartAverage
from eigen.training.sketch import sketch, sketch_seed
from eigen.training.spec import check, moment_sizes, part_count, part_sizes


class Engine:
    """Computes with torch in this process, whose torch settings it owns from then on.

    `threads` bounds torch's threads. Aggregation, outer steps and codecs run on the CPU and give
    the same bytes for every thread count and instruction set. `train` and `evaluate` run on
    `device` ("cpu", "cuda", "cuda:1" …) and give the same bytes for equal ones only. `ranks` share
    the work of `train`, which all of them call.
    """

    def __init__(self, threads: int = 1, device: str = "cpu", ranks: Ranks = ALONE) -> None:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(True)
        torch.set_flush_denormal(False)
        if device != "cpu":
            if not torch.cuda.is_available():
                raise ValueError(f"torch finds no device {device!r} on this machine")
            # Read at cuBLAS's first use; without it, products may be summed in any order.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        self._device, self.ranks = device, ranks

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
        local = local_steps(
            build(declared),
            start.theta_P,
            samples,
            spec.inner,
            order_seed,
            before=_begun(spec, declared, start),
            device=self._device,
            ranks=self.ranks,
        )
        sizes = part_sizes(spec)
        updates = torch.split(local.delta_P, sizes)
        residuals = torch.split(residual_P, sizes)
        try:
            encoded = [
                encode_with_feedback(codec, update_P, old_P)
                for update_P, old_P in zip(updates, residuals, strict=True)
            ]
            moments = _encode_moments(spec, declared, local.second_P)
        except CodecError as error:
            raise Diverged(f"the update cannot be encoded: {error}") from None
        left_P = torch.cat([new_P for _, new_P in encoded])
        return LocalUpdate(
            [data for data, _ in encoded] + moments,
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
        feedback on the way down too, what one result leaves out goes into the next; and a rule that
        keeps a history starts from the last result, as everybody got it. A part of the second
        moment is aggregated by its median, whatever the run's rule is, and carries nothing. The
        order of the inputs is part of the result. Raises `SpecError`, `ResidualError` where
        `carried` does not fit the run, or `BadInput` with the index of the first input that does
        not decode or claims samples that a round does not have.
        """
        sizes = part_sizes(spec)
        count = part_count(spec)
        if not 0 <= part < count:
            raise ValueError(f"part {part}, the run has parts 0 to {count - 1}")
        if not 1 <= len(inputs) <= limits.TRAINERS_MAX:
            raise ValueError(f"{len(inputs)} inputs, 1 to {limits.TRAINERS_MAX} can be aggregated")
        samples_most = spec.inner.steps * spec.inner.batch
        for index, (_, samples) in enumerate(inputs):
            if not 1 <= samples <= samples_most:
                raise BadInput(index, f"{samples} samples, a round has 1 to {samples_most}")
        if part >= len(sizes):
            return _median(moment_sizes(spec)[part - len(sizes)], inputs, carried)
        values = sizes[part]
        codec = CODECS[spec.codec]
        parts = [_decode(codec, index, data, values) for index, (data, _) in enumerate(inputs)]
        rule, result_codec = RULES[spec.aggregation.rule], CODECS[spec.result_codec]
        left_P, history_P = _read_carried(rule, result_codec, values, carried)
        samples_N = [samples for _, samples in inputs]
        result_P = rule(parts, samples_N, spec.aggregation, history_P)
        # Rounding may put a mean of largest values one step above what codecs take.
        data, left_P = encode_with_feedback(
            result_codec, result_P.clamp_(-VALUE_MAX, VALUE_MAX), left_P
        )
        left = b"" if result_codec.lossless else left_P.numpy().tobytes()
        return PartAverage(data, left + (data if rule.keeps_history else b""))

    def outer_step(self, spec: RunSpec, base: bytes, results: Sequence[bytes]) -> bytes:
        """The next canonical checkpoint from `base` and the aggregated parts, in part order.

        Raises `SpecError`, `CheckpointError`, `BadInput` with the part's number, or `Diverged`.
        """
        declared = check(spec)
        start = checkpoints.read(base, spec, declared)
        sizes = part_sizes(spec)
        if len(results) != part_count(spec):
            raise ValueError(f"{len(results)} results, the run has {part_count(spec)} parts")
        delta_P = torch.cat(
            [
                _decode(CODECS[spec.result_codec], part, data, values)
                for part, (data, values) in enumerate(zip(results, sizes, strict=False))
            ]
        )
        moments = None
        if start.moments is not None:
            steps = min(start.moments.steps + spec.inner.steps, checkpoints.STEPS_MAX)
            moments = checkpoints.Moments(_decode_moments(spec, results), delta_P, steps)
        theta_P, momentum_P = OUTER_RULES[spec.outer.rule].step(
            start.theta_P, start.momentum_P, delta_P, spec.outer
        )
        for vector_P in (theta_P, momentum_P):
            if vector_P is not None and not bool(vector_P.isfinite().all()):
                raise Diverged("the outer step gives values that are not finite")
        return checkpoints.write(checkpoints.Checkpoint(theta_P, momentum_P, moments), declared)

    def evaluate(self, spec: RunSpec, checkpoint: bytes, data: bytes) -> Evaluation:
        """Loss and accuracy of a checkpoint on the samples in `data` (shard format).

        Raises `SpecError`, `CheckpointError`, `ShardError` or `Diverged`.
        """
        declared = check(spec)
        state = checkpoints.read(checkpoint, spec, declared)
        return evaluate(build(declared), state.theta_P, _shard(declared, data), device=self._device)


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
    if not -np.inf < residual_P.numpy().min() <= residual_P.numpy().max() < np.inf:
        raise ResidualError("the residual has NaN or infinite values")
    return residual_P


def _read_carried(
    rule: AggregationRule, codec: Codec, values: int, carried: bytes
) -> tuple[Tensor, Tensor | None]:
    """The residual [P] and the rule's history [P]: fp32, then the last result as it was encoded."""
    if not carried or not rule.keeps_history:
        return _read_residual(codec, values, carried), None
    cut = 0 if codec.lossless else 4 * values
    try:
        history_P = codec.decode(carried[cut:], values)
    except CodecError as error:
        raise ResidualError(f"the last result does not decode: {error}") from None
    return _read_residual(codec, values, carried[:cut]), history_P


def _begun(spec: RunSpec, declared: Declaration, start: checkpoints.Checkpoint) -> Begun | None:
    if start.moments is None:
        return None
    second_P = torch.from_numpy(folding.unfold(declared.layout, start.moments.folded_M.numpy()))
    return begun(start.moments.delta_P, second_P, spec.inner, start.moments.steps)


def _encode_moments(spec: RunSpec, declared: Declaration, second_P: Tensor) -> list[bytes]:
    sizes = moment_sizes(spec)
    if not sizes:
        return []
    folded_M = torch.from_numpy(folding.fold(declared.layout, second_P.numpy()))
    return [folding.encode(part_M.numpy()) for part_M in torch.split(folded_M, sizes)]


def _median(values: int, inputs: Sequence[tuple[bytes, int]], carried: bytes) -> PartAverage:
    if carried:
        raise ResidualError(f"of moments nothing is carried, {len(carried)} bytes given")
    for index, (data, _) in enumerate(inputs):
        if len(data) != values:
            raise BadInput(index, f"{len(data)} bytes where {values} are expected")
    parts, samples = [data for data, _ in inputs], [samples for _, samples in inputs]
    return PartAverage(folding.median(parts, samples), b"")


def _decode_moments(spec: RunSpec, results: Sequence[bytes]) -> Tensor:
    """The folded second moment [M] from the results that follow those of the pseudo-gradient."""
    first = len(part_sizes(spec))
    parts = []
    for part, values in enumerate(moment_sizes(spec), start=first):
        try:
            parts.append(folding.decode(results[part], values))
        except CodecError as error:
            raise BadInput(part, str(error)) from None
    return torch.from_numpy(np.concatenate(parts))


def _decode(codec: Codec, index: int, data: bytes, values: int) -> Tensor:
    try:
        return codec.decode(data, values)
    except CodecError as error:
        raise BadInput(index, str(error)) from None
