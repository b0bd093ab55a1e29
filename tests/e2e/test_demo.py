"""The demo, run as its user runs it."""

import json
import os
import subprocess
import sys

import pytest


@pytest.mark.timeout(400)
def test_the_demo_trains_settles_and_pays() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "eigen.node", "demo", "--seed", "1", "--json"],
        capture_output=True,
        text=True,
        timeout=380,
        check=False,
        env={k: v for k, v in os.environ.items() if not k.startswith("EIGEN_")},
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["accuracy_before"] < 0.3
    assert said["accuracy_after"] >= 0.95
    assert said["rounds"] == said["round_roots_on_chain"] == 6
    assert said["replicas_identical"] is True
    assert said["trainers"] == 4
    assert said["checkpoint_cid"].startswith("baf")
    assert said["chain"].startswith("anvil")
    claims = said["claims"]
    assert len({c["account"] for c in claims}) == len({c["tx"] for c in claims}) == 6
    claimed, rewards = sum(int(c["amount"]) for c in claims), 6 * 100 * 10**18
    assert rewards - 6 * len(claims) <= claimed <= rewards  # what division leaves is not paid
