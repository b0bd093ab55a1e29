"""Measures rounds of averaging by real peers, a process each, beside hivemind; kills and freezes.

`python tests/bench/averaging.py --json` prints every figure; `--quick` takes a tenth of the time;
`--only exchange,hivemind,shaped,large,faults` picks; `large` (8 peers, 100M values) is not among
those that run unasked. hivemind runs in a venv of its own, made where
`--hivemind-venv` says at the first use. Figures depend on the machine: quote them as ratios.

A peer's time for a round has three parts. *exchange*: from when the last peer has its update ready
until the last one holds all results, the commitments' gossip included; *encode* and *decode*: of
the whole vector, on one thread, which hivemind does within its all-reduce.
"""

import argparse
import contextlib
import json
import os
import queue
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "libp2p"))
hub, line = import_module("hub"), import_module("line")

HIDDEN = {85_000: 256, 10_000_000: 3_125, 100_000_000: 9_962}
"""Width of an `mlp` of depth 2 with about so many parameters."""
PATIENT = {
    "heartbeat_s": 2.0,
    "heartbeat_ttl_s": 60.0,
    "commit_s": 120.0,
    "inputs_s": 60.0,
    "owner_s": 60.0,
    "notices_s": 60.0,
    "attempt_s": 300.0,
    "resend_s": 1.0,
}
HASTY = PATIENT | {
    "heartbeat_ttl_s": 8.0,
    "commit_s": 2.0,
    "inputs_s": 1.0,
    "owner_s": 1.0,
    "notices_s": 1.0,
    "attempt_s": 12.0,
}
"""Deadlines where rounds take under a second: nobody waits longer for a frozen peer."""


class Peer:
    """One process; `events` has what all of them say, in order of arrival."""

    def __init__(
        self,
        folder: Path,
        name: str,
        wanted: dict[str, Any],
        events: Any,
        inside: Sequence[str] = (),
    ) -> None:
        """`inside` is the command's prefix that runs it elsewhere, as in a network namespace."""
        self.inside = inside
        self.name = name
        self.folder = folder
        self.wanted = wanted
        self.events = events
        self.phase = "starting"
        self.start()

    def start(self) -> None:
        command = [
            sys.executable,
            str(HERE / "programs" / "averaging_peer.py"),
            str(self.folder / self.name),
        ]
        log = (self.folder / f"{self.name}.log").open("a")
        self.process = subprocess.Popen(
            [*self.inside, *command, json.dumps(self.wanted)],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
        threading.Thread(target=self._read, args=(self.process,), daemon=True).start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for text in process.stdout:
            said = json.loads(text)
            self.phase = said.get("phase", self.phase)
            self.events.put((self, said))

    def signal(self, number: int) -> None:
        """To the node and its training process."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def end(self) -> None:
        self.signal(signal.SIGKILL)
        self.process.wait()


class Network:
    """One validator and some trainers, whose rounds go on until the context is left."""

    def __init__(self, trainers: int, *, places: Sequence[str] = (), **wanted: Any) -> None:
        """`places` are network namespaces of `hub`, the validator's first; else all on loopback."""
        self.places = places
        self.events: queue.Queue[tuple[Peer, dict[str, Any]]] = queue.Queue()
        self.folder = Path(tempfile.mkdtemp(prefix="eigen-averaging-"))
        common = {"peers": trainers, "validators": [], "bootstrap": [], **wanted}
        self.validator = self._peer(0, "validator", {**common, "role": "validator"})
        known = self.wait(self.validator, "address", 120)
        common |= {
            "role": "trainer",
            "validators": [known["address"]],
            "bootstrap": [known["multiaddr"]],
            "dataset": known["dataset"],
        }
        numbers = range(1, trainers + 1)
        self.trainers = [self._peer(i, f"trainer-{i}", common) for i in numbers]
        self.address: dict[str, Peer] = {}

    def _peer(self, index: int, name: str, wanted: dict[str, Any]) -> Peer:
        if not self.places:
            return Peer(self.folder, name, wanted, self.events)
        inside = ("ip", "netns", "exec", self.places[index])
        wanted = {**wanted, "ip": hub.address(index)}
        return Peer(self.folder, name, wanted, self.events, inside)

    def __enter__(self) -> "Network":
        return self

    def __exit__(self, *_: object) -> None:
        for peer in (self.validator, *self.trainers):
            peer.end()
        shutil.rmtree(self.folder, ignore_errors=True)

    def next(self, timeout_s: float) -> tuple[Peer, dict[str, Any]]:
        try:
            peer, said = self.events.get(timeout=timeout_s)
        except queue.Empty:
            raise SystemExit(f"nothing happens; logs are in {self.folder}") from None
        if "address" in said:
            self.address[said["address"]] = peer
        return peer, said

    def wait(self, wanted: Peer, key: str, timeout_s: float) -> dict[str, Any]:
        end = time.monotonic() + timeout_s
        self.address = getattr(self, "address", {})
        while True:
            peer, said = self.next(end - time.monotonic())
            if peer is wanted and key in said:
                return said


# the exchange -------------------------------------------------------------------------------------


def exchange(
    peers: int, values: int, codec: str, rounds: int, places: Sequence[str] = ()
) -> dict[str, float]:
    """Median time of an exchange, and the memory that a node took over its idle state.

    Once when it has all results, and at most in a whole round, checkpoints on their way included.
    """
    wanted = {"codec": codec, "hidden": HIDDEN[values], "deadlines": PATIENT}
    with Network(peers, places=places, **wanted) as network:
        ready: dict[Peer, int] = {}
        held_bytes: dict[Peer, int] = {}
        peak: dict[Peer, int] = {}
        trained: dict[int, dict[Peer, float]] = {}
        held: dict[int, dict[Peer, float]] = {}
        checkpoints: dict[int, set[str]] = {}
        while True:
            peer, said = network.next(300)
            if "ready" in said:
                ready[peer] = said["rss_ready"]["now"]
            if "rss" in said:
                held_bytes[peer] = max(held_bytes.get(peer, 0), said["rss"]["now"])
                peak[peer] = said["rss"]["peak"]
            if "trained" in said:
                trained.setdefault(said["trained"], {})[peer] = said["at"]
            if said.get("phase") in ("agreed", "stepping"):
                held.setdefault(said["round"], {}).setdefault(peer, said["at"])
            if "adopted" in said:
                checkpoints.setdefault(said["adopted"], set()).add(said["checkpoint"])
                if said["adopted"] > rounds + 1 and peer is network.validator:
                    break
        times = [
            max(held[r].values()) - max(trained[r].values())
            for r in range(2, rounds + 2)
            if len(held.get(r, ())) == len(trained.get(r, ())) == peers
        ]
        assert len(times) > rounds // 2, "most rounds must be whole"
        grown = [max(most[p] - ready[p] for p in network.trainers) for most in (held_bytes, peak)]
    return {
        "exchange_s": statistics.median(times),
        "rounds": len(times),
        "rss_over_vector": grown[0] / (4 * values),
        "rss_of_a_round_over_vector": grown[1] / (4 * values),
        "replicas_differ": max(len(each) for each in checkpoints.values()) - 1,
    }


def codec_times(values: int, codec: str) -> dict[str, float]:
    """Encoding with error feedback and decoding a whole vector, part by part, on one thread."""
    import torch

    from eigen.training.codecs.codec import encode_with_feedback
    from eigen.training.codecs.registry import CODECS

    torch.set_num_threads(1)
    chosen, part = CODECS[codec], 131_072
    vector_P = torch.randn(values)
    parts = torch.split(vector_P, part)
    left = [torch.zeros_like(p) for p in parts]
    encode_s, decode_s = [], []
    for _ in range(3):
        start = time.perf_counter()
        encoded = [encode_with_feedback(chosen, p, r)[0] for p, r in zip(parts, left, strict=True)]
        middle = time.perf_counter()
        for data, p in zip(encoded, parts, strict=True):
            chosen.decode(data, p.numel())
        encode_s.append(middle - start)
        decode_s.append(time.perf_counter() - middle)
    return {
        "encode_s": min(encode_s),
        "decode_s": min(decode_s),
        "bytes_a_value": sum(map(len, encoded)) / values,
    }


def whole(peers: int, values: int, codec: str, rounds: int) -> dict[str, float]:
    """All three parts of a round's averaging."""
    figures = exchange(peers, values, codec, rounds) | codec_times(values, codec)
    figures["seconds"] = figures["exchange_s"] + figures["encode_s"] + figures["decode_s"]
    return figures


def hivemind(venv: Path, peers: int, values: int, codec: str, rounds: int) -> dict[str, float]:
    """The same average by hivemind."""
    python = venv / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        for wanted in (["torch==2.13.0"], ["hivemind==1.1.12", "numpy<2.4"]):
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", *wanted], check=True)
    arguments = [str(peers), str(values), codec, str(rounds)]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [str(python), str(HERE / "programs" / "hivemind_peers.py"), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=900,
        env=environment,
    )
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    assert figures["relative_error"] < 0.05, f"hivemind's {codec} average is wrong: {figures}"
    return figures


def shaped(values: int, codec: str, rounds: int) -> dict[str, Any]:
    """Four peers with 20 Mbit/s up and 50 ms of round trip: how much of the line a round uses."""
    if reason := line.available():
        return {"shaped": f"skipped: {reason}"}
    peers, rate = 4, 20e6 / 8
    name = f"avg{os.getpid() % 10_000}"
    arguments = [name, "0.025", str(int(rate * 0.1)), "0", *[str(rate)] * peers]
    running = subprocess.Popen(
        [sys.executable, hub.__file__, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert running.stdin is not None
    assert running.stdout is not None
    try:
        places = json.loads(running.stdout.readline())["hub"]
        figures: dict[str, Any] = exchange(peers, values, codec, rounds, places)
    finally:
        running.stdin.close()
        running.wait(10)
    each = 2 * (peers - 1) / peers * codec_times(values, codec)["bytes_a_value"] * values
    figures["line_s"] = each / rate
    figures["line_share"] = figures["line_s"] / figures["exchange_s"]
    return figures


# faults -------------------------------------------------------------------------------------------


class Faults:
    """Kills or freezes one trainer at a random time, again and again, and watches the others."""

    def __init__(self, network: Network, seed: int) -> None:
        self.network = network
        self.random = random.Random(seed)
        self.adopted: dict[int, dict[Peer, dict[str, Any]]] = {}
        self.commit_s: dict[str, list[float]] = {"kill": [], "freeze": []}
        self.back_s: list[float] = []
        self.phases: Counter[str] = Counter()
        self.attempts: Counter[int] = Counter()

    def take(self, timeout_s: float) -> tuple[Peer, dict[str, Any]]:
        peer, said = self.network.next(timeout_s)
        if "adopted" in said:
            others = self.adopted.setdefault(said["adopted"], {})
            others[peer] = said
            assert len({o["checkpoint"] for o in others.values()}) == 1, "replicas differ"
        return peer, said

    def settle(self, rounds: int) -> None:
        """Until everybody is credited, so many rounds long."""
        good = 0
        while good < rounds:
            peer, said = self.take(120)
            if "adopted" in said and peer is self.network.validator:
                good = good + 1 if len(said["credited"]) == len(self.network.trainers) else 0

    def strike(self, kind: str) -> None:
        """One fault, from a whole network to a whole network."""
        self.settle(2)
        victim = self.random.choice(self.network.trainers)
        pause_s = self.random.uniform(0.0, 1.0)
        end = time.monotonic() + pause_s
        while (left := end - time.monotonic()) > 0:
            with contextlib.suppress(SystemExit):
                self.take(left)
        before = max(self.adopted)
        self.phases[victim.phase] += 1
        struck = time.monotonic()
        victim.signal(signal.SIGKILL if kind == "kill" else signal.SIGSTOP)
        if kind == "kill":
            assert victim.process.wait(10) == -signal.SIGKILL
        survivors = [t for t in self.network.trainers if t is not victim]
        self.commit_s[kind].append(self._committed(survivors, before, struck) - struck)
        if kind == "kill":
            victim.start()
        else:
            victim.signal(signal.SIGCONT)
        begun = time.monotonic()
        name = next(a for a, p in self.network.address.items() if p is victim)
        while True:
            peer, said = self.take(120)
            credited = "adopted" in said and peer is self.network.validator and said["credited"]
            if credited and said["at"] > begun and name in said["credited"]:
                break
        self.back_s.append(time.monotonic() - begun)

    def _committed(self, survivors: list[Peer], before: int, struck: float) -> float:
        """When all survivors had made a round that was not over when the fault struck."""
        while True:
            for number in sorted(n for n in self.adopted if n > before):
                at = [self.adopted[number][s]["at"] for s in survivors if s in self.adopted[number]]
                if len(at) == len(survivors) and min(at) > struck:
                    self.attempts[self.adopted[number][survivors[0]]["attempt"]] += 1
                    return max(at)
            self.take(60)


def faults(count: int, seed: int) -> dict[str, Any]:
    with Network(4, codec="int8", hidden=HIDDEN[85_000], part_values=8192, deadlines=HASTY) as net:
        struck = Faults(net, seed)
        for number in range(count):
            struck.strike("kill" if number % 2 else "freeze")
        differing = sum(
            len({o["checkpoint"] for o in each.values()}) - 1 for each in struck.adopted.values()
        )
    return {
        "faults": count,
        "killed_commit_s": max(struck.commit_s["kill"], default=0.0),
        "frozen_commit_s": max(struck.commit_s["freeze"], default=0.0),
        "killed_commit_s_median": statistics.median(struck.commit_s["kill"] or [0.0]),
        "frozen_commit_s_median": statistics.median(struck.commit_s["freeze"] or [0.0]),
        "back_s_median": statistics.median(struck.back_s),
        "struck_in": dict(struck.phases),
        "attempts": {str(k): v for k, v in sorted(struck.attempts.items())},
        "differing_checkpoints": differing,
        "rounds": len(struck.adopted),
    }


# all ----------------------------------------------------------------------------------------------


def measure(options: argparse.Namespace) -> dict[str, Any]:
    chosen = options.only.split(",")
    rounds, values = (3, 10_000_000) if options.quick else (7, 10_000_000)
    figures: dict[str, Any] = {}
    ours: dict[str, dict[str, float]] = {}
    if "exchange" in chosen:
        for codec in ("fp32", "int8", "2bit"):
            ours[codec] = figures[f"eigen_{codec}"] = whole(4, values, codec, rounds)
        figures["two_bit_seconds"] = ours["2bit"]["seconds"]
        figures["peak_rss_over_vector"] = ours["fp32"]["rss_over_vector"]
        figures["differing_bits"] = sum(each["replicas_differ"] for each in ours.values())
    if "hivemind" in chosen:
        for codec, mine in (("fp32", "fp32"), ("uint8", "int8")):
            theirs = hivemind(options.hivemind_venv, 4, values, codec, rounds)
            figures[f"hivemind_{codec}"] = theirs
            if mine in ours:
                ratio = ours[mine]["seconds"] / theirs["seconds"]
                name = "fp32_over_hivemind" if codec == "fp32" else "int8_over_hivemind_uint8"
                figures[name] = ratio
    if "large" in chosen:
        figures["eight_peers"] = whole(8, values, "2bit", 2)
        figures["hundred_million"] = whole(4, 100_000_000, "2bit", 2)
    if "shaped" in chosen:
        figures["shaped"] = shaped(values, "2bit", rounds)
    if "faults" in chosen:
        figures |= faults(options.faults or (20 if options.quick else 200), options.seed)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object and nothing else")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="exchange,hivemind,shaped,faults")
    parser.add_argument("--faults", type=int, default=0, help="how many; 0 for the usual number")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--hivemind-venv", type=Path, default=Path("/tmp/eigen-hivemind-venv"))
    options = parser.parse_args()
    figures = measure(options)
    if options.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:28} {value}")


if __name__ == "__main__":
    main()
