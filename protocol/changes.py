"""Changes to a run that goes on: what may change, and from which round. It does not know who votes.

A run's name and its budget are what the ledger opened; the model, its parts and what is kept from
round to round are what its checkpoints are made of. All of that stays.
"""

from dataclasses import fields, is_dataclass
from typing import Any, Final

from eigen.protocol.run import RunSpec

CHANGEABLE: Final = frozenset(
    {
        "dataset",
        "inner.steps",
        "inner.batch",
        "inner.lr",
        "inner.weight_decay",
        "inner.micro_batches",
        "inner.schedule",
        "inner.warmup",
        "outer.lr",
        "outer.momentum",
        "aggregation.rule",
        "aggregation.tolerated_bps",
        "trainers_min",
        "trainers_max",
    }
)
"""Fields that a vote may change while a run goes on."""


def _values(spec: Any, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in fields(spec):
        value = getattr(spec, field.name)
        if is_dataclass(value):
            found |= _values(value, f"{prefix}{field.name}.")
        else:
            found[prefix + field.name] = value
    return found


def changed_fields(before: RunSpec, after: RunSpec) -> list[str]:
    """Names of the fields that differ, `inner.lr` and the like, in the spec's order."""
    old, new = _values(before), _values(after)
    return [name for name in old if old[name] != new[name]]


def differences(before: RunSpec, after: RunSpec) -> list[str]:
    """`inner.lr 0.002 → 0.001` and the like."""
    old, new = _values(before), _values(after)
    return [f"{name} {old[name]} → {new[name]}" for name in changed_fields(before, after)]


def check_change(before: RunSpec, after: RunSpec) -> None:
    """Raises ValueError where a change changes nothing, or what has to stay; names the field."""
    names = changed_fields(before, after)
    if not names:
        raise ValueError("it changes nothing")
    for name in names:
        if name not in CHANGEABLE:
            raise ValueError(f"{name} stays while a run goes on; propose another run")
