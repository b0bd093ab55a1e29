"""A small language model through the engine: it learns, and a replay gives every bit."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from eigen.protocol.run import InnerSpec, ModelSpec, OuterSpec, RunSpec
from eigen.training import checkpoint as checkpoints
from eigen.training.datasets import split, write_shard
from eigen.training.spec import check
from eigen.training.text import VOCABULARY, standard_library

OPTIONS = {"context": 32, "depth": 2, "heads": 2, "vocabulary": VOCABULARY, "width": 32}
ORDER = b"order".ljust(32)


@pytest.fixture
def spec(make_spec) -> RunSpec:
    return replace(
        make_spec(),
        model=ModelSpec("gpt", tuple(sorted(OPTIONS.items()))),
        inner=InnerSpec(steps=10, batch=16, lr=0.004, weight_decay=0.01),
        outer=OuterSpec("sgd", 1.0, 0.0),
        part_values=10_000,
    )


@pytest.fixture(scope="module")
def text() -> tuple[list[bytes], bytes]:
    """Two shards, and 200 sequences held out."""
    training, held_out = standard_library(OPTIONS["context"], unpinned=True)
    few = held_out.take(np.arange(200))
    return [write_shard(shard) for shard in split(training, 2, seed=0)], write_shard(few)


def test_two_trainers_learn_to_write(engine, spec, text) -> None:
    shards, held_out = text
    checkpoint = engine.initial_checkpoint(spec)
    before = engine.evaluate(spec, checkpoint, held_out)
    assert 4.5 < before.loss < 5.5, "about ln 128: the model knows nothing"
    assert before.samples == 200
    residuals = [b""] * 2
    for number in range(4):
        updates = []
        for trainer in range(2):
            order = hashlib.sha256(bytes([number, trainer])).digest()
            update = engine.train(spec, checkpoint, [shards[trainer]], order, residuals[trainer])
            residuals[trainer] = update.residual
            updates.append(update)
        results = [
            engine.aggregate(spec, part, [(u.parts[part], u.samples) for u in updates], b"").data
            for part in range(engine.part_count(spec))
        ]
        checkpoint = engine.outer_step(spec, checkpoint, results)
    after = engine.evaluate(spec, checkpoint, held_out)
    assert after.loss < 3.1, "the characters' own frequencies give 3.13"
    assert after.accuracy > before.accuracy + 0.1


@pytest.mark.parametrize(
    "change", [{}, {"micro_batches": 4}, {"precision": "bf16"}, {"precision": "bf16", "steps": 3}]
)
def test_a_replay_gives_every_bit(engine, spec, text, change) -> None:
    spec = replace(spec, inner=replace(spec.inner, **change))
    base = engine.initial_checkpoint(spec)
    first = engine.train(spec, base, text[0][:1], ORDER, b"")
    assert first == engine.train(spec, base, text[0][:1], ORDER, b"")
    assert first.samples == 16 * spec.inner.steps
    other = engine.train(spec, base, text[0][:1], b"other".ljust(32), b"")
    assert other.parts != first.parts


def test_the_deepest_models_checkpoint_has_room_for_its_header(engine, spec) -> None:
    options = {"context": 2, "depth": 32, "heads": 1, "vocabulary": 2, "width": 8}
    deep = replace(
        spec,
        model=ModelSpec("gpt", tuple(sorted(options.items()))),
        inner=replace(spec.inner, moments="shared"),
        outer=OuterSpec("nesterov", 0.7, 0.9),
    )
    data = engine.initial_checkpoint(deep)
    assert int.from_bytes(data[:8], "little") > 64 * 1024
    state = checkpoints.read(data, deep, check(deep))
    assert checkpoints.write(state, check(deep)) == data


def test_a_classifiers_shard_is_refused(engine, spec, shards) -> None:
    from eigen.training.errors import ShardError

    with pytest.raises(ShardError, match="shard 0: not a file of tokens"):
        engine.train(spec, engine.initial_checkpoint(spec), shards[:1], ORDER, b"")
