"""A validator does a trainer's round again: honest ones pass, and no way of not working does."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from eigen.protocol.limits import SKETCH_BYTES
from eigen.protocol.run import InnerSpec, RunSpec
from eigen.training.codecs.registry import CODECS
from eigen.training.errors import BadInput, ShardError, SpecError
from eigen.training.replay import chunks_to_open, open_chunks, opened_chunks
from eigen.training.results import LocalUpdate, Replay
from eigen.training.spec import part_sizes

ORDER, OTHER_ORDER, SEED = b"order".ljust(32), b"other".ljust(32), b"seed"
EXACT, HONEST_MOST, CHEAT_LEAST = 1e-6, 5e-3, 3e-2
"""Distances on one machine, the most to be accepted, and what every cheat here comes to."""


@dataclass(frozen=True)
class Scene:
    """A run in its second round, the residual that the first one left, and an honest update."""

    engine: object
    spec: RunSpec
    first: bytes
    base: bytes
    shards: list[bytes]
    residual: bytes
    update: LocalUpdate

    def trained(self, spec: RunSpec | None = None, **changed) -> LocalUpdate:
        work = {"base": self.base, "shards": self.shards[:1], "order_seed": ORDER} | changed
        return self.engine.train(spec or self.spec, residual=self.residual, rounds_before=1, **work)

    def opened(self, update: LocalUpdate) -> list[tuple[int, bytes, bytes]]:
        return open_chunks(chunks_to_open(self.spec, SEED), self.residual, update.residual)

    def replayed(self, update: LocalUpdate, **changed) -> Replay:
        claims = {
            "parts": update.parts,
            "opened": self.opened(update),
            "claimed": (update.loss_trace, update.sketch),
        }
        return self.engine.replay(
            self.spec, self.base, self.shards[:1], ORDER, 1, [], **(claims | changed)
        )


MakeScene = Callable[..., Scene]


@pytest.fixture
def make_scene(engine, make_spec, shards) -> MakeScene:
    def make(codec: str, moments: str = "fresh") -> Scene:
        spec = make_spec(
            mlp={"hidden": 240},
            codec=codec,
            result_codec=CODECS[codec].answer,
            inner=InnerSpec(steps=10, batch=16, lr=0.005, weight_decay=0.01, moments=moments),
            part_values=9_000,
        )
        assert len(part_sizes(spec)) == 3
        first = engine.initial_checkpoint(spec)
        update = engine.train(spec, first, shards[:1], OTHER_ORDER, b"")
        parts = [(data, update.samples) for data in update.parts]
        results = [engine.aggregate(spec, i, [part], b"").data for i, part in enumerate(parts)]
        base = engine.outer_step(spec, first, results)
        scene = Scene(engine, spec, first, base, shards, update.residual, update)
        return replace(scene, update=scene.trained())

    return make


@pytest.mark.parametrize("codec", CODECS)
def test_an_honest_round_is_exact_on_the_same_machine(make_scene, codec: str) -> None:
    scene = make_scene(codec)
    replay = scene.replayed(scene.update)
    assert replay.furthest < EXACT
    assert replay.encoding_deviation < EXACT
    assert replay.samples == scene.update.samples == 160
    assert replay == scene.replayed(scene.update, opened=scene.opened(scene.update)[::-1])


def test_an_honest_first_round_has_no_residual_before(make_scene) -> None:
    scene = replace(make_scene("2bit"), residual=b"")
    replay = scene.replayed(scene.trained())
    assert max(replay.furthest, replay.encoding_deviation) < EXACT


def test_an_honest_overlapped_round_begins_after_the_trainers_own(make_scene) -> None:
    scene = make_scene("int8")
    steps = scene.engine.local_steps(
        scene.spec, scene.base, scene.shards[:1], ORDER, 1, own=scene.update.parts
    )
    update = steps.encoded(scene.engine.encode(scene.spec, steps.delta, scene.residual))
    claims = (update.parts, scene.opened(update), (update.loss_trace, update.sketch))
    work = (scene.spec, scene.base, scene.shards[:1], ORDER, 1)
    assert scene.engine.replay(*work, scene.update.parts, *claims).furthest < EXACT
    assert scene.engine.replay(*work, [], *claims).furthest > CHEAT_LEAST


def _fewer_steps(scene: Scene) -> LocalUpdate:
    """Nine of ten, and a loss made up for the tenth."""
    inner = replace(scene.spec.inner, steps=9)
    update = scene.trained(replace(scene.spec, inner=inner))
    return replace(update, loss_trace=[*update.loss_trace, update.loss_trace[-1]], samples=160)


def _scaled(scene: Scene) -> LocalUpdate:
    codec, sizes = CODECS[scene.spec.codec], part_sizes(scene.spec)
    pairs = zip(scene.update.parts, sizes, strict=False)
    parts = [codec.encode(codec.decode(data, values) * 1.5) for data, values in pairs]
    return replace(scene.update, parts=parts + scene.update.parts[len(sizes) :])


def _zeros(scene: Scene) -> LocalUpdate:
    codec, sizes = CODECS[scene.spec.codec], part_sizes(scene.spec)
    parts = [codec.encode(torch.zeros(values)) for values in sizes]
    return replace(scene.update, parts=parts + scene.update.parts[len(sizes) :])


CHEATS = {
    "a step in ten left out": _fewer_steps,
    "another shard": lambda scene: scene.trained(shards=scene.shards[1:2]),
    "another order": lambda scene: scene.trained(order_seed=OTHER_ORDER),
    "a stale checkpoint": lambda scene: scene.trained(base=scene.first),
    "scaled": _scaled,
    "zeros": _zeros,
}


@pytest.mark.parametrize("cheat", CHEATS)
@pytest.mark.parametrize("codec", ["fp32", "2bit", "top64-1bit"])
def test_work_not_done_is_far_off(make_scene, codec: str, cheat: str) -> None:
    scene = make_scene(codec)
    assert scene.replayed(CHEATS[cheat](scene)).furthest > CHEAT_LEAST


@pytest.mark.parametrize("cheat", [_scaled, _zeros])
@pytest.mark.parametrize("codec", ["int8", "1bit", "top256-2bit"])
def test_the_residual_cannot_make_up_for_what_was_sent(make_scene, codec: str, cheat) -> None:
    """Honest work, other parts, and a residual with which the sum is right."""
    scene = make_scene(codec)
    update = cheat(scene)

    def decoded(parts: list[bytes]) -> np.ndarray:
        pairs = zip(parts, part_sizes(scene.spec), strict=False)
        return np.concatenate([CODECS[codec].decode(d, values).numpy() for d, values in pairs])

    wanted_P = decoded(scene.update.parts) + np.frombuffer(scene.update.residual, "<f4")
    update = replace(update, residual=(wanted_P - decoded(update.parts)).tobytes())
    replay = scene.replayed(update)
    assert replay.furthest < HONEST_MOST, "the sum is right"
    assert replay.encoding_deviation > CHEAT_LEAST


def test_lies_about_trace_sketch_and_moments_are_far_off(make_scene) -> None:
    scene = make_scene("int8", moments="shared")
    update, parts = scene.update, scene.update.parts
    assert scene.replayed(update).furthest < EXACT
    trace = [loss * 0.9 for loss in update.loss_trace]
    assert scene.replayed(update, claimed=(trace, update.sketch)).trace_deviation > CHEAT_LEAST
    sketch = bytes(SKETCH_BYTES)
    assert scene.replayed(update, claimed=(trace, sketch)).whole_deviation == 1.0
    assert len(parts) == 4
    louder = [*parts[:3], bytes(min(code + 1, 255) for code in parts[3])]
    assert scene.replayed(update, parts=louder).deviation > CHEAT_LEAST


def test_rounding_that_tips_a_unit_is_no_lie_but_only_so_much_of_it(make_scene) -> None:
    scene = make_scene("2bit")
    [(number, before, after), *others] = scene.opened(scene.update)
    tipped = np.frombuffer(after, "<f4").copy()
    tipped[:64] += 10 * np.abs(tipped).mean()
    replay = scene.replayed(scene.update, opened=[(number, before, tipped.tobytes()), *others])
    assert replay.deviation < EXACT
    assert replay.whole_deviation > CHEAT_LEAST
    assert replay.furthest == pytest.approx(replay.whole_deviation / 10)


def test_claims_that_no_honest_trainer_makes_are_the_trainers_fault(make_scene) -> None:
    scene = make_scene("2bit")
    update, opened = scene.update, scene.opened(scene.update)
    [(number, before, after), *others] = opened
    broken = np.frombuffer(after, "<f4").copy()
    broken[7] = np.nan
    for wrong, where, why in [
        ({"parts": update.parts[:-1]}, 2, "2 parts"),
        ({"parts": [update.parts[0], b"?", update.parts[2]]}, 1, "1 bytes where"),
        ({"opened": [(number, before, after[:-1]), *others]}, number, "4095 bytes of residual"),
        ({"opened": [(number, before, b""), *others]}, number, "0 bytes of residual"),
        ({"opened": [(number, before, broken.tobytes()), *others]}, number, "NaN"),
        ({"opened": [(number, broken.tobytes(), after), *others]}, number, "NaN"),
        ({"claimed": (update.loss_trace[1:], update.sketch)}, 0, "loss trace"),
        ({"claimed": ([float("inf")] * 10, update.sketch)}, 0, "loss trace"),
        ({"claimed": ([1e300] * 10, update.sketch)}, 0, "loss trace"),
        ({"claimed": (update.loss_trace, update.sketch[1:])}, 0, "255 bytes"),
        ({"claimed": (update.loss_trace, b"\xff" * SKETCH_BYTES)}, 0, "sketch has NaN"),
    ]:
        with pytest.raises(BadInput, match=why) as refused:
            scene.replayed(update, **wrong)
        assert refused.value.index == where, why
    exact = make_scene("fp32")
    with pytest.raises(BadInput, match="leaves none"):
        exact.replayed(exact.update, opened=[(0, b"", after)])
    huge = np.full(1024, 1e18, "<f4").tobytes()
    replay = scene.replayed(update, opened=[(number, before, huge), (number + 1, huge, huge)])
    assert replay.deviation > 1e9


def test_what_cannot_be_replayed_is_said_so(make_scene) -> None:
    scene = make_scene("int8", moments="kept")
    with pytest.raises(SpecError, match=r"inner\.moments: kept ones are not public"):
        scene.replayed(scene.update)
    scene = make_scene("int8")
    with pytest.raises(ValueError, match="no chunk was opened"):
        scene.replayed(scene.update, opened=[])
    with pytest.raises(ValueError, match="chunk 18, the vector has 18"):
        scene.replayed(scene.update, opened=[(18, b"", b"")])
    with pytest.raises(ShardError, match="no shard was given"):
        scene.engine.replay(
            scene.spec, scene.base, [], ORDER, 1, [], [], [], ([], scene.update.sketch)
        )


def test_chunks_are_drawn_evenly_and_in_runs() -> None:
    assert opened_chunks(b"a", 5_000, 8) == (0, 1, 2, 3, 4)
    drawn = [opened_chunks(bytes([i]), 100 * 1024, 8) for i in range(200)]
    assert all(len(set(chunks)) == 8 and chunks == tuple(sorted(chunks)) for chunks in drawn)
    counts = np.bincount(np.concatenate(drawn), minlength=100)
    assert counts.min() >= 4
    assert counts.max() <= 32
    assert opened_chunks(b"a", 10**9, 4) == opened_chunks(b"a", 10**9, 4)
    runs = opened_chunks(b"a", 10**9, 16, 8)
    assert len(runs) == 16
    assert np.flatnonzero(np.diff(runs) != 1).tolist() == [7]


def test_the_chunks_of_a_seed_are_pinned() -> None:
    """A version that changes them would open other chunks than trainers expect."""
    assert opened_chunks(b"seed", 1_000_000, 5) == (89, 110, 286, 642, 926)
    assert opened_chunks(b"seed", 1_000_000, 6, 3) == (286, 287, 288, 926, 927, 928)
