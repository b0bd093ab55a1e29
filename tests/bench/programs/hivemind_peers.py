"""hivemind's butterfly all-reduce, timed as a peer to compare with; runs in hivemind's own venv.

`python hivemind_peers.py PEERS VALUES CODEC ROUNDS` prints one JSON object. All peers are matched
into a group before the clock starts; it stops when the last one has its average. A round counts
only if its result is the mean: the relative error is in the output, for a codec may fail silently.
"""

import json
import os
import statistics
import sys
import time

os.environ["OMP_NUM_THREADS"] = "1"

import hivemind
import torch
from hivemind.averaging.control import AveragingStage
from hivemind.compression import Float16Compression, NoCompression, Uniform8BitQuantization

CODECS = {"fp32": NoCompression, "fp16": Float16Compression, "uint8": Uniform8BitQuantization}
LOOPBACK = {
    "host_maddrs": ["/ip4/127.0.0.1/tcp/0"],
    "auto_nat": False,
    "nat_port_map": False,
    "use_relay": False,
    "use_auto_relay": False,
}


def main(peers: int, values: int, codec: str, rounds: int) -> None:
    torch.set_num_threads(1)
    first = hivemind.DHT(start=True, **LOOPBACK)
    known = first.get_visible_maddrs()
    dhts = [first]
    dhts += [hivemind.DHT(start=True, initial_peers=known, **LOOPBACK) for _ in range(peers - 1)]
    averagers = [
        hivemind.DecentralizedAverager(
            [torch.zeros(values)],
            dht,
            prefix="bench",
            target_group_size=peers,
            min_group_size=peers,
            min_matchmaking_time=3.0,
            request_timeout=1.0,
            compression=CODECS[codec](),
            part_size_bytes=512 * 1024,
            start=True,
        )
        for dht in dhts
    ]
    took, errors, apart = [], [], []
    for number in range(rounds + 1):
        mean = torch.zeros(values)
        for index, averager in enumerate(averagers):
            seed = torch.Generator().manual_seed(1000 * number + index)
            mine = torch.randn(values, generator=seed)
            mean += mine / peers
            with averager.get_tensors() as (tensor,):
                tensor.copy_(mine)
        steps = [a.step(wait=False, require_trigger=True, timeout=120) for a in averagers]
        while any(step.stage != AveragingStage.AWAITING_TRIGGER for step in steps):
            time.sleep(0.005)
        start = time.perf_counter()
        for step in steps:
            step.allow_allreduce()
        for step in steps:
            step.result(timeout=300)
        if number:  # the first one warms up
            took.append(time.perf_counter() - start)
        results = []
        for averager in averagers:
            with averager.get_tensors() as (tensor,):
                results.append(tensor.clone())
        errors.append(max(float((r - mean).norm() / mean.norm()) for r in results))
        apart.append(max(float((r - results[0]).abs().max()) for r in results))
    print(
        json.dumps(
            {
                "seconds": statistics.median(took),
                "relative_error": max(errors),
                "replicas_apart": max(apart),
            }
        ),
        flush=True,
    )
    for each in (*averagers, *dhts):
        each.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
