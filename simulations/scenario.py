"""Scenarios: who takes part, over which lines, what goes wrong, and what must hold all the same.

A scenario is a TOML file that names a question, so that a run of it is an answer. Everything that
is drawn is drawn from its seed. docs/simulator.md has an example and every key.
"""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from eigen.config import kinds
from eigen.config.errors import NotAccepted
from eigen.config.kinds import Kind
from eigen.config.schema import option
from eigen.config.tables import TableReader, items, required
from eigen.protocol import limits
from eigen.simulations.adversaries import ADVERSARIES, HONEST
from eigen.training.aggregation import RULES
from eigen.training.codecs.registry import CODECS, DEFAULT_CODEC

SCENARIO_BYTES_MAX: Final = 256 * 1024
"""A scenario file is read whole."""
NODES_MAX: Final = 100_000
"""Of all groups together."""
NUMBERS_MAX: Final = 65_536
"""Of latencies, or of a group's traces."""
DAY_S: Final = 86_400.0
_SECONDS: Final = kinds.number(0.0, 365 * DAY_S)
_SHARE: Final = kinds.number(0.0, 1.0)


class ScenarioError(ValueError):
    """A scenario is wrong. The message names file, line and key, and what may stand there."""


def _parse_name(value: object, _: Path) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,39}", value):
        raise NotAccepted(f"{str(value)[:60]!r} is no name")
    return value


def _parse_rows(value: object, base: Path) -> tuple[tuple[float, ...], ...]:
    """Rows of numbers; any of them may be there twice."""
    if not isinstance(value, list) or not all(isinstance(row, list) for row in value):
        raise NotAccepted(f"{str(value)[:60]} is no list of lists")
    if sum(len(row) for row in value) > NUMBERS_MAX:
        raise NotAccepted(f"more than {NUMBERS_MAX} numbers")
    return tuple(tuple(_SECONDS.parse(one, base) for one in row) for row in value)


_ROWS: Final = Kind(
    "a list of lists of numbers from 0 to 31536000",
    _parse_rows,
    str,
    lambda rows: [list(row) for row in rows],
)
_NAME: Final = Kind("1 to 40 of a-z, 0-9 and -", _parse_name, str, lambda name: name)
_NAMES: Final = kinds.listing(_NAME)


@dataclass(frozen=True, slots=True)
class Rounds:
    """The run: how many rounds, what is trained, how it is averaged."""

    rounds: int = option(10, kinds.integer(1, limits.ROUNDS_MAX), "Rounds of the run.")
    trainers_min: int = option(1, kinds.integer(1, limits.TRAINERS_MAX), "Fewest in a seat.")
    trainers_max: int = option(64, kinds.integer(1, limits.TRAINERS_MAX), "Most in a seat.")
    quorum: int = option(0, kinds.integer(0, limits.VALIDATORS_MAX), "Validators; 0: a majority.")
    model: str = option(
        "cost",
        kinds.choice("cost", "digits", "digits-cnn"),
        "`cost` trains nothing; `digits` (one hidden layer) and `digits-cnn` really train.",
    )
    values: int = option(
        1_000_000, kinds.integer(256, 2**31), "Parameters of a model that costs and trains nothing."
    )
    parts: int = option(16, kinds.integer(1, limits.PARTS_MAX), "Parts of the exchanged vector.")
    shards: int = option(64, kinds.integer(1, limits.SHARDS_MAX), "Shards of the dataset.")
    sealed: bool = option(False, kinds.boolean, "A shard is shown to as few trainers as can be.")
    steps: int = option(20, kinds.integer(1, limits.LOSS_TRACE_MAX), "Inner steps a round (H).")
    codec: str = option(DEFAULT_CODEC, kinds.choice(*CODECS), "How updates and results travel.")
    rule: str = option("cosine-filter", kinds.choice(*RULES), "How updates become one.")
    tolerated: float = option(
        0.3, kinds.number(0.0, 0.4999), "The share of liars the rule expects."
    )
    alpha: float = option(
        0.0, kinds.number(0.0, 1000.0), "Dirichlet parameter of the shards' labels; 0: at random."
    )


@dataclass(frozen=True, slots=True)
class Times:
    """Deadlines, as in a network file."""

    commit_s: float = option(60.0, _SECONDS, "From an open seat to the last commitment.")
    inputs_s: float = option(30.0, _SECONDS, "An owner waits so long for inputs.")
    owner_s: float = option(20.0, _SECONDS, "Trainers wait so long for a result after that.")
    notices_s: float = option(20.0, _SECONDS, "Validators wait so long for step notices.")
    attempt_s: float = option(300.0, _SECONDS, "An attempt is given up after this.")
    resend_s: float = option(5.0, _SECONDS, "What others still need is sent again so often.")
    heartbeat_s: float = option(
        10.0, kinds.number(0.1, 3600), "Nodes announce themselves so often, on tier 2."
    )


@dataclass(frozen=True, slots=True)
class Lines:
    """The network between regions."""

    regions: tuple[str, ...] = option(("all",), _NAMES, "Names of the regions.")
    latency_ms: tuple[tuple[float, ...], ...] = option(
        ((40.0,),), _ROWS, "One way, from each region (row) to each (column)."
    )
    jitter: float = option(0.3, kinds.number(0.0, 10.0), "Up to so much more, as a share.")
    hops: int = option(2, kinds.integer(1, 10), "Forwardings of a gossiped message.")
    loss: float = option(0.0, kinds.number(0.0, 0.9), "Share of gossiped messages that get lost.")
    notice_s: float = option(15.0, _SECONDS, "Until others notice that a node is gone.")


@dataclass(frozen=True, slots=True)
class NodeGroup:
    """Nodes that are alike."""

    name: str = required(_NAME, "What faults and expectations call them.")
    count: int = option(1, kinds.integer(1, NODES_MAX), "How many.")
    role: str = option("trainer", kinds.choice("trainer", "validator"), "What they do.")
    region: str = option("", kinds.text(40), "Where they are; the first region if empty.")
    upload_mbit: float = option(50.0, kinds.number(0.01, 1e6), "What their lines carry upwards.")
    download_mbit: float = option(
        0.0, kinds.number(0.0, 1e6), "What they carry downwards; 0: as much as comes."
    )
    steps_per_s: float = option(10.0, kinds.number(1e-3, 1e6), "Inner steps a second.")
    spread: float = option(0.2, _SHARE, "How much faster or slower the single node is.")
    behaviour: str = option(HONEST, kinds.choice(HONEST, *ADVERSARIES), "What they do to others.")
    relayed: bool = option(False, kinds.boolean, "Behind a NAT that needs a relay: twice the way.")
    joins_s: float = option(0.0, _SECONDS, "They come after so long.")
    session_s: float = option(0.0, _SECONDS, "They stay so long on average; 0: for good.")
    away_s: float = option(600.0, _SECONDS, "And then are away for so long on average.")
    diurnal: float = option(0.0, _SHARE, "How much longer they are away at night.")
    traces: tuple[tuple[float, ...], ...] = option(
        (),
        _ROWS,
        "Instead: a row of times at which a node comes, goes, comes...; each takes the next row.",
    )


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that happens at a time."""

    at_s: float = required(_SECONDS, "When.")
    what: str = required(
        kinds.choice("kill", "freeze", "partition"), "Killed, stopped, or cut off from the rest."
    )
    nodes: str = required(_NAME, "The group of nodes that it happens to.")
    share: float = option(1.0, _SHARE, "To how many of them.")
    for_s: float = option(60.0, _SECONDS, "Until they come back.")


@dataclass(frozen=True, slots=True)
class Expectation:
    """Something that must hold; a run in which it does not has failed."""

    what: str = required(
        kinds.choice("committed", "attempts", "accuracy", "paid", "round-seconds"),
        "`committed`: share of the honest nodes that hold `round`; `attempts`, `round-seconds`: "
        "mean a round; `accuracy`: of the last model; `paid`: share of the pay that `nodes` got.",
    )
    least: float = option(0.0, kinds.number(0.0, 1e9), "At least so much.")
    most: float = option(1e9, kinds.number(0.0, 1e9), "At most so much.")
    round: int = option(0, kinds.integer(0, limits.ROUNDS_MAX), "Of which round; 0: the last.")
    nodes: str = option("", kinds.text(40), "Of which group of nodes.")


@dataclass(frozen=True, slots=True)
class Scenario:
    """One question and all that its answer depends on."""

    name: str = required(_NAME, "A short name.")
    question: str = required(kinds.text(200), "What a run of it answers.")
    seed: int = option(1, kinds.integer(0, 2**63 - 1), "Of everything that is drawn.")
    until_s: float = option(DAY_S, _SECONDS, "Virtual time at which it ends at the latest.")
    run: Rounds = Rounds()
    deadlines: Times = Times()
    links: Lines = Lines()
    nodes: tuple[NodeGroup, ...] = items(NodeGroup, "Groups of nodes.")
    faults: tuple[Fault, ...] = items(Fault, "What happens when.")
    expect: tuple[Expectation, ...] = items(Expectation, "What must hold.")


def load_scenario(path: Path) -> tuple[Scenario, str]:
    """A scenario and its text. Raises `ScenarioError`."""
    try:
        with path.open("rb") as file:
            data = file.read(SCENARIO_BYTES_MAX + 1)
        text = data.decode()
    except OSError as error:
        raise ScenarioError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ScenarioError(f"{path}: not UTF-8 text") from error
    if len(data) > SCENARIO_BYTES_MAX:
        raise ScenarioError(f"{path} is over {SCENARIO_BYTES_MAX} bytes: no scenario")
    return parse_scenario(text, path), text


def parse_scenario(text: str, source: Path) -> Scenario:
    """A scenario from the text of its file. Raises `ScenarioError`."""
    try:
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ScenarioError(f"{source}: not valid TOML: {error}") from error
    reader = TableReader(text, source, ScenarioError)
    scenario = reader.table(Scenario, table)
    _check(scenario, reader)
    return scenario


def _check(scenario: Scenario, reader: TableReader) -> None:
    """What single values cannot show."""
    groups = {group.name: group for group in scenario.nodes}
    for i, group in enumerate(scenario.nodes):
        if [other.name for other in scenario.nodes].index(group.name) != i:
            raise reader.error("nodes.name", f"there are two groups {group.name!r}", i)
        if group.region and group.region not in scenario.links.regions:
            there = ", ".join(scenario.links.regions)
            raise reader.error("nodes.region", f"no region {group.region!r}; there are {there}", i)
        if any(not row or list(row) != sorted(row) for row in group.traces):
            raise reader.error("nodes.traces", "each row needs times, from early to late", i)
        if group.traces and (group.joins_s or group.session_s):
            raise reader.error("nodes.traces", "takes the place of joins_s and session_s", i)
    by_role = {role: _count(scenario, role) for role in ("trainer", "validator")}
    run = scenario.run
    if by_role["trainer"] + by_role["validator"] > NODES_MAX:
        raise reader.error("nodes.count", f"more than {NODES_MAX} nodes in all")
    if not 1 <= by_role["validator"] <= limits.VALIDATORS_MAX:
        raise reader.error(
            "nodes.role", f"{by_role['validator']} validators; 1 to {limits.VALIDATORS_MAX}"
        )
    if by_role["trainer"] < run.trainers_min:
        raise reader.error(
            "run.trainers_min", f"{run.trainers_min}, and there are {by_role['trainer']} trainers"
        )
    if run.trainers_min > run.trainers_max:
        raise reader.error("run.trainers_min", f"is above trainers_max, {run.trainers_max}")
    if run.quorum and not by_role["validator"] < 2 * run.quorum <= 2 * by_role["validator"]:
        raise reader.error("run.quorum", f"no majority of {by_role['validator']} validators")
    side = len(scenario.links.regions)
    if len(scenario.links.latency_ms) != side or any(
        len(row) != side for row in scenario.links.latency_ms
    ):
        raise reader.error("links.latency_ms", f"needs {side} rows of {side}, one for each region")
    times = scenario.deadlines
    if times.attempt_s <= times.commit_s + times.inputs_s + times.owner_s:
        raise reader.error("deadlines.attempt_s", "must be more than commit_s + inputs_s + owner_s")
    for i, fault in enumerate(scenario.faults):
        if fault.nodes not in groups:
            raise reader.error("faults.nodes", f"no nodes {fault.nodes!r}", i)
    for i, wanted in enumerate(scenario.expect):
        if wanted.nodes and wanted.nodes not in groups:
            raise reader.error("expect.nodes", f"no nodes {wanted.nodes!r}", i)
        if wanted.what == "accuracy" and run.model == "cost":
            raise reader.error("expect.what", 'run.model = "cost" has no accuracy', i)
        if wanted.what == "paid" and not wanted.nodes:
            raise reader.error("expect.nodes", "is missing: whose pay?", i)


def _count(scenario: Scenario, role: str) -> int:
    return sum(group.count for group in scenario.nodes if group.role == role)
