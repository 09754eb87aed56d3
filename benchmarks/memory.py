"""Is the peak of memory what the system sees? What the docs say of it comes from here.

    python benchmarks/memory.py            about half a minute on one core

Every line is a process of its own on one thread. Ours is the peak of live tensors, found by shape. Seen is what the
model then adds to the process's resident memory when it is run, at its highest (VmHWM, which Linux starts anew on
request): scratch memory of kernels makes it more, memory that libraries held before and give the model less.
"""

import argparse
import gc
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from uniformer_bench.measure.memory import peak_in
from uniformer_bench.measure.protocol import Protocol
from uniformer_bench.model import build, clips_like
from uniformer_bench.variants import find_variant, variant

Run = Callable[[Tensor], None]

CASES = (("tiny", 64, 8, 32), ("image_s", 8, 1, 224), ("s", 1, 8, 224))  # variant, batch, frames, size
USES = ("inference", "training")
RETURNING = {"MALLOC_MMAP_THRESHOLD_": "65536"}  # glibc: what is freed goes back to the system, tensors above 64 kB
STATUS = Path("/proc/self/status")


def resident(field: str) -> int:
    """VmRSS or VmHWM of this process, in bytes."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])


def one(name: str, batch: int, frames: int, size: int, use: str) -> None:
    """Prints a line of the table."""
    row = find_variant(name)
    torch.set_num_threads(1)
    protocol = Protocol(device="cpu", batch=batch, frames=frames, size=size)
    with torch.device("meta"):
        twin = build(row.spec, row.num_classes)
    ours = peak_in(twin, (batch, row.spec.in_channels, frames, size, size), protocol, use).peak
    make = trainer if use == "training" else inferrer
    make(name)(clips_like(row.spec, 2, frames, (64, 64)))  # libraries load and compile what they need
    gc.collect()
    before = resident("VmRSS")
    run = make(name)
    run(clips_like(row.spec, 2, frames, (64, 64)))  # AdamW has its state, as in the middle of a run
    clips = clips_like(row.spec, batch, frames, (size, size))
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    run(clips)
    seen = resident("VmHWM") - before
    clip = f"{batch} x {frames}x{size}x{size}"
    print(f"{name:10}{clip:18}{use:11}{ours / 1e6:>10.1f}{seen / 1e6:>10.1f}{seen / ours - 1:>+8.1%}", flush=True)


def inferrer(name: str) -> Run:
    model = build(variant(name), find_variant(name).num_classes).eval()

    def infer(clips: Tensor) -> None:
        with torch.inference_mode():
            model(clips)

    return infer


def trainer(name: str) -> Run:
    model = build(variant(name), find_variant(name).num_classes).train()
    optimiser = torch.optim.AdamW(model.parameters(), fused=True)

    def step(clips: Tensor) -> None:
        F.cross_entropy(model(clips), torch.zeros(len(clips), dtype=torch.int64)).backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", nargs=5)
    given = parser.parse_args().one
    if given:
        one(given[0], *map(int, given[1:4]), given[4])
        return
    print(f"{'variant':10}{'clips':18}{'use':11}{'ours MB':>10}{'seen MB':>10}{'':>8}")
    for case in CASES:
        for use in USES:
            words = [sys.executable, __file__, "--one", *map(str, case), use]
            subprocess.run(words, check=True, env=os.environ | RETURNING)


if __name__ == "__main__":
    main()
