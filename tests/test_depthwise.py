"""The depthwise convolution's gradients are PyTorch's, whichever kernel computes them."""

import pytest
import torch
import torch.nn.functional as F

from tests.kernels import MACHINES, compiled_for
from uniformer_bench.model import depthwise, depthwise_cpu, llvm, tubes_cpu
from uniformer_bench.model.depthwise import (
    depthwise_conv3d,
    own_convolution_serves,
    own_kernel_serves,
    weight_gradient,
)

KERNELS = [(1, 1, 1), (3, 1, 1), (1, 5, 5), (3, 3, 3), (5, 5, 5), (3, 7, 7), (5, 3, 1), (1, 3, 9), (9, 9, 9)]
SHAPES = [
    (2, 1, 3, 5, 7),
    (3, 3, 2, 2, 2),
    (1, 16, 4, 6, 5),
    (2, 17, 1, 3, 4),
    (2, 24, 5, 1, 9),
    (1, 64, 4, 2, 2),
    (2, 40, 1, 1, 1),
]


def tensors(shape, kernel, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    x, grad = (torch.randn(shape, generator=generator, dtype=dtype) for _ in "xg")
    return x, grad, torch.randn(shape[1], 1, *kernel, generator=generator, dtype=dtype)


def shifted_products(x, grad, kernel):
    """The definition, in float64: each tap is the product of the gradient with the shifted, zero-padded x."""
    pads = [p for k in reversed(kernel) for p in (k // 2, k // 2)]
    windows = F.pad(x.double(), pads)
    for axis, size in enumerate(x.shape[2:]):
        windows = windows.unfold(2 + axis, size, 1)
    return torch.einsum("bcijkthw,bcthw->cijk", windows, grad.double()).unsqueeze(1)


def relative_error(found, expected):
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_weight_gradient_is_the_sum_of_shifted_products(shape, kernel):
    x, grad, weight = tensors(shape, kernel)
    truth = shifted_products(x, grad, kernel)
    exact = weight_gradient(x.double(), grad.double(), weight.double())  # PyTorch's
    assert relative_error(exact, truth) < 1e-12
    found = weight_gradient(x, grad, weight)
    assert found.shape == weight.shape
    assert found.dtype == torch.float32
    assert relative_error(found, truth) < 1e-5


def test_our_kernel_computes_these_tests():
    x, grad, weight = tensors((2, 4, 2, 3, 3), (3, 3, 3))
    assert own_kernel_serves(x, grad, weight)
    assert torch.equal(weight_gradient(x, grad, weight), depthwise_cpu.weight_gradient(x, grad, (3, 3, 3)))


def test_long_sums_stay_accurate():
    x, grad, weight = tensors((16, 16, 4, 28, 28), (3, 3, 3))
    x = x + 3  # a mean away from zero makes partial sums large
    assert relative_error(weight_gradient(x, grad, weight), shifted_products(x, grad, (3, 3, 3))) < 1e-5


@pytest.mark.parametrize("machine", MACHINES, ids=str)
def test_every_vector_width_gives_the_same(machine):
    x, grad, weight = tensors((2, 21, 3, 6, 5), (3, 5, 7))
    with compiled_for(machine, depthwise_cpu):
        found = weight_gradient(x, grad, weight)
        assert depthwise_cpu.compiled(5, 7).lanes == machine.lanes
    assert relative_error(found, shifted_products(x, grad, (3, 5, 7))) < 1e-5


def test_vector_width_follows_the_host():
    assert llvm.machine_of({"avx512f": True, "avx": True}).lanes == 16
    assert llvm.machine_of({"avx512f": False, "avx": True}).lanes == 8
    assert llvm.machine_of({"neon": True}) == llvm.Machine(4, 25)
    assert llvm.machine_of({}) == llvm.Machine(4, 10)


@pytest.mark.parametrize("layout", ["channels_last", "transposed", "every_second", "expanded"])
def test_memory_layout_does_not_matter(layout):
    x, grad, weight = tensors((2, 6, 4, 6, 6), (3, 3, 3))
    truth = shifted_products(x, grad, (3, 3, 3))
    if layout == "channels_last":
        x, grad = (t.contiguous(memory_format=torch.channels_last_3d) for t in (x, grad))
    elif layout == "transposed":
        x, grad = (t.transpose(3, 4).contiguous().transpose(3, 4) for t in (x, grad))
    elif layout == "every_second":
        x, grad = (t.repeat_interleave(2, dim=4)[..., ::2] for t in (x, grad))
    else:  # what the gradient of a mean is
        grad = torch.ones(1, 1, 1, 1, 1).expand(grad.shape)
        truth = shifted_products(x, grad, (3, 3, 3))
    assert relative_error(weight_gradient(x, grad, weight), truth) < 1e-5


@pytest.mark.parametrize("with_bias", [False, True])
def test_all_gradients_are_those_of_conv3d(with_bias):
    x, grad, weight = tensors((2, 20, 3, 5, 6), (3, 5, 5))
    bias = torch.linspace(-1, 1, 20) if with_bias else None
    gradients = []
    for convolve in (depthwise_conv3d, lambda x, w, b: F.conv3d(x, w, b, padding=(1, 2, 2), groups=20)):
        leaves = [t.clone().requires_grad_() for t in (x, weight, bias) if t is not None]
        out = convolve(*leaves, *([] if with_bias else [None]))
        gradients.append(torch.autograd.grad(out, leaves, grad))
    for found, expected in zip(*gradients, strict=True):
        assert relative_error(found, expected) < 1e-5


def test_autocast_gives_float32_gradients():
    x, _, weight = (t.requires_grad_() for t in tensors((2, 4, 3, 5, 5), (3, 3, 3)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = depthwise_conv3d(x, weight, None)
    assert out.dtype == torch.bfloat16
    out.sum().backward()
    truth = shifted_products(x.detach(), torch.ones_like(x), (3, 3, 3))
    assert weight.grad.dtype == torch.float32
    assert relative_error(weight.grad, truth) < 1e-5  # x was saved, and is summed, in float32


def test_threads_agree(monkeypatch):
    x, grad, weight = tensors((3, 40, 3, 6, 6), (3, 3, 3))
    monkeypatch.setattr(depthwise_cpu, "MACS_PER_THREAD", 1)
    found = {}
    for threads in (1, 2, 3, 5):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        found[threads] = weight_gradient(x, grad, weight)
        assert torch.equal(found[threads], weight_gradient(x, grad, weight))
        assert relative_error(found[threads], found[1]) < 1e-6


def test_small_work_stays_on_one_thread(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert llvm.threads_for(10, items=100, macs_per_thread=10) == 1
    assert llvm.threads_for(30, items=100, macs_per_thread=10) == 3
    assert llvm.threads_for(10**12, items=5, macs_per_thread=10) == 5
    assert llvm.threads_for(10**12, items=100, macs_per_thread=10) == 8


def test_bfloat16_is_summed_in_float32():
    x, grad, weight = (t.bfloat16() for t in tensors((4, 16, 4, 8, 8), (3, 3, 3)))
    found = weight_gradient(x, grad, weight)
    assert found.dtype == torch.bfloat16
    assert relative_error(found.double(), shifted_products(x, grad, (3, 3, 3))) < 2**-8  # one rounding


def test_what_the_kernel_leaves_to_pytorch(monkeypatch):
    x, grad, weight = tensors((2, 4, 2, 3, 3), (3, 3, 3))
    assert not own_kernel_serves(x.double(), grad.double(), weight.double())
    assert not own_kernel_serves(x.to("meta"), grad.to("meta"), weight.to("meta"))
    assert not own_kernel_serves(x, grad, weight[..., 1:2, 1:2, 1:2])
    assert not own_kernel_serves(x[:0], grad[:0], weight)
    assert not own_kernel_serves(x, grad.requires_grad_(), weight)  # would be differentiated again
    with torch.no_grad():
        assert own_kernel_serves(x, grad, weight)
    expected = shifted_products(x, grad, (3, 3, 3))
    monkeypatch.setattr(llvm, "binding", None)  # llvmlite is missing
    with torch.no_grad():
        assert not own_kernel_serves(x, grad, weight)
        assert relative_error(weight_gradient(x, grad, weight), expected) < 1e-5


def test_second_derivatives_are_pytorchs():
    x, _, weight = (t.double().requires_grad_() for t in tensors((1, 2, 2, 3, 3), (3, 3, 3)))
    assert torch.autograd.gradgradcheck(lambda x, w: depthwise_conv3d(x, w, None), (x, weight))
    x, weight = x.detach().float().requires_grad_(), weight.detach().float().requires_grad_()
    (first,) = torch.autograd.grad(depthwise_conv3d(x, weight, None).pow(2).sum(), weight, create_graph=True)
    assert first.requires_grad


def test_fake_tensors_are_pytorchs():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        x, weight = torch.empty(2, 4, 2, 3, 3), torch.empty(4, 1, 3, 3, 3)
        assert not own_kernel_serves(x, x, weight)
        assert weight_gradient(x, x, weight).shape == weight.shape


@pytest.mark.parametrize("machine", MACHINES, ids=str)
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_our_convolution_is_the_sum_over_shifted_clips(shape, kernel, machine):
    x, _, weight = tensors(shape, kernel)
    bias = torch.linspace(-1, 1, shape[1])
    pads = [p for k in reversed(kernel) for p in (k // 2, k // 2)]
    windows = F.pad(x.double(), pads)
    for axis, size in enumerate(kernel):
        windows = windows.unfold(2 + axis, size, 1)
    bias = torch.stack([bias, bias], 1)[:, 0]  # with gaps: what is read is a copy
    with compiled_for(machine, tubes_cpu):
        plain = tubes_cpu.convolution(x, weight, bias, False, False)
        flipped = tubes_cpu.convolution(x, weight, None, True, True)
    truth = torch.einsum("bcthwijk,cijk->bcthw", windows, weight[:, 0].double())
    assert relative_error(plain, truth + bias.double()[:, None, None, None]) < 1e-5
    truth = torch.einsum("bcthwijk,cijk->bcthw", windows, weight[:, 0].double().flip(1, 2, 3))
    assert relative_error(flipped, truth + x) < 1e-5
    assert plain.is_contiguous(memory_format=torch.channels_last_3d)


def test_training_takes_our_convolution_where_it_is_small(monkeypatch):
    x, grad, weight = tensors((2, 20, 3, 5, 6), (3, 5, 5))
    calls, own = [], tubes_cpu.convolution
    monkeypatch.setattr(tubes_cpu, "convolution", lambda *given: calls.append(given[3:]) or own(*given))
    leaves = [t.clone().requires_grad_() for t in (x, weight, torch.linspace(-1, 1, 20))]
    out = depthwise_conv3d(*leaves, residual=True)
    found = torch.autograd.grad(out, leaves, grad)
    assert calls == [(False, True), (True, True)], "forward, then the gradient to the input"
    plain = x.double().requires_grad_(), weight.double().requires_grad_(), leaves[2].detach().double().requires_grad_()
    exact = plain[0] + F.conv3d(*plain, padding=(1, 2, 2), groups=20)
    assert relative_error(out, exact) < 1e-5
    for ours, theirs in zip(found, torch.autograd.grad(exact, plain, grad.double()), strict=True):
        assert relative_error(ours, theirs) < 1e-5


def test_what_our_convolution_leaves_to_pytorch(monkeypatch):
    x, _, weight = tensors((2, 4, 2, 3, 3), (3, 3, 3))
    bias = torch.zeros(4)
    macs = 2 * 4 * 2 * 3 * 3 * 27
    for capability, threads, most, serves in (
        ("AVX512", 1, macs - 1, False),
        ("AVX512", 1, macs, True),
        ("AVX2", 2, macs - 1, False),
        ("AVX2", 1, macs - 1, True),
    ):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda capability=capability: capability)
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        monkeypatch.setattr(depthwise, "LARGEST_OWN", most)
        assert own_convolution_serves(x, weight, bias) == serves
    assert own_convolution_serves(x, weight, bias)
    assert own_convolution_serves(x, weight, None)
    assert not own_convolution_serves(x.double(), weight.double(), bias.double())
    assert not own_convolution_serves(x, weight, bias.double())
    assert not own_convolution_serves(x.to("meta"), weight.to("meta"), None)
    assert not own_convolution_serves(x, weight[..., 1:2, 1:2, 1:2], bias)
    assert not own_convolution_serves(x[:0], weight, bias)
    assert not own_convolution_serves(x[:, :2], weight, bias)
    assert not own_convolution_serves(x, weight[..., :2], bias)
    assert not own_convolution_serves(x, weight, bias.requires_grad_())  # would be differentiated again
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not own_convolution_serves(x, weight, None)
    monkeypatch.setattr(llvm, "binding", None)  # llvmlite is missing
    assert not own_convolution_serves(x, weight, None)
