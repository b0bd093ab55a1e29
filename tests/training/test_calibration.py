"""Tolerances: what they say of a replay, and what measures make of them."""

from dataclasses import replace

import pytest

from eigen.training.calibration import (
    DEFAULTS,
    ENCODING_MAX,
    Inseparable,
    Tolerance,
    Verdict,
    proposed,
    work_id,
)
from eigen.training.datasets import drawn, read_shard, write_shard
from eigen.training.results import Replay

EXACT = Replay(0.0, 0.0, 0.0, 0.0, 160)


def test_a_replay_is_accepted_rejected_or_left_to_another() -> None:
    tolerance = Tolerance(accept=1e-3, reject=1e-2)
    for replay, verdict in [
        (EXACT, Verdict.ACCEPT),
        (replace(EXACT, deviation=1e-3), Verdict.ACCEPT),
        (replace(EXACT, whole_deviation=9e-3), Verdict.ACCEPT),
        (replace(EXACT, whole_deviation=9e-2), Verdict.UNSURE),
        (replace(EXACT, whole_deviation=1.1e-1), Verdict.REJECT),
        (replace(EXACT, trace_deviation=1e-2), Verdict.UNSURE),
        (replace(EXACT, deviation=1.1e-2), Verdict.REJECT),
        (replace(EXACT, trace_deviation=float("inf")), Verdict.REJECT),
        (replace(EXACT, encoding_deviation=2 * ENCODING_MAX), Verdict.REJECT),
    ]:
        assert tolerance.verdict(replay, 160) is verdict
    assert tolerance.verdict(EXACT, 161) is Verdict.REJECT, "samples are counted exactly"


def test_tolerances_lie_between_the_honest_and_the_cheats() -> None:
    tolerance = proposed([1e-6, 1e-4, 0.0], [0.1, 0.2])
    assert tolerance.accept == pytest.approx(1e-3)
    assert tolerance.reject == pytest.approx(1e-2)
    assert proposed([0.0], [0.1]).accept >= 1e-4, "machines that were not measured may differ"
    with pytest.raises(Inseparable, match=r"up to 1\.0e-02, and the slightest cheat by 1\.0e-01"):
        proposed([1e-2], [0.1])
    for accept, reject in [(0.0, 0.1), (0.2, 0.1), (0.1, 1.0), (float("nan"), 0.1)]:
        with pytest.raises(ValueError, match="accept must be above 0"):
            Tolerance(accept, reject)


def test_tolerances_hold_for_a_model_and_its_inner_steps(make_spec) -> None:
    spec = make_spec()
    assert work_id(spec) == work_id(replace(spec, name="other", seed=9, codec="2bit"))
    assert work_id(spec) != work_id(replace(spec, inner=replace(spec.inner, steps=5)))
    assert DEFAULTS.keys() == {"fp32", "bf16"}


@pytest.mark.parametrize("text", [False, True])
def test_drawn_samples_fit_the_largest_model(text: bool) -> None:
    shard = write_shard(drawn(50, inputs=9, classes=256, text=text))
    assert len(read_shard(shard, inputs=9, classes=256, text=text)) == 50
