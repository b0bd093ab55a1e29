"""What a DAO may decide, as a proposal's calls say it. Knows no ABI."""

from dataclasses import dataclass

from eigen.protocol.types import Address, Digest, RunId


@dataclass(frozen=True, slots=True)
class OpenRun:
    """Train a model: the ledger opens a run. `spec` is SHA-256 of the canonical run spec."""

    run: RunId
    spec: Digest
    rounds: int
    reward_per_round: int  # base units


@dataclass(frozen=True, slots=True)
class ChangeRun:
    """From a round on, an open run goes by another spec."""

    run: RunId
    from_round: int
    spec: Digest


@dataclass(frozen=True, slots=True)
class Payment:
    """From the treasury. `token` None is the chain's coin; `amount` in base units, or wei."""

    token: Address | None
    payee: Address
    amount: int


@dataclass(frozen=True, slots=True)
class ReplaceValidators:
    """The ledger takes roots that `quorum` of these validators signed, and of no others."""

    validators: tuple[Address, ...]
    quorum: int


@dataclass(frozen=True, slots=True)
class Admit:
    """An account becomes a member, or is refused."""

    account: Address
    approved: bool


@dataclass(frozen=True, slots=True)
class RegisterModel:
    """A run's model goes on record, as an NFT of `owner`.

    `parent` is the model that it was fine-tuned from, None for none, `parent_round` that of its
    rounds whose checkpoint it began from. `royalty_bps`, hundredths of a percent, of each sale go
    to contributors.
    """

    run: RunId
    owner: Address
    parent: RunId | None
    parent_round: int
    royalty_bps: int
    uri: str


@dataclass(frozen=True, slots=True)
class OtherCall:
    """Any call that is none of the others. `value` in wei."""

    target: Address
    value: int
    data: bytes


Decision = OpenRun | ChangeRun | Payment | ReplaceValidators | Admit | RegisterModel | OtherCall
