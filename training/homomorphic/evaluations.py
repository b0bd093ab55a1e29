"""The trainers' calls, answered in a process of its own: it holds public keys and ciphertexts.

All that it reads was verified before, digest and signature, and is checked again as it is parsed.
Keys and the last shards stay in memory from round to round.
"""

import tempfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from eigen.crypto.ckks import bundle
from eigen.crypto.ckks.evaluation import EvaluationKeys
from eigen.crypto.errors import HomomorphicError, SecretKeyInside
from eigen.protocol.private_job import PrivateJob
from eigen.protocol.wire import decode
from eigen.training.errors import BadCiphertext, OutOfMemory, SecretPublished
from eigen.training.frames import Files
from eigen.training.homomorphic.circuit import GRADIENT_LEVEL, Circuit
from eigen.training.homomorphic.gradients import EncryptedShard
from eigen.training.homomorphic.layout import BlockLayout
from eigen.training.homomorphic.plan import FEATURE_BYTES, WORKER_BYTES

KEYS_KEPT = 4
"""Contexts of as many jobs, 30 MB each in memory."""
CIPHERTEXTS_KEPT = 1024
"""Of shards that stay loaded, about 1 GB; a larger shard is kept alone."""
K_MAX = 10.0
"""The polynomial's constant is about 1.2 to 1.5."""


class Evaluations:
    """Gradients and sums for any number of jobs, in at most so much memory; 0 for no bound.

    What a shard will take is known before it is read. An allocation that fails within SEAL would
    leave it locked for good, so the system's limit on the process is only the last resort.
    """

    def __init__(self, memory_bytes: int = 0) -> None:
        self._memory_bytes = memory_bytes
        self._keys: OrderedDict[tuple[str, ...], EvaluationKeys] = OrderedDict()
        self._shards: OrderedDict[tuple[str, ...], EncryptedShard] = OrderedDict()

    def check(self, job: bytes, keys: Files) -> list[object]:
        """Whether a job's keys are what its trainers need.

        Raises `SecretPublished` where its owner published too much, else `BadCiphertext`.
        """
        with _named():
            self._open_keys(decode(job, PrivateJob), keys)
        return []

    def gradient(
        self, job: bytes, keys: Files, shards: list[Files], weights: Files, k: float, into: str
    ) -> list[object]:
        """Write the encrypted gradient of these shards, summed, as a bundle. Deterministic.

        Raises `BadCiphertext` or `SecretPublished`.
        """
        made = decode(job, PrivateJob)
        layout, count = _layout(made), _count(made)
        if not abs(k) <= K_MAX:
            raise BadCiphertext(f"a polynomial with k = {k:g}")
        with _named(), tempfile.TemporaryDirectory(dir=Path(into).parent) as folder:
            opened = self._open_keys(made, keys)
            given = weights.read()
            asked = given if made.encrypted_weights else _numbers(given, layout)
            paths = [Path(folder) / str(index) for index in range(len(shards) - 1)]
            for path, shard in zip([*paths, Path(into)], shards, strict=True):
                loaded = self._open_shard(made, opened, shard)
                bundle.write(path, loaded.gradient(asked, k), count=count)
            if paths:
                parts = [path.read_bytes() for path in (*paths, Path(into))]
                self._add(opened, made, parts, into)
        return []

    def add(self, job: bytes, keys: Files, inputs: list[Files], into: str) -> list[object]:
        """Write the sum of bundles. One alone is parsed, checked and written again.

        Raises `BadInput`-like `BadCiphertext`, whose message begins with the index of the input.
        """
        made = decode(job, PrivateJob)
        with _named():
            self._add(self._open_keys(made, keys), made, [part.read() for part in inputs], into)
        return []

    def _add(
        self, keys: EvaluationKeys, job: PrivateJob, parts: Sequence[bytes], into: str
    ) -> None:
        scale = Circuit.of(keys.parameters, linear=job.linear).gradient
        items = keys.add(parts, _count(job), GRADIENT_LEVEL, scale)
        bundle.write(Path(into), items, count=_count(job))

    def _open_keys(self, job: PrivateJob, keys: Files) -> EvaluationKeys:
        found = self._keys.get(keys.paths)
        if found is None:
            found = self._keys[keys.paths] = EvaluationKeys(keys.read(), _layout(job).steps)
        self._keys.move_to_end(keys.paths)
        while len(self._keys) > KEYS_KEPT:
            self._keys.popitem(last=False)
        return found

    def _open_shard(self, job: PrivateJob, keys: EvaluationKeys, shard: Files) -> EncryptedShard:
        found = self._shards.get(shard.paths)
        if found is None:
            layout = _layout(job)
            self._make_room(layout.C)
            found = EncryptedShard(keys, layout, shard.read(), linear=job.linear)
            self._shards[shard.paths] = found
        self._shards.move_to_end(shard.paths)
        return found

    def _make_room(self, wanted: int) -> None:
        """For a shard of so many ciphertexts. Raises `OutOfMemory` where there is none."""
        needed = WORKER_BYTES + FEATURE_BYTES * wanted
        if 0 < self._memory_bytes < needed:
            raise OutOfMemory(
                f"a shard of {wanted} ciphertexts takes {needed >> 20} MiB, this node gives "
                f"{self._memory_bytes >> 20} (training.memory_mb)"
            )
        while self._shards:
            held = sum(shard.layout.C for shard in self._shards.values())
            beside = WORKER_BYTES + FEATURE_BYTES * (held + wanted)
            if held + wanted <= CIPHERTEXTS_KEPT and not 0 < self._memory_bytes < beside:
                return
            self._shards.popitem(last=False)


def _layout(job: PrivateJob) -> BlockLayout:
    return BlockLayout(job.rows, job.features, job.outputs)


def _count(job: PrivateJob) -> int:
    layout = _layout(job)
    return layout.K * layout.C


def _numbers(
    data: bytes, layout: BlockLayout
) -> "np.ndarray[tuple[int, int], np.dtype[np.float64]]":
    if len(data) != 8 * layout.d * layout.K:
        raise BadCiphertext(f"{len(data)} bytes are no {layout.d} x {layout.K} weights")
    weights = np.frombuffer(data, "<f8").reshape(layout.d, layout.K)
    if not np.isfinite(weights).all():
        raise BadCiphertext("weights that are not finite")
    return weights


@contextmanager
def _named() -> Iterator[None]:
    """Errors of cryptography as those that cross a process boundary."""
    try:
        yield
    except SecretKeyInside as error:
        raise SecretPublished(str(error)) from None
    except HomomorphicError as error:
        raise BadCiphertext(str(error)) from None
