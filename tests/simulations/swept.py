"""What the tests sweep: `run` is imported by name in each process of a pool."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from runs import about

from eigen.simulations.record import Recorder


def run(scenario: dict[str, Any], folder: Path) -> None:
    """A loss that follows from the settings; some settings fail, some take for ever."""
    count, seed = scenario["nodes"]["trainers"]["count"], scenario["seed"]
    with Recorder(folder, f"seed = {seed}\n", about(seed)) as recorder:
        recorder.metric(1.0, "loss", count + seed / 10, round_=1)
        if scenario.get("behaviour") == "fail":
            raise ValueError("no such luck")
        if scenario.get("behaviour") == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if scenario.get("behaviour") == "hang":
            (folder.parent / "hangs").touch()
            time.sleep(600)
        recorder.finish(events=count)
    with (folder.parent / "ran").open("a") as file:
        file.write(f"{folder.name}\n")


def main(into: str) -> None:
    """A sweep that never ends, for a test that stops it."""
    from eigen.simulations.sweep import sweep

    scenario = {"seed": 0, "nodes": {"trainers": {"count": 1}}}
    sweep(scenario, {"behaviour": ["well", "hang", "more"]}, Path(into), run, processes=1)


if __name__ == "__main__":
    import sys

    import swept  # so that the pool's processes find `run` by this name

    swept.main(sys.argv[1])
