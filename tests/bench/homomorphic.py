"""Measures training on ciphertexts: CPU seconds a trainer and round, accuracy, bytes and memory.

`python tests/bench/homomorphic.py --json` prints one JSON object (minutes); `--quick` does less.

Four trainers, each with a quarter of the rows as ciphertexts. Beside the encrypted run stand the
same rounds in the clear, with the same polynomial and with the logistic function itself, and the
gradient as TenSEAL's tutorials compute it: a row a `CKKSVector`. Seconds are CPU time of the
trainer's work, as the machine may be shared. The wide case runs in a process of its own, so that
its peak of memory is its own.
"""

import argparse
import json
import mmap
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tenseal as ts
from sklearn.datasets import load_breast_cancer, load_digits

from eigen.crypto.ckks import bundle
from eigen.crypto.ckks.evaluation import EvaluationKeys
from eigen.crypto.ckks.secret import SecretKey
from eigen.training.homomorphic import encoders
from eigen.training.homomorphic.circuit import GRADIENT_LEVEL, Circuit
from eigen.training.homomorphic.descent import Rates, State
from eigen.training.homomorphic.gradients import EncryptedShard
from eigen.training.homomorphic.head import Head
from eigen.training.homomorphic.layout import BlockLayout
from eigen.training.homomorphic.owner import Owner, Values

TRAINERS = 4
ROUNDS = 20
DIGITS = Rates(lr=0.3, l2=0.003, patience=0)
BREAST_CANCER = Rates(lr=0.1, l2=0.03, patience=0)
HELD_OUT = 0.2


@dataclass(frozen=True)
class Split:
    """Features as they are encrypted, and targets."""

    train: tuple[Values, Values]
    test: tuple[Values, Values]


@dataclass(frozen=True)
class Measured:
    """One encrypted run. Bytes are of one trainer and round; shard bytes against fp32 ones."""

    cpu_s: float
    owner_cpu_s: float
    accuracy: float
    same_polynomial: float
    exact: float
    weight_bytes: int
    gradient_bytes: int
    shard_bytes: int
    expansion: float
    keys_bytes: int
    gradient_error: float


def split(x: Values, y: Values, seed: int) -> tuple[Values, Values, Values, Values]:
    order = np.random.default_rng(seed).permutation(len(x))
    test, train = np.split(order, [round(HELD_OUT * len(x))])
    return x[train], y[train].astype(float), x[test], y[test].astype(float)


def breast_cancer(seed: int) -> Split:
    x, y, xt, yt = split(*load_breast_cancer(return_X_y=True), seed)
    encode = encoders.standardised(x)
    return Split((encode(x), y), (encode(xt), yt))


def digits(seed: int) -> Split:
    x, y, xt, yt = split(*load_digits(return_X_y=True), seed)
    waves = encoders.fourier(x / 16, 1024, seed)
    encode = encoders.whitened(waves(x / 16), 64)
    return Split((encode(waves(x / 16)), y), (encode(waves(xt / 16)), yt))


def shards(x: Values, y: Values) -> list[tuple[Values, Values]]:
    return [(x[i::TRAINERS], y[i::TRAINERS]) for i in range(TRAINERS)]


def packed(items: Iterable[bytes]) -> bytes:
    return bundle.pack(list(items))


def in_the_clear(made: Split, head: Head, rates: Rates, rounds: int, *, exact: bool) -> float:
    x, y = made.train
    state = State.start(x.shape[1], head.outputs)
    for _ in range(rounds):
        ahead = state.ahead(rates)
        residual = head.residual(x, y, ahead, None if exact else head.fit(x, ahead))
        state = state.step(x.T @ residual / len(x), rates)
    return head.score(*made.test, state.w_dK)


def encrypted(
    made: Split, kind: str, rates: Rates, rounds: int, *, weights_too: bool, key: SecretKey
) -> Measured:
    x, y = made.train
    head = Head.fitting(kind, y)
    owner = Owner(key, head, shards(x, y))
    published = owner.evaluation_keys()
    keys = EvaluationKeys(published, owner.layout.steps)
    stored = [packed(owner.encrypted_shard(i)) for i in range(TRAINERS)]
    held = [EncryptedShard(keys, owner.layout, data, linear=head.linear) for data in stored]
    scale = Circuit.of(keys.parameters, linear=head.linear).gradient
    state = State.start(x.shape[1], head.outputs)
    trainers_s = owner_s = error = 0.0
    weights: Any = None
    parts: list[bytes] = []
    for _ in range(rounds):
        began = time.process_time()
        question = owner.question(state.ahead(rates))
        weights = packed(owner.encrypted_weights(question)) if weights_too else question.scaled
        owner_s += time.process_time() - began
        began = time.process_time()
        parts = [packed(shard.gradient(weights, question.cubic.k)) for shard in held]
        total = packed(keys.add(parts, head.outputs * owner.layout.C, GRADIENT_LEVEL, scale))
        trainers_s += time.process_time() - began
        began = time.process_time()
        gradient = owner.gradient(total, question)
        owner_s += time.process_time() - began
        plain = x.T @ head.residual(x, y, question.w_dK, question.cubic) / len(x)
        error = max(error, float(np.abs(gradient - plain).max() / np.abs(plain).max()))
        state = state.step(gradient, rates)
    return Measured(
        cpu_s=trainers_s / TRAINERS / rounds,
        owner_cpu_s=owner_s / rounds,
        accuracy=head.score(*made.test, state.w_dK),
        same_polynomial=in_the_clear(made, head, rates, rounds, exact=False),
        exact=in_the_clear(made, head, rates, rounds, exact=True),
        weight_bytes=len(weights) if weights_too else weights.nbytes,
        gradient_bytes=len(parts[0]),
        shard_bytes=len(stored[0]),
        expansion=len(stored[0]) / (4 * clear(x)),
        keys_bytes=len(published),
        gradient_error=error,
    )


def clear(x: Values) -> int:
    """Numbers in one trainer's shard: features and label."""
    return len(x[0::TRAINERS]) * (x.shape[1] + 1)


def mean(runs: list[Measured], name: str) -> float:
    return float(np.mean([getattr(run, name) for run in runs]))


# the tutorials' way -------------------------------------------------------------------------------
def tutorial(rows: int, features: int, measured: int) -> dict[str, float]:
    """CPU seconds and bytes of one trainer's gradient, each row a `CKKSVector`.

    As in TenSEAL's tutorial 1: encrypted weights, x · w + b, the sigmoid's cubic, x · (p - y). A
    row costs what a row costs, so `measured` rows stand for all.
    """
    context = ts.context(ts.SCHEME_TYPE.CKKS, 8192, -1, [40, 21, 21, 21, 21, 21, 21, 40])
    context.global_scale = 2**21
    context.generate_galois_keys()
    draw = np.random.default_rng(0)
    x = draw.uniform(-2, 2, (measured, features))
    held = [(ts.ckks_vector(context, row), ts.ckks_vector(context, [1.0])) for row in x]
    weight = ts.ckks_vector(context, draw.uniform(-0.1, 0.1, features))
    bias = ts.ckks_vector(context, [0.1])
    total = None
    began = time.process_time()
    for row, label in held:
        out = row.dot(weight) + bias
        difference = out.polyval([0.5, 0.197, 0, -0.004]) - label
        share = row * difference
        total = share if total is None else total + share
    cpu_s = (time.process_time() - began) / measured * rows
    assert total is not None
    row_bytes = sum(len(part.serialize()) for part in held[0])
    weights = len(weight.serialize()) + len(bias.serialize())
    return {
        "cpu_s": cpu_s,
        "shard_bytes": row_bytes * rows,
        "round_bytes": weights + len(total.serialize()),
        "keys_bytes": len(context.serialize(save_secret_key=False)),
    }


# large shards -------------------------------------------------------------------------------------
def large(rows: int, features: int, outputs: int, *, weights_too: bool) -> dict[str, float]:
    """One trainer with one shard, in a process of its own."""
    draw = np.random.default_rng(0)
    x = draw.standard_normal((rows, features)).clip(-2, 2)
    y = np.arange(rows, dtype=float) % max(outputs, 2)
    owner = Owner(
        SecretKey.generate(), Head.fitting("softmax" if outputs > 1 else "logistic", y), [(x, y)]
    )
    question = owner.question(0.01 * draw.standard_normal((features, outputs)))
    size = owner.layout.C
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        (path / "keys").write_bytes(owner.evaluation_keys())
        bundle.write(path / "shard", owner.encrypted_shard(0), count=size + outputs)
        if weights_too:
            items = owner.encrypted_weights(question)
            bundle.write(path / "weights", items, count=size * outputs)
        else:
            np.save(path / "weights.npy", question.scaled, allow_pickle=False)
        numbers = [rows, features, outputs, question.cubic.k]
        done = subprocess.run(
            [sys.executable, __file__, "--trainer", folder, *map(str, numbers)],
            check=True,
            capture_output=True,
            text=True,
        )
        found: dict[str, float] = json.loads(done.stdout)
        gradient = owner.gradient((path / "gradient").read_bytes(), question)
        plain = x.T @ owner.head.residual(x, y, question.w_dK, question.cubic) / rows
        found["error"] = float(np.abs(gradient - plain).max() / np.abs(plain).max())
        found["gradient_bytes"] = (path / "gradient").stat().st_size
        found["expansion"] = (path / "shard").stat().st_size / (4 * rows * (features + 1))
    return found


def mapped(path: Path) -> memoryview:
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def trainer(folder: str, rows: int, features: int, outputs: int, k: float) -> None:
    """The child of `large`: what a trainer's worker does."""
    path, layout = Path(folder), BlockLayout(rows, features, outputs)
    keys = EvaluationKeys(mapped(path / "keys"), layout.steps)
    shard = EncryptedShard(keys, layout, mapped(path / "shard"), linear=False)
    saved = path / "weights.npy"
    weights = np.load(saved, allow_pickle=False) if saved.exists() else mapped(path / "weights")
    began = time.process_time()
    bundle.write(path / "gradient", shard.gradient(weights, k), count=layout.C * outputs)
    cpu_s = time.process_time() - began
    rss_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"cpu_s": cpu_s, "rss_mb": rss_mb}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="one split of digits")
    parser.add_argument("--trainer", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.trainer:
        folder, *numbers, k = options.trainer
        trainer(folder, *map(int, numbers), float(k))
        return
    seeds = range(1 if options.quick else 3)
    key = SecretKey.generate()
    cancer = [
        encrypted(breast_cancer(s), "logistic", BREAST_CANCER, ROUNDS, weights_too=True, key=key)
        for s in range(10)
    ]
    plain = [
        encrypted(digits(s), "softmax", DIGITS, ROUNDS, weights_too=False, key=key) for s in seeds
    ]
    hidden = [encrypted(digits(0), "softmax", DIGITS, ROUNDS, weights_too=True, key=key)]
    embedding = large(512, 768, 1, weights_too=True)
    wide = large(4096, 784, 10, weights_too=False)
    theirs = tutorial(114, 30, 4)
    figures: dict[str, Any] = {
        "breast_cancer_cpu_s": mean(cancer, "cpu_s"),
        "breast_cancer_accuracy": mean(cancer, "accuracy"),
        "breast_cancer_same_polynomial": mean(cancer, "same_polynomial"),
        "breast_cancer_exact": mean(cancer, "exact"),
        "breast_cancer_round_bytes": cancer[0].weight_bytes + cancer[0].gradient_bytes,
        "breast_cancer_shard_expansion": cancer[0].expansion,
        "digits_cpu_s": mean(plain, "cpu_s"),
        "digits_owner_cpu_s": mean(plain, "owner_cpu_s"),
        "digits_accuracy": mean(plain, "accuracy"),
        "digits_same_polynomial": mean(plain, "same_polynomial"),
        "digits_exact": mean(plain, "exact"),
        "digits_gap_points": 100 * (mean(plain, "exact") - mean(plain, "accuracy")),
        "digits_encrypted_weights_cpu_s": mean(hidden, "cpu_s"),
        "digits_encrypted_weights_owner_cpu_s": mean(hidden, "owner_cpu_s"),
        "digits_encrypted_weights_accuracy": mean(hidden, "accuracy"),
        "digits_round_bytes": hidden[0].weight_bytes + hidden[0].gradient_bytes,
        "digits_shard_expansion": plain[0].expansion,
        "digits_keys_bytes": plain[0].keys_bytes,
        "gradient_error_max": max(run.gradient_error for run in (*cancer, *plain, *hidden)),
        "embed768_cpu_s": embedding["cpu_s"],
        "embed768_rss_mb": embedding["rss_mb"],
        "embed768_shard_expansion": embedding["expansion"],
        "wide784_cpu_s": wide["cpu_s"],
        "wide784_rss_mb": wide["rss_mb"],
        "wide784_shard_expansion": wide["expansion"],
        "wide784_gradient_bytes": wide["gradient_bytes"],
        "ckksvector_cpu_s": theirs["cpu_s"],
        "ckksvector_round_bytes": theirs["round_bytes"],
        "ckksvector_shard_bytes": theirs["shard_bytes"],
        "ckksvector_keys_bytes": theirs["keys_bytes"],
        "breast_cancer_shard_bytes": cancer[0].shard_bytes,
        "breast_cancer_keys_bytes": cancer[0].keys_bytes,
        "speedup_over_ckksvector": theirs["cpu_s"] / mean(cancer, "cpu_s"),
        "errors": {"embed768": embedding["error"], "wide784": wide["error"]},
    }
    if options.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:38} {value}")


if __name__ == "__main__":
    main()
