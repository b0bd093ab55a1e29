"""Measures rounds of averaging by real peers, a process each, beside hivemind; kills and freezes.

`python tests/bench/averaging.py --json` prints every figure; `--quick` takes a tenth of the time;
`--only exchange,hivemind,shaped,large,late_join,faults` picks; `large` (8 peers, 100M values) is
not among those that run unasked. hivemind runs in a venv of its own, made where `--hivemind-venv`
says at the first use. Figures depend on the machine: quote them as ratios.

A peer's time for a round has three parts. *exchange*: from when the last peer has its update ready
until the last one holds all results, the commitments' gossip included; *encode* and *decode*: of
the whole vector, on one thread, which hivemind does within its all-reduce.
"""

import argparse
import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "programs"))
exchange = import_module("averaging_exchange")
hivemind = import_module("averaging_hivemind").hivemind
faults = import_module("averaging_faults").faults
late_join = import_module("averaging_late_join").late_join


def measure(options: argparse.Namespace) -> dict[str, Any]:
    chosen = options.only.split(",")
    rounds, values = (3, 10_000_000) if options.quick else (7, 10_000_000)
    figures: dict[str, Any] = {}
    ours: dict[str, dict[str, float]] = {}
    if "exchange" in chosen:
        for codec in ("fp32", "int8", "2bit"):
            ours[codec] = figures[f"eigen_{codec}"] = exchange.whole(4, values, codec, rounds)
        figures["two_bit_seconds"] = ours["2bit"]["seconds"]
        figures["peak_rss_over_vector"] = ours["fp32"]["rss_over_vector"]
        figures["differing_bits"] = sum(each["replicas_differ"] for each in ours.values())
    if "hivemind" in chosen:
        for codec, mine in (("fp32", "fp32"), ("uint8", "int8")):
            theirs = hivemind(options.hivemind_venv, 4, values, codec, rounds)
            figures[f"hivemind_{codec}"] = theirs
            if mine in ours:
                ratio = ours[mine]["seconds"] / theirs["seconds"]
                name = "fp32_over_hivemind" if codec == "fp32" else "int8_over_hivemind_uint8"
                figures[name] = ratio
    if "large" in chosen:
        figures["eight_peers"] = exchange.whole(8, values, "2bit", 2)
        figures["hundred_million"] = exchange.whole(4, 100_000_000, "2bit", 2)
    if "shaped" in chosen:
        figures["shaped"] = exchange.shaped(values, "2bit", rounds)
        figures["char_gpt"] = exchange.utilisation("2bit", rounds)
    if "late_join" in chosen:
        figures["late_join"] = late_join(4, values, "2bit", 1 if options.quick else 5)
        figures["late_join_s"] = figures["late_join"]["late_join_s"]
    if "faults" in chosen:
        figures |= faults(options.faults or (20 if options.quick else 200), options.seed)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object and nothing else")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="exchange,hivemind,shaped,late_join,faults")
    parser.add_argument("--faults", type=int, default=0, help="how many; 0 for the usual number")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--hivemind-venv", type=Path, default=Path("/tmp/eigen-hivemind-venv"))
    options = parser.parse_args()
    figures = measure(options)
    if options.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:28} {value}")


if __name__ == "__main__":
    main()
