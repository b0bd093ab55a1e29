"""Ten trainers of whom some lie, through the engine: the default rule learns, the mean does not."""

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[1] / "bench" / "attacks.py"


def test_the_default_rule_learns_in_spite_of_liars_and_the_mean_does_not() -> None:
    command = [sys.executable, BENCH, "--json", "--quick", "--rules", "mean,cosine-filter"]
    done = subprocess.run(
        [*command, "--attacks", "flip x10,nan"], capture_output=True, check=True, text=True
    )
    found = json.loads(done.stdout)
    for setting, least in (("iid", 92.0), ("dirichlet_0.5", 90.0)):
        (spoilt, _), (held, _) = (
            found[setting][rule]["flip x10"] for rule in ("mean", "cosine-filter")
        )
        assert spoilt < 50.0, "the attack does no harm"
        assert held >= least
        for rule in ("mean", "cosine-filter"):
            assert found[setting][rule]["nan"][0] >= least, "what is refused does no harm"
