"""Plays a scenario, records it, and says whether what was expected held."""

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Protocol

from eigen.protocol.effects import (
    Adopt,
    Attest,
    Audit,
    Effect,
    Note,
    Penalize,
    Publish,
    Step,
    Train,
)
from eigen.protocol.messages import Attempt, Commitment, ResultVote, RoundRecord, SeatProposal
from eigen.protocol.types import Address
from eigen.simulations.adversaries import HONEST
from eigen.simulations.heap import HeapNetwork, VirtualNode
from eigen.simulations.scenario import Expectation, Fault, Scenario
from eigen.simulations.tier1 import ScenarioNetwork

LOOK_S: Final = 1.0
"""Whether everybody holds the last round is looked at so often."""
COLLECT_EVERY: Final = 200_000
"""Objects more than before, until Python looks for cycles among them."""
SETTLE_S: Final = 60.0
"""After the last round and the last fault those who are behind have so long to catch up."""


class Record(Protocol):
    """Where events and metrics go."""

    def event(
        self, time_s: float, node: str, kind: str, round_: int, attempt: int, detail: str = ""
    ) -> None:
        """Something that a node did, or that happened to it."""
        ...

    def metric(
        self, time_s: float, name: str, value: float, node: str = "", round_: int = 0
    ) -> None:
        """Something that was measured."""
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    """What a run came to. `held` has each expectation in words, whether it held, and its figure."""

    held: tuple[tuple[str, bool, str], ...]
    rounds: int
    virtual_s: float
    events: int
    trace: str


class Play:
    """One run of one scenario on tier 1."""

    def __init__(self, scenario: Scenario, record: Record | None = None) -> None:
        self.scenario = scenario
        self.network = ScenarioNetwork(scenario)
        self._record = record
        self._ended_s: dict[int, float] = {0: 0.0}
        self.records: dict[int, RoundRecord] = {}
        self.accuracy: dict[int, float] = {}
        self._over = False
        self._progress: Callable[[float, int], None] | None = None
        if record is not None:
            self.network.hooks.insert(0, self._see)
        self.network.watch = self._came_or_went
        self.network.ended = self._end_round
        for fault in scenario.faults:
            self._plan(fault)

    @property
    def adversaries(self) -> dict[str, str]:
        """Names of nodes that are not honest, and what they do."""
        devices = self.network.devices
        return {devices[a].name: behaviour for a, behaviour in self.network.lying.items()}

    def run(self, progress: Callable[[float, int], None] | None = None) -> Answer:
        """Play until the run has ended or `until_s`. `progress` gets virtual time and round."""
        network = self.network

        self._progress = progress
        self.run_until(self.scenario.until_s)
        held = tuple(self._judge(wanted) for wanted in self.scenario.expect)
        if self._record is not None:
            for what, true, detail in held:
                self._record.event(network.now, "", "assert", 0, 0, f"{what}: {detail}; {true}")
        return Answer(held, network.adopted_round, network.now, network.events, network.trace)

    def run_until(self, at_s: float) -> None:
        """Play up to a virtual time, and no further than the run's end."""
        if self.network.now < at_s and not self._over:
            with _few_collections():
                self.network.run(at_s)

    def states(self, wanted: str | None = None) -> Iterator[str]:
        """Where each node stands, a line each, or the one of that name."""
        for address, device in self.network.devices.items():
            node = self.network.nodes[address]
            if wanted not in (None, device.name):
                continue
            doing = "down" if not node.alive else "frozen" if node.frozen else "up"
            if node.alive and node.trainer is not None:
                doing = node.trainer.phase.value
            if node.alive and node.committee is not None:
                doing = f"{node.committee.stage.value}, attempt {node.committee.number}"
            yield f"{device.name:<16} round {node.head.round:>4}  {doing}"
            if wanted is not None:
                yield from (f"  {at:.3f} {note.event} {note.detail}" for at, note in node.notes)
                yield from (f"  blames {p.peer.hex()[:8]}: {p.reason}" for p in node.penalties)

    def next_events(self, count: int) -> Iterator[str]:
        """Play on, one event at a time, and say what happens to whom."""
        told: list[str] = []
        network = self.network
        for _ in range(count):
            if not network.run(self.scenario.until_s, lambda _: True):
                break
            device = network.devices[network.last.address]
            told.append(f"{network.now:.4f} {device.name:<16} {network.last_event!r:.160}")
        yield from told

    def _settled(self) -> bool:
        """Whether all that are up hold the last round, or have had the time to."""
        network, last = self.network, self.scenario.run.rounds
        missing = any(n.alive and n.head.round < last for n in network.nodes.values())
        quiet_s = max([self._ended_s[last], *(f.at_s + f.for_s for f in self.scenario.faults)])
        self._over = not missing or network.now > quiet_s + SETTLE_S
        if not self._over:
            network.schedule(network.now + LOOK_S, self._settled)
        return self._over

    # faults ---------------------------------------------------------------------------------------
    def _plan(self, fault: Fault) -> None:
        self.network.schedule(fault.at_s, lambda: self._begin(fault))

    def _begin(self, fault: Fault) -> None:
        network = self.network
        group = [a for a, d in network.devices.items() if d.group.name == fault.nodes]
        count = round(len(group) * fault.share)
        hit = network.random.sample(sorted(group), count)
        self._note("fault", f"{fault.what} {count} of {fault.nodes} for {fault.for_s:g} s")
        match fault.what:
            case "partition":
                network.cut_off(hit)
                network.schedule(network.now + fault.for_s, lambda: network.cut_off(()))
            case "freeze":
                for address in hit:
                    network.freeze(address)
                    network.schedule(network.now + fault.for_s, _thaw(network, address))
            case _:
                for address in hit:
                    if network.nodes[address].alive:
                        network.kill(address)
                        network.schedule(network.now + fault.for_s, _restart(network, address))

    def _came_or_went(self, what: str, who: Address) -> None:
        if self._record is not None:
            name, round_ = self.network.devices[who].name, self.network.nodes[who].head.round
            self._record.event(self.network.now, name, what, round_, 0)

    def _note(self, kind: str, detail: str) -> None:
        if self._record is not None:
            self._record.event(self.network.now, "", kind, 0, 0, detail)

    # what is seen ---------------------------------------------------------------------------------
    def _see(self, network: HeapNetwork, node: VirtualNode, effect: Effect) -> bool:
        if self._record is None:
            return False
        kind = _kind(effect)
        if kind:
            at = _attempt(effect)
            detail = ""
            if isinstance(effect, Penalize):
                device = self.network.devices.get(effect.peer)
                detail = f"{device.name if device else effect.peer.hex()}: {effect.reason}"
            name = self.network.devices[node.address].name
            round_, number = (at.round, at.number) if at else (node.head.round + 1, 0)
            self._record.event(network.now, name, kind, round_, number, detail)
        return False

    def _end_round(self, record: RoundRecord) -> None:
        """A round is attested: what it took and who was paid."""
        network, last = self.network, record.attempt.round
        if self._progress is not None:
            self._progress(network.now, last)
        if last >= self.scenario.run.rounds:
            network.schedule(network.now, self._settled)
        before = max(self._ended_s)
        self._ended_s[last] = network.now
        self.records[last] = record
        evaluation = getattr(network.compute, "evaluate", None)
        judged = evaluation(record.checkpoint) if evaluation else None
        if judged is not None:
            self.accuracy[last] = judged.accuracy
        if self._record is None:
            return
        out, now = self._record.metric, network.now
        out(now, "round_s", now - self._ended_s[before], "", last)
        out(now, "attempts", record.attempt.number + 1.0, "", last)
        out(now, "alive", float(sum(n.alive for n in network.nodes.values())), "", last)
        out(now, "seated", float(len(network.seated)), "", last)
        if judged is not None:
            out(now, "loss", judged.loss, "", last)
            out(now, "accuracy", judged.accuracy, "", last)
        whole = sum(credit.amount for credit in record.trainers) or 1
        for credit in record.trainers:
            name = network.devices[credit.account].name
            out(now, "credited", credit.amount / whole, name, last)
        for address, amount in getattr(network.compute, "contributed", {}).items():
            out(now, "contributed", amount, network.devices[address].name, last)
        for figure, counts in (
            ("bytes_sent", network.sent_bytes),
            ("bytes_received", network.received_bytes),
        ):
            for address, size in counts.items():
                out(now, figure, float(size), network.devices[address].name, last)
            counts.clear()

    # expectations ---------------------------------------------------------------------------------
    def _judge(self, wanted: Expectation) -> tuple[str, bool, str]:
        figure = self._figure(wanted)
        bounds = [f"at least {wanted.least:g}"] if wanted.least > 0 else []
        bounds += [f"at most {wanted.most:g}"] if wanted.most < 1e9 else []
        of = f" of {wanted.nodes}" if wanted.nodes else ""
        round_ = f" in round {wanted.round}" if wanted.round else ""
        what = f"{wanted.what}{of}{round_}: {' and '.join(bounds)}"
        return what, wanted.least <= figure <= wanted.most, f"{figure:.4g}"

    def _figure(self, wanted: Expectation) -> float:
        network, last = self.network, wanted.round or self.scenario.run.rounds
        took = [(self._ended_s[r] - self._ended_s.get(r - 1, 0.0)) for r in self._ended_s if r]
        match wanted.what:
            case "committed":
                among = [
                    network.nodes[a]
                    for a, d in network.devices.items()
                    if d.group.behaviour == HONEST
                    and wanted.nodes in ("", d.group.name)
                    and network.nodes[a].alive
                ]
                return sum(n.head.round >= last for n in among) / max(1, len(among))
            case "attempts":
                counts = [r.attempt.number + 1 for r in self.records.values()]
                return sum(counts) / max(1, len(counts))
            case "round-seconds":
                return sum(took) / len(took) if took else float("inf")
            case "accuracy":
                known = max((r for r in self.accuracy if r <= last), default=0)
                return self.accuracy.get(known, 0.0)
            case _:
                return self._paid(wanted.nodes)

    def _paid(self, group: str) -> float:
        """Of all that trainers were paid, the share that went to a group."""
        paid = [c for record in self.records.values() for c in record.trainers]
        whole = sum(c.amount for c in paid)
        ours = sum(c.amount for c in paid if self._group(c.account) == group)
        return ours / whole if whole else 0.0

    def _group(self, address: Address) -> str:
        return self.network.devices[address].group.name


@contextmanager
def _few_collections() -> Iterator[None]:
    """Look for garbage in cycles seldom: what nodes drop is in none."""
    before = gc.get_threshold()
    gc.set_threshold(COLLECT_EVERY, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _thaw(network: ScenarioNetwork, address: Address) -> Callable[[], None]:
    return lambda: network.thaw(address)


def _restart(network: ScenarioNetwork, address: Address) -> Callable[[], None]:
    return lambda: None if network.nodes[address].alive else network.restart(address)


_KINDS: Final[Mapping[type, str]] = {
    Train: "train",
    Step: "step",
    Adopt: "adopt",
    Attest: "attest",
    Audit: "audit",
    Penalize: "penalize",
}
_SAID: Final[Mapping[type, str]] = {
    SeatProposal: "seat",
    Commitment: "commit",
    ResultVote: "vote",
}


def _kind(effect: Effect) -> str:
    if isinstance(effect, Publish):
        return _SAID.get(type(effect.message), "")
    if isinstance(effect, Note):
        return "exchange" if effect.event == "exchange" else "note"
    return _KINDS.get(type(effect), "")


def _attempt(effect: object) -> Attempt | None:
    said = effect
    for name in ("message", "record", "seat"):
        inner = getattr(effect, name, None)
        said = said if inner is None or isinstance(inner, bytes) else inner
    at = getattr(said, "attempt", None)
    return at if isinstance(at, Attempt) else None
