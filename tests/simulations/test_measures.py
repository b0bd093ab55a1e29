"""What tables say: on rows small enough to work out by hand."""

import math
from pathlib import Path

import numpy as np
import pytest
from runs import about, record_diverged, record_empty, record_run

from eigen.simulations import measures
from eigen.simulations.measures import PHASES
from eigen.simulations.record import Recorder, RunFolder


def test_a_curve_is_the_network_s_rows_in_time(tmp_path: Path) -> None:
    with Recorder(tmp_path, "", about()) as recorder:
        recorder.metric(2.0, "loss", 1.0, round_=2)
        recorder.metric(1.0, "loss", 3.0, round_=1)
        recorder.metric(1.5, "loss", 9.0, node="a")
        recorder.metric(3.0, "loss", math.inf, round_=3)
        recorder.finish()
    loss = measures.curve(RunFolder.open(tmp_path), "loss")
    assert loss.time_s.tolist() == [1, 2, 3]
    assert loss.round.tolist() == [1, 2, 3]
    assert loss.value[:2].tolist() == [3, 1]
    assert math.isnan(loss.value[2])
    assert loss.last() == 1


def test_quantiles_are_over_the_nodes_of_a_round(tmp_path: Path) -> None:
    with Recorder(tmp_path, "", about()) as recorder:
        for node in range(11):
            recorder.metric(0.0, "bytes_sent", node, f"n{node}", 4)
        recorder.metric(0.0, "bytes_sent", 5.0, "n1", 2)
        recorder.metric(0.0, "bytes_sent", math.nan, "n2", 2)
        recorder.metric(0.0, "bytes_sent", math.nan, "n2", 3)
        recorder.finish()
    sent = measures.by_round(RunFolder.open(tmp_path), "bytes_sent")
    assert sent.round.tolist() == [2, 3, 4]
    assert sent.quantiles[0].tolist() == [5, 5, 5, 5]
    assert np.isnan(sent.quantiles[1]).all()
    assert sent.quantiles[2].tolist() == [1, 5, 9, 10]
    assert sent.total.tolist() == [5, 0, 55]


def test_a_phase_lasts_until_the_node_does_something_else(tmp_path: Path) -> None:
    with Recorder(tmp_path, "", about()) as recorder:
        recorder.event(0.0, "a", "seat", 1, 0)
        recorder.event(1.0, "b", "seat", 1, 0)
        recorder.event(2.0, "a", "train", 1, 0)
        recorder.event(3.0, "b", "train", 1, 0)
        recorder.event(4.0, "b", "down", 1, 0)
        recorder.event(5.0, "a", "seat", 1, 1)  # the attempt was given up
        recorder.event(6.0, "a", "note", 1, 1, "no phase")
        recorder.event(7.0, "a", "adopt", 1, 1)
        recorder.event(9.0, "b", "seat", 2, 0)  # and then the run stopped
        recorder.event(2.5, "c", "train", 1, 0)  # never heard of again in this round
        recorder.event(40.0, "c", "train", 5, 0)
        recorder.event(8.0, "d", "attest", 1, 1)  # late: the round was adopted before
        recorder.finish()
    spans = measures.phase_spans(RunFolder.open(tmp_path))
    assert [
        (spans.nodes[n], PHASES[p], attempt, start, end)
        for n, p, attempt, start, end in zip(
            spans.node, spans.phase, spans.attempt, spans.start_s, spans.end_s, strict=True
        )
    ] == [
        ("a", "seat", 0, 0, 2),
        ("a", "train", 0, 2, 5),
        ("a", "seat", 1, 5, 7),
        ("b", "seat", 0, 1, 3),
        ("b", "train", 0, 3, 4),
        ("c", "train", 0, 2.5, 7),
    ]
    whole = measures.round_spans(spans)
    assert [
        (PHASES[p], attempt, start, end)
        for p, attempt, start, end in zip(
            whole.phase, whole.attempt, whole.start_s, whole.end_s, strict=True
        )
    ] == [("seat", 0, 0, 3), ("train", 0, 2, 7), ("seat", 1, 5, 7)]


def test_a_validator_s_seating_ends_when_training_begins(tmp_path: Path) -> None:
    with Recorder(tmp_path, "", about()) as recorder:
        recorder.event(0.0, "v", "seat", 1, 0)
        recorder.event(2.0, "b", "train", 1, 0)
        recorder.event(1.0, "a", "train", 1, 0)
        for node in "ab":
            recorder.event(7.0, node, "adopt", 1, 0)
        recorder.event(8.0, "v", "seat", 1, 1)  # an attempt in which nobody trained
        recorder.event(9.0, "v", "attest", 1, 1)
        recorder.finish()
    spans = measures.phase_spans(RunFolder.open(tmp_path))
    seats = spans.where(spans.phase == PHASES.index("seat"))
    assert seats.start_s.tolist() == [0, 8]
    assert seats.end_s.tolist() == [1, 9]


def test_shares_are_means_over_rounds(tmp_path: Path) -> None:
    with Recorder(tmp_path, "", about()) as recorder:
        recorder.describe(adversaries={"b": "lazy"})
        for round_, norms in ((1, (3.0, 1.0)), (2, (1.0, math.nan))):
            for node, norm in zip("ab", norms, strict=True):
                recorder.metric(round_, "contributed", norm, node, round_)
        recorder.metric(1.0, "credited", 0.5, "a", 1)
        recorder.metric(1.0, "credited", 0.5, "b", 1)
        recorder.metric(2.0, "credited", 0.0, "a", 2)  # nobody was paid: no round
        recorder.finish()
    run = RunFolder.open(tmp_path)
    shares = measures.shares(run)
    assert shares.nodes == ["a", "b"]
    assert shares.behaviour == ["honest", "lazy"]
    assert shares.credited.tolist() == [0.5, 0.5]
    assert shares.contributed.tolist() == [(0.75 + 1) / 2, 0.125]
    assert measures.headline(run)["pay to adversaries"] == 0.5


def test_penalties_name_whom_and_why(tmp_path: Path) -> None:
    with Recorder(tmp_path, "", about()) as recorder:
        recorder.describe(adversaries={"liar": "sign-flip", "thief": "copycat"})
        recorder.event(5.0, "v", "penalize", 1, 0, "liar: again")
        recorder.event(3.0, "w", "penalize", 1, 0, "liar: part 3: differs")
        recorder.event(4.0, "w", "penalize", 1, 0, "saint")
        recorder.finish()
    run = RunFolder.open(tmp_path)
    found = measures.penalties(run)
    assert found.by == ["w", "w", "v"]
    assert found.whom == ["liar", "saint", "liar"]
    assert found.why == ["part 3: differs", "", "again"]
    assert found.first() == {"liar": 3, "saint": 4}
    headline = measures.headline(run)
    assert headline["adversaries"] == 2
    assert headline["adversaries penalized"] == 1
    assert headline["honest penalized"] == 1


def test_the_headline_of_a_whole_run(tmp_path: Path) -> None:
    headline = measures.headline(record_run(tmp_path))
    assert headline["rounds"] == 6
    assert headline["loss"] == pytest.approx(2.3 / 6)
    assert headline["accuracy"] == pytest.approx(0.85)
    assert headline["attempts mean"] == pytest.approx(7 / 6)
    assert headline["adversaries"] == headline["adversaries penalized"] == 3
    assert headline["honest penalized"] == 0
    assert headline["pay to adversaries"] == 0
    assert headline["assertions held"] == headline["assertions"] == 1
    assert headline["events"] == 123_456


def test_nothing_recorded_gives_nothing(tmp_path: Path) -> None:
    run = record_empty(tmp_path)
    assert len(measures.phase_spans(run)) == len(measures.round_spans(measures.phase_spans(run)))
    assert len(measures.phase_spans(run)) == 0
    headline = measures.headline(run)
    assert headline["rounds"] == headline["penalized"] == 0
    assert headline["adversaries"] is headline["honest penalized"] is None
    assert headline["loss"] is headline["bytes sent"] is headline["pay to adversaries"] is None


def test_a_diverged_run_has_a_headline(tmp_path: Path) -> None:
    headline = measures.headline(record_diverged(tmp_path))
    assert headline["loss"] == 1
    assert headline["bytes sent"] == 1
    assert headline["virtual_s"] is None
