"""Our depthwise 3D convolution against PyTorch's, on this machine's CPU: `python benchmarks/depthwise.py`.

Every repeat runs the three implementations after one another, and the table gives the median over repeats of the
ratio within a repeat, so that another process or a changing clock touches all three. With one thread (the default)
the time is the process's CPU time, otherwise it is wall time. Gradients go through autograd, without the forward.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from uniformer_bench.model.depthwise import depthwise_conv3d

CASES = [  # (B, C, T, H, W), kernel
    ((2, 64, 8, 28, 28), (5, 5, 5)),
    ((2, 128, 8, 14, 14), (5, 5, 5)),
    ((32, 16, 4, 16, 16), (5, 5, 5)),
    ((32, 16, 4, 16, 16), (3, 3, 3)),
    ((32, 32, 4, 8, 8), (5, 5, 5)),
    ((32, 32, 4, 8, 8), (3, 3, 3)),
    ((32, 48, 4, 4, 4), (3, 3, 3)),
    ((32, 64, 4, 2, 2), (3, 3, 3)),
    ((2, 64, 8, 28, 28), (3, 7, 7)),
    ((2, 320, 8, 7, 7), (3, 3, 3)),
]
TIMED = {"forward": (), "input gradient": (0,), "weight gradient": (1,), "all gradients": (0, 1, 2)}
FORMATS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last_3d}


def plain(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """PyTorch's convolution, as a model calls it."""
    return F.conv3d(x, weight, bias, padding=[k // 2 for k in weight.shape[2:]], groups=weight.shape[0])


def task(
    convolve: Callable[..., Tensor], tensors: list[Tensor], grad: Tensor, wanted: tuple[int, ...]
) -> Callable[[], object]:
    """The forward where no gradient is wanted, else the backward to the wanted ones of (x, weight, bias)."""
    if not wanted:
        return lambda: convolve(*tensors)
    leaves = [tensor.detach().requires_grad_(i in wanted) for i, tensor in enumerate(tensors)]
    out = convolve(*leaves)
    return lambda: torch.autograd.grad(out, [leaves[i] for i in wanted], grad, retain_graph=True)


def tasks(shape: tuple[int, ...], kernel: tuple[int, ...], wanted: tuple[int, ...]) -> list[Callable[[], object]]:
    """Ours, then PyTorch's in each memory format."""
    x, grad = torch.randn(shape), torch.randn(shape)
    weight, bias = torch.randn(shape[1], 1, *kernel), torch.randn(shape[1])

    def with_format(convolve: Callable[..., Tensor], name: str) -> Callable[[], object]:
        inputs = [x.contiguous(memory_format=FORMATS[name]), weight, bias]
        return task(convolve, inputs, grad.contiguous(memory_format=FORMATS[name]), wanted)

    return [with_format(depthwise_conv3d, "channels-last"), *(with_format(plain, name) for name in FORMATS)]


def paired_ms(functions: list[Callable[[], object]], repeats: int, clock: Callable[[], float]) -> list[list[float]]:
    """Milliseconds a call of each function in each repeat."""
    return [[timed_ms(function, clock) for function in functions] for _ in range(repeats)]


def timed_ms(function: Callable[[], object], clock: Callable[[], float], calls: int = 3) -> float:
    """Mean milliseconds of a few calls after one that is not timed."""
    function()
    start = clock()
    for _ in range(calls):
        function()
    return (clock() - start) * 1e3 / calls


def main() -> None:
    """Print one line a shape and task."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=11)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.threads == 1 else time.perf_counter
    print("| B, C, T, H, W | kernel | task | ours ms | contiguous / ours | channels-last / ours |")
    print("|---|---|---|---|---|---|")
    for shape, kernel in CASES:
        for name, wanted in TIMED.items():
            rows = paired_ms(tasks(shape, kernel, wanted), options.repeats, clock)
            ours = statistics.median(row[0] for row in rows)
            ratios = [statistics.median(row[i] / row[0] for row in rows) for i in (1, 2)]
            size = "x".join(map(str, kernel))
            print(
                f"| {', '.join(map(str, shape))} | {size} | {name} | {ours:.3f} | {ratios[0]:.1f} | {ratios[1]:.1f} |"
            )


if __name__ == "__main__":
    main()
