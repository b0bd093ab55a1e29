"""Randomness that every node and every version agrees on: streams of SHAKE-256 (FIPS 202).

A stream is named by what it is for and by its seed. Library generators are not used: their streams
differ between versions and instruction sets. Knows no torch.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

_BLOCK_BYTES = 1 << 22
"""A stream is squeezed in blocks of 4 MiB, so that a long one never needs its length twice."""


def random_bytes(purpose: str, seed: bytes, count: int) -> NDArray[np.uint8]:
    """`count` bytes of the stream (`purpose`, `seed`).

    Block k holds SHAKE-256("eigen/stream/1" ‖ u8 length ‖ purpose ‖ seed ‖ u64le k). The purpose is
    shorter than 256 bytes.
    """
    name = purpose.encode()
    prefix = b"eigen/stream/1" + bytes([len(name)]) + name + seed
    out = np.empty(count, np.uint8)
    for start in range(0, count, _BLOCK_BYTES):
        size = min(_BLOCK_BYTES, count - start)
        index = (start // _BLOCK_BYTES).to_bytes(8, "little")
        block = hashlib.shake_256(prefix + index).digest(size)
        out[start : start + size] = np.frombuffer(block, np.uint8)
    return out


def uniform(purpose: str, seed: bytes, count: int) -> NDArray[np.float32]:
    """`count` fp32 values in [-1, 1), multiples of 2^-23: exact, so equal on every machine."""
    words = random_bytes(purpose, seed, 4 * count).view("<u4")
    return ((words >> 8).astype(np.float32) - np.float32(2**23)) * np.float32(2**-23)


def permutation(purpose: str, seed: bytes, count: int) -> NDArray[np.int64]:
    """A permutation of range(`count`): the stable order of `count` little-endian u64 keys."""
    keys = random_bytes(purpose, seed, 8 * count).view("<u8")
    return np.argsort(keys, kind="stable").astype(np.int64)


def batch_indices(
    order_seed: bytes, samples: int, steps: int, batch: int, taken: int = 0
) -> NDArray[np.int64]:
    """Which samples each inner step uses, shape [steps, batch], for a trainer and a validator.

    Samples are numbered through the assigned shards in the order in which they are given. The
    epochs' permutations (of the streams "epoch/0", "epoch/1", …) stand one after the other; step k
    takes the next `batch` of them, over the end of an epoch where need be. The first `taken` of
    them were used before.
    """
    first, start = divmod(taken, samples)
    stop = start + steps * batch
    epochs = range(first, first - (-stop // samples))
    order = [permutation(f"epoch/{epoch}", order_seed, samples) for epoch in epochs]
    return np.concatenate(order)[start:stop].reshape(steps, batch)
