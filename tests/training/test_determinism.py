"""Aggregation, outer steps, codecs, initial parameters: equal bits on every machine we can be."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from eigen.training.layout import Layout
from eigen.training.models import initial_vector

PROBE = Path(__file__).with_name("determinism_probe.py")
CAPABILITIES = ["DEFAULT", "AVX2", "AVX512"]


def probe(capability: str) -> dict[str, dict[str, str]]:
    done = subprocess.run(
        [sys.executable, PROBE],
        env={
            **os.environ,
            "ATEN_CPU_CAPABILITY": capability.lower(),
            "OMP_WAIT_POLICY": "passive",  # spinning threads take minutes on a busy machine
        },
        capture_output=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found["capability"] == capability, "the instruction set asked for was not used"
    return found


def test_the_same_bits_for_every_instruction_set_and_thread_count() -> None:
    here = torch.backends.cpu.get_cpu_capability()
    if here not in CAPABILITIES:
        pytest.skip(f"cannot choose among instruction sets on {here}")
    found = [probe(capability) for capability in CAPABILITIES[: CAPABILITIES.index(here) + 1]]
    counts = ("one thread", "two threads")
    for result in found:
        sums = {result[threads].pop("sum") for threads in counts}
        assert len(sums) == 2, "the probe cannot tell thread counts apart"
    fused = {result[threads].pop("fused") for result in found for threads in counts}
    assert len(fused) > 1 or len(found) == 1, "the probe cannot tell instruction sets apart"
    wanted = found[0]["one thread"]
    assert len(wanted) > 20
    for result in found:
        assert result["one thread"] == wanted
        assert result["two threads"] == wanted


def test_initial_parameters_are_pinned() -> None:
    """A version that changes them would split the network."""
    layout = Layout.of({"a.weight": (3, 4), "a.bias": (3,), "b.weight": (2, 3, 3, 3)})
    theta_P = initial_vector(layout, 1, {})
    digest = hashlib.sha256(theta_P.numpy().tobytes()).hexdigest()
    assert digest == "db2991757a4c615dff7b9bbcb22d8aff0959955fcfa207bdb1f204ae7b8390b1"
