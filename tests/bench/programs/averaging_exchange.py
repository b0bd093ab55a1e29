"""Times of an exchange by real peers, on loopback and on a slow line; of encoding and decoding."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from averaging_network import HIDDEN, PATIENT, Network, Peer, hub

line = import_module("line")


def exchange(
    peers: int, values: int, codec: str, rounds: int, places: Sequence[str] = ()
) -> dict[str, float]:
    """Median time of an exchange, and the memory that a node took over its idle state.

    Once when it has all results, and at most in a whole round, checkpoints on their way included.
    `between_s` is from when the last peer has its update until all train again: what a round takes
    beyond its local steps, with the votes, the outer step, the audit and the attestation in it.
    """
    wanted = {"codec": codec, "hidden": HIDDEN[values], "deadlines": PATIENT}
    with Network(peers, places=places, **wanted) as network:
        ready: dict[Peer, int] = {}
        held_bytes: dict[Peer, int] = {}
        peak: dict[Peer, int] = {}
        trained: dict[int, dict[Peer, float]] = {}
        held: dict[int, dict[Peer, float]] = {}
        begun: dict[int, dict[Peer, float]] = {}
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
            if said.get("phase") == "training":
                begun.setdefault(said["round"], {})[peer] = said["at"]
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
        between = [
            max(begun[r + 1].values()) - max(trained[r].values())
            for r in range(2, rounds + 1)
            if len(begun.get(r + 1, ())) == len(trained.get(r, ())) == peers
        ]
        grown = [max(most[p] - ready[p] for p in network.trainers) for most in (held_bytes, peak)]
    return {
        "exchange_s": statistics.median(times),
        "rounds": len(times),
        "between_s": statistics.median(between) if between else 0.0,
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


def step_seconds() -> float:
    """One local step of the character model of `training/presets.py`, on one thread."""
    import torch

    from eigen.training.architectures import declare
    from eigen.training.inner import local_steps
    from eigen.training.models import build, initial_vector
    from eigen.training.presets import CHAR_GPT
    from eigen.training.text import standard_library

    torch.set_num_threads(1)
    declared = declare(CHAR_GPT.model)
    theta_P = initial_vector(declared.layout, 1, declared.scales)
    samples, _ = standard_library(dict(CHAR_GPT.model.options)["context"], unpinned=True)
    took = []
    for _ in range(3):
        start = time.perf_counter()
        local_steps(build(declared), theta_P, samples, CHAR_GPT.inner, bytes(32))
        took.append(time.perf_counter() - start)
    return min(took) / CHAR_GPT.inner.steps


def utilisation(codec: str, rounds: int, steps: int = 100) -> dict[str, Any]:
    """Share of a round in which trainers train: so many steps, then all else on the shaped line.

    The vector has as many values as the model whose steps are counted.
    """
    figures = shaped(418_000, codec, rounds)
    if "between_s" in figures:
        figures["step_s"] = step_seconds()
        local_s = steps * figures["step_s"]
        figures["utilisation"] = local_s / (local_s + figures["between_s"])
    return figures
