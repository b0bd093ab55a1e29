"""Plays a scenario, records it, and says whether what was expected held."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from eigen.protocol.effects import Effect, Penalize
from eigen.protocol.messages import RoundRecord
from eigen.protocol.types import Address
from eigen.simulations.adversaries import HONEST
from eigen.simulations.heap import HeapNetwork, VirtualNode
from eigen.simulations.outcome import Answer, Outcome, Record, attempt_of, kind_of
from eigen.simulations.scenario import Fault, Scenario
from eigen.simulations.tier1 import ScenarioNetwork

LOOK_S: Final = 1.0
"""Whether everybody holds the last round is looked at so often."""
COLLECT_EVERY: Final = 200_000
"""Objects more than before, until Python looks for cycles among them."""
SETTLE_S: Final = 60.0
"""After the last round and the last fault those who are behind have so long to catch up."""


class Play:
    """One run of one scenario on tier 1."""

    def __init__(self, scenario: Scenario, record: Record | None = None) -> None:
        self.scenario = scenario
        self.network = ScenarioNetwork(scenario)
        self._record = record
        self.outcome = Outcome(scenario, lambda a: self.network.devices[a].group.name)
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
        self.outcome.held = tuple(
            (device.group.name, network.nodes[address].head.round)
            for address, device in network.devices.items()
            if device.group.behaviour == HONEST and network.nodes[address].alive
        )
        held = tuple(self.outcome.judge(wanted) for wanted in self.scenario.expect)
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
        ended_s = self.outcome.ended_s[last]
        quiet_s = max([ended_s, *(f.at_s + f.for_s for f in self.scenario.faults)])
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
        kind = kind_of(effect)
        if kind:
            at = attempt_of(effect)
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
        before = max(self.outcome.ended_s)
        self.outcome.ended_s[last] = network.now
        self.outcome.records[last] = record
        evaluation = getattr(network.compute, "evaluate", None)
        judged = evaluation(record.checkpoint) if evaluation else None
        if judged is not None:
            self.outcome.accuracy[last] = judged.accuracy
        if self._record is None:
            return
        out, now = self._record.metric, network.now
        out(now, "round_s", now - self.outcome.ended_s[before], "", last)
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
