"""The error tree of this folder; each docstring says whose fault the error is. Knows no torch.

```
TrainingError
├── SpecError             the proposer's: the run cannot be trained as it is written
├── TensorFileError       the peer's: bytes that are no canonical safetensors file
│   ├── CheckpointError   … or not a checkpoint of this run
│   └── ShardError        … or not a shard for this model
├── CodecError            the peer's: an encoded part that no honest encoder writes
├── BadInput              the peer's whose input has this index
├── BadCiphertext         the peer's: no ciphertext, or none of this job, or a false sum
├── SecretPublished       the owner's: a secret key stands where public ones belong
├── ResidualError         ours: the stored residual belongs to another run or codec
├── StateError            ours: the kept optimizer state is damaged, or another run's
├── Diverged              the run's: a loss or an update is not finite
├── OutOfMemory           ours: the worker may not use as much memory as this takes
└── EngineFault           ours: a bug; the worker's log has the traceback
```

Each error is made of plain values (`args`), so that it crosses a process boundary unchanged.
"""


class TrainingError(Exception):
    """Base of everything that this folder raises on purpose."""


class SpecError(TrainingError):
    """A field of the run spec cannot be trained; `field` names it. The proposer's fault."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(field, reason)
        self.field = field
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.field}: {self.reason}"


class TensorFileError(TrainingError):
    """The bytes are not a canonical safetensors file. The fault of who served them."""


class CheckpointError(TensorFileError):
    """The bytes are not a checkpoint of this run. The fault of who served them."""


class ShardError(TensorFileError):
    """The bytes are not a shard that this model can read. The fault of who published them."""


class CodecError(TrainingError):
    """The bytes are no encoded part, or the values have no encoding. The encoder's fault."""


class BadInput(TrainingError):
    """One input of several cannot be used; `index` says which. The fault of who sent it."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(index, reason)
        self.index = index
        self.reason = reason

    def __str__(self) -> str:
        return f"input {self.index}: {self.reason}"


class BadCiphertext(TrainingError):
    """Bytes that are no keys or ciphertexts of this private job. The fault of who made them."""


class SecretPublished(TrainingError):
    """An owner published the secret key of its private job. The owner must be told."""


class ResidualError(TrainingError):
    """The residual does not belong to this run's model and codec. Our own store's fault."""


class StateError(TrainingError):
    """The kept optimizer state is damaged or another run's. Our own store's fault."""


class Diverged(TrainingError):
    """A loss, an update or a parameter is not finite: the run's hyperparameters are at fault."""


class OutOfMemory(TrainingError):
    """The work does not fit in the memory that this node gives to training. Our limit."""


class EngineFault(TrainingError):
    """An unexpected exception in the engine: a bug of ours; the log has the traceback."""


BY_NAME: dict[str, type[TrainingError]] = {
    kind.__name__: kind
    for kind in (
        SpecError,
        TensorFileError,
        CheckpointError,
        ShardError,
        CodecError,
        BadInput,
        BadCiphertext,
        SecretPublished,
        ResidualError,
        StateError,
        Diverged,
        OutOfMemory,
        EngineFault,
    )
}
"""What a worker's reply may name."""
