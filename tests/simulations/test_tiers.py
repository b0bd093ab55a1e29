"""The three tiers: the same scenario, the same outcome; and what each of them is made of."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from eigen.chain.decisions import ChangeRun
from eigen.node.libp2p.config import Libp2pConfig
from eigen.node.libp2p.network import Libp2pNetwork
from eigen.node.libp2p.surroundings import Surroundings, TcpTransport, Transport
from eigen.node.local_network import free_ports
from eigen.node.ports import BulkReader, Verdict
from eigen.protocol.messages import NO_DIGEST
from eigen.protocol.run import AggregationSpec, spec_digest
from eigen.protocol.types import Address
from eigen.simulations import virtual_time
from eigen.simulations.lines import Lines
from eigen.simulations.outcome import Outcome
from eigen.simulations.play import Play
from eigen.simulations.proxies import BEHIND, HOST, Fronted, Proxies
from eigen.simulations.record import RunFolder
from eigen.simulations.scenario import Scenario, ScenarioError, parse_scenario
from eigen.simulations.services import work
from eigen.simulations.tier1 import devices_of
from eigen.simulations.tier2 import ServicesPlay
from eigen.simulations.tier3 import ProcessesPlay
from eigen.simulations.tiers import PROCESSES_MAX, check
from eigen.simulations.virtual_network import VirtualNetwork

HEAD = """
name = "tiers"
question = "Do the tiers agree?"
seed = {seed}
until_s = 600

[run]
rounds = {rounds}
trainers_min = 2
trainers_max = 8
shards = 4
model = "{model}"
values = 20000
parts = 2
steps = 10

[links]
latency_ms = [[20]]
loss = {loss}

[[nodes]]
name = "validators"
role = "validator"
count = {validators}

[[nodes]]
name = "trainers"
count = {trainers}
behaviour = "{behaviour}"

[[expect]]
what = "committed"
least = 1.0
"""


def scenario(
    more: str = "",
    *,
    seed: int = 5,
    rounds: int = 2,
    model: str = "cost",
    validators: int = 1,
    trainers: int = 2,
    loss: float = 0.0,
    behaviour: str = "honest",
) -> Scenario:
    text = HEAD.format(
        seed=seed,
        rounds=rounds,
        model=model,
        validators=validators,
        trainers=trainers,
        loss=loss,
        behaviour=behaviour,
    )
    return parse_scenario(text + more, Path("tiers.toml"))


# tier 2 -------------------------------------------------------------------------------------------
def test_one_seed_is_one_trace_of_services_in_another_process_too() -> None:
    answer = ServicesPlay(scenario()).run()
    assert answer.rounds == 2
    program = (
        "from pathlib import Path\n"
        "from eigen.simulations.tier2 import ServicesPlay\n"
        "from eigen.simulations.scenario import parse_scenario\n"
        f"text = {HEAD!r}.format(seed=5, rounds=2, model='cost', validators=1, trainers=2,"
        " loss=0.0, behaviour='honest')\n"
        "print(ServicesPlay(parse_scenario(text, Path('s'))).run().trace)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "77"},
    )
    assert done.stdout.strip().splitlines()[-1] == answer.trace
    assert ServicesPlay(scenario(seed=6)).run().trace != answer.trace


def test_a_run_of_tier_2_is_recorded_and_replayed(tmp_path: Path) -> None:
    text = HEAD.format(
        seed=5, rounds=1, model="cost", validators=1, trainers=2, loss=0.0, behaviour="honest"
    )
    (tmp_path / "tiers.toml").write_text(text)

    def sim(*arguments: str) -> str:
        command = [sys.executable, "-P", "-m", "eigen.node", "sim", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
        return done.stdout

    told = sim("run", "tiers.toml", "--tier", "2", "--into", "run", "--no-report", "--json")
    about = RunFolder.open(tmp_path / "run").about
    assert (about["tier"], about["partial"]) == (2, False)
    assert about["trace_hash"] == json.loads(told)["trace"]
    said = sim("replay", "run")
    assert "the same trace as recorded" in said
    assert "trainers-1       round    1  finished" in said


FAULTS = """
[[nodes]]
name = "late"
joins_s = 2.0

[[faults]]
at_s = 1.0
what = "kill"
nodes = "validators"
share = 0.34
for_s = 10

[[faults]]
at_s = 4.0
what = "partition"
nodes = "late"
for_s = 8

[[faults]]
at_s = 14.0
what = "freeze"
nodes = "trainers"
share = 0.34
for_s = 4
"""


def test_services_survive_what_a_scenario_does_to_them() -> None:
    """Killed from memory and back from disk, late, parted, frozen; replicas stay identical."""

    class Told:
        def __init__(self) -> None:
            self.events: list[tuple[str, str, str]] = []

        def event(self, time_s, node, kind, round_, attempt, detail=""):
            self.events.append((node, kind, detail))

        def metric(self, time_s, name, value, node="", round_=0):
            pass

    told = Told()
    playing = ServicesPlay(scenario(FAULTS, rounds=6, validators=3, trainers=3, loss=0.01), told)
    answer = playing.run()
    assert all(held for _, held, _ in answer.held), answer.held
    assert any(what.startswith("replicas") for what, _, _ in answer.held)
    faults = [detail.split()[0] for _, kind, detail in told.events if kind == "fault"]
    assert faults == ["kill", "partition", "freeze"], "every fault fired"
    assert [node for node, kind, _ in told.events if kind == "up"] == ["late-0", *_killed(told)]


def _killed(told) -> list[str]:
    return [node for node, kind, _ in told.events if kind == "down"]


def test_work_of_threads_does_not_let_the_clock_run_away() -> None:
    async def main(clock: virtual_time.VirtualClock) -> tuple[float, list[float]]:
        ended: list[float] = []

        async def sleeper() -> None:
            await clock.sleep_until(100.0)
            ended.append(trio.current_time())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(sleeper)
            await trio.to_thread.run_sync(time.sleep, 0.05)
            worked_s = trio.current_time()
            with trio.move_on_after(3600.0) as scope:
                await clock.sleep_until(1e9)
            assert scope.cancelled_caught
        return worked_s, ended

    worked_s, ended = virtual_time.run(main, 1)
    assert worked_s == virtual_time.THREAD_S
    assert ended == [100.0]


# what tiers refuse --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("tier", "changes", "message"),
    [
        (2, {"trainers": 500}, "501 nodes, tier 2 plays at most"),
        (3, {"trainers": PROCESSES_MAX}, "tier 3 plays at most"),
        (2, {"behaviour": "spoiling-owner"}, "'trainers' are 'spoiling-owner'"),
        (3, {}, "really train"),
    ],
)
def test_what_a_tier_cannot_play_is_refused_before_the_run(tier, changes, message) -> None:
    check(scenario(**changes), 1)
    with pytest.raises(ScenarioError, match=message):
        check(scenario(**changes), tier)


# agreement ----------------------------------------------------------------------------------------
def outcome(done: Outcome) -> dict[int, tuple[int, frozenset[str]]]:
    """Of each round: its attempt, and the groups whose nodes were paid, by how many."""
    return {
        number: (record.attempt.number, len(record.trainers))
        for number, record in done.records.items()
    }


def test_machines_and_services_come_to_the_same() -> None:
    first, second = Play(scenario(model="digits")), ServicesPlay(scenario(model="digits"))
    for playing in (first, second):
        answer = playing.run()
        assert all(held for _, held, _ in answer.held), answer.held
    assert outcome(first.outcome) == outcome(second.outcome) == {1: (0, 2), 2: (0, 2)}
    for number in (1, 2):
        assert abs(first.outcome.accuracy[number] - second.outcome.accuracy[number]) < 0.15


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_processes_come_to_the_same() -> None:
    """The same rounds at the same attempts, everybody paid, replicas identical."""
    second, third = ServicesPlay(scenario(model="digits")), ProcessesPlay(scenario(model="digits"))
    for playing in (second, third):
        answer = playing.run()
        assert all(held for _, held, _ in answer.held), answer.held
    assert outcome(second.outcome) == outcome(third.outcome)
    assert {c.account for c in third.outcome.records[2].trainers} == {
        address for address, name in third.names.items() if name.startswith("trainers")
    }
    assert set(third.chronicle.models[2]) == {"validators-0", "trainers-0", "trainers-1"}


# latency ------------------------------------------------------------------------------------------
LINES = """
name = "lines"
question = "How long is a message on its way?"

[links]
latency_ms = [[100]]
jitter = 0.0

[[nodes]]
name = "a"
role = "validator"
upload_mbit = 20
spread = 0

[[nodes]]
name = "b"
upload_mbit = 20
spread = 0
"""
TOPIC, BULK, ASK = "/test/1", "/test/bulk/1", "/test/ask/1"
MESSAGES = 5
BULK_BYTES = 512 * 1024


def host(secret: bytes, listen: str, announce: str, transport: Transport) -> Libp2pNetwork:
    config = Libp2pConfig(
        "test", (listen,), announce=(announce,), mdns=False, upnp=False, exchange=False, dht=False
    )
    return Libp2pNetwork(config, secret, Surroundings(transport))


async def deliveries(a: Libp2pNetwork, b: Libp2pNetwork) -> dict[str, float]:
    """Seconds from a call on one host until the other's handler has the message, at least."""
    came: list[float] = []

    async def gossiped(_: Address, data: bytes) -> None:
        came.append(trio.current_time())

    async def asked(_: Address, data: bytes) -> bytes:
        came.append(trio.current_time())
        return data

    async def taken(_: Address, header: bytes, reader: BulkReader) -> None:
        while await reader.receive(timeout_s=10) is not None:
            came.append(trio.current_time())

    for node in (a, b):
        node.subscribe(TOPIC, lambda _peer, _data: Verdict.ACCEPT, gossiped)
    b.serve(ASK, asked, request_bytes_max=4096)
    b.serve_bulk(BULK, taken)

    async def publish() -> None:
        await a.publish(TOPIC, os.urandom(1000))

    async def ask() -> None:
        await a.request(b.local, ASK, bytes(1000), reply_bytes_max=4096, timeout_s=10)

    async def send() -> None:
        async with a.open_bulk(b.local, BULK, b"", timeout_s=10) as out:
            await out.send(bytes(BULK_BYTES), timeout_s=10)
            await out.finish(timeout_s=10)

    async def measure(call: Callable[[], Awaitable[None]]) -> float:
        took = []
        for _ in range(MESSAGES):
            came.clear()
            begun_s = trio.current_time()
            await call()
            while not came:  # noqa: ASYNC110 (in either direction of time)
                await trio.sleep(0.001)
            took.append(came[0] - begun_s)
        return min(took)  # what else the machine does can only add to it

    found: dict[str, float] = {}
    async with trio.open_nursery() as nursery:
        for node in (b, a):
            await nursery.start(node.run)
        await a.connect(b.listen_addrs()[0], timeout_s=10)
        await trio.sleep(1.0)
        for name, call in (("gossip", publish), ("request", ask), ("bulk", send)):
            found[name] = await measure(call)
        nursery.cancel_scope.cancel()
    return found


def test_a_message_takes_as_long_through_proxies_as_on_virtual_time() -> None:
    drawn = parse_scenario(LINES, Path("lines.toml"))
    devices = {device.name: device for device in devices_of(drawn).values()}
    secrets = [bytes([1]) * 32, bytes([2]) * 32]

    async def virtual(clock: virtual_time.VirtualClock) -> dict[str, float]:
        network = VirtualNetwork(Lines(drawn, devices, 1), ["a-0", "b-0"], clock)
        hosts = [
            host(secret, at := f"/ip4/{network.ip_of(name)}/tcp/4001", at, network.transport(name))
            for secret, name in zip(secrets, ("a-0", "b-0"), strict=True)
        ]
        return await deliveries(*hosts)

    async def real() -> dict[str, float]:
        fronts, ports = free_ports(2), free_ports(2)
        pids = {"a-0": os.getpid(), "b-0": None}  # only a dials
        proxies = Proxies(
            Lines(drawn, devices, 1),
            {
                name: Fronted(front, lambda port=port: port, lambda name=name: pids[name])
                for name, front, port in zip(pids, fronts, ports, strict=True)
            },
        )
        hosts = [
            host(secret, f"/ip4/{BEHIND}/tcp/{port}", f"/ip4/{HOST}/tcp/{front}", TcpTransport())
            for secret, front, port in zip(secrets, fronts, ports, strict=True)
        ]
        async with trio.open_nursery() as nursery:
            await nursery.start(proxies.run)
            found = await deliveries(*hosts)
            nursery.cancel_scope.cancel()
        return found

    expected, measured = virtual_time.run(virtual, 1), trio.run(real)
    print({name: (expected[name], measured[name]) for name in expected})
    for name, seconds in expected.items():
        assert seconds > 0.1
        assert abs(measured[name] / seconds - 1.0) < 0.10, (name, measured[name], seconds)


# what the DAO changes -----------------------------------------------------------------------------
class Changing(ServicesPlay):
    """After the first round the DAO votes for another learning rate, rule and data set."""

    async def _open_run(self) -> None:
        await super()._open_run()
        self._nursery.start_soon(self._decide)

    async def _decide(self) -> None:
        first = next(n for n in self.nodes.values() if n.device.group.role == "validator")
        assert first.node is not None
        rounds, datasets = first.node.rounds, first.node.datasets
        while not rounds.drivers:  # noqa: ASYNC110 - the daemon opens it in its own time
            await trio.sleep(0.1)
        [(run, driver)] = rounds.drivers.items()
        spec = driver.context.spec
        other = await datasets.seed(replace(work(self.scenario)[1], name="other"))
        self.after = replace(
            spec,
            dataset=other,
            inner=replace(spec.inner, lr=spec.inner.lr / 2),
            aggregation=AggregationSpec("median", 3_000),
        )
        change = ChangeRun(run, FROM_ROUND, spec_digest(self.after))
        await first.node.governance.propose([change], "slower", (self.after,))
        bad = replace(self.after, reward_per_round=10**30)
        await first.node.governance.propose(
            [ChangeRun(run, FROM_ROUND, spec_digest(bad))], "more money", (bad,)
        )
        self.answers = [n.node.rounds for n in self.nodes.values() if n.node is not None]


FROM_ROUND = 3


def test_a_change_that_the_dao_voted_for_changes_the_run_on_every_node() -> None:
    playing = Changing(scenario(model="digits", rounds=4))
    answer = playing.run()
    assert all(held for _, held, _ in answer.held), answer.held
    name = spec_digest(playing.after)
    records = playing.outcome.records
    assert [records[n].spec for n in (1, 2, 3, 4)] == [NO_DIGEST, NO_DIGEST, name, name]
    for rounds in playing.answers:
        [driver] = rounds.drivers.values()
        assert [change.spec for change in driver.context.course.changes] == [playing.after]
    assert len({playing.chronicle.models[4][n] for n in playing.chronicle.models[4]}) == 1
