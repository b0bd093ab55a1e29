"""What a recorded run's tables say, as arrays: curves, phases, shares, who was caught when.

Everything here is a function of a `RunFolder` alone; reports, comparisons and sweeps share it.
Values that are not finite become NaN, which plots leave out and quantiles ignore.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from eigen.simulations.record import RunFolder

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

PHASES: Final = ("seat", "train", "commit", "exchange", "vote", "step", "audit", "attest")
"""What a node does in a round; each lasts until the node begins the next."""

PHASE_ENDS: Final = ("adopt", "down")
"""Events after which a node is in no phase."""

_SEAT, _TRAIN = PHASES.index("seat"), PHASES.index("train")
_ADOPT, _DOWN, _OTHER = -1, -2, -3
_ATTEMPTS_MAX = 1 << 31

QUANTILES: Final = (0.1, 0.5, 0.9, 1.0)
HONEST: Final = "honest"
UNKNOWN: Final = "node"
"""The behaviour of nodes in a run that does not say who is an adversary."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One measure of the whole network, ordered by virtual time."""

    time_s: Floats
    value: Floats
    round: Ints

    def last(self) -> float | None:
        """The last finite value; None where there is none."""
        finite = self.value[np.isfinite(self.value)]
        return float(finite[-1]) if finite.size else None


@dataclass(frozen=True, slots=True)
class ByRound:
    """One measure of each node, as `QUANTILES` over the nodes and a sum, of each round (R rows)."""

    round: Ints
    quantiles: Floats  # (R, len(QUANTILES))
    total: Floats


@dataclass(frozen=True, slots=True)
class ByNode:
    """One measure of each of N nodes in each of R rounds; NaN where there is none."""

    nodes: list[str]
    round: Ints
    value_nr: Floats  # (N, R)


@dataclass(frozen=True, slots=True)
class Spans:
    """Intervals of virtual time (S of them); `node` and `phase` index `nodes` and `PHASES`."""

    nodes: list[str]
    node: Ints
    phase: Ints
    round: Ints
    attempt: Ints
    start_s: Floats
    end_s: Floats

    def __len__(self) -> int:
        return self.phase.size

    def where(self, mask: npt.NDArray[np.bool_]) -> "Spans":
        """The spans that `mask` keeps."""
        return Spans(
            self.nodes,
            self.node[mask],
            self.phase[mask],
            self.round[mask],
            self.attempt[mask],
            self.start_s[mask],
            self.end_s[mask],
        )


@dataclass(frozen=True, slots=True)
class Shares:
    """Of each node its mean share over the rounds, in [0, 1]: of the pay, and of the work."""

    nodes: list[str]
    behaviour: list[str]
    credited: Floats
    contributed: Floats


@dataclass(frozen=True, slots=True)
class Penalties:
    """Who penalized whom, when and why (one entry each), in order of time."""

    time_s: Floats
    by: list[str]
    whom: list[str]
    why: list[str]

    def first(self) -> dict[str, float]:
        """When each penalized node was penalized first."""
        first: dict[str, float] = {}
        for whom, time_s in zip(self.whom, self.time_s, strict=True):
            first.setdefault(whom, float(time_s))
        return first


def curve(run: RunFolder, name: str) -> Curve:
    """The network-wide rows of a metric (those without a node)."""
    table = _of_network(run.metrics([name])).sort_by("time_s")
    return Curve(_floats(table["time_s"]), _floats(table["value"]), _ints(table["round"]))


def by_round(run: RunFolder, name: str) -> ByRound:
    """The per-node rows of a metric, over the nodes of each round."""
    table = _of_nodes(run.metrics([name]))
    rounds, index = np.unique(_ints(table["round"]), return_inverse=True)
    values = _floats(table["value"])
    order = np.argsort(index, kind="stable")
    groups = np.split(values[order], np.cumsum(np.bincount(index))[:-1]) if rounds.size else []
    finite = [group[np.isfinite(group)] for group in groups]
    quantiles = [
        np.quantile(group, QUANTILES) if group.size else np.full(len(QUANTILES), np.nan)
        for group in finite
    ]
    return ByRound(
        rounds,
        np.array(quantiles).reshape(-1, len(QUANTILES)),
        np.array([group.sum() for group in finite]),
    )


def by_node(run: RunFolder, name: str, nodes_max: int) -> ByNode | None:
    """The per-node rows of a metric; None where there are none, or more nodes than `nodes_max`."""
    table = _of_nodes(run.metrics([name]))
    node, nodes = np.unique(table["node"].to_numpy(), return_inverse=True)[::-1]
    if not 0 < nodes.size <= nodes_max:
        return None
    rounds, index = np.unique(_ints(table["round"]), return_inverse=True)
    value_nr = np.full((nodes.size, rounds.size), np.nan)
    value_nr[node, index] = _floats(table["value"])
    return ByNode(nodes.tolist(), rounds, value_nr)


def phase_spans(run: RunFolder) -> Spans:
    """Each node's phases. One of a round that nobody adopted, in which the run ended, is left out.

    A phase after which its node has no more part in the round ends with the round's first adoption.
    """
    table = run.events([*PHASES, *PHASE_ENDS])
    node, nodes = _words(table["node"])
    phase = _phases(table)
    time_s, round_, attempt = (
        _floats(table["time_s"]),
        _ints(table["round"]),
        _ints(table["attempt"]),
    )
    order = np.lexsort((time_s, node))  # stable: what a node did at one instant stays in order
    node, phase, time_s = node[order], phase[order], time_s[order]
    round_, attempt = round_[order], attempt[order]

    after = np.minimum(np.arange(node.size) + 1, max(0, node.size - 1))
    same_node = (node[after] == node) & (after > np.arange(node.size))
    parted = same_node & (phase[after] == _DOWN)
    goes_on = (same_node & (round_[after] == round_)) | parted
    adopted_s = _first_times(round_, time_s, phase == _ADOPT)
    end_s = np.where(goes_on | (same_node & np.isnan(adopted_s)), time_s[after], adopted_s)
    kept = (phase >= 0) & (end_s >= time_s)
    trained_s = _first_times(round_ * _ATTEMPTS_MAX + attempt, time_s, phase == _TRAIN)
    seats_others = (phase == _SEAT) & ~(goes_on & (phase[after] == _TRAIN))
    end_s = np.where(seats_others & (trained_s >= time_s), np.fmin(end_s, trained_s), end_s)
    return Spans(
        nodes,
        node[kept],
        phase[kept],
        round_[kept],
        attempt[kept],
        time_s[kept],
        end_s[kept],
    )


def _phases(table: Any) -> Ints:
    """Each event's phase as an index into `PHASES`, below zero for what ends one."""
    kind, kinds = _words(table["kind"])
    codes = {"adopt": _ADOPT, "down": _DOWN} | {name: i for i, name in enumerate(PHASES)}
    known = np.array([codes.get(name, _OTHER) for name in kinds], dtype=np.int64)
    return known[kind]


def _first_times(key: Ints, time_s: Floats, mask: npt.NDArray[np.bool_]) -> Floats:
    """For each row the earliest masked time that has its key; NaN where there is none."""
    keys, index = np.unique(key, return_inverse=True)
    first_s = np.full(keys.size, np.inf)
    np.minimum.at(first_s, index[mask], time_s[mask])
    first_s = np.where(np.isfinite(first_s), first_s, np.nan)
    return first_s[index]


def round_spans(spans: Spans) -> Spans:
    """Of each phase of each attempt: from the first node's beginning to the last node's end."""
    columns = {
        name: getattr(spans, name) for name in ("phase", "round", "attempt", "start_s", "end_s")
    }
    grouped = (
        pa.table(columns)
        .group_by(["round", "attempt", "phase"])
        .aggregate([("start_s", "min"), ("end_s", "max")])
        .sort_by("start_s_min")
    )
    return Spans(
        [""],
        np.zeros(grouped.num_rows, dtype=np.int64),
        _ints(grouped["phase"]),
        _ints(grouped["round"]),
        _ints(grouped["attempt"]),
        _floats(grouped["start_s_min"]),
        _floats(grouped["end_s_max"]),
    )


def adversaries(run: RunFolder) -> Mapping[str, str] | None:
    """Each adversary's behaviour by node; None where `run.json` does not say who is one."""
    found = run.about.get("adversaries")
    if not isinstance(found, dict):
        return None
    return {str(node): str(behaviour) for node, behaviour in found.items()}


def shares(run: RunFolder) -> Shares:
    """Credited against contributed. A contribution that is not finite counts as none."""
    table = _of_nodes(run.metrics(["credited", "contributed"]))
    node, nodes = _words(table["node"])
    name, names = _words(table["name"])
    mean = {}
    for wanted in ("credited", "contributed"):
        rows = name == names.index(wanted) if wanted in names else np.zeros(node.size, dtype=bool)
        rounds, index = np.unique(_ints(table["round"])[rows], return_inverse=True)
        value = np.nan_to_num(_floats(table["value"])[rows])
        total = np.bincount(index, value, rounds.size)
        paid = total > 0
        share = np.where(paid[index], value / np.where(paid, total, 1)[index], 0)
        summed = np.bincount(node[rows], share, len(nodes))
        mean[wanted] = summed / max(1, int(paid.sum()))
    seen = np.bincount(node, minlength=len(nodes)) > 0
    behaviours = adversaries(run)
    other = UNKNOWN if behaviours is None else HONEST
    kept = [n for n, present in zip(nodes, seen, strict=True) if present]
    return Shares(
        kept,
        [(behaviours or {}).get(n, other) for n in kept],
        mean["credited"][seen],
        mean["contributed"][seen],
    )


def penalties(run: RunFolder) -> Penalties:
    """The `penalize` events; their detail is `<penalized node>: <reason>`."""
    table = run.events(["penalize"]).sort_by("time_s")
    parts = [detail.partition(": ") for detail in table["detail"].to_pylist()]
    return Penalties(
        _floats(table["time_s"]),
        table["node"].to_pylist(),
        [whom for whom, _, _ in parts],
        [why for _, _, why in parts],
    )


def faults(run: RunFolder) -> list[tuple[float, str]]:
    """When the scenario broke something, and what, in order of time."""
    table = run.events(["fault"]).sort_by("time_s")
    return list(zip(table["time_s"].to_pylist(), table["detail"].to_pylist(), strict=True))


def metric_names(run: RunFolder) -> list[str]:
    """Every metric that was recorded, in order of name."""
    return sorted(pc.unique(run.metrics()["name"].cast(pa.string())).to_pylist())


def adopted_rounds(run: RunFolder) -> int:
    """How many rounds some node adopted."""
    return int(pc.count_distinct(run.events(["adopt"])["round"]).as_py())


def headline(run: RunFolder) -> dict[str, float | int | str | bool | None]:
    """The figures of a run that fit into a row of a table; None for what was not recorded."""
    about, cheats, first = run.about, adversaries(run), penalties(run).first()
    times, accuracy, attempts = (curve(run, name) for name in ("round_s", "accuracy", "attempts"))
    sent, share = by_round(run, "bytes_sent"), shares(run)
    to_cheats = np.array([behaviour != HONEST for behaviour in share.behaviour], dtype=bool)
    assertions = about["assertions"]
    return {
        "assertions held": sum(1 for a in assertions if a["held"]),
        "assertions": len(assertions),
        "partial": run.partial,
        "rounds": adopted_rounds(run),
        "loss": curve(run, "loss").last(),
        "accuracy": accuracy.last(),
        "round_s median": _quantile(times.value, 0.5),
        "round_s p95": _quantile(times.value, 0.95),
        "attempts mean": _mean(attempts.value),
        "bytes sent": float(sent.total.sum()) if sent.round.size else None,
        "penalized": len(first),
        "adversaries": None if cheats is None else len(cheats),
        "adversaries penalized": None if cheats is None else len(cheats.keys() & first.keys()),
        "honest penalized": None if cheats is None else len(first.keys() - cheats.keys()),
        "pay to adversaries": None
        if cheats is None or not share.nodes
        else float(share.credited[to_cheats].sum()),
        "virtual_s": about.get("virtual_s"),
        "wall_s": about.get("wall_s"),
        "events": about.get("events"),
    }


def _of_network(table: Any) -> Any:
    return table.filter(pc.equal(table["node"].cast(pa.string()), ""))


def _of_nodes(table: Any) -> Any:
    return table.filter(pc.not_equal(table["node"].cast(pa.string()), ""))


def _floats(column: Any) -> Floats:
    values = column.to_numpy().astype(np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def _ints(column: Any) -> Ints:
    values: Ints = column.to_numpy().astype(np.int64)
    return values


def _words(column: Any) -> tuple[Ints, list[str]]:
    """A dictionary column as codes, and the words that they index."""
    array = column.combine_chunks()
    return array.indices.to_numpy().astype(np.int64), array.dictionary.to_pylist()


def _quantile(values: Floats, share: float) -> float | None:
    finite = values[np.isfinite(values)]
    return float(np.quantile(finite, share)) if finite.size else None


def _mean(values: Floats) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else None
