"""Measures recording and reporting: `python tests/simulations/measure_record.py NODES ROUNDS`."""

import resource
import sys
import tempfile
import time
from pathlib import Path

from runs import record_run

from eigen.simulations.report import write_report


def main(nodes: int, rounds: int) -> None:
    """Record a run of hand-made rows and report it; prints CPU seconds, bytes and peak memory."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        began = time.process_time()
        run = record_run(folder, trainers=nodes, liars=nodes // 5, rounds=rounds)
        recorded = time.process_time()
        report = write_report(folder)
        reported = time.process_time()
        rows = sum(run.about["rows"].values())
        stored = sum(path.stat().st_size for path in folder.glob("*.parquet"))
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"rows {rows:,}, {stored / rows:.1f} bytes a row")
        print(f"record {1e6 * (recorded - began) / rows:.2f} us a row, drawing the rows included")
        print(f"report {reported - recorded:.1f} s, {report.stat().st_size / 1e6:.1f} MB")
        print(f"peak memory {peak_mb:.0f} MB")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
