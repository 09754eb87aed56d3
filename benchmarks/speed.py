"""`fast` against `reference` on this machine's CPU, row by row of one table: `python benchmarks/speed.py`.

Every repeat runs both after one another, and a ratio is the median over repeats of reference over fast within a
repeat, so that another process or a changing clock touches both. With one thread times are the process's CPU time,
else wall time. The reference runs in the row's own precision, and for inference in bf16 also in fp32.
"""

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from uniformer_bench.cost import cost
from uniformer_bench.measure.memory import peak_memory
from uniformer_bench.measure.protocol import Protocol, emulated
from uniformer_bench.model import build, clips_like, linear
from uniformer_bench.model.compiled import compile_model
from uniformer_bench.model.depthwise import depthwise_conv3d
from uniformer_bench.model.inference import for_inference
from uniformer_bench.model.uniformer import UniFormer
from uniformer_bench.optimiser import optimisers_of
from uniformer_bench.recipe import Recipe
from uniformer_bench.spec import ArchSpec, PatchSpec, StageSpec
from uniformer_bench.train import DTYPES
from uniformer_bench.variants import find_variant

CLASSES = 400
Run = Callable[[], object]


class Row(NamedTuple):
    """One line of the table: `against` is the precision of the reference, `target` the least ratio aimed at."""

    work: str  # inference, compiled (the fast one), training, memory or depthwise
    spec: str  # a name in SPECS; for depthwise the kernel
    batch: int
    grid: tuple[int, ...]  # (frames, height, width); for depthwise (C, T, H, W)
    precision: str
    against: str
    threads: int
    repeats: int
    target: float


def tiny(pattern: str) -> ArchSpec:
    """A middling architecture of the tiny space: L local, G global."""
    mixers = ({"L": "local", "G": "global"}[letter] for letter in pattern)
    stages = zip(mixers, (16, 32, 48, 96), strict=True)
    return ArchSpec(
        stages=tuple(
            StageSpec(mixer=m, depth=2, width=w, kernel=(3, 3, 3) if m == "local" else None) for m, w in stages
        ),
        stem=PatchSpec(kernel=(3, 4, 4), stride=(2, 4, 4)),
        head_dim=16,
        mlp_ratio=2,
    )


SPECS = {"S": find_variant("s").spec} | {f"tiny {pattern}": tiny(pattern) for pattern in ("LLGG", "LLLL", "GGGG")}
KERNELS = {"5x5x5": (5, 5, 5)}
S_CLIP, S_SMALL, TINY_CLIP = (16, 224, 224), (16, 112, 112), (8, 32, 32)
ROWS = [
    Row("inference", "S", 1, S_CLIP, "fp32", "fp32", 2, 7, 1.8),
    Row("inference", "S", 1, S_CLIP, "bf16", "fp32", 2, 7, 3.5),
    Row("compiled", "S", 1, S_CLIP, "fp32", "fp32", 2, 7, 2.1),
    Row("compiled", "S", 1, S_CLIP, "bf16", "fp32", 2, 7, 3.5),
    Row("inference", "S", 1, S_CLIP, "fp32", "fp32", 1, 5, 1.8),
    Row("inference", "S", 1, S_CLIP, "bf16", "fp32", 1, 5, 3.5),
    Row("inference", "S", 1, S_CLIP, "bf16", "bf16", 1, 5, 1.0),
    Row("training", "tiny LLGG", 32, TINY_CLIP, "fp32", "fp32", 1, 25, 2.5),
    Row("training", "tiny LLLL", 32, TINY_CLIP, "fp32", "fp32", 1, 25, 2.5),
    Row("training", "tiny GGGG", 32, TINY_CLIP, "fp32", "fp32", 1, 25, 2.5),
    Row("training", "S", 2, S_SMALL, "fp32", "fp32", 1, 5, 1.6),
    Row("training", "S", 2, S_SMALL, "bf16", "bf16", 1, 5, 2.5),
    Row("depthwise", "5x5x5", 2, (64, 8, 28, 28), "fp32", "fp32", 1, 11, 10.0),
    Row("depthwise", "5x5x5", 2, (128, 8, 14, 14), "fp32", "fp32", 1, 11, 10.0),
    Row("depthwise", "5x5x5", 32, (16, 4, 8, 8), "fp32", "fp32", 1, 11, 10.0),
    Row("memory", "tiny LLGG", 32, TINY_CLIP, "fp32", "fp32", 1, 1, 1.0),
    Row("memory", "S", 2, S_SMALL, "fp32", "fp32", 1, 1, 1.0),
    Row("memory", "S", 2, S_SMALL, "bf16", "bf16", 1, 1, 1.0),
]


def inference(row: Row, implementation: str, precision: str) -> Run:
    spec, dtype = SPECS[row.spec], DTYPES[precision]
    model = for_inference(build(spec, CLASSES, implementation).eval().to(dtype))
    clips = clips_like(spec, row.batch, row.grid[0], row.grid[1:]).to(dtype)  # type: ignore[arg-type]  # two sides

    def run() -> Tensor:
        with torch.inference_mode():
            return model(clips)

    return run


def compiled(row: Row, implementation: str, precision: str) -> Run:
    """As inference; the fast one compiled."""
    if implementation == "reference":
        return inference(row, implementation, precision)
    spec, dtype = SPECS[row.spec], DTYPES[precision]
    clips = clips_like(spec, row.batch, row.grid[0], row.grid[1:]).to(dtype)  # type: ignore[arg-type]  # two sides
    found = compile_model(for_inference(build(spec, CLASSES).eval().to(dtype)), clips)
    assert not found.notes, found.notes
    return lambda: found.run(clips)


def training(row: Row, implementation: str, precision: str) -> Run:
    """A step: forward, backward, clipped gradients, AdamW; clips channels-last in memory, as the short run has them."""
    spec = SPECS[row.spec]
    model = build(spec, CLASSES, implementation).train()
    clips = clips_like(spec, row.batch, row.grid[0], row.grid[1:])  # type: ignore[arg-type]  # two sides
    clips = clips.contiguous(memory_format=torch.channels_last_3d)
    labels = torch.arange(row.batch) % CLASSES
    begin, change = (_fast_ends if implementation == "fast" else _plain_ends)(model)

    def run() -> None:
        begin()
        with torch.autocast("cpu", dtype=DTYPES[precision], enabled=precision != "fp32"):
            logits = model(clips)
        F.cross_entropy(logits.float(), labels).backward()
        change()

    return run


def _plain_ends(model: UniFormer) -> tuple[Run, Run]:
    """What stands before and after the passes of a step, of every weight by itself: PyTorch's fused AdamW."""
    adam = torch.optim.AdamW(model.parameters(), Recipe().lr, fused=True)

    def change() -> None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()

    return adam.zero_grad, change


def _fast_ends(model: UniFormer) -> tuple[Run, Run]:
    """The same of all weights at once."""
    optimisers = optimisers_of(model, Recipe())

    def change() -> None:
        optimisers.gather()
        optimisers.clip(1.0)
        optimisers.step()

    return optimisers.zero_grad, change


def depthwise(row: Row, implementation: str, precision: str) -> Run:
    """All gradients, without the forward; the reference in contiguous memory, as the paper's code has it."""
    channels, kernel = row.grid[0], KERNELS[row.spec]
    fast = implementation == "fast"
    layout = torch.channels_last_3d if fast else torch.contiguous_format
    x, grad = (torch.randn(row.batch, *row.grid).contiguous(memory_format=layout) for _ in "xg")
    leaves = [
        x.requires_grad_(),
        torch.randn(channels, 1, *kernel).requires_grad_(),
        torch.randn(channels).requires_grad_(),
    ]
    padding = [k // 2 for k in kernel]
    out = depthwise_conv3d(*leaves) if fast else F.conv3d(*leaves, padding=padding, groups=channels)
    return lambda: torch.autograd.grad(out, leaves, grad, retain_graph=True)


def training_memory(row: Row, implementation: str, precision: str) -> int:
    """Peak bytes of live tensors in a step."""
    size = (row.grid[1], row.grid[2])
    protocol = Protocol(
        device="cpu", frames=row.grid[0], size=size, precision=precision, batch=row.batch, implementation=implementation
    )
    clips = clips_like(SPECS[row.spec], row.batch, protocol.frames, protocol.size)
    peak = peak_memory(build(SPECS[row.spec], CLASSES, implementation), clips, protocol).training_peak_bytes
    assert peak is not None, "unknown peak of a CPU"
    return peak


PRECISIONS = [name for name in ("fp32", "bf16") if not emulated("cpu", name)]
WORKS = {"inference": inference, "compiled": compiled, "training": training, "depthwise": depthwise}


def times_ms(runs: list[Run], repeats: int, threads: int) -> list[tuple[float, ...]]:
    """Milliseconds of every run in each repeat, after one that is not timed."""
    clock = time.process_time if threads == 1 else time.perf_counter

    def timed(run: Run) -> float:
        start = clock()
        run()
        return 1e3 * (clock() - start)

    for run in runs:
        run()
    return [tuple(timed(run) for run in runs) for _ in range(repeats)]


def limits(threads: int) -> dict[str, float]:
    """This machine's own: GFLOP/s of 2048 x 2048 products, through torch and oneDNN, and GB/s of a large copy."""
    torch.set_num_threads(threads)
    found = {}
    for name in PRECISIONS:
        a, b = (torch.randn(2048, 2048).to(DTYPES[name]) for _ in "ab")
        found[f"{name} torch"] = 2e-6 * 2048**3 / min(t for (t,) in times_ms([lambda a=a, b=b: a @ b], 7, threads))
        if DTYPES[name] in linear.SERVED:
            run = functools.partial(linear.product, a, b, None)
            found[f"{name} onednn"] = 2e-6 * 2048**3 / min(t for (t,) in times_ms([run], 7, threads))
    source, to = torch.randn(1 << 26), torch.empty(1 << 26)
    found["copy GB/s"] = 2e-6 * source.nbytes / min(t for (t,) in times_ms([lambda: to.copy_(source)], 7, threads))
    return found


def measure(row: Row, machine: dict[int, dict[str, float]]) -> dict[str, Any]:
    """The row's figures: `share` is of the machine's fastest matrix product in the precision, for inference."""
    torch.set_num_threads(row.threads)
    torch.manual_seed(0)
    found: dict[str, Any] = row._asdict()
    if row.work == "memory":
        reference, fast = (training_memory(row, name, row.precision) for name in ("reference", "fast"))
        return found | {"reference": reference / 1e6, "fast": fast / 1e6, "ratio": reference / fast, "unit": "MB"}
    make = WORKS[row.work]
    pairs = times_ms([make(row, "reference", row.against), make(row, "fast", row.precision)], row.repeats, row.threads)
    reference_ms, fast_ms = (statistics.median(pair[i] for pair in pairs) for i in (0, 1))
    found |= {
        "reference": reference_ms,
        "fast": fast_ms,
        "ratio": statistics.median(r / f for r, f in pairs),
        "unit": "ms",
    }
    if row.work in ("inference", "compiled"):
        size = (row.grid[1], row.grid[2])
        gflops = row.batch * cost(SPECS[row.spec], frames=row.grid[0], size=size, num_classes=CLASSES).flops / 1e9
        rate = max(value for name, value in machine[row.threads].items() if name.startswith(row.precision))
        found["share"] = 1e3 * gflops / fast_ms / rate
    return found


def line(found: dict[str, Any]) -> str:
    """One aligned line of the table."""
    what = f"{found['work']} {found['spec']} {found['batch']} x {'x'.join(map(str, found['grid']))}"
    precision = f"{found['precision']} / {found['against']}"
    share = f"{found['share']:6.0%}" if "share" in found else " " * 6
    times = f"{found['reference']:9.1f} {found['fast']:9.1f} {found['unit']}"
    return f"{what:38} {precision:12} {found['threads']:7} {times} {found['ratio']:6.2f} {found['target']:7.1f} {share}"


def main() -> None:
    """Print the machine's limits and one line a row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--only", default="", help="rows whose work has this in its name")
    options = parser.parse_args()
    rows = [row for row in ROWS if options.only in row.work and row.precision in PRECISIONS]
    if len(PRECISIONS) < 2:
        print("rows in bf16 are left out: this processor has no instructions for it")
    machine = {threads: limits(threads) for threads in sorted({row.threads for row in rows})}
    for threads, found in machine.items():
        print(f"limits, threads {threads}: " + ", ".join(f"{name} {value:.0f}" for name, value in found.items()))
    print(f"{'work':38} {'fast / ref.':12} threads {'reference':>9} {'fast':>9}     ratio  target  share")
    results = []
    for row in rows:
        results.append(measure(row, machine))
        print(line(results[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps({"limits": machine, "rows": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
