"""Processes that compute one trainer's local steps together, one a GPU, started by `torchrun`.

Each holds the whole model and takes its share of every mini-batch's pieces; their gradients are
summed over all processes (data parallel). Rank 0 is the worker that the node talks to, the others
follow it. To the network they are one trainer.
"""

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, distributed

T = TypeVar("T")

PATIENCE = timedelta(days=365)
"""Followers wait until there is work; a process that dies takes the others along at once."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process's place among `count`, in which every method is called by all in one order.

    Raises RuntimeError from any method where another process is gone.
    """

    index: int = 0
    count: int = 1

    def mine(self, pieces: list[T]) -> list[T]:
        """This process's share of some pieces of work: every `count`-th."""
        return pieces[self.index :: self.count]

    def add_up(self, values: Tensor) -> None:
        """Replace values by their sum over all processes: the same bits for each."""
        if self.count > 1:
            distributed.all_reduce(values)

    def share(self, data: bytes) -> bytes:
        """What rank 0 gave; what others give is not looked at."""
        if self.count == 1:
            return data
        length = torch.tensor([len(data)])
        distributed.broadcast(length, src=0)
        shared = torch.empty(int(length), dtype=torch.uint8)
        if self.index == 0:
            shared.copy_(torch.from_numpy(np.frombuffer(data, np.uint8).copy()))
        distributed.broadcast(shared, src=0)
        return shared.numpy().tobytes()


def join(device: str) -> tuple[Ranks, str]:
    """This process's place, and its own device, as `torchrun` has it; alone where there is none.

    Waits for the others.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return Ranks(), device
    if device == "cpu":
        distributed.init_process_group("gloo", timeout=PATIENCE)
    else:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
        distributed.init_process_group("cpu:gloo,cuda:nccl", timeout=PATIENCE)
    return Ranks(distributed.get_rank(), distributed.get_world_size()), device
