"""Shards and held-out sets: fair splits, canonical bytes, strict reading."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eigen.training import tensorfile
from eigen.training.datasets import (
    FORMAT,
    TEXT_FORMAT,
    Samples,
    digits,
    join,
    read_shard,
    sequences,
    split,
    write_shard,
)
from eigen.training.errors import ShardError


def test_digits_are_split_in_proportion_and_without_overlap() -> None:
    training, held_out = digits(seed=0)
    assert len(training) == 1437
    assert len(held_out) == 360
    whole = np.bincount(np.concatenate([training.y_N, held_out.y_N]))
    assert np.abs(np.bincount(held_out.y_N) - whole / 5).max() <= 1
    rows = {row.tobytes() for row in training.x_NF}
    duplicates = sum(row.tobytes() in rows for row in held_out.x_NF)
    assert duplicates == 0
    assert training.x_NF.max() == 255


def test_the_split_follows_its_seed() -> None:
    assert write_shard(digits(0)[1]) == write_shard(digits(0)[1])
    assert write_shard(digits(0)[1]) != write_shard(digits(1)[1])


def test_shards_hold_every_sample_once_and_every_class() -> None:
    training, _ = digits(seed=0)
    shards = split(training, 4, seed=0)
    assert [len(shard) for shard in shards] == [360, 359, 359, 359]
    dealt = sorted(row.tobytes() for shard in shards for row in shard.x_NF)
    assert dealt == sorted(row.tobytes() for row in training.x_NF)
    assert all(len(set(shard.y_N)) == 10 for shard in shards)
    with pytest.raises(ValueError, match="cannot make 1438 shards"):
        split(training, 1438, seed=0)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_shard_is_read_back_as_written(dtype) -> None:
    samples = Samples(np.arange(12, dtype=dtype).reshape(4, 3), np.array([0, 1, 2, 1], np.uint8))
    back = read_shard(write_shard(samples), inputs=3, classes=3)
    assert np.array_equal(back.x_NF, samples.x_NF)
    assert back.x_NF.dtype == dtype
    assert np.array_equal(back.y_N, samples.y_N)


X, Y = np.zeros((4, 3), np.float32), np.array([0, 1, 2, 1], np.uint8)


@pytest.mark.parametrize(
    ("arrays", "metadata", "reason"),
    [
        ({"x": X}, {"format": FORMAT}, "not a file of x and y"),
        ({"x": X, "y": Y, "z": Y}, {"format": FORMAT}, "not a file of x and y"),
        ({"x": X, "y": Y}, {"format": "other"}, "not a file of x and y"),
        ({"x": X, "y": Y.astype(np.float32)}, {"format": FORMAT}, "y is not a list of bytes"),
        ({"x": X, "y": Y.reshape(2, 2)}, {"format": FORMAT}, "y is not a list of bytes"),
        ({"x": X[:3], "y": Y}, {"format": FORMAT}, r"x has shape \(3, 3\), not \(4, 3\)"),
        ({"x": X[:, :2], "y": Y}, {"format": FORMAT}, r"x has shape \(4, 2\), not \(4, 3\)"),
        ({"x": X, "y": Y + 1}, {"format": FORMAT}, "y has label 3, the model has 3 classes"),
        ({"x": X + np.float32("nan"), "y": Y}, {"format": FORMAT}, "x has NaN or infinite"),
    ],
)
def test_what_the_model_cannot_read_is_refused(arrays, metadata, reason: str) -> None:
    with pytest.raises(ShardError, match=reason):
        read_shard(tensorfile.write(arrays, metadata), inputs=3, classes=3)


@settings(deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_arbitrary_bytes_are_a_named_error(data: bytes, text: bool) -> None:
    with pytest.raises(ShardError):
        read_shard(data, inputs=3, classes=3, text=text)


TOKENS = np.array([[0, 1, 2, 1], [2, 2, 0, 1]], np.uint8)


def test_text_is_read_back_as_tokens_and_what_follows_them() -> None:
    data = write_shard(sequences(TOKENS))
    assert tensorfile.read(data)[1]["tokens"].tolist() == TOKENS.tolist()
    back = read_shard(data, inputs=3, classes=3, text=True)
    assert (len(back), back.are_text) == (2, True)
    assert back.x_NF.tolist() == [[0, 1, 2], [2, 2, 0]]
    assert back.y_N.tolist() == [[1, 2, 1], [2, 0, 1]]
    both = join([back, back.take(np.array([1]))])
    assert write_shard(both) == write_shard(sequences(TOKENS[[0, 1, 1]]))
    assert sorted(len(shard) for shard in split(both, 2, seed=0)) == [1, 2]


@pytest.mark.parametrize(
    ("tokens", "reason"),
    [
        (TOKENS[:, :3], "tokens are not bytes, 4 in each sequence"),
        (TOKENS[0], "tokens are not bytes, 4 in each sequence"),
        (TOKENS.astype(np.float32), "tokens are not bytes"),
        (TOKENS + 1, "a token 3, the model knows 3"),
    ],
)
def test_text_that_the_model_cannot_read_is_refused(tokens, reason: str) -> None:
    data = tensorfile.write({"tokens": tokens}, {"format": TEXT_FORMAT})
    with pytest.raises(ShardError, match=reason):
        read_shard(data, inputs=3, classes=3, text=True)


def test_a_shard_of_the_other_kind_is_refused() -> None:
    with pytest.raises(ShardError, match="not a file of x and y"):
        read_shard(write_shard(sequences(TOKENS)), inputs=3, classes=3)
    with pytest.raises(ShardError, match="not a file of tokens"):
        read_shard(write_shard(Samples(X, Y)), inputs=3, classes=3, text=True)


def test_shards_of_two_kinds_do_not_join() -> None:
    pictures = Samples(X.astype(np.uint8), Y)
    numbers = Samples(X, Y)
    assert len(join([numbers, numbers])) == 8
    with pytest.raises(ShardError, match="uint8"):
        join([pictures, numbers])
    with pytest.raises(ShardError, match="no shard"):
        join([])
