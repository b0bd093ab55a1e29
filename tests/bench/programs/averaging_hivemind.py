"""The same average by hivemind, in a venv of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


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
        [str(python), str(HERE / "hivemind_peers.py"), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=900,
        env=environment,
    )
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    assert figures["relative_error"] < 0.05, f"hivemind's {codec} average is wrong: {figures}"
    return figures
