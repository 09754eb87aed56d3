"""The Triton kernels: computed in Triton's interpreter in a process of its own, compiled without a GPU, run on one."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from uniformer_bench.model.depthwise import TRITON, depthwise_conv3d, reason_against_triton

needs_triton = pytest.mark.skipif(not TRITON, reason="Triton is not installed")
needs_gpu = pytest.mark.skipif(not (TRITON and torch.cuda.is_available()), reason="no CUDA device, or no Triton")
ROOT = Path(__file__).parents[1]


def gpu_tensor(*shape, dtype=torch.float32):
    """Of that shape and type and, as it says of itself, on a GPU; it holds nothing."""
    tensor = torch.empty(shape, dtype=dtype, device="meta")
    return type("Tensor", (), {"device": torch.device("cuda"), "dtype": dtype, "shape": tensor.shape,
                               "numel": lambda _: tensor.numel(), "__len__": lambda _: len(tensor)})()  # fmt: skip


@needs_triton
def test_in_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/interpreted_depthwise.py"]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_on_a_cpu_triton_is_not_imported():
    code = (
        "import sys, torch; from uniformer_bench.model.depthwise import depthwise_conv3d as f;"
        "f(torch.zeros(1, 2, 1, 3, 3), torch.zeros(2, 1, 1, 3, 3), None);"
        "print('triton' in sys.modules or 'uniformer_bench.model.depthwise_triton' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_which_convolutions_are_left_to_pytorch(monkeypatch):
    monkeypatch.setattr("uniformer_bench.model.depthwise.TRITON", True)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    x, weight = gpu_tensor(2, 4, 2, 3, 3), gpu_tensor(4, 1, 3, 3, 3)
    assert reason_against_triton(x, weight) is None
    assert reason_against_triton(gpu_tensor(2, 4, 2, 3, 3, dtype=torch.bfloat16), weight) is None
    assert reason_against_triton(torch.zeros(2, 4, 2, 3, 3), weight).endswith("x is on cpu")
    assert "got torch.float64" in reason_against_triton(gpu_tensor(2, 4, 2, 3, 3, dtype=torch.float64), weight)
    assert "positions" in reason_against_triton(gpu_tensor(0, 4, 2, 3, 3), weight)
    assert "positions" in reason_against_triton(gpu_tensor(2**18, 4, 2**6, 2**3, 2**3), weight)
    assert "one tap" in reason_against_triton(x, gpu_tensor(4, 1, 1, 1, 1))
    monkeypatch.setattr("uniformer_bench.model.depthwise.TRITON", False)
    assert reason_against_triton(x, weight) == "Triton is not installed"
    monkeypatch.setattr(torch.version, "cuda", None)  # ROCm calls its devices cuda too
    assert "NVIDIA" in reason_against_triton(x, weight)


SHAPES = [
    (1, 64, 8, 56, 56),
    (32, 16, 4, 16, 16),
    (1, 320, 8, 14, 14),
    (3, 17, 2, 3, 5),
    (2, 48, 1, 1, 1),
    (1, 3, 5, 7, 200),
]
KERNELS = [(3, 3, 3), (5, 5, 5), (1, 5, 5), (3, 7, 7), (9, 9, 9), (3, 1, 1), (1, 1, 31)]


@needs_triton
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_output_and_tap_is_in_one_program(shape, kernel):
    from uniformer_bench.model import depthwise_triton as kernels

    cut = kernels.tiling(shape, kernel)
    over_patches, over_channels = kernels.programs(cut, shape)
    batch, channels, frames, height, width = shape
    rows_of_patches, patches_in_a_row = -(-height // cut.rows), -(-width // cut.columns)
    patches = batch * frames * rows_of_patches * patches_in_a_row
    assert over_patches * cut.patches >= patches > (over_patches - 1) * cut.patches
    assert over_channels * cut.channels >= channels > (over_channels - 1) * cut.channels
    assert kernels._steps(cut, kernel) * cut.kernel_rows >= kernel[0] * kernel[1]
    assert cut.kernel_rows * kernel[2] <= max(kernels.MOST_TAPS, kernel[2])  # a row of taps is the least there is
    assert cut.rows * cut.columns <= kernels.MOST_OUTPUTS
    assert cut.patches * cut.channels == kernels.TILE
    assert 1 <= kernels.splits(cut, shape, kernel) <= over_patches


@needs_triton
def test_large_frames_are_cut_into_patches_without_remainder_and_small_ones_fill_the_gpu():
    from uniformer_bench.model.depthwise_triton import programs, tiling

    for side in (56, 28, 14, 7):  # of UniFormer's stages at 224
        cut = tiling((64, 64, 8, side, side), (5, 5, 5))
        assert side % cut.columns == 0
        assert cut.rows * cut.columns >= 14
    few = tiling((1, 64, 2, 14, 14), (5, 5, 5))
    assert few.rows * few.columns < 14
    assert programs(few, (1, 64, 2, 14, 14))[0] > programs(cut, (1, 64, 2, 14, 14))[0]


@needs_triton
def test_compiles_for_a_gpu_that_is_not_here():
    """One kernel for an A100, one for an H100: they compile and fit into registers; `--static` does all sizes."""
    code = (
        "from benchmarks.depthwise_gpu import compiled_use\n"
        "for name, capability in (('forward', 80), ('weight gradient', 90)):\n"
        "    use = compiled_use(name, (1, 16, 1, 2, 4), (1, 3, 3), 'bf16', capability)\n"
        "    assert use.spilled_bytes == 0 and 16 < use.registers < 255, use\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kernel", [(3, 3, 3), (5, 5, 5), (3, 7, 7)], ids=str)
@pytest.mark.parametrize("shape", [(2, 64, 4, 14, 14), (3, 17, 3, 5, 9)], ids=str)
def test_on_a_gpu(shape, kernel, dtype):
    generator = torch.Generator("cuda").manual_seed(0)
    sizes = shape, (shape[1], 1, *kernel), (shape[1],), shape
    *tensors, grad = (torch.randn(s, generator=generator, device="cuda").to(dtype) for s in sizes)
    padding = [k // 2 for k in kernel]
    for convolve in (depthwise_conv3d, torch.compile(depthwise_conv3d, fullgraph=True)):
        leaves = [tensor.clone().requires_grad_() for tensor in tensors]
        exact = [tensor.double().requires_grad_() for tensor in tensors]
        out, truth = convolve(*leaves), F.conv3d(*exact, padding=padding, groups=shape[1])
        found = out, *torch.autograd.grad(out, leaves, grad)
        truths = truth, *torch.autograd.grad(truth, exact, grad.double())
        for a, b in zip(found, truths, strict=True):
            error = ((a.double() - b).abs().max() / b.abs().max()).item()
            assert error < {torch.float32: 1e-5, torch.bfloat16: 2**-8, torch.float16: 2**-11}[dtype] * 1.01


def test_the_benchmark_says_so_where_there_is_no_gpu():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    done = subprocess.run([sys.executable, "benchmarks/depthwise_gpu.py"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.strip() == "No CUDA device here: the Triton kernels' times are not measured."


def test_work_of_the_roofline():
    spec = importlib.util.spec_from_file_location("depthwise_gpu", ROOT / "benchmarks" / "depthwise_gpu.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    shape, kernel = (2, 64, 8, 28, 28), (5, 5, 5)
    elements = 2 * 64 * 8 * 28 * 28
    assert benchmark.work("forward", shape, kernel, 2) == (125 * elements, 2 * (2 * elements + 126 * 64))
    assert benchmark.work("all gradients", shape, kernel, 4)[0] == 250 * elements
    read_twice_written_once = 4 * (3 * elements)
    assert benchmark.work("all gradients", shape, kernel, 4)[1] == read_twice_written_once + 4 * (2 * 126 * 64 - 64)
