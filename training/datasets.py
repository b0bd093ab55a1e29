"""Samples and their canonical bytes: shards to train on, held-out sets to judge by.

A shard of labelled samples is a safetensors file of `x` [N, F] and `y` [N]; uint8 features are
pictures, fp32 features are taken as they are. A shard of text is one of `tokens` [N, T+1], of which
all but the last are read and all but the first are foretold. Knows no torch and no encryption.

Shape legend: N samples, F features, T tokens of a sequence.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eigen.training import tensorfile
from eigen.training.errors import ShardError, TensorFileError
from eigen.training.streams import permutation, random_bytes

FORMAT = "eigen-shard-1"
TEXT_FORMAT = "eigen-text-1"
SHARD_BYTES_MAX = 1 << 30
"""A trainer holds its shards in memory, next to the model."""
SAMPLES_MAX = 1 << 24
"""Samples of one round's shards: drawing an order of 16M takes seconds."""
DIGITS_HELD_OUT = 360
"""A fifth of the 1,797 digits."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Features (uint8 or fp32, [N, F]) with labels (uint8, [N]), or tokens with the next (uint8).

    Of text, both are [N, T], and `y_N` is what follows: one place further on in the text.
    """

    x_NF: NDArray[np.uint8] | NDArray[np.float32]
    y_N: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.y_N)

    @property
    def are_text(self) -> bool:
        """Whether there is a label for each token."""
        return self.y_N.ndim == 2

    def take(self, index: NDArray[np.int64]) -> "Samples":
        """The samples at these places."""
        return Samples(self.x_NF[index], self.y_N[index])


def sequences(tokens_NT: NDArray[np.uint8]) -> Samples:
    """Sequences of T+1 tokens, [N, T+1], as tokens to read and tokens to foretell."""
    return Samples(tokens_NT[:, :-1], tokens_NT[:, 1:])


def digits(seed: int) -> tuple[Samples, Samples]:
    """Handwritten digits (UCI optical recognition, bundled with scikit-learn): training, held out.

    1,437 and 360 samples of 64 features, split so that both have every class in proportion. Raises
    ImportError with the command to run where scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ImportError("the digits come with scikit-learn: pip install scikit-learn") from None
    pixels, labels = load_digits(return_X_y=True)
    everything = Samples((pixels * 255 // 16).astype(np.uint8), labels.astype(np.uint8))
    count = len(everything)
    order = permutation("held-out", seed.to_bytes(8, "little"), count)
    by_class = order[np.argsort(everything.y_N[order], kind="stable")]
    places = (2 * np.arange(DIGITS_HELD_OUT) + 1) * count // (2 * DIGITS_HELD_OUT)
    kept = np.setdiff1d(np.arange(count), by_class[places])
    return everything.take(kept), everything.take(np.sort(by_class[places]))


def drawn(count: int, *, inputs: int, classes: int, text: bool = False) -> Samples:
    """Samples without any sense, for a model of so many inputs and classes: to measure with."""
    label_N = random_bytes("labels", b"", count) % np.uint16(classes)
    value_NF = random_bytes("inputs", b"", count * (inputs + text)).reshape(count, -1)
    if text:
        return sequences((value_NF % np.uint16(classes)).astype(np.uint8))
    return Samples(value_NF, label_N.astype(np.uint8))


def split(samples: Samples, shards: int, seed: int) -> list[Samples]:
    """Deal samples at random into shards whose sizes differ by at most one."""
    if not 1 <= shards <= len(samples):
        raise ValueError(f"{len(samples)} samples cannot make {shards} shards")
    order = permutation("shards", seed.to_bytes(8, "little"), len(samples))
    return [samples.take(order[i::shards]) for i in range(shards)]


def write_shard(samples: Samples) -> bytes:
    """The canonical bytes of a shard or a held-out set."""
    if samples.are_text:
        tokens_NT = np.concatenate([samples.x_NF, samples.y_N[:, -1:]], axis=1)
        return tensorfile.write({"tokens": tokens_NT}, {"format": TEXT_FORMAT})
    return tensorfile.write({"x": samples.x_NF, "y": samples.y_N}, {"format": FORMAT})


def read_shard(data: bytes, *, inputs: int, classes: int, text: bool = False) -> Samples:
    """The samples in `data`, for a model of so many inputs and classes.

    Raises `ShardError` where the bytes are not canonical, a shape or dtype does not fit, a label or
    token is out of range, or a feature is NaN or infinite.
    """
    if text:
        [tokens_NT] = _arrays(data, TEXT_FORMAT, "tokens")
        if tokens_NT.dtype != np.uint8 or tokens_NT.ndim != 2 or tokens_NT.shape[1] != inputs + 1:
            raise ShardError(f"tokens are not bytes, {inputs + 1} in each sequence")
        if int(tokens_NT.max()) >= classes:
            raise ShardError(f"there is a token {tokens_NT.max()}, the model knows {classes}")
        return sequences(tokens_NT)
    x_NF, y_N = _arrays(data, FORMAT, "x", "y")
    if y_N.dtype != np.uint8 or y_N.ndim != 1:
        raise ShardError("y is not a list of bytes")
    if x_NF.shape != (len(y_N), inputs):
        raise ShardError(f"x has shape {x_NF.shape}, not ({len(y_N)}, {inputs})")
    if int(y_N.max()) >= classes:
        raise ShardError(f"y has label {y_N.max()}, the model has {classes} classes")
    if x_NF.dtype == np.float32 and not np.isfinite(x_NF).all():
        raise ShardError("x has NaN or infinite values")
    return Samples(x_NF, y_N)


def _arrays(data: bytes, form: str, *names: str) -> list[tensorfile.Array]:
    if len(data) > SHARD_BYTES_MAX:
        raise ShardError(f"{len(data)} bytes, at most {SHARD_BYTES_MAX} allowed")
    try:
        metadata, arrays = tensorfile.read(data)
    except TensorFileError as error:
        raise ShardError(str(error)) from None
    if metadata != {"format": form} or arrays.keys() != set(names):
        raise ShardError(f"not a file of {' and '.join(names)} with format {form}")
    return [arrays[name] for name in names]


def join(shards: Sequence[Samples]) -> Samples:
    """One after another. Raises `ShardError` where they cannot be trained on together."""
    if not shards:
        raise ShardError("no shard was given")
    if len({shard.x_NF.dtype for shard in shards}) > 1:
        raise ShardError("some shards have uint8 features and others fp32")
    if sum(map(len, shards)) > SAMPLES_MAX:
        raise ShardError(f"more than {SAMPLES_MAX} samples in one round")
    if len(shards) == 1:
        return shards[0]
    return Samples(
        np.concatenate([shard.x_NF for shard in shards]),
        np.concatenate([shard.y_N for shard in shards]),
    )
