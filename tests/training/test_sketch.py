"""Sketches are linear, keep inner products roughly, and depend on the round."""

import hashlib

import numpy as np
import torch

from eigen.protocol.limits import SKETCH_BYTES
from eigen.training.sketch import sketch, sketch_seed

SEED = sketch_seed(b"a checkpoint")


def values(data: bytes) -> np.ndarray:
    return np.frombuffer(data, "<f4").astype(np.float64)


def random_delta(seed: int, count: int = 20_001) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def test_a_sketch_has_64_values_and_is_linear() -> None:
    one, other = random_delta(1), random_delta(2)
    assert len(sketch(one, SEED)) == SKETCH_BYTES
    both = values(sketch(one - 2 * other, SEED))
    assert np.allclose(both, values(sketch(one, SEED)) - 2 * values(sketch(other, SEED)), atol=1e-3)


def test_norms_and_angles_show_in_the_sketch() -> None:
    one, noise = random_delta(1), random_delta(2)
    ratios = [
        np.linalg.norm(values(sketch(random_delta(seed), SEED))) / float(random_delta(seed).norm())
        for seed in range(20)
    ]
    assert min(ratios) > 0.6
    assert max(ratios) < 1.4
    copied = values(sketch(one, SEED))
    assert cosine(copied, values(sketch(one + 0.05 * noise, SEED))) > 0.98
    assert cosine(copied, values(sketch(-one, SEED))) < -0.98
    assert abs(cosine(copied, values(sketch(noise, SEED)))) < 0.5


def test_signs_follow_the_rounds_checkpoint() -> None:
    assert sketch_seed(b"a checkpoint") == hashlib.sha256(b"eigen/sketch/1a checkpoint").digest()
    one = random_delta(1)
    assert sketch(one, SEED) == sketch(one, SEED)
    assert abs(cosine(values(sketch(one, SEED)), values(sketch(one, sketch_seed(b"next"))))) < 0.5


def test_a_vector_shorter_than_the_sketch_is_there_up_to_signs() -> None:
    short = torch.tensor([1.0, -2.0, 3.0])
    assert sorted(np.abs(values(sketch(short, SEED))))[-3:] == [1.0, 2.0, 3.0]
    assert np.count_nonzero(values(sketch(short, SEED))) == 3
