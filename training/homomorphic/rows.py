"""What an owner keeps of its data while a job runs: encoded rows, cut into shards, and a hold-out.

The file lies in the owner's own folder, in the clear like the data it was made from.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eigen.training import tensorfile
from eigen.training.errors import SpecError, StateError, TensorFileError
from eigen.training.homomorphic import encoders
from eigen.training.homomorphic.head import Head
from eigen.training.homomorphic.layers import Layers, load_layers
from eigen.training.homomorphic.plan import Plan
from eigen.training.homomorphic.tables import read_table

Values = NDArray[np.float64]
Labelled = tuple[Values, Values]


@dataclass(frozen=True, slots=True)
class Rows:
    """Shards to encrypt, and the rows that nobody trains on."""

    head: Head
    shards: tuple[Labelled, ...]
    holdout: Labelled
    encoder: dict[str, Values]
    """What new rows must go through before the head: the encoder's arrays, by name."""

    def to_bytes(self) -> bytes:
        """All of it, exactly."""
        arrays = {}
        for index, (x, y) in enumerate((*self.shards, self.holdout)):
            arrays[f"x{index:04}"], arrays[f"y{index:04}"] = _bytes(x), _bytes(y)
        for name, values in self.encoder.items():
            arrays[f"encoder.{name}"] = _bytes(values)
        return tensorfile.write(
            arrays,
            {
                "kind": self.head.kind,
                "outputs": str(self.head.outputs),
                "scale": self.head.scale.hex(),
                "features": str(self.holdout[0].shape[1]),
                **{
                    f"encoder.{name}": str(values.shape[-1])
                    for name, values in self.encoder.items()
                },
            },
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> "Rows":
        """What `to_bytes` gave. Raises `StateError`."""
        try:
            said, arrays = tensorfile.read(data)
            features = int(said["features"])
            count = sum(name.startswith("x") for name in arrays)
            pairs = [
                (
                    np.frombuffer(arrays[f"x{i:04}"].tobytes(), "<f8").reshape(-1, features),
                    np.frombuffer(arrays[f"y{i:04}"].tobytes(), "<f8"),
                )
                for i in range(count)
            ]
            head = Head(said["kind"], int(said["outputs"]), float.fromhex(said["scale"]))
            encoder = {
                name.removeprefix("encoder."): np.frombuffer(arrays[name].tobytes(), "<f8").reshape(
                    -1, int(said[name])
                )
                for name in arrays
                if name.startswith("encoder.")
            }
            return cls(head, tuple(pairs[:-1]), pairs[-1], encoder)
        except (TensorFileError, KeyError, ValueError, IndexError) as error:
            raise StateError(f"no rows of a private job: {error}") from None


def _bytes(values: Values) -> NDArray[np.uint8]:
    return np.frombuffer(np.ascontiguousarray(values, "<f8").tobytes(), "u1")


def prepare_rows(plan: Plan) -> Rows:
    """Read, split, encode and cut, as the plan says. Raises `SpecError`, naming the field.

    The hold-out is split off first: no encoder sees it.
    """
    x, y = read_table(plan.data, plan.label)
    try:
        head = Head.fitting(plan.kind, y)
    except ValueError as error:
        raise SpecError("head.kind", str(error)) from None
    order = np.random.default_rng(plan.seed).permutation(len(x))
    held = max(1, len(x) * plan.holdout_percent // 100)
    test, train = order[:held], order[held:]
    if len(train) < plan.shards:
        raise SpecError("shards", f"{plan.shards} shards of {len(train)} rows")
    encode, arrays = _encoder(plan, x[train])
    x_train, x_test = encode(x[train]), encode(x[test])
    shards = tuple(
        (x_train[index :: plan.shards], y[train][index :: plan.shards])
        for index in range(plan.shards)
    )
    return Rows(head, shards, (x_test, y[test]), arrays)


def _encoder(plan: Plan, x: Values) -> tuple[encoders.Encode, dict[str, Values]]:
    """What encodes rows, and its arrays: `last` is the affine map, always there."""
    if plan.encoder == "standard":
        alone = encoders.standardised(x, clip=plan.clip)
        return alone, alone.arrays
    first: encoders.Fourier | Layers
    if plan.encoder == "fourier":
        first = encoders.fourier(x, plan.features, plan.seed)
    else:
        first = load_layers(Path(plan.encoder_file).expanduser())
    try:
        white = encoders.whitened(first(x), plan.dimension)
    except ValueError as error:
        raise SpecError("encoder.dimension", str(error).partition(": ")[2]) from None
    return lambda rows: white(first(rows)), first.arrays | white.arrays
