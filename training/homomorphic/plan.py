"""What an owner wants of a private job, beside its data: the part that stays with the owner."""

from dataclasses import dataclass

from eigen.protocol import limits
from eigen.protocol.wire import Text
from eigen.training.errors import SpecError
from eigen.training.homomorphic.descent import Rates
from eigen.training.homomorphic.layout import BlockLayout

ENCODERS = ("standard", "fourier", "file")

FEATURE_BYTES = 950_000
"""One ciphertext of features in a trainer's memory, at both levels."""
SEEDED_BYTES = 198_000
"""One fresh ciphertext on the wire."""
GRADIENT_BYTES = 95_000
"""One ciphertext of a gradient on the wire."""
WORKER_BYTES = 200 << 20
"""What a trainer's process takes without ciphertexts."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How the owner encodes its rows and steps. Bounds are those of the job file."""

    data: str
    label: Text
    kind: Text
    encoder: Text
    encoder_file: str
    features: int
    dimension: int
    clip: float
    seed: int
    holdout_percent: int
    shards: int
    encrypted_weights: bool
    lr: float
    momentum: float
    l2: float
    patience: int
    rounds: int
    trainer_memory_mb: int

    @property
    def rates(self) -> Rates:
        """How steps are made."""
        return Rates(self.lr, self.momentum, self.l2, self.patience)


def check_size(plan: Plan, layout: BlockLayout) -> None:
    """Refuse what trainers could not hold or send, before anything is encrypted.

    Raises `SpecError`, which says what to change.
    """
    if layout.d > limits.JOB_FEATURES_MAX:
        raise SpecError(
            "encoder", f"{layout.d} features, at most {limits.JOB_FEATURES_MAX}: {_LESS}"
        )
    if layout.K > limits.JOB_OUTPUTS_MAX:
        raise SpecError("head", f"{layout.K} outputs, at most {limits.JOB_OUTPUTS_MAX}")
    memory = WORKER_BYTES + FEATURE_BYTES * layout.C
    allowed = plan.trainer_memory_mb << 20
    if memory > allowed:
        raise SpecError(
            "encoder",
            f"{layout.d} features of {layout.n} rows take {memory >> 20} MiB of a trainer's memory,"
            f" {allowed >> 20} allowed (trainer_memory_mb): {_LESS}, or use more shards",
        )
    count = layout.C * layout.K
    for size, what, hint in (
        (SEEDED_BYTES * count * plan.encrypted_weights, "encrypted weights", 'weights = "plain", '),
        (GRADIENT_BYTES * count, "gradients", ""),
    ):
        if count > limits.JOB_CIPHERTEXTS_MAX or size > ROUND_BYTES_MAX:
            raise SpecError(
                "encoder",
                f"{what} of {layout.K} outputs and {layout.d} features take {size >> 20} MiB a "
                f"round, at most {ROUND_BYTES_MAX >> 20}: {hint}{_LESS}, or use more shards",
            )


ROUND_BYTES_MAX = 1 << 30
"""Of one blob in one round: minutes on a fast line already."""
_LESS = 'let encoder.kind = "fourier" or "file" make fewer (encoder.dimension)'
