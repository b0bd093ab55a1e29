"""Shared second moments: folded, a byte a value, the median of trainers, kept in checkpoints."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from eigen.protocol.run import RunSpec
from eigen.training import checkpoint as checkpoints
from eigen.training import tensorfile
from eigen.training.errors import BadInput, CheckpointError, CodecError, ResidualError
from eigen.training.layout import Layout
from eigen.training.moments import LEAST, MOST, decode, encode, fold, folded, median, unfold
from eigen.training.spec import check, moment_sizes, part_bytes, part_count, part_sizes

LAYOUT = Layout.of({"a.weight": (3, 4), "a.bias": (3,), "b.weight": (2, 3, 5, 5)})
ORDER = b"order".ljust(32)

moments = hnp.arrays(
    np.float32, st.integers(1, 300), elements=st.floats(LEAST, MOST, width=32), fill=st.nothing()
)


def test_a_matrix_folds_into_its_rows_and_columns() -> None:
    places = {name: place for name, _, place in folded(LAYOUT).slots()}
    assert {name: place.stop - place.start for name, place in places.items()} == {
        "a.bias": 3,
        "a.weight/col": 4,
        "a.weight/row": 3,
        "b.weight/col": 75,
        "b.weight/row": 2,
    }
    second_P = np.arange(1, LAYOUT.values + 1, dtype=np.float32)
    folded_M = fold(LAYOUT, second_P)
    assert folded_M[places["a.bias"]].tolist() == [1, 2, 3]
    assert folded_M[places["a.weight/row"]].tolist() == [5.5, 9.5, 13.5]
    assert folded_M[places["a.weight/col"]].tolist() == [8, 9, 10, 11]


def test_a_moment_of_rank_one_comes_back() -> None:
    generator = np.random.default_rng(1)
    second_P = np.concatenate(
        [
            generator.random(3),
            np.outer(generator.random(3), generator.random(4)).reshape(-1),
            np.outer(generator.random(2), generator.random(75)).reshape(-1),
        ]
    ).astype(np.float32)
    assert np.allclose(unfold(LAYOUT, fold(LAYOUT, second_P)), second_P, rtol=1e-5)
    zeros_P = np.zeros(LAYOUT.values, np.float32)
    assert unfold(LAYOUT, fold(LAYOUT, zeros_P)).tolist() == zeros_P.tolist()


def test_the_most_that_a_liar_can_say_stays_finite() -> None:
    count = folded(LAYOUT).values
    for said in (bytes(count), b"\xff" * count, b"\0" * (count // 2) + b"\xff" * (-(-count // 2))):
        second_P = unfold(LAYOUT, decode(said, count))
        assert np.isfinite(second_P).all()
        assert (second_P > 0).all()


@settings(deadline=None)
@given(moments)
def test_a_byte_is_within_an_eighth(second_M: np.ndarray) -> None:
    back_M = decode(encode(second_M), len(second_M))
    assert (np.abs(back_M - second_M) <= second_M / 8).all()
    assert encode(back_M) == encode(second_M), "what was decoded is not rounded again"


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_every_byte_decodes_in_order_and_lengths_are_checked(data: bytes) -> None:
    second_M = decode(data, len(data))
    assert encode(second_M) == data
    assert np.array_equal(second_M.argsort(kind="stable"), np.argsort(list(data), kind="stable"))
    with pytest.raises(CodecError, match=f"{len(data)} bytes where {len(data) + 1} are expected"):
        decode(data, len(data) + 1)


def test_what_is_out_of_range_is_taken_to_the_bound_and_nan_is_refused() -> None:
    extreme_M = np.array([0.0, 1e-30, 1e30, np.inf], np.float32)
    assert decode(encode(extreme_M), 4).tolist() == [LEAST, LEAST, MOST, MOST]
    with pytest.raises(CodecError, match="NaN"):
        encode(np.array([1.0, np.nan], np.float32))


@pytest.mark.parametrize(
    ("said", "samples", "agreed"),
    [
        ([7], [1], 7),
        ([3, 9], [5, 5], 9),
        ([3, 9, 4], [5, 5, 5], 4),
        ([3, 9, 4, 200], [5, 5, 5, 5], 9),
        ([0, 9, 4], [11, 5, 5], 0),
        ([0, 9, 4], [10, 5, 5], 4),
    ],
)
def test_the_median_goes_by_samples_and_takes_the_larger_of_two(said, samples, agreed) -> None:
    assert median([bytes([code, code]) for code in said], samples) == bytes([agreed, agreed])


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 255), st.integers(1, 64)), min_size=3, max_size=9))
def test_liars_with_less_than_half_stay_between_the_honest(honest) -> None:
    codes, samples = zip(*honest, strict=True)
    room = (sum(samples) - 1) // 2
    for lie in (0, 255):
        if room:
            said = [bytes([code]) for code in (*codes, lie, lie)]
            weights = [*samples, -(-room // 2), max(1, room // 2)]
            if sum(weights[-2:]) < sum(samples):
                assert min(codes) <= median(said, weights)[0] <= max(codes)


# In a run -----------------------------------------------------------------------------------------
@pytest.fixture
def spec(make_spec) -> RunSpec:
    spec = make_spec()
    return replace(spec, inner=replace(spec.inner, moments="shared"))


def rounds(engine, spec: RunSpec, shards: list[bytes], count: int) -> list[bytes]:
    """The checkpoints of some rounds of two trainers."""
    states = [engine.initial_checkpoint(spec)]
    for number in range(count):
        updates = []
        for trainer in range(2):
            order = hashlib.sha256(bytes([number, trainer])).digest()
            updates.append(engine.train(spec, states[-1], [shards[trainer]], order, b""))
        results = [
            engine.aggregate(spec, part, [(u.parts[part], u.samples) for u in updates], b"").data
            for part in range(engine.part_count(spec))
        ]
        states.append(engine.outer_step(spec, states[-1], results))
    return states


def test_moments_travel_in_parts_after_the_pseudo_gradients(engine, spec, shards) -> None:
    assert part_sizes(spec) == [804, 803, 803]
    assert moment_sizes(spec) == [64 + 32 + 32 + 32 + 10 + 10]
    assert part_count(spec) == 4
    update = engine.train(spec, engine.initial_checkpoint(spec), shards[:1], ORDER, b"")
    assert [len(part) for part in update.parts] == part_bytes(spec)
    assert len(update.residual) == 4 * 2410, "error feedback is for the pseudo-gradient"
    assert moment_sizes(replace(spec, inner=replace(spec.inner, moments="fresh"))) == []
    assert moment_sizes(replace(spec, part_values=256)) == [180]
    assert moment_sizes(replace(spec, part_values=100)) == [90, 90]


def test_a_round_begins_from_what_its_checkpoint_says(engine, spec, shards) -> None:
    fresh = replace(spec, inner=replace(spec.inner, moments="fresh"))
    shared_states = rounds(engine, spec, shards, 2)
    fresh_states = rounds(engine, fresh, shards, 2)
    shared, alone = (
        checkpoints.read(states[1], run, check(run))
        for states, run in ((shared_states, spec), (fresh_states, fresh))
    )
    assert torch.equal(shared.theta_P, alone.theta_P), "the first round knows no moment yet"
    assert shared.moments is not None
    assert shared.moments.steps == 4
    initial = checkpoints.read(shared_states[0], spec, check(spec))
    moved_P = initial.theta_P - shared.theta_P
    assert torch.allclose(moved_P, shared.moments.delta_P * 0.7 * 1.5, atol=1e-6), "Nesterov's step"
    assert float(shared.moments.folded_M.min()) >= LEAST
    shared, alone = (
        checkpoints.read(states[2], run, check(run))
        for states, run in ((shared_states, spec), (fresh_states, fresh))
    )
    assert not torch.equal(shared.theta_P, alone.theta_P)
    assert shared.moments is not None
    assert shared.moments.steps == 8


def test_a_replay_from_the_checkpoint_alone_gives_every_bit(engine, spec, shards) -> None:
    base = rounds(engine, spec, shards, 1)[-1]
    update = engine.train(spec, base, shards[:1], ORDER, b"")
    assert update == engine.train(spec, base, shards[:1], ORDER, b"")
    metadata, arrays = tensorfile.read(base)
    steps = {**arrays, "moment/steps": np.array([400], np.float32)}
    larger = {**arrays, "moment/layer00.weight/col": arrays["moment/layer00.weight/col"] * 4}
    other_way = {**arrays, "update/layer00.weight": -arrays["update/layer00.weight"]}
    for other in (steps, larger, other_way):
        changed = engine.train(spec, tensorfile.write(other, metadata), shards[:1], ORDER, b"")
        assert changed.parts != update.parts


def test_one_liar_does_not_set_the_others_step_size(engine, spec, shards) -> None:
    base = engine.initial_checkpoint(spec)
    said = [engine.train(spec, base, [shard], ORDER, b"").parts[3] for shard in shards[:2]]
    honest_M = np.stack([decode(data, 180) for data in said])
    for lie in (bytes(180), b"\xff" * 180):
        agreed = engine.aggregate(spec, 3, [(data, 64) for data in (*said, lie)], b"")
        agreed_M = decode(agreed.data, 180)
        assert (agreed_M >= honest_M.min(0)).all()
        assert (agreed_M <= honest_M.max(0)).all()
        assert agreed.carried == b""


def test_bad_moment_parts_are_refused_by_index(engine, spec, shards) -> None:
    base = engine.initial_checkpoint(spec)
    parts = engine.train(spec, base, shards[:1], ORDER, b"").parts
    with pytest.raises(BadInput, match="input 1: 179 bytes where 180 are expected"):
        engine.aggregate(spec, 3, [(parts[3], 64), (parts[3][1:], 64)], b"")
    with pytest.raises(BadInput, match="input 0: 65 samples"):
        engine.aggregate(spec, 3, [(parts[3], 65)], b"")
    with pytest.raises(ResidualError, match="of moments nothing is carried, 4 bytes"):
        engine.aggregate(spec, 3, [(parts[3], 64)], bytes(4))
    with pytest.raises(BadInput, match="input 3: 181 bytes where 180 are expected"):
        engine.outer_step(spec, base, [*parts[:3], parts[3] + b"\0"])
    with pytest.raises(ValueError, match="3 results, the run has 4 parts"):
        engine.outer_step(spec, base, parts[:3])


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("moment/steps", np.array([2.5], np.float32), "steps is 2.5, not a count"),
        ("moment/steps", np.array([-1], np.float32), "steps is -1.0, not a count"),
        ("moment/steps", np.array([65537], np.float32), "not a count up to 65536"),
        ("moment/steps", np.array([1, 2], np.float32), "has shape"),
        ("moment/layer00.bias", np.full(32, -1, np.float32), "moment is negative"),
        ("moment/layer00.bias", np.full(32, np.nan, np.float32), "NaN"),
        ("moment/layer00.weight/row", np.zeros(64, np.float32), "has shape"),
        ("update/layer00.bias", np.full(32, np.inf, np.float32), "NaN or infinite"),
        ("update/layer00.bias", np.zeros(31, np.float32), "has shape"),
        ("moment/layer00.weight", np.zeros(64, np.float32), "does not belong"),
    ],
)
def test_a_checkpoint_with_other_moments_is_refused(engine, spec, name, value, reason) -> None:
    data = engine.initial_checkpoint(spec)
    tensors = safetensors.numpy.load(data)
    assert tensors["moment/layer00.weight/col"].shape == (64,)
    assert tensors["moment/steps"].tolist() == [0]
    metadata, arrays = tensorfile.read(data)
    with pytest.raises(CheckpointError, match=reason):
        checkpoints.read(tensorfile.write({**arrays, name: value}, metadata), spec, check(spec))
    fresh = replace(spec, inner=replace(spec.inner, moments="fresh"))
    with pytest.raises(CheckpointError, match="does not belong"):
        checkpoints.read(data, fresh, check(fresh))
    with pytest.raises(CheckpointError, match="is missing"):
        checkpoints.read(engine.initial_checkpoint(fresh), spec, check(spec))
