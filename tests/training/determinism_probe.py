"""Prints digests of everything that must be equal on every machine; run as a program.

    ATEN_CPU_CAPABILITY=avx2 python tests/training/determinism_probe.py

`sum`, `fused` and `exp` are here for contrast: a reduction depends on the thread count, torch's
scaled addition on whether the instruction set has a fused multiply-add, and numpy's exponential on
what numpy was built for. Where they do not, the comparison shows nothing.
"""

import hashlib
import json
from dataclasses import replace

import numpy as np
import torch

from eigen.protocol.run import AggregationSpec, InnerSpec, ModelSpec, OuterSpec, RunSpec
from eigen.protocol.types import Cid
from eigen.training.aggregation import RULES
from eigen.training.codecs.codec import encode_with_feedback
from eigen.training.codecs.registry import CODECS
from eigen.training.engine import Engine
from eigen.training.moments import encode
from eigen.training.spec import check, moment_sizes, part_sizes
from eigen.training.streams import uniform

GPT = ModelSpec(
    "gpt", (("context", 16), ("depth", 2), ("heads", 2), ("vocabulary", 128), ("width", 32))
)
MODEL = ModelSpec("mlp", (("classes", 10), ("depth", 1), ("hidden", 500), ("inputs", 64)))
PEERS, PART_VALUES = 3, 33_000  # torch uses its threads from 32,768 values on


def spec(codec: str, rule: str, moments: str) -> RunSpec:
    return RunSpec(
        "probe",
        MODEL,
        Cid("b"),
        1,
        InnerSpec(10, 32, 0.01, 0.0, moments=moments),
        OuterSpec(rule, 0.7, 0.9 if rule == "nesterov" else 0.0),
        codec,
        codec,
        AggregationSpec("mean"),
        PART_VALUES,
        1,
        4,
        0,
        0,
        9,
    )


def digests(threads: int) -> dict[str, str]:
    engine = Engine(threads)
    found: dict[str, str] = {}

    def note(name: str, data: bytes) -> None:
        found[name] = hashlib.sha256(data).hexdigest()

    note("initial gpt", engine.initial_checkpoint(replace(spec("fp32", "sgd", "fresh"), model=GPT)))
    for codec, rule, moments in (("int8", "nesterov", "shared"), ("fp32", "sgd", "fresh")):
        run = spec(codec, rule, moments)
        checkpoint = engine.initial_checkpoint(run)
        note(f"initial {rule}", checkpoint)
        for step in range(2):  # the second step has momentum
            results = []
            for part, values in enumerate(part_sizes(run)):
                inputs = []
                for peer in range(PEERS):
                    update_P = torch.from_numpy(uniform(f"{step}.{part}.{peer}", b"", values))
                    data = CODECS[codec].encode(update_P * 0.01)
                    inputs.append((data, 100 + peer))
                    note(f"{codec} update {step}.{part}.{peer}", data)
                results.append(engine.aggregate(run, part, inputs, b"").data)
                paid = engine.contributions(run, part, inputs, results[-1])
                note(f"{codec} contributions {step}.{part}", repr(paid).encode())
                note(f"{codec} result {step}.{part}", results[-1])
            for part, values in enumerate(moment_sizes(run), start=len(results)):
                said = [np.abs(uniform(f"{step}.{part}.{peer}", b"", values)) for peer in range(3)]
                inputs = [(encode(second_M * 1e-5), 100) for second_M in said]
                results.append(engine.aggregate(run, part, inputs, b"").data)
                note(f"moments {step}.{part}", results[-1])
            checkpoint = engine.outer_step(run, checkpoint, results)
            note(f"{rule} checkpoint {step}", checkpoint)
    drawn_P = torch.from_numpy(uniform("codecs", b"", PART_VALUES))
    old_P = torch.from_numpy(uniform("residuals", b"", PART_VALUES)) * 1e-3
    for kind, part_P in (
        ("spread", drawn_P * drawn_P * drawn_P * 0.01),
        ("ties", (drawn_P * 8.0).round() * 0.125),
        ("tiny", drawn_P * 2.0**-100),
    ):
        for name, codec in CODECS.items():
            data, left_P = encode_with_feedback(codec, part_P, old_P)
            note(f"{name} {kind}", data)
            note(f"{name} {kind} left", left_P.numpy().tobytes())
            note(f"{name} {kind} alone", codec.encode(part_P))
    parts = [torch.from_numpy(uniform(f"part {i}", b"", PART_VALUES)) for i in range(7)]
    parts = [parts[0], *(parts[0] * 0.5 + part_P for part_P in parts[1:6]), parts[6] * -3.0]
    for name, rule in RULES.items():
        aggregation = AggregationSpec(name, 2_000 if rule.robust else 0)
        for samples in ([320] * 7, [320, 64, 320, 1, 17, 320, 99]):
            history_P = parts[1] * 0.7 if rule.keeps_history else None
            result_P = rule(parts, samples, aggregation, history_P)
            note(f"{name} {samples[1]}", result_P.numpy().tobytes())
    terms_P = torch.from_numpy(uniform("sum", b"", check(run).layout.values)) * 0.1
    note("sum", terms_P.sum().numpy().tobytes())
    note("exp", np.exp(drawn_P.numpy()).tobytes() + np.exp(drawn_P.double().numpy()).tobytes())
    note("fused", torch.add(terms_P, terms_P.flip(0), alpha=0.3).numpy().tobytes())
    return found


if __name__ == "__main__":
    print(
        json.dumps(
            {
                "capability": torch.backends.cpu.get_cpu_capability(),
                "one thread": digests(1),
                "two threads": digests(2),
            }
        )
    )
