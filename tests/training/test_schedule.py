"""Learning-rate schedules: the same for everybody, and no round starts them anew."""

import hashlib
from dataclasses import replace

import pytest
import torch

from eigen.protocol.run import InnerSpec, RunSpec
from eigen.training import checkpoint as checkpoints
from eigen.training.datasets import read_shard
from eigen.training.inner import local_steps
from eigen.training.models import build
from eigen.training.schedule import rates
from eigen.training.spec import check

ORDER = b"order".ljust(32)


def scheduled(spec: RunSpec, schedule: str, warmup: int = 0) -> RunSpec:
    return replace(spec, inner=replace(spec.inner, schedule=schedule, warmup=warmup))


def whole_run(spec: RunSpec) -> list[float]:
    return [rate for number in range(spec.rounds) for rate in rates(spec, number)]


def test_rates_are_these(make_spec) -> None:
    spec = make_spec(rounds=2, inner=InnerSpec(steps=4, batch=1, lr=0.8, weight_decay=0.0))
    assert whole_run(spec) == [0.8] * 8
    linear = whole_run(scheduled(spec, "linear"))
    assert linear == pytest.approx([0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    cosine = whole_run(scheduled(spec, "cosine"))
    assert cosine[::2] == pytest.approx([0.8, 0.6828427, 0.4, 0.1171573])
    warmed = whole_run(scheduled(spec, "linear", warmup=4))
    assert warmed == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.6, 0.4, 0.2])
    assert whole_run(scheduled(spec, "constant", warmup=2)) == [0.4] + [0.8] * 7


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 1, 5, 23])
def test_rates_do_not_depend_on_how_steps_are_cut_into_rounds(
    make_spec, schedule: str, warmup: int
) -> None:
    spec = scheduled(make_spec(), schedule, warmup)
    once = replace(spec, rounds=1, inner=replace(spec.inner, steps=24))
    assert whole_run(spec) == rates(once, 0)
    assert all(0.0 < rate <= spec.inner.lr for rate in whole_run(spec))


def test_a_round_that_the_run_does_not_have_is_refused(engine, make_spec, shards) -> None:
    spec = scheduled(make_spec(), "cosine")
    base = engine.initial_checkpoint(spec)
    for number in (-1, 6):
        with pytest.raises(ValueError, match="the run has 6"):
            engine.train(spec, base, shards[:1], ORDER, b"", number)


def test_one_trainer_makes_the_steps_of_the_schedule(engine, make_spec, shards) -> None:
    """Fresh moments, one trainer, SGD with rate 1: the rounds are AdamW at the schedule's rates."""
    from eigen.protocol.run import OuterSpec

    outer = OuterSpec("sgd", 1.0, 0.0)
    spec = scheduled(make_spec(codec="fp32", result_codec="fp32", outer=outer), "linear", warmup=6)
    declared = check(spec)
    checkpoint = engine.initial_checkpoint(spec)
    theta_P = checkpoints.read(checkpoint, spec, declared).theta_P
    samples = read_shard(shards[0], inputs=declared.inputs, classes=declared.classes)
    for number in range(spec.rounds):
        order = hashlib.sha256(bytes([number])).digest()
        local = local_steps(
            build(declared), theta_P, samples, spec.inner, order, rates=rates(spec, number)
        )
        theta_P = theta_P - local.delta_P
        update = engine.train(spec, checkpoint, shards[:1], order, b"", number)
        checkpoint = engine.outer_step(spec, checkpoint, update.parts)
        assert torch.equal(checkpoints.read(checkpoint, spec, declared).theta_P, theta_P)


@pytest.mark.parametrize("moments", ["fresh", "shared"])
def test_a_validator_replays_a_round_that_it_knows_the_number_of(
    engine, make_spec, shards, moments: str
) -> None:
    spec = scheduled(make_spec(), "cosine", warmup=4)
    spec = replace(spec, inner=replace(spec.inner, moments=moments))
    base = engine.initial_checkpoint(spec)
    first = engine.train(spec, base, shards[:1], ORDER, b"", 0)
    base = engine.outer_step(
        spec,
        base,
        [
            engine.aggregate(spec, part, [(data, first.samples)], b"").data
            for part, data in enumerate(first.parts)
        ],
    )
    update = engine.train(spec, base, shards[:1], ORDER, first.residual, 3)
    assert update == engine.train(spec, base, shards[:1], ORDER, first.residual, 3)
    assert update.parts != engine.train(spec, base, shards[:1], ORDER, first.residual, 4).parts


def test_the_first_moment_is_what_the_last_round_moved_by_at_its_own_rates(engine) -> None:
    from eigen.training.adamw import AdamW, begun

    spec = InnerSpec(steps=25, batch=32, lr=0.003, weight_decay=0.0)
    grad_P = torch.randn(1000, generator=torch.Generator().manual_seed(3)) * 0.1
    moved_P = torch.zeros(1000)
    falling = [spec.lr * (1 - step / 25) for step in range(25)]
    optimizer = AdamW(moved_P, spec)
    for rate in falling:
        optimizer.step(grad_P, rate)
    before = begun(-moved_P, optimizer.second(), falling, spec.steps)
    assert torch.allclose(before.first_P, grad_P, rtol=1e-2, atol=1e-4)
