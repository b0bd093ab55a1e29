"""Everything a node computes for a run, as synchronous functions from bytes to bytes.

The engine is stateless: spec, checkpoint, shards and residual come in, results go out. It knows no
peer, file or clock. It runs in the worker process (`worker`), and in tests directly.

Shape legend: P parameters of the model, or values of a part where the name says so.
"""

import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from eigen.protocol.run import RunSpec
from eigen.training import averaging, contributions
from eigen.training import checkpoint as checkpoints
from eigen.training import moments as folding
from eigen.training import optimizer as optimizers
from eigen.training.adamw import Begun, State, begun
from eigen.training.architectures import Declaration
from eigen.training.averaging import decode_part, read_residual
from eigen.training.codecs.codec import Codec, encode_with_feedback
from eigen.training.codecs.registry import CODECS
from eigen.training.datasets import Samples, join, read_shard
from eigen.training.errors import BadInput, CodecError, Diverged, ShardError, SpecError, StateError
from eigen.training.gap import FRESH_PART, SAMPLES, draw, losses, used_samples
from eigen.training.inner import ALONE, evaluate, local_steps
from eigen.training.models import build
from eigen.training.outer import OUTER_RULES
from eigen.training.ranks import Ranks
from eigen.training.replay import Claimed, Opened, compare
from eigen.training.results import (
    Encoded,
    Evaluation,
    Gap,
    LocalDelta,
    LocalUpdate,
    PartAverage,
    Replay,
)
from eigen.training.schedule import rates
from eigen.training.sketch import sketch, sketch_seed
from eigen.training.spec import check, keeps_moments, moment_sizes, part_count, part_sizes


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
        rounds_before: int = 0,
        kept: bytes = b"",
    ) -> LocalUpdate:
        """One round of local steps from checkpoint `base` on `shards`, encoded part by part.

        `residual` is that of this trainer's last credited update, or empty. `rounds_before` is how
        many rounds were before this one: the learning rate goes by it. `kept` is what this
        trainer's last update kept, or empty. Raises `SpecError`, `CheckpointError`, `ShardError`,
        `ResidualError`, `StateError` or `Diverged`.
        """
        local = self.local_steps(spec, base, shards, order_seed, rounds_before, kept)
        return local.encoded(self.encode(spec, local.delta, residual))

    def local_steps(
        self,
        spec: RunSpec,
        base: bytes,
        shards: Sequence[bytes],
        order_seed: bytes,
        rounds_before: int = 0,
        kept: bytes = b"",
        own: Sequence[bytes] = (),
    ) -> LocalDelta:
        """One round of local steps from checkpoint `base` on `shards`, to be encoded later.

        With the parts of this trainer's `own` last update they begin where that leads, as if it
        were the average, which is not known yet. With `kept` the optimizer goes on where it was;
        and so does the data order, while the shards are the same. Raises `SpecError`,
        `CheckpointError`, `ShardError`, `StateError`, `BadInput` where `own` does not decode, or
        `Diverged`.
        """
        declared = check(spec)
        start = checkpoints.read(base, spec, declared)
        if own:
            start = _stepped(spec, start, own, CODECS[spec.codec])
        samples = join([_shard(declared, data, f"shard {i}: ") for i, data in enumerate(shards)])
        before, place = _begin(spec, declared, start, shards, order_seed, rounds_before, kept)
        local = local_steps(
            build(declared),
            start.theta_P,
            samples,
            spec.inner,
            place.seed,
            rates=rates(spec, rounds_before),
            before=before,
            taken=place.position,
            device=self._device,
            ranks=self.ranks,
        )
        try:
            moments = _encode_moments(spec, declared, local.second_P)
        except CodecError as error:
            raise Diverged(f"the update cannot be encoded: {error}") from None
        place = replace(place, position=place.position + local.samples)
        return LocalDelta(
            local.delta_P.numpy().tobytes(),
            moments,
            local.samples,
            local.loss_trace,
            sketch(local.delta_P, sketch_seed(base)),
            optimizers.write(spec, local.state, place) if keeps_moments(spec) else b"",
        )

    def encode(self, spec: RunSpec, delta: bytes, residual: bytes) -> Encoded:
        """A pseudo-gradient (fp32, little endian) and what the last update left out, in parts.

        Raises `SpecError`, `ResidualError`, or `Diverged` where it has no encoding.
        """
        declared, codec = check(spec), CODECS[spec.codec]
        values, sizes = declared.layout.values, part_sizes(spec)
        if len(delta) != 4 * values:
            raise ValueError(f"{len(delta)} bytes of pseudo-gradient for {values} values")
        updates = torch.split(torch.from_numpy(np.frombuffer(delta, "<f4").copy()), sizes)
        residuals = torch.split(read_residual(codec, values, residual), sizes)
        try:
            encoded = [
                encode_with_feedback(codec, update_P, old_P)
                for update_P, old_P in zip(updates, residuals, strict=True)
            ]
        except CodecError as error:
            raise Diverged(f"the update cannot be encoded: {error}") from None
        left_P = torch.cat([new_P for _, new_P in encoded])
        parts = [data for data, _ in encoded]
        return Encoded(parts, b"" if codec.lossless else left_P.numpy().tobytes())

    def aggregate(
        self, spec: RunSpec, part: int, inputs: Sequence[tuple[bytes, int]], carried: bytes
    ) -> PartAverage:
        """See `averaging.aggregate`."""
        return averaging.aggregate(spec, part, inputs, carried)

    def collect(self, spec: RunSpec, part: int, inputs: Sequence[tuple[bytes, int]]) -> bytes:
        """See `averaging.collect`."""
        return averaging.collect(spec, part, inputs)

    def combine(
        self, spec: RunSpec, part: int, inputs: Sequence[tuple[bytes, int]], carried: bytes
    ) -> PartAverage:
        """See `averaging.combine`."""
        return averaging.combine(spec, part, inputs, carried)

    def contributions(
        self,
        spec: RunSpec,
        part: int,
        inputs: Sequence[tuple[bytes, int]],
        result: bytes,
        samples: int = 0,
    ) -> list[int]:
        """See `contributions.contributions`."""
        return contributions.contributions(spec, part, inputs, result, samples)

    def replay(
        self,
        spec: RunSpec,
        base: bytes,
        shards: Sequence[bytes],
        order_seed: bytes,
        rounds_before: int,
        own: Sequence[bytes],
        parts: Sequence[bytes],
        opened: Opened,
        claimed: Claimed,
    ) -> Replay:
        """Another trainer's local steps again, and how far its claims are from what comes of them.

        The first six arguments are those of `local_steps`; the others are the trainer's: its parts,
        opened chunks of its residuals (`replay.opened_chunks`), its loss trace and sketch. Raises
        what `local_steps` raises; `BadInput` for claims that no honest trainer makes, see
        `replay.compare`; and `SpecError` where moments are kept, for then local steps are no
        function of public state.
        """
        if keeps_moments(spec):
            raise SpecError("inner.moments", "kept ones are not public: nobody can replay a round")
        again = self.local_steps(spec, base, shards, order_seed, rounds_before, b"", own)
        return compare(spec, again, parts, opened, claimed)

    def gap(
        self,
        spec: RunSpec,
        base: bytes,
        parts: Sequence[bytes],
        shards: Sequence[bytes],
        order_seed: bytes,
        fresh: Sequence[bytes],
        seed: bytes,
        count: int = SAMPLES,
        own: Sequence[bytes] = (),
        average: Sequence[bytes] = (),
    ) -> Gap:
        """How much better than the round's `average` a trainer's parts are on what it was to learn.

        On `count` samples, drawn by `seed` from those that local steps on `shards` in the order of
        `order_seed` use (from all, where moments are kept: the order's place is not public), and on
        a third as many `fresh` ones: of these shards, or where there are none, of what the local
        steps left out. `average` are the round's aggregated parts; without them the update is
        compared with where it begins. `own` is as in `local_steps`. Raises `SpecError`,
        `CheckpointError`, `BadInput` for parts that do not decode, or `ShardError`, also where
        there are no fresh samples.
        """
        declared = check(spec)
        start = checkpoints.read(base, spec, declared)
        if own:
            start = _stepped(spec, start, own, CODECS[spec.codec])
        ours_P = start.theta_P - _pseudo_gradient(spec, parts, CODECS[spec.codec])
        theirs_P = start.theta_P
        if average:
            theirs_P = theirs_P - _pseudo_gradient(spec, average, CODECS[spec.result_codec])
        samples = join([_shard(declared, data, f"shard {i}: ") for i, data in enumerate(shards)])
        used = np.arange(len(samples))
        if not keeps_moments(spec):
            inner = spec.inner
            used = used_samples(order_seed, len(samples), inner.steps, inner.batch)
        if fresh:
            others = join([_shard(declared, data, f"fresh {i}: ") for i, data in enumerate(fresh)])
        else:
            others = samples.take(np.setdiff1d(np.arange(len(samples)), used))
        model = build(declared)
        advantages = [
            losses(model, theirs_P, drawn, self._device).mean()
            - losses(model, ours_P, drawn, self._device).mean()
            for drawn in (
                draw(samples.take(used), "assigned", seed, count),
                draw(others, "fresh", seed, -(-count // FRESH_PART)),
            )
        ]
        return Gap(*map(float, advantages))

    def outer_step(self, spec: RunSpec, base: bytes, results: Sequence[bytes]) -> bytes:
        """The next canonical checkpoint from `base` and the aggregated parts, in part order.

        Raises `SpecError`, `CheckpointError`, `BadInput` with the part's number, or `Diverged`.
        """
        declared = check(spec)
        start = checkpoints.read(base, spec, declared)
        after = _stepped(spec, start, results, CODECS[spec.result_codec])
        return checkpoints.write(after, declared)

    def evaluate(self, spec: RunSpec, checkpoint: bytes, data: bytes) -> Evaluation:
        """Loss and accuracy of a checkpoint on the samples in `data` (shard format).

        Raises `SpecError`, `CheckpointError`, `ShardError` or `Diverged`.
        """
        declared = check(spec)
        state = checkpoints.read(checkpoint, spec, declared)
        return evaluate(build(declared), state.theta_P, _shard(declared, data), device=self._device)


def _stepped(
    spec: RunSpec, start: checkpoints.Checkpoint, parts: Sequence[bytes], codec: Codec
) -> checkpoints.Checkpoint:
    """The outer step from encoded parts, be they the average's or one trainer's."""
    if len(parts) != part_count(spec):
        raise ValueError(f"{len(parts)} results, the run has {part_count(spec)} parts")
    delta_P = _pseudo_gradient(spec, parts, codec)
    moments = None
    if start.moments is not None:
        steps = min(start.moments.steps + spec.inner.steps, checkpoints.STEPS_MAX)
        moments = checkpoints.Moments(_decode_moments(spec, parts), delta_P, steps)
    theta_P, momentum_P = OUTER_RULES[spec.outer.rule].step(
        start.theta_P, start.momentum_P, delta_P, spec.outer
    )
    for vector_P in (theta_P, momentum_P):
        if vector_P is not None and not bool(vector_P.isfinite().all()):
            raise Diverged("the outer step gives values that are not finite")
    return checkpoints.Checkpoint(theta_P, momentum_P, moments)


def _pseudo_gradient(spec: RunSpec, parts: Sequence[bytes], codec: Codec) -> Tensor:
    """[P]. Raises `BadInput` with the number of the part that is missing or does not decode."""
    if len(parts) != part_count(spec):
        raise BadInput(len(parts), f"{len(parts)} parts, the run has {part_count(spec)}")
    sizes = part_sizes(spec)
    return torch.cat([decode_part(codec, i, parts[i], size) for i, size in enumerate(sizes)])


def _shard(declared: Declaration, data: bytes, prefix: str = "") -> Samples:
    try:
        return read_shard(
            data, inputs=declared.inputs, classes=declared.classes, text=declared.sequences
        )
    except ShardError as error:
        raise ShardError(f"{prefix}{error}") from None


def _begin(
    spec: RunSpec,
    declared: Declaration,
    start: checkpoints.Checkpoint,
    shards: Sequence[bytes],
    order_seed: bytes,
    rounds_before: int,
    kept: bytes,
) -> tuple[Begun | State | None, optimizers.Place]:
    """Where moments and data order of a round begin."""
    if not keeps_moments(spec):
        if kept:
            raise StateError(f"the run keeps no moments, {len(kept)} bytes given")
        begun_ = _begun(spec, declared, start, rounds_before)
        return begun_, optimizers.Place("", order_seed, 0)
    fresh = optimizers.Place(optimizers.hand_of(shards), order_seed, 0)
    if not kept:
        return None, fresh
    state, place = optimizers.read(kept, spec, declared.layout.values)
    return state, place if place.hand == fresh.hand else fresh


def _begun(
    spec: RunSpec, declared: Declaration, start: checkpoints.Checkpoint, rounds_before: int
) -> Begun | None:
    if start.moments is None:
        return None
    second_P = torch.from_numpy(folding.unfold(declared.layout, start.moments.folded_M.numpy()))
    last_rates = rates(spec, max(0, rounds_before - 1))
    return begun(start.moments.delta_P, second_P, last_rates, start.moments.steps)


def _encode_moments(spec: RunSpec, declared: Declaration, second_P: Tensor) -> list[bytes]:
    sizes = moment_sizes(spec)
    if not sizes:
        return []
    folded_M = torch.from_numpy(folding.fold(declared.layout, second_P.numpy()))
    return [folding.encode(part_M.numpy()) for part_M in torch.split(folded_M, sizes)]


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
