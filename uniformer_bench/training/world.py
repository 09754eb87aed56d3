"""The processes of one training, as torchrun starts them: one for each GPU, or on CPUs over gloo."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple

import torch
import torch.distributed as dist

PATIENCE = timedelta(hours=4)  # while the first process tests, the others wait


class World(NamedTuple):
    """This process among `size`; `device` is its own."""

    rank: int
    size: int
    device: str

    @property
    def first(self) -> bool:
        return self.rank == 0


@contextmanager
def joined_world(device: str) -> Iterator[World]:
    """The world that torchrun's environment describes, for as long as the block runs; else this process alone."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(0, 1, device)
        return
    cuda = device.startswith("cuda")
    own = f"cuda:{os.environ['LOCAL_RANK']}" if cuda else device
    if cuda:
        torch.cuda.set_device(own)
    dist.init_process_group("nccl" if cuda else "gloo", timeout=PATIENCE)
    try:
        yield World(dist.get_rank(), size, own)
    finally:
        dist.destroy_process_group()
