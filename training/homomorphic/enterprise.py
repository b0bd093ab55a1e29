"""The owner's calls, answered in a process of its own: the only one that holds secret key and data.

What it decrypts has been verified and parsed by another process before. A job's folder holds its
encoded rows; the key comes with each call and is kept in memory.
"""

import os
from pathlib import Path

import numpy as np

from eigen.crypto.ckks import bundle
from eigen.crypto.ckks.secret import SecretKey
from eigen.crypto.errors import MalformedCiphertext
from eigen.protocol.private_job import HEADS
from eigen.protocol.wire import decode_bare
from eigen.training import tensorfile
from eigen.training.errors import BadCiphertext
from eigen.training.frames import Files
from eigen.training.homomorphic.descent import State
from eigen.training.homomorphic.owner import ImplausibleSum, Owner
from eigen.training.homomorphic.plan import Plan, check_size
from eigen.training.homomorphic.rows import Rows, prepare_rows

PLAN_BYTES_MAX = 64 * 1024
ROWS = "rows.safetensors"


class Enterprise:
    """One process may serve several jobs; it keeps the last one in memory."""

    def __init__(self) -> None:
        self._folder = ""
        self._rows: Rows
        self._owner: Owner

    def prepare(self, plan: bytes, folder: str) -> list[object]:
        """Read, check, encode and encrypt. Writes `rows.safetensors`, `keys` and `shard-<i>`.

        Returns the secret key, the first state, the head's index, the layout's rows, features and
        outputs, and the rows of each shard. Raises `SpecError`; nothing is encrypted then.
        """
        wanted, place = _plan(plan), Path(folder)
        rows = prepare_rows(wanted)
        key = SecretKey.generate()
        owner = Owner(key, rows.head, rows.shards)
        layout = owner.layout
        check_size(wanted, layout)
        state = State.start(layout.d, layout.K)
        owner.question(state.ahead(wanted.rates))
        _write_private(place / ROWS, rows.to_bytes())
        (place / "keys").write_bytes(owner.evaluation_keys())
        for index in range(len(rows.shards)):
            items = owner.encrypted_shard(index)
            bundle.write(place / f"shard-{index}", items, count=layout.C + layout.K)
        self._folder, self._rows, self._owner = folder, rows, owner
        counts = [len(x) for x, _ in rows.shards]
        head = HEADS.index(rows.head.kind)
        return [key.to_bytes(), state.to_bytes(), head, layout.n, layout.d, layout.K, counts]

    def weights(
        self, plan: bytes, folder: str, secret: bytes, state: bytes, into: str
    ) -> list[object]:
        """Write a round's weights for trainers, encrypted or not. Returns the polynomial's k.

        Raises `Diverged` where sums could wrap around.
        """
        wanted, owner = _plan(plan), self._open(folder, secret)
        question = owner.question(State.from_bytes(state).ahead(wanted.rates))
        if wanted.encrypted_weights:
            count = owner.layout.K * owner.layout.C
            bundle.write(Path(into), owner.encrypted_weights(question), count=count)
        else:
            Path(into).write_bytes(np.ascontiguousarray(question.scaled, "<f8").tobytes())
        return [question.cubic.k]

    def step(
        self, plan: bytes, folder: str, secret: bytes, state: bytes, total: Files
    ) -> list[object]:
        """Decrypt the sum over all shards and step. Returns the state, hold-out loss and score,
        and whether training is done.

        Raises `BadCiphertext` where the sum is none that this data can give.
        """
        wanted, owner = _plan(plan), self._open(folder, secret)
        before = State.from_bytes(state)
        question = owner.question(before.ahead(wanted.rates))
        try:
            gradient = owner.gradient(total.read(), question)
        except (MalformedCiphertext, ImplausibleSum) as error:
            raise BadCiphertext(str(error)) from None
        after = before.step(gradient, wanted.rates)
        x, y = self._rows.holdout
        loss = self._rows.head.loss(x, y, after.w_dK)
        after = after.judged(loss)
        score = self._rows.head.score(x, y, after.w_dK)
        return [after.to_bytes(), loss, score, after.done(wanted.rates, wanted.rounds)]

    def result(self, plan: bytes, folder: str, state: bytes, into: str) -> list[object]:
        """Write the model, its best weights so far, as safetensors. Returns its hold-out score."""
        rows = self._read(folder)
        done = State.from_bytes(state)
        arrays = {"head.weight": done.best_dK.T, **rows.encoder}
        said = {
            "kind": rows.head.kind,
            "scale": repr(rows.head.scale),
            "encoder": _plan(plan).encoder,
            "round": str(done.best_round),
        }
        small = {name: np.ascontiguousarray(v, "<f4") for name, v in arrays.items()}
        _write_private(Path(into), tensorfile.write(small, said))
        return [rows.head.score(*rows.holdout, done.best_dK)]

    def _open(self, folder: str, secret: bytes) -> Owner:
        if self._folder != folder or not hasattr(self, "_owner"):
            rows = self._read(folder)
            self._owner = Owner(SecretKey.from_bytes(secret), rows.head, rows.shards)
            self._folder, self._rows = folder, rows
        return self._owner

    def _read(self, folder: str) -> Rows:
        if self._folder == folder:
            return self._rows
        return Rows.from_bytes((Path(folder) / ROWS).read_bytes())


def _plan(data: bytes) -> Plan:
    return decode_bare(data, Plan, bytes_max=PLAN_BYTES_MAX)


def _write_private(path: Path, data: bytes) -> None:
    """For this user alone, whole or not at all, and durable."""
    part = path.with_suffix(".part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    part.replace(path)
