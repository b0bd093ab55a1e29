"""Messages made from the annotations of the catalogue: at random, or by hypothesis."""

import dataclasses
import random
from functools import cache
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

# Importing these registers every message of the catalogue.
from eigen.protocol import committee, job_record, messages, private_job, requests  # noqa: F401
from eigen.protocol.cid import DAG_PB, RAW, cid_of
from eigen.protocol.run import RunSpec
from eigen.protocol.types import Address, Cid, Digest, RunId
from eigen.protocol.wire import Length, Range, catalogue

FIXED_BYTES = {Address: 20, Digest: 32, RunId: 32}
U64_MAX = 2**64 - 1


def kinds() -> list[type]:
    """Every message type, by tag."""
    return [kind for _, kind in sorted(catalogue().items())]


def split(hint: Any) -> tuple[Any, Any]:
    """A type and its bound."""
    if get_origin(hint) is Annotated:
        inner, bound, *_ = get_args(hint)
        return inner, bound
    return hint, None


@cache
def hints(kind: type) -> dict[str, Any]:
    """Field names and annotations, in field order."""
    found = get_type_hints(kind, include_extras=True)
    return {field.name: found[field.name] for field in dataclasses.fields(kind)}


def cids() -> st.SearchStrategy[Cid]:
    return st.builds(cid_of, st.sampled_from([RAW, DAG_PB]), st.binary(min_size=32, max_size=32))


def strategy(hint: Any, items_max: int = 4) -> st.SearchStrategy[Any]:
    """Values that fit an annotation. Collections stay short, their bounds are tested apart."""
    kind, bound = split(hint)
    if kind in FIXED_BYTES:
        return st.binary(min_size=FIXED_BYTES[kind], max_size=FIXED_BYTES[kind])
    if kind is Cid:
        return cids()
    if bound == "amount":
        return st.integers(0, 2**256 - 1) | st.integers(0, 300)
    if get_origin(kind) is tuple:
        args = get_args(kind)
        if len(args) == 2 and args[1] is Ellipsis:
            least = bound.least if isinstance(bound, Length) else 0
            most = bound.most if isinstance(bound, Length) else items_max
            items = st.lists(
                strategy(args[0]), min_size=least, max_size=max(least, min(most, items_max))
            )
            return items.map(tuple)
        return st.tuples(*(strategy(arg) for arg in args))
    if dataclasses.is_dataclass(kind):
        return structs(kind)
    if kind is bool:
        return st.booleans()
    if kind is int:
        least, most = (bound.least, bound.most) if isinstance(bound, Range) else (0, U64_MAX)
        return st.integers(least, most)
    if kind is float:
        return st.floats(allow_nan=False, allow_infinity=False)
    least, most = (bound.least, bound.most) if isinstance(bound, Length) else (0, 64)
    if kind is bytes:
        return st.binary(min_size=least, max_size=max(least, min(most, 96)))
    return st.text(min_size=least, max_size=min(most, 40) // 4 or 1)


def structs(kind: Any) -> st.SearchStrategy[Any]:
    """A dataclass with fields drawn by their annotations."""
    drawn = {name: strategy(hint) for name, hint in hints(kind).items()}
    if kind is RunSpec:
        drawn["reward_per_round"] = st.integers(0, 2**128 - 1)
        return st.fixed_dictionaries(drawn).map(_ordered_trainers)
    return st.builds(kind, **drawn)


def _ordered_trainers(fields: dict[str, Any]) -> RunSpec:
    low, high = sorted((fields["trainers_min"], fields["trainers_max"]))
    return RunSpec(**{**fields, "trainers_min": low, "trainers_max": high})


def sample(hint: Any, rng: random.Random) -> Any:
    """One random value for an annotation: as `strategy`, a hundred times as fast."""
    kind, bound = split(hint)
    if kind in FIXED_BYTES:
        return rng.randbytes(FIXED_BYTES[kind])
    if kind is Cid:
        return cid_of(rng.choice((RAW, DAG_PB)), rng.randbytes(32))
    if bound == "amount":
        return rng.getrandbits(rng.choice((1, 8, 64, 128)))
    if get_origin(kind) is tuple:
        args = get_args(kind)
        if len(args) == 2 and args[1] is Ellipsis:
            least = bound.least if isinstance(bound, Length) else 0
            most = min(bound.most, 4) if isinstance(bound, Length) else 4
            return tuple(sample(args[0], rng) for _ in range(rng.randint(least, max(least, most))))
        return tuple(sample(arg, rng) for arg in args)
    if dataclasses.is_dataclass(kind):
        drawn = {name: sample(h, rng) for name, h in hints(kind).items()}
        return _ordered_trainers(drawn) if kind is RunSpec else kind(**drawn)
    if kind is bool:
        return rng.random() < 0.5
    if kind is int:
        least, most = (bound.least, bound.most) if isinstance(bound, Range) else (0, U64_MAX)
        return rng.choice((least, most, rng.randint(least, most)))
    if kind is float:
        return rng.choice((0.0, -1.5, rng.uniform(-1e6, 1e6)))
    least, most = (bound.least, bound.most) if isinstance(bound, Length) else (0, 64)
    size = rng.randint(least, max(least, min(most, 48)))
    if kind is bytes:
        return rng.randbytes(size)
    return "".join(rng.choice("abcdefgh é") for _ in range(size // 2))
