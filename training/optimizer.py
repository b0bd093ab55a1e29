"""What a trainer keeps from round to round where moments are kept: AdamW's state, and its place.

A safetensors file of the sums `first` and `second` [P]; metadata: `format`, `spec` (the digest of
the run's spec), `steps`, and where the data order stands: `hand` names the shards, `order_seed` the
order, `position` how many samples of it were taken.

Shape legend: P parameters.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from eigen.protocol import limits
from eigen.protocol.run import RunSpec, spec_digest
from eigen.training import tensorfile
from eigen.training.adamw import State
from eigen.training.errors import StateError, TensorFileError

FORMAT = "eigen-optimizer-1"


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a data order a trainer is: samples taken of the order of `seed` over a hand."""

    hand: str
    seed: bytes
    position: int


def hand_of(shards: Sequence[bytes]) -> str:
    """What names these shards in this order: SHA-256 over their SHA-256s."""
    names = b"".join(hashlib.sha256(shard).digest() for shard in shards)
    return hashlib.sha256(names).hexdigest()


def write(spec: RunSpec, state: State, place: Place) -> bytes:
    """The file."""
    arrays = {"first": state.first_P.numpy(), "second": state.second_P.numpy()}
    counts = {"steps": str(state.steps), "position": str(place.position)}
    order = {"hand": place.hand, "order_seed": place.seed.hex()}
    return tensorfile.write(arrays, _named(spec) | counts | order)


def read(data: bytes, spec: RunSpec, values: int) -> tuple[State, Place]:
    """What `write` was given. Raises `StateError` with what is wrong."""
    try:
        metadata, arrays = tensorfile.read(data)
    except TensorFileError as error:
        raise StateError(str(error)) from None
    for key, value in _named(spec).items():
        if metadata.get(key) != value:
            raise StateError(f"{key} is {metadata.get(key)!r:.80}, the run has {value!r}")
    if {name: array.shape for name, array in arrays.items()} != dict.fromkeys(
        ("first", "second"), (values,)
    ):
        raise StateError(f"the tensors are not first and second of {values} values")
    first_P, second_P = (torch.from_numpy(arrays[name].copy()) for name in ("first", "second"))
    if not bool(first_P.isfinite().all() and second_P.isfinite().all()):
        raise StateError("a moment is NaN or infinite")
    if bool((second_P < 0).any()):
        raise StateError("a second moment is negative")
    steps, position = (_count(metadata, key) for key in ("steps", "position"))
    try:
        seed = bytes.fromhex(metadata.get("order_seed", ""))
    except ValueError:
        raise StateError("order_seed is not hexadecimal") from None
    return State(first_P, second_P, steps), Place(metadata.get("hand", ""), seed, position)


def _named(spec: RunSpec) -> dict[str, str]:
    return {"format": FORMAT, "spec": spec_digest(spec).hex()}


def _count(metadata: Mapping[str, str], key: str) -> int:
    text = metadata.get(key, "")
    if not (text.isascii() and text.isdigit() and len(text) < len(str(limits.U64_MAX))):
        raise StateError(f"{key} is {text!r:.80}, not a count")
    return int(text)
