"""Aggregation, outer steps, codecs, initial parameters: equal bits on every machine we can be."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from eigen.training.aggregation import RULES
from eigen.training.codecs.codec import encode_with_feedback
from eigen.training.codecs.registry import CODECS
from eigen.training.layout import Layout
from eigen.training.models import initial_vector
from eigen.training.streams import uniform

PROBE = Path(__file__).with_name("determinism_probe.py")
CAPABILITIES = ["DEFAULT", "AVX2", "AVX512"]
NUMPY_FEATURES = np.show_config(mode="dicts")["SIMD Extensions"]["found"]
"""What numpy would use here beyond its baseline: the first is AVX2, later ones AVX-512."""


def probe(capability: str) -> dict[str, dict[str, str]]:
    done = subprocess.run(
        [sys.executable, PROBE],
        env={
            **os.environ,
            "ATEN_CPU_CAPABILITY": capability.lower(),
            "NPY_DISABLE_CPU_FEATURES": " ".join(NUMPY_FEATURES[CAPABILITIES.index(capability) :])
            if capability != "AVX512"
            else "",
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
    exponentials = {result[threads].pop("exp") for result in found for threads in counts}
    assert len(exponentials) == len(found), "the probe cannot tell numpy's instruction sets apart"
    wanted = found[0]["one thread"]
    assert len(wanted) > 20 + 9 * len(CODECS)
    assert {f"{rule} {samples}" for rule in RULES for samples in (64, 320)} <= wanted.keys()
    assert {f"{codec} contributions 1.0" for codec in ("int8", "fp32")} <= wanted.keys()
    for result in found:
        assert result["one thread"] == wanted
        assert result["two threads"] == wanted


def test_initial_parameters_are_pinned() -> None:
    """A version that changes them would split the network."""
    layout = Layout.of({"a.weight": (3, 4), "a.bias": (3,), "b.weight": (2, 3, 3, 3)})
    theta_P = initial_vector(layout, 1, {})
    digest = hashlib.sha256(theta_P.numpy().tobytes()).hexdigest()
    assert digest == "db2991757a4c615dff7b9bbcb22d8aff0959955fcfa207bdb1f204ae7b8390b1"


def test_encodings_are_pinned() -> None:
    """A version that changes one would split the network."""
    update_P = torch.from_numpy(uniform("update", b"", 10_000))
    residual_P = torch.from_numpy(uniform("residual", b"", 10_000))
    found = {
        name: hashlib.sha256(encode_with_feedback(codec, update_P, residual_P)[0]).hexdigest()[:16]
        for name, codec in CODECS.items()
    }
    assert found == {
        "fp32": "b7127d1bc030094b",
        "fp16": "347abbb4e7ba7e19",
        "int8": "f6d0ef6472447c79",
        "int4": "46fad73ad2aa56b3",
        "2bit": "2f96150ee495e40f",
        "1bit": "72c4f7221b96f7ad",
        "top256-2bit": "86d286ecc2080c77",
        "top256-1bit": "816decc35f1e6b14",
        "top64-2bit": "c9d4375dc80ae3b5",
        "top64-1bit": "5c52ba25c11e2cf4",
    }
