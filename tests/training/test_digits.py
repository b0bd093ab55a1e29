"""Four trainers learn handwritten digits from scratch, through the engine, bytes to bytes."""

import hashlib
from dataclasses import replace

import pytest

from eigen.training.presets import DIGITS


@pytest.mark.parametrize("codec", ["int8", "fp32", "2bit"])
def test_four_trainers_learn_the_digits(engine, make_spec, shards, held_out, codec: str) -> None:
    spec = replace(
        make_spec(),
        model=DIGITS.model,
        inner=DIGITS.inner,
        outer=DIGITS.outer,
        codec=codec,
        result_codec=codec,
        aggregation=DIGITS.aggregation,
        part_values=DIGITS.part_values,
    )
    checkpoint = engine.initial_checkpoint(spec)
    assert engine.evaluate(spec, checkpoint, held_out).accuracy < 0.3
    assert engine.part_count(spec) == 5
    residuals = [b""] * 4
    carried = [b""] * 5
    for number in range(DIGITS.rounds):
        updates = []
        for trainer in range(4):
            order = hashlib.sha256(bytes([number, trainer])).digest()
            shard = shards[(trainer + number) % 4]
            update = engine.train(spec, checkpoint, [shard], order, residuals[trainer])
            residuals[trainer] = update.residual
            updates.append(update)
        results = []
        for part in range(5):
            inputs = [(update.parts[part], update.samples) for update in updates]
            average = engine.aggregate(spec, part, inputs, carried[part])
            carried[part] = average.carried
            results.append(average.data)
        checkpoint = engine.outer_step(spec, checkpoint, results)
    assert engine.evaluate(spec, checkpoint, held_out).accuracy >= DIGITS.accuracy
