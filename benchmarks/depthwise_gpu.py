"""Our depthwise 3D convolution in Triton against PyTorch's, on an NVIDIA GPU: `python benchmarks/depthwise_gpu.py`.

In every repeat ours, PyTorch's contiguous and PyTorch's channels-last run after one another, each as a CUDA graph
between two events, after the L2 was flushed; ratios are medians over repeats of the ratio within one. The roofline is
the least time that a kernel's multiply-adds and bytes take at the ceilings given: every tensor is read or written once,
and arithmetic is in float32 outside the tensor cores. `--static` needs no GPU: it compiles the kernels and tells the
registers they take and the bytes that did not fit into them.
"""

import argparse
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from uniformer_bench.measure.clocks import capture_graph, l2_flush
from uniformer_bench.measure.roofline import Ceilings, bound

Shape = tuple[int, ...]
Run = Callable[[], object]

STAGES_OF_S = [(64, 8, 56), (128, 8, 28), (320, 8, 14), (512, 8, 7)]  # C, T, H = W at 16x224x224
TINY = [((32, 16, 4, 16, 16), (5, 5, 5)), ((32, 32, 4, 8, 8), (5, 5, 5)), ((32, 48, 4, 4, 4), (3, 3, 3))]
STATIC_KERNELS = [(1, 3, 3), (3, 3, 3), (1, 5, 5), (5, 5, 5), (3, 7, 7), (9, 9, 9)]
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
FORMATS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last_3d}
TASKS = ("forward", "input gradient", "weight gradient", "all gradients")
MASKS = {"input gradient": [True, False, False], "weight gradient": [False, True, True], "all gradients": [True] * 3}


class Use(NamedTuple):
    """What a compiled kernel takes: registers a thread, bytes a thread outside them, shared bytes a program."""

    registers: int
    spilled_bytes: int
    shared_bytes: int


def cases(batch: int) -> list[tuple[Shape, Shape]]:
    """(B, C, T, H, W) and kernel of the depthwise convolutions of UniFormer-S, and of some of the tiny space."""
    of_s = [((batch, c, t, side, side), (3, 3, 3)) for c, t, side in STAGES_OF_S]
    tubes = [((batch, c, t, side, side), (5, 5, 5)) for c, t, side in STAGES_OF_S[:2]]
    return [*of_s, *tubes, *TINY]


def work(task: str, shape: Shape, kernel: Shape, itemsize: int) -> tuple[int, int]:
    """(multiply-adds, bytes that must be read or written) of a task; the bias and its gradient are in it."""
    elements, taps = prod(shape), prod(kernel) * shape[1]
    both = task == "all gradients"
    weights = (taps if task != "weight gradient" else 0) + (taps if "weight" in task or both else 0)
    biases = 0 if task == "input gradient" else shape[1]
    macs = (2 if both else 1) * prod(kernel) * elements
    return macs, itemsize * ((3 if both else 2) * elements + weights + biases)


def our_task(task: str, x: Any, grad: Any, weight: Any, bias: Any) -> Run:
    """The kernels as autograd calls them, without it."""
    from uniformer_bench.model import depthwise_triton as ours

    def input_gradient() -> object:
        return ours._conv(grad, weight, None, False, True)

    def weight_gradient() -> object:
        return ours._weight_gradient(x, grad, list(weight.shape[2:]))

    runs: dict[str, Run] = {
        "forward": lambda: ours.depthwise_conv3d(x, weight, bias),
        "input gradient": input_gradient,
        "weight gradient": weight_gradient,
        "all gradients": lambda: (input_gradient(), weight_gradient()),
    }
    return runs[task]


def plain_task(task: str, x: Any, grad: Any, weight: Any, bias: Any) -> Run:
    """What autograd calls for PyTorch's convolution."""
    padding, channels = [k // 2 for k in weight.shape[2:]], weight.shape[0]
    if task == "forward":
        return lambda: F.conv3d(x, weight, bias, padding=padding, groups=channels)
    arguments = [channels], [1] * 3, padding, [1] * 3, False, [0] * 3, channels, MASKS[task]
    return lambda: torch.ops.aten.convolution_backward(grad, x, weight, *arguments)


def runs(task: str, shape: Shape, kernel: Shape, dtype: torch.dtype) -> list[Run]:
    """Ours, then PyTorch's in each memory format."""
    sizes = shape, shape, (shape[1], 1, *kernel), (shape[1],)
    x, grad, weight, bias = (torch.randn(size, device="cuda").to(dtype) for size in sizes)

    def laid_out(name: str) -> list[Any]:
        return [tensor.contiguous(memory_format=FORMATS[name]) for tensor in (x, grad)]

    plain = [plain_task(task, *laid_out(name), weight, bias) for name in FORMATS]
    return [our_task(task, *laid_out("channels-last"), weight, bias), *plain]


def paired_ms(functions: list[Run], repeats: int) -> list[list[float]]:
    """Milliseconds of each function in each repeat, the L2 flushed before each."""
    flush = l2_flush("cuda")
    graphs = [capture_graph(function, "cuda") for function in functions]
    for reason in {reason for _, reason in graphs if reason}:
        print(reason)
    marks = []
    for _ in range(repeats):
        for run, _ in graphs:
            flush()
            events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            events[0].record()
            run()
            events[1].record()
            marks.append(events)
    torch.cuda.synchronize()
    times = [start.elapsed_time(end) for start, end in marks]
    return [times[i : i + len(graphs)] for i in range(0, len(times), len(graphs))]


def measure(options: argparse.Namespace) -> None:
    """One line a shape, precision and task."""
    ceilings = Ceilings(1e12 * options.tflops, 1e12 * options.tb_per_s, "given")
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()};", end=" "
    )
    print(f"roofline at {options.tflops:g} TFLOP/s and {options.tb_per_s:g} TB/s")
    print("| B, C, T, H, W | kernel | precision | task | ours ms | contiguous / ours | channels-last / ours | ", end="")
    print("best of PyTorch / ours | bound | of the roofline |\n|---|---|---|---|---|---|---|---|---|---|")
    torch.backends.cudnn.benchmark = True
    for shape, kernel in cases(options.batch):
        for precision, dtype in PRECISIONS.items():
            for task in TASKS:
                with torch.no_grad():
                    rows = paired_ms(runs(task, shape, kernel, dtype), options.repeats)
                ours = statistics.median(row[0] for row in rows)
                ratios = [statistics.median(row[i] / row[0] for row in rows) for i in (1, 2)]
                best = statistics.median(min(row[1:]) / row[0] for row in rows)
                limit = bound(*work(task, shape, kernel, dtype.itemsize), ceilings)
                cells = [", ".join(map(str, shape)), "x".join(map(str, kernel)), precision, task, f"{ours:.4f}"]
                cells += [f"{ratio:.1f}" for ratio in (*ratios, best)]
                print(f"| {' | '.join(cells)} | {limit.ceiling} | {limit.attainable_ms / ours:.0%} |", flush=True)


def compiled_use(name: str, shape: Shape, kernel: Shape, precision: str, capability: int) -> Use:
    """Compiles the kernel for "forward" or "weight gradient" as it would be cut for that shape."""
    import triton
    from triton.backends.compiler import GPUTarget

    from uniformer_bench.model import depthwise_triton as ours

    cut = ours.tiling(shape, kernel)
    fixed: dict[str, Any] = dict(zip(("kt", "kh", "kw"), kernel, strict=True))
    fixed |= {"kernel_rows": cut.kernel_rows, "rows": cut.rows, "columns": cut.columns}
    fixed |= {"tile_patches": cut.patches, "tile_channels": cut.channels}
    function = ours._convolve if name == "forward" else ours._correlate
    fixed |= {"has_bias": True, "residual": True} if name == "forward" else {}
    pointers = dict.fromkeys(("x", "weight", "bias", "out", "grad"), f"*{precision}") | {"partial": "*fp32"}
    signature = {n: "constexpr" if n in fixed else pointers.get(n, "i32") for n in function.arg_names}
    aligned = [i for i, n in enumerate(function.arg_names) if n in pointers or n == "channels"]
    attributes = {(i,): [["tt.divisibility", 16]] for i in aligned}
    source = triton.compiler.ASTSource(function, signature=signature, constexprs=fixed, attrs=attributes)
    options = {"num_warps": ours.WARPS, "num_stages": 1}
    binary = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options).asm["cubin"]
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+)", report)
    assert found, report
    return Use(*map(int, found.groups()))


def static(options: argparse.Namespace) -> None:
    """One line a kernel size, precision and Triton kernel, for a large input that takes the largest patches."""
    print(f"compiled for sm_{options.capability}\n| C | kernel | precision | task | registers | spilled B |", end=" ")
    print("shared B | seconds |\n|---|---|---|---|---|---|---|---|")
    for kernel in STATIC_KERNELS:
        for precision in PRECISIONS:
            for name in ("forward", "weight gradient"):
                start = time.perf_counter()
                use = compiled_use(name, (64, 64, 8, 56, 56), kernel, precision, options.capability)
                seconds = time.perf_counter() - start
                cells = 64, "x".join(map(str, kernel)), precision, name, *use, f"{seconds:.1f}"
                print(f"| {' | '.join(map(str, cells))} |", flush=True)


def main() -> None:
    """Times on a GPU, or what the compiler says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--static", action="store_true", help="compile only; needs no GPU")
    parser.add_argument("--capability", type=int, default=90, help="of --static: 80 is an A100, 90 an H100 or H200")
    parser.add_argument("--batch", type=int, default=8, help="of the shapes of UniFormer-S")
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--tflops", type=float, default=67, help="float32 without tensor cores; H100 and H200: 67")
    parser.add_argument("--tb-per-s", type=float, default=4.8, help="of memory; H200: 4.8, H100: 3.35")
    options = parser.parse_args()
    if options.static:
        static(options)
    elif not torch.cuda.is_available():
        print("No CUDA device here: the Triton kernels' times are not measured.")
    else:
        measure(options)


if __name__ == "__main__":
    main()
