"""A 256-byte sketch of an update, published before the update itself.

64 signed sums: value i goes to sum i mod 64 with a sign drawn from a public seed (a count sketch,
Charikar et al. 2002, with fixed buckets). It is linear, and keeps inner products and norms to about
18 % (sqrt(2/64)): enough to see a copied, missing or upside-down update without holding it. It
proves nothing by itself; the commitment's Merkle root does.
"""

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from eigen.protocol import limits
from eigen.training.streams import random_bytes

if TYPE_CHECKING:
    from torch import Tensor

SUMS = limits.SKETCH_BYTES // 4
"""fp32 values of a sketch."""


def sketch_seed(base: bytes) -> bytes:
    """The signs' seed of a round: equal for all trainers that start from checkpoint `base`."""
    return hashlib.sha256(b"eigen/sketch/1" + base).digest()


def sketch(delta_P: "Tensor", seed: bytes) -> bytes:
    """64 little-endian fp32 sums of `delta_P`; summed in fp64, so orders of summing hardly show."""
    import torch

    values = delta_P.numel()
    rows = -(-values // SUMS)
    bits = np.unpackbits(random_bytes("sketch", seed, rows * SUMS // 8), bitorder="little")
    signs_P = torch.from_numpy(bits[:values]).to(torch.float32) * 2.0 - 1.0
    signed_RS = torch.nn.functional.pad(delta_P * signs_P, (0, rows * SUMS - values))
    sums_S = signed_RS.view(rows, SUMS).sum(0, dtype=torch.float64)
    return sums_S.to(torch.float32).numpy().tobytes()
