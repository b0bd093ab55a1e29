"""What a virtual node's trainer computes, and how long that takes in virtual time.

`Costed` trains nothing: parts have the size that the codec gives and bytes that are drawn from what
they were made of, so a wrong input still gives a wrong result. `Shared` is the node's own engine in
this process; what several nodes compute from the same inputs is computed once.
"""

import hashlib
import random
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self, TypeVar

import trio

from eigen.protocol.limits import SKETCH_BYTES
from eigen.protocol.run import RunSpec
from eigen.protocol.wire import encode_bare
from eigen.training import spec as specs
from eigen.training.codecs.registry import CODECS
from eigen.training.errors import SpecError
from eigen.training.frames import Files
from eigen.training.replay import Claimed, Opened
from eigen.training.results import (
    Encoded,
    Evaluation,
    Gap,
    LocalDelta,
    LocalUpdate,
    PartAverage,
    Replay,
)

CALL_S: Final = 0.005
"""A call that is neither local steps nor an outer step, as on tier 1."""
STEP_S: Final = 0.01
"""An outer step, as on tier 1."""
REMEMBERED_MAX: Final = 512
"""Results that other nodes may ask for again."""
R = TypeVar("R")


class Arithmetic(Protocol):
    """`Engine`'s calls, as far as a simulated run makes them."""

    def initial_checkpoint(self, spec: RunSpec) -> bytes:
        """See `Engine`."""
        ...

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
        """See `Engine`."""
        ...

    def encode(self, spec: RunSpec, delta: bytes, residual: bytes) -> Encoded:
        """See `Engine`."""
        ...

    def aggregate(
        self, spec: RunSpec, part: int, inputs: Sequence[tuple[bytes, int]], carried: bytes
    ) -> PartAverage:
        """See `Engine`."""
        ...

    def collect(self, spec: RunSpec, part: int, inputs: Sequence[tuple[bytes, int]]) -> bytes:
        """See `Engine`."""
        ...

    def combine(
        self, spec: RunSpec, part: int, inputs: Sequence[tuple[bytes, int]], carried: bytes
    ) -> PartAverage:
        """See `Engine`."""
        ...

    def contributions(
        self, spec: RunSpec, part: int, inputs: Sequence[tuple[bytes, int]], result: bytes
    ) -> list[int]:
        """See `Engine`."""
        ...

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
        """See `Engine`."""
        ...

    def gap(
        self,
        spec: RunSpec,
        base: bytes,
        parts: Sequence[bytes],
        shards: Sequence[bytes],
        order_seed: bytes,
        fresh: Sequence[bytes],
        seed: bytes,
        *,
        average: Sequence[bytes],
    ) -> Gap:
        """See `Engine`."""
        ...

    def outer_step(self, spec: RunSpec, base: bytes, results: Sequence[bytes]) -> bytes:
        """See `Engine`."""
        ...

    def evaluate(self, spec: RunSpec, checkpoint: bytes, data: bytes) -> Evaluation:
        """See `Engine`."""
        ...


class Costed:
    """Bytes of the right size, drawn from what they were made of."""

    def initial_checkpoint(self, spec: RunSpec) -> bytes:
        """See `Engine`."""
        return _drawn(32, b"genesis", encode_bare(spec))

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
        """See `Engine`."""
        delta = _drawn(32, b"steps", base, order_seed, *shards, *own)
        return LocalDelta(delta, [], 100 * len(shards), [1.0], bytes(SKETCH_BYTES))

    def encode(self, spec: RunSpec, delta: bytes, residual: bytes) -> Encoded:
        """See `Engine`."""
        parts = [
            _drawn(size, b"part", delta, residual, part.to_bytes(4))
            for part, size in enumerate(_part_bytes(spec))
        ]
        left = b"" if CODECS[spec.codec].lossless else _drawn(32, b"residual", delta, residual)
        return Encoded(parts, left)

    def aggregate(
        self, spec: RunSpec, part: int, inputs: Sequence[tuple[bytes, int]], carried: bytes
    ) -> PartAverage:
        """See `Engine`."""
        made = _drawn(32, b"aggregate", carried, *(data for data, _ in inputs))
        left = _drawn(32, b"carried", made) if specs.carries(spec) else b""
        return PartAverage(_drawn(_result_bytes(spec)[part], made), left)

    def collect(self, spec: RunSpec, part: int, inputs: Sequence[tuple[bytes, int]]) -> bytes:
        """See `Engine`."""
        return _drawn(_group_bytes(spec)[part], b"collect", *(data for data, _ in inputs))

    def combine(
        self, spec: RunSpec, part: int, inputs: Sequence[tuple[bytes, int]], carried: bytes
    ) -> PartAverage:
        """See `Engine`."""
        return self.aggregate(spec, part, inputs, carried)

    def contributions(
        self, spec: RunSpec, part: int, inputs: Sequence[tuple[bytes, int]], result: bytes
    ) -> list[int]:
        """All drawn updates are alike."""
        return [1] * len(inputs)

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
        """Refused: a drawn update has no residual of which chunks could be compared."""
        raise SpecError("pay.replay_bps", "must be 0 where nothing is trained")

    def gap(
        self,
        spec: RunSpec,
        base: bytes,
        parts: Sequence[bytes],
        shards: Sequence[bytes],
        order_seed: bytes,
        fresh: Sequence[bytes],
        seed: bytes,
        *,
        average: Sequence[bytes],
    ) -> Gap:
        """Refused: what nobody trained has no loss."""
        raise SpecError("pay.replay_bps", "must be 0 where nothing is trained")

    def outer_step(self, spec: RunSpec, base: bytes, results: Sequence[bytes]) -> bytes:
        """See `Engine`."""
        return _drawn(32, b"step", base, *results)

    def evaluate(self, spec: RunSpec, checkpoint: bytes, data: bytes) -> Evaluation:
        """Nothing is known of a model that is not there."""
        return Evaluation(0.0, 0.0, 0)


class Remembered:
    """Results by a hash of what they were made of, the oldest forgotten first."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, object] = OrderedDict()

    def once(self, make: Callable[[], R], *made_of: object) -> R:
        """What `make` gives, computed the first time only."""
        key = _key(made_of)
        if key not in self._known:
            self._known[key] = make()
            if len(self._known) > REMEMBERED_MAX:
                self._known.popitem(last=False)
        return self._known[key]  # type: ignore[return-value]


class VirtualTrainer:
    """One node's trainer: see `node.ports.Trainer`. Calls but local steps wait for each other."""

    def __init__(
        self, arithmetic: Arithmetic, remembered: Remembered, steps_s: float, draws: random.Random
    ) -> None:
        """`steps_s` is what the device does, give or take a twentieth."""
        self._arithmetic = arithmetic
        self._once = remembered.once
        self._steps_s = steps_s
        self._draws = draws
        self._turn = trio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass

    def part_count(self, spec: RunSpec) -> int:
        """See `Trainer`."""
        return specs.part_count(spec)

    def carries(self, spec: RunSpec) -> bool:
        """See `Trainer`."""
        return specs.carries(spec)

    async def _took(self, seconds: float) -> None:
        async with self._turn:
            await trio.sleep(seconds)

    def _train_s(self, spec: RunSpec) -> float:
        return spec.inner.steps / (self._steps_s * self._draws.uniform(0.95, 1.05))

    async def initial_checkpoint(self, spec: RunSpec) -> bytes:
        """See `Trainer`."""
        await self._took(CALL_S)
        return self._once(lambda: self._arithmetic.initial_checkpoint(spec), "initial", spec)

    async def train(
        self,
        spec: RunSpec,
        base: bytes | Files,
        shards: Sequence[bytes],
        order_seed: bytes,
        residual: bytes | Files,
        rounds_before: int = 0,
        kept: bytes = b"",
        *,
        into: Path | None = None,
    ) -> LocalUpdate:
        """See `Trainer`."""
        await self._took(self._train_s(spec))
        steps = self._arithmetic.local_steps(
            spec, _bytes(base), shards, order_seed, rounds_before, kept
        )
        return steps.encoded(self._arithmetic.encode(spec, steps.delta, _bytes(residual)))

    async def local_steps(
        self,
        spec: RunSpec,
        base: bytes | Files,
        shards: Sequence[bytes],
        order_seed: bytes,
        rounds_before: int = 0,
        kept: bytes = b"",
        own: Sequence[bytes] = (),
    ) -> LocalDelta:
        """See `Trainer`."""
        await trio.sleep(self._train_s(spec))
        return self._arithmetic.local_steps(
            spec, _bytes(base), shards, order_seed, rounds_before, kept, own
        )

    async def encode(
        self, spec: RunSpec, delta: bytes, residual: bytes | Files, *, into: Path | None = None
    ) -> Encoded:
        """See `Trainer`."""
        await self._took(CALL_S)
        return self._arithmetic.encode(spec, delta, _bytes(residual))

    async def aggregate(
        self, spec: RunSpec, part: int, inputs: Sequence[tuple[bytes, int]], carried: bytes
    ) -> PartAverage:
        """See `Trainer`."""
        await self._took(CALL_S)
        make = self._arithmetic.aggregate
        return self._once(
            lambda: make(spec, part, inputs, carried), "aggregate", part, inputs, carried
        )

    async def collect(self, spec: RunSpec, part: int, inputs: Sequence[tuple[bytes, int]]) -> bytes:
        """See `Trainer`."""
        await self._took(CALL_S)
        make = self._arithmetic.collect
        return self._once(lambda: make(spec, part, inputs), "collect", part, inputs)

    async def combine(
        self, spec: RunSpec, part: int, inputs: Sequence[tuple[bytes, int]], carried: bytes
    ) -> PartAverage:
        """See `Trainer`."""
        await self._took(CALL_S)
        make = self._arithmetic.combine
        return self._once(
            lambda: make(spec, part, inputs, carried), "combine", part, inputs, carried
        )

    async def contributions(
        self, spec: RunSpec, part: int, inputs: Sequence[tuple[bytes, int]], result: bytes
    ) -> list[int]:
        """See `Trainer`."""
        await self._took(CALL_S)
        make = self._arithmetic.contributions
        return self._once(
            lambda: make(spec, part, inputs, result), "contributions", part, inputs, result
        )

    async def replay(
        self,
        spec: RunSpec,
        base: bytes | Files,
        shards: Sequence[bytes],
        order_seed: bytes,
        rounds_before: int,
        own: Sequence[bytes],
        parts: Sequence[bytes],
        opened: Opened,
        claimed: Claimed,
    ) -> Replay:
        """See `Trainer`."""
        await trio.sleep(self._train_s(spec))
        return self._arithmetic.replay(
            spec, _bytes(base), shards, order_seed, rounds_before, own, parts, opened, claimed
        )

    async def gap(
        self,
        spec: RunSpec,
        base: bytes | Files,
        parts: Sequence[bytes],
        shards: Sequence[bytes],
        order_seed: bytes,
        fresh: Sequence[bytes],
        seed: bytes,
        *,
        average: Sequence[bytes],
    ) -> Gap:
        """See `Trainer`."""
        await trio.sleep(CALL_S)
        return self._arithmetic.gap(
            spec, _bytes(base), parts, shards, order_seed, fresh, seed, average=average
        )

    async def outer_step(
        self,
        spec: RunSpec,
        base: bytes | Files,
        results: Sequence[bytes],
        *,
        into: Path | None = None,
    ) -> bytes:
        """See `Trainer`."""
        await self._took(STEP_S)
        make, theta = self._arithmetic.outer_step, _bytes(base)
        checkpoint = self._once(lambda: make(spec, theta, results), "step", theta, results)
        if into is None:
            return checkpoint
        into.write_bytes(checkpoint)  # noqa: ASYNC240 (virtual time stands still meanwhile)
        return b""

    async def evaluate(self, spec: RunSpec, checkpoint: bytes, data: bytes) -> Evaluation:
        """See `Trainer`."""
        await self._took(CALL_S)
        make = self._arithmetic.evaluate
        return self._once(lambda: make(spec, checkpoint, data), "evaluate", checkpoint, data)


def _bytes(given: bytes | Files) -> bytes:
    return given.read() if isinstance(given, Files) else given


def _key(made_of: object) -> bytes:
    whole = hashlib.sha256()

    def add(value: object) -> None:
        if isinstance(value, bytes):
            whole.update(b"b%d" % len(value))
            whole.update(value)
        elif isinstance(value, list | tuple):
            whole.update(b"l%d" % len(value))
            for one in value:
                add(one)
        else:
            whole.update(repr(value).encode())

    add(made_of)
    return whole.digest()


def _drawn(size: int, *made_of: bytes) -> bytes:
    whole = hashlib.sha256()
    for data in made_of:
        whole.update(b"%d:" % len(data))
        whole.update(data)
    return hashlib.shake_128(whole.digest()).digest(size)


_part_bytes = lru_cache(maxsize=8)(specs.part_bytes)
_result_bytes = lru_cache(maxsize=8)(specs.result_bytes)
_group_bytes = lru_cache(maxsize=8)(specs.group_bytes)
