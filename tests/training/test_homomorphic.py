"""Encrypted gradients against the same arithmetic in the clear, and training with them."""

from collections.abc import Iterable
from functools import cache

import numpy as np
import pytest

from eigen.crypto.ckks import bundle
from eigen.crypto.ckks import parameters as ckks
from eigen.crypto.ckks.evaluation import EvaluationKeys
from eigen.crypto.ckks.secret import SecretKey
from eigen.crypto.errors import MalformedCiphertext
from eigen.training.errors import Diverged, StateError
from eigen.training.homomorphic import encoders, layout, sigmoid
from eigen.training.homomorphic.circuit import GRADIENT_LEVEL, Circuit
from eigen.training.homomorphic.descent import Rates, State
from eigen.training.homomorphic.gradients import EncryptedShard
from eigen.training.homomorphic.head import Head
from eigen.training.homomorphic.layout import BlockLayout
from eigen.training.homomorphic.owner import ImplausibleSum, Owner


@cache
def key() -> SecretKey:
    return SecretKey.generate()


def rows(kind: str, count: int, features: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    x_nd = draw.uniform(-2, 2, (count, features))
    if kind == "linear":
        return x_nd, x_nd @ draw.standard_normal(features)
    return x_nd, np.arange(count, dtype=float) % (2 if kind == "logistic" else 3)


def shards_of(x: np.ndarray, y: np.ndarray, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(x[i::count], y[i::count]) for i in range(count)]


@cache
def two_trainers(kind: str, features: int) -> tuple[Owner, EvaluationKeys, list[EncryptedShard]]:
    x, y = rows(kind, 500, features)
    owner = Owner(key(), Head.fitting(kind, y), shards_of(x, y, 2))
    keys = EvaluationKeys(owner.evaluation_keys(), owner.layout.steps)
    linear = owner.head.linear
    held = [
        EncryptedShard(keys, owner.layout, packed(owner.encrypted_shard(i)), linear=linear)
        for i in (0, 1)
    ]
    return owner, keys, held


def summed(owner: Owner, keys: EvaluationKeys, parts: list[bytes]) -> bytes:
    scale = Circuit.of(keys.parameters, linear=owner.head.linear).gradient
    return packed(keys.add(parts, owner.layout.K * owner.layout.C, GRADIENT_LEVEL, scale))


def packed(items: Iterable[bytes]) -> bytes:
    return bundle.pack(list(items))


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
@pytest.mark.parametrize(("kind", "features"), [("logistic", 31), ("softmax", 20), ("linear", 3)])
def test_the_decrypted_sum_is_the_gradient(kind: str, features: int, encrypted: bool) -> None:
    owner, keys, held = two_trainers(kind, features)
    x, y = rows(kind, 500, features)
    w_dK = 0.2 * np.random.default_rng(1).standard_normal((features, owner.head.outputs))
    question = owner.question(w_dK)
    weights = packed(owner.encrypted_weights(question)) if encrypted else question.scaled
    parts = [packed(shard.gradient(weights, question.cubic.k)) for shard in held]
    found = owner.gradient(summed(owner, keys, parts), question)
    wanted = x.T @ owner.head.residual(x, y, w_dK, question.cubic) / len(x)
    assert np.abs(found - wanted).max() < 1e-3 * np.abs(wanted).max()
    assert parts[0] == packed(held[0].gradient(weights, question.cubic.k)), (
        "whoever repeats it can tell"
    )


def test_a_sum_that_no_data_can_give_is_noticed() -> None:
    owner, keys, held = two_trainers("logistic", 31)
    question = owner.question(np.full((31, 1), 0.1))
    part = packed(held[0].gradient(question.scaled, question.cubic.k))
    stranger = SecretKey.generate().encrypt(np.ones(8), GRADIENT_LEVEL, owner._circuit.gradient)
    for bad in (summed(owner, keys, [part] * 40), bundle.pack([stranger] * owner.layout.C)):
        with pytest.raises(ImplausibleSum, match="at most"):
            owner.gradient(bad, question)
    with pytest.raises(MalformedCiphertext):
        owner.gradient(part[:-9], question)


def test_zero_weights_and_short_shards_are_refused() -> None:
    owner, keys, held = two_trainers("logistic", 31)
    with pytest.raises(MalformedCiphertext, match="zero"):
        next(held[0].gradient(np.zeros((31, 1)), 1.0))
    with pytest.raises(MalformedCiphertext):
        EncryptedShard(keys, owner.layout, packed(owner.encrypted_shard(0))[:1000], linear=False)


def test_sums_that_would_wrap_around_are_refused_before_anything_is_encrypted() -> None:
    x, y = rows("linear", 500, 3)
    owner = Owner(key(), Head.fitting("linear", y), shards_of(100 * x, y, 2))
    with pytest.raises(Diverged, match=r"lower training\.lr"):
        owner.question(np.full((3, 1), 5.0))


@pytest.mark.parametrize(("n", "d"), [(1, 1), (113, 30), (512, 768), (4096, 7)])
def test_a_layout_gives_back_what_went_in(n: int, d: int) -> None:
    made = BlockLayout(n, d, 1)
    x = np.random.default_rng(0).standard_normal((n, d))
    slots = made.features(x)
    assert len(slots) == made.C
    assert made.B * made.F == layout.SLOTS == ckks.SLOTS
    assert np.allclose(made.gradient(slots), x.sum(0))
    w = np.arange(1.0, d + 1)
    z = sum(a * b for a, b in zip(slots, made.weights(w), strict=True))
    for step in made.steps:
        z = z + np.roll(z, -step)
    assert np.allclose(z, made.rows(x @ w))


def test_the_polynomial_follows_the_activations() -> None:
    z = np.linspace(-6, 6, 101)
    assert np.abs(sigmoid.fitted(5.9)(z) + 0.5 - sigmoid.logistic(z)).max() < 0.3
    for magnitude in (0.0, 6.0, 6.1, 40.0, 5000.0):
        made = sigmoid.fitted(magnitude)
        assert magnitude <= made.range <= 1.1001 * max(magnitude, 6)
        assert np.abs(made(np.linspace(-made.range, made.range, 99))).max() < 1
    for wild in (1e9, float("inf"), float("nan")):
        with pytest.raises(OverflowError, match="lower the learning rate"):
            sigmoid.fitted(wild)


def test_steps_go_through_bytes_exactly_and_stop_early() -> None:
    rates = Rates(lr=0.5, patience=2)
    state = State.start(3, 2)
    for loss in (1.0, 0.5, 0.7, 0.6):
        state = state.step(np.ones((3, 2)) / 3, rates).judged(loss)
        again = State.from_bytes(state.to_bytes())
        assert again.to_bytes() == state.to_bytes()
        assert np.array_equal(again.ahead(rates), state.ahead(rates))
    assert (state.round, state.best_round, state.best_loss) == (4, 2, 0.5)
    assert state.done(rates, 20)
    assert not state.done(Rates(lr=0.5, patience=0), 20)
    with pytest.raises(StateError):
        State.from_bytes(state.to_bytes()[:-1])


def test_encoders_are_deterministic_and_white() -> None:
    x = np.random.default_rng(0).standard_normal((200, 5)) * [1, 2, 3, 4, 5] + 7
    waves = encoders.fourier(x, 64, seed=1)
    assert np.array_equal(waves(x), encoders.fourier(x, 64, seed=1)(x))
    white = encoders.whitened(waves(x), 9)
    features = white(waves(x))
    assert features.shape == (200, 9)
    assert np.all(features[:, -1] == 1)
    assert np.allclose(np.cov(features[:, :-1].T, bias=True), np.eye(8), atol=0.02)
    assert encoders.standardised(np.ones((4, 2)))(np.ones((4, 2)))[:, 0].max() == 0
    with pytest.raises(ValueError, match=r"encoder\.dimension"):
        encoders.whitened(x, 99)


@pytest.mark.parametrize(
    ("kind", "labels", "said"),
    [
        ("softmax", [0, 2], "without gaps"),
        ("logistic", [0, 1, 2], "softmax"),
        ("softmax", [0], "0"),
    ],
    ids=["gap", "three", "one"],
)
def test_labels_that_are_no_classes_are_refused(kind: str, labels: list[int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Head.fitting(kind, np.array(labels, float))
