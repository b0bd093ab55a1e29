"""The peers of the averaging bench: one process each, and a network of them."""

import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "libp2p"))
hub = import_module("hub")

HIDDEN = {85_000: 256, 418_000: 611, 10_000_000: 3_125, 100_000_000: 9_962}
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
            str(HERE / "averaging_peer.py"),
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
        self._late: list[Peer] = []
        self._common = common
        self.address: dict[str, Peer] = {}

    def _peer(self, index: int, name: str, wanted: dict[str, Any]) -> Peer:
        if not self.places:
            return Peer(self.folder, name, wanted, self.events)
        inside = ("ip", "netns", "exec", self.places[index])
        wanted = {**wanted, "ip": hub.address(index)}
        return Peer(self.folder, name, wanted, self.events, inside)

    def join(self, name: str) -> Peer:
        """Another trainer, with an empty disk, which knows the validator alone."""
        index = len(self.trainers) + len(self._late) + 1
        self._late.append(self._peer(index, name, {**self._common, "peers": 1}))
        return self._late[-1]

    def __enter__(self) -> "Network":
        return self

    def __exit__(self, *_: object) -> None:
        for peer in (self.validator, *self.trainers, *self._late):
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
