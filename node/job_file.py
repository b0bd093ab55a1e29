"""Job files: what an owner writes to have a head trained on data that no trainer can read.

name = "readmissions"

[data]
source = "visits.csv"         # or .safetensors, or digits, breast_cancer
label = "readmitted"          # the column, or the array, of targets
holdout_percent = 20          # never encrypted, never sent: the accuracy is measured on it

[head]
kind = "logistic"             # or "softmax" (classes 0, 1, …), "linear"

[encoder]
kind = "standard"             # or "fourier", "file"
clip = 2.0                    # deviations at which raw columns end
features = 1024               # of "fourier", before whitening
dimension = 64                # of "fourier" and "file", after whitening
file = "encoder.safetensors"  # of "file"

[training]
rounds = 20
lr = 0.1
momentum = 0.9
l2 = 0.01
patience = 5                  # rounds without a lower held-out loss; 0 for all rounds
weights = "encrypted"         # or "plain": faster, and trainers see the model
seed = 0

[trainers]
shards = 4
round_s = 120                 # a trainer that takes longer is replaced
memory_mb = 2048              # that a shard may take of a trainer
audit_percent = 5             # of trainers' rounds that each validator computes again

[payment]                     # without it nobody is paid
token = "0x5FbDB2315678afecb367f032d93F642f64180aa3"  # an ERC-20
amount = "250.5"              # of it, in all; locked in the DAO's escrow when the job is made
deadline_hours = 48           # without a delivery until then all of it goes back
dispute_hours = 24            # that you may dispute a delivery
"""

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path

from eigen.config.addresses import parse_address
from eigen.node.amounts import DIGITS_MAX
from eigen.node.member_file import Table, read_table
from eigen.protocol import limits
from eigen.protocol.private_job import HEADS
from eigen.protocol.types import Address
from eigen.training.homomorphic.plan import ENCODERS, Plan
from eigen.training.homomorphic.tables import BUILT_IN


@dataclass(frozen=True, slots=True)
class Payment:
    """What a job is to pay: whole tokens of an ERC-20, times from its making on."""

    token: Address
    amount: Decimal
    deadline_s: int
    dispute_s: int


@dataclass(frozen=True, slots=True)
class JobFile:
    """A job file that was read: the plan, and what trainers are told."""

    path: Path
    name: str
    plan: Plan
    round_s: int
    audit_bps: int
    payment: Payment | None = None


HOURS_MAX = 365 * 24
"""The escrow takes no longer times: they are mistyped units."""
_PAYMENT_KEYS = {"token", "amount", "deadline_hours", "dispute_hours"}

_KEYS = {
    "data": {"source", "label", "holdout_percent"},
    "head": {"kind"},
    "encoder": {"kind", "clip", "features", "dimension", "file"},
    "training": {"rounds", "lr", "momentum", "l2", "patience", "weights", "seed"},
    "trainers": {"shards", "round_s", "memory_mb", "audit_percent"},
}


def load_job_file(path: Path) -> JobFile:
    """Read a job file and check every field. Paths in it are relative to it.

    Raises `MemberFileError`, which names the file, the key, and what may stand there.
    """
    top = Table(path, read_table(path, "job file"))
    top.refuse_unknown({"name", "payment", *_KEYS})
    tables = {name: top.sub(name, {}) for name in _KEYS}
    for name, keys in _KEYS.items():
        tables[name].refuse_unknown(keys)
    data, head, encoder = tables["data"], tables["head"], tables["encoder"]
    training, trainers = tables["training"], tables["trainers"]

    def whole(table: Table, key: str, usual: int, least: int, most: int) -> int:
        value = table.take(key, int, usual)
        if not least <= value <= most:
            raise table.error(key, f"{value}, give {least} to {most}")
        return int(value)

    def real(table: Table, key: str, usual: float, most: float) -> float:
        value = table.number(key, usual)
        if not 0 <= value <= most:
            raise table.error(key, f"{value:g}, give 0 to {most:g}")
        return value

    def choice(table: Table, key: str, usual: str | None, names: tuple[str, ...]) -> str:
        value = table.take(key, str, usual)
        if value not in names:
            raise table.error(key, f"{value!r:.40}, there are {', '.join(names)}")
        return str(value)

    def near(value: str) -> str:
        return str((path.parent / Path(value).expanduser()).absolute())

    name = top.take("name", str)
    if len(name.encode()) > limits.TEXT_BYTES_MAX:
        raise top.error("name", f"over {limits.TEXT_BYTES_MAX} bytes")
    source = data.take("source", str)
    kind = choice(encoder, "kind", "standard", ENCODERS)
    plan = Plan(
        data=source if source in BUILT_IN else near(source),
        label=data.take("label", str, "label"),
        kind=choice(head, "kind", None, HEADS),
        encoder=kind,
        encoder_file=near(encoder.take("file", str)) if kind == "file" else "",
        features=whole(encoder, "features", 1024, 1, 65_536),
        dimension=whole(encoder, "dimension", 64, 2, limits.JOB_FEATURES_MAX),
        clip=real(encoder, "clip", 2.0, 100.0),
        seed=whole(training, "seed", 0, 0, 2**63 - 1),
        holdout_percent=whole(data, "holdout_percent", 20, 1, 90),
        shards=whole(trainers, "shards", 4, 1, limits.JOB_SHARDS_MAX),
        encrypted_weights=choice(training, "weights", "encrypted", ("encrypted", "plain"))
        == "encrypted",
        lr=real(training, "lr", 0.1, 1e3),
        momentum=real(training, "momentum", 0.9, 0.999),
        l2=real(training, "l2", 0.01, 1e3),
        patience=whole(training, "patience", 5, 0, limits.JOB_ROUNDS_MAX),
        rounds=whole(training, "rounds", 20, 1, limits.JOB_ROUNDS_MAX),
        trainer_memory_mb=whole(trainers, "memory_mb", 2048, 256, 1 << 20),
    )
    audit = round(100 * real(trainers, "audit_percent", 5.0, 100.0))
    round_s = whole(trainers, "round_s", 120, 1, limits.JOB_ROUND_S_MAX)
    payment = _payment(top.sub("payment")) if "payment" in top else None
    if payment is not None and plan.rounds > limits.JOB_PAID_ROUNDS_MAX:
        most = limits.JOB_PAID_ROUNDS_MAX
        raise training.error("rounds", f"{plan.rounds}, a job that pays has at most {most}")
    return JobFile(path, name, plan, round_s, audit, payment)


def _payment(table: Table) -> Payment:
    table.refuse_unknown(_PAYMENT_KEYS)
    try:
        token = parse_address(table.take("token", str))
    except ValueError as error:
        raise table.error("token", str(error)) from error
    given = table.take("amount", (str, int))
    try:
        amount = Decimal(given)
    except InvalidOperation:
        raise table.error("amount", f"{given!r:.40} is no number of tokens") from None
    if not amount.is_finite() or amount <= 0 or abs(amount.adjusted()) > DIGITS_MAX:
        raise table.error("amount", f"{given!r:.40}, give a positive number of tokens")

    def seconds(key: str, usual: float | None, least_s: int) -> int:
        value = table.number(key, usual)
        if not least_s <= value * 3600 <= HOURS_MAX * 3600:
            raise table.error(key, f"{value:g}, give {least_s / 3600:g} to {HOURS_MAX}")
        return round(value * 3600)

    deadline_s = seconds("deadline_hours", None, 1)
    return Payment(token, amount, deadline_s, seconds("dispute_hours", 24.0, 0))
