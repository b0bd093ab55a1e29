"""Measures sealing, opening, wrapping and signing: python tests/crypto/measure_sealing.py [MiB]."""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from eigen.crypto.grants import GrantContext, unwrap_key, wrap_key
from eigen.crypto.identity import Identity, recover
from eigen.crypto.sealing import open_bytes, open_file, seal_bytes, seal_file
from eigen.crypto.sealing_key import SealingKeyPair
from eigen.protocol.types import Address, Digest

RUNS = 5


def best_s(work: Callable[[], object], runs: int = RUNS) -> float:
    """The shortest of several runs: what the code costs where nothing else disturbs it."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def main(mebibytes: int) -> None:
    key, metadata = bytes(32), {"job": "measure", "shard": 0}
    data = os.urandom(mebibytes << 20)
    sealed = seal_bytes(data, data_key=key, metadata=metadata)
    assert open_bytes(sealed, data_key=key) == data
    overhead = len(sealed) - len(data)
    print(f"{mebibytes} MiB, overhead {overhead} bytes")
    for name, work in {
        "seal in memory": lambda: seal_bytes(data, data_key=key, metadata=metadata),
        "open in memory": lambda: open_bytes(sealed, data_key=key),
    }.items():
        print(f"{name}: {mebibytes / best_s(work):.0f} MiB/s")
    measure_files("tmpfs", data, "/dev/shm")
    measure_files("temporary folder", data, None)

    pair, identity = SealingKeyPair.generate(), Identity.generate()
    context = GrantContext("net", "job", 0, identity.address, 1)
    wrapped = wrap_key(key, pair.public_bytes, context)
    digest = Digest(bytes(32))
    signature = identity.sign(digest)
    assert recover(digest, signature) == Address(identity.address)
    for name, small in {
        "wrap": lambda: wrap_key(key, pair.public_bytes, context),
        "unwrap": lambda: unwrap_key(wrapped, pair, context, now_s=0),
        "new key pair": SealingKeyPair.generate,
        "sign": lambda: identity.sign(digest),
        "recover": lambda: recover(digest, signature),
    }.items():
        print(
            f"{name}: {best_s(lambda small=small: [small() for _ in range(200)]) / 200e-6:.0f} µs"
        )


def measure_files(name: str, data: bytes, parent: str | None) -> None:
    """From file to file, `fsync` included."""
    key = bytes(32)
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        plain, shard, opened = (Path(folder, file) for file in ("plain", "shard", "opened"))
        plain.write_bytes(data)
        seal_s = best_s(lambda: seal_file(plain, shard, data_key=key, metadata={}))
        open_s = best_s(lambda: open_file(shard, opened, data_key=key))
        assert opened.read_bytes() == data
    mebibytes = len(data) / (1 << 20)
    print(f"seal file to file, {name}: {mebibytes / seal_s:.0f} MiB/s")
    print(f"open file to file, {name}: {mebibytes / open_s:.0f} MiB/s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 256)
