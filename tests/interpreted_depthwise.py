"""Our Triton kernels in Triton's interpreter, on the CPU: `test_depthwise_triton.py` runs this file in a process of its
own, as TRITON_INTERPRET must be set before Triton is first imported.
"""

import pytest
import torch
import torch.nn.functional as F

from uniformer_bench.errors import UbenchError
from uniformer_bench.model import depthwise, depthwise_triton
from uniformer_bench.model.depthwise_triton import Tiling, depthwise_conv3d

# As large as the rounding of a result to its own type; the interpreter cuts bfloat16 off rather than rounding it.
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}

CASES = [  # (B, C, T, H, W), kernel, dtype, residual, and the cut: rows, columns, kernel_rows, patches, channels
    ((1, 3, 2, 3, 7), (3, 3, 3), torch.float32, False, Tiling(2, 3, 3, 8, 16)),  # few channels; tails in rows, columns
    ((3, 17, 1, 3, 2), (5, 5, 5), torch.float32, True, Tiling(2, 2, 5, 8, 32)),  # H and W below the kernel
    ((1, 48, 1, 4, 5), (1, 5, 5), torch.bfloat16, True, Tiling(4, 3, 5, 2, 32)),  # one frame; half a block of channels
    ((3, 16, 3, 4, 3), (3, 5, 5), torch.float16, True, Tiling(2, 2, 5, 32, 16)),  # several clips in a program
    ((1, 320, 1, 2, 3), (1, 3, 3), torch.float16, False, Tiling(1, 3, 3, 2, 64)),
    ((1, 4, 2, 3, 5), (3, 7, 7), torch.bfloat16, False, Tiling(3, 5, 4, 4, 16)),  # kernel rows in 4 and 3 of 4
    ((1, 5, 1, 4, 6), (1, 9, 9), torch.float32, True, Tiling(4, 6, 3, 1, 16)),  # in threes
    ((2, 16, 5, 2, 2), (5, 1, 1), torch.float32, True, Tiling(1, 2, 1, 16, 16)),
    ((2, 16, 2, 1, 9), (1, 1, 7), torch.float32, False, Tiling(1, 8, 1, 16, 16)),
]


def relative_error(found, expected):
    return ((found.detach().double() - expected).abs().max() / expected.abs().max()).item()


def draw(shape, kernel, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    sizes = shape, (shape[1], 1, *kernel), (shape[1],), shape
    return [torch.randn(size, generator=generator).to(dtype) for size in sizes]


def reference(x, weight, bias, residual=False):
    out = F.conv3d(x, weight, bias, padding=[k // 2 for k in weight.shape[2:]], groups=x.shape[1])
    return out + x if residual else out


@pytest.mark.parametrize(("shape", "kernel", "dtype", "residual", "cut"), CASES, ids=lambda v: str(v).split("(")[0])
def test_forward_and_gradients_are_those_in_float64(shape, kernel, dtype, residual, cut, monkeypatch):
    monkeypatch.setattr(depthwise_triton, "tiling", lambda shape, kernel: cut)
    *tensors, grad = draw(shape, kernel, dtype)
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    out = depthwise_conv3d(*leaves, residual=residual)
    found = out, *torch.autograd.grad(out, leaves, grad)
    exact = [tensor.double().requires_grad_() for tensor in tensors]
    truth = reference(*exact, residual)
    truths = truth.detach(), *torch.autograd.grad(truth, exact, grad.double())
    assert out.is_contiguous(memory_format=torch.channels_last_3d)
    assert {tensor.dtype for tensor in found} == {dtype}
    for a, b in zip(found, truths, strict=True):
        assert relative_error(a, b) < TOLERANCE[dtype]


def test_as_cut_for_a_gpu():
    *tensors, _ = draw((1, 16, 2, 3, 4), (3, 3, 3))
    assert relative_error(depthwise_conv3d(*tensors), reference(*(t.double() for t in tensors))) < 1e-6


def test_weight_and_bias_may_be_wider_than_x(monkeypatch):
    monkeypatch.setattr(depthwise_triton, "tiling", lambda shape, kernel: Tiling(2, 4, 3, 4, 16))
    x, weight, bias, grad = draw((1, 16, 2, 2, 4), (1, 3, 3))
    weight, bias = weight.requires_grad_(), bias.requires_grad_()
    x, grad = x.bfloat16(), grad.bfloat16()
    out = depthwise_conv3d(x, weight, bias)
    found = torch.autograd.grad(out, (weight, bias), grad)
    assert out.dtype == torch.bfloat16
    exact = weight.detach().double().requires_grad_(), bias.detach().double().requires_grad_()
    truths = torch.autograd.grad(reference(x.double(), *exact), exact, grad.double())
    for a, b in zip(found, truths, strict=True):
        assert a.dtype == torch.float32
        assert relative_error(a, b) < 1e-6


def test_autocast_takes_its_dtype_and_a_residual_keeps_its_own():
    x, weight, _, _ = draw((1, 16, 1, 2, 2), (1, 3, 1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert depthwise_conv3d(x, weight).dtype == torch.bfloat16
        assert depthwise_conv3d(x, weight, residual=True).dtype == torch.float32


def test_any_memory_layout(monkeypatch):
    monkeypatch.setattr(depthwise_triton, "tiling", lambda shape, kernel: Tiling(2, 4, 3, 4, 16))
    x, weight, bias, _ = draw((2, 16, 1, 4, 4), (1, 3, 3))
    expected = depthwise_conv3d(x, weight, bias)
    for other in (x.contiguous(memory_format=torch.channels_last_3d), x.transpose(3, 4).contiguous().transpose(3, 4)):
        assert torch.equal(depthwise_conv3d(other, weight, bias), expected)
    expanded = x[:, :1].expand(x.shape)
    assert torch.equal(depthwise_conv3d(expanded, weight, bias), depthwise_conv3d(expanded.clone(), weight, bias))


def test_the_sums_of_several_programs_are_added_up(monkeypatch):
    x, _, _, grad = draw((2, 16, 1, 2, 8), (1, 3, 3))
    found = {}
    for resident in (1, 2, 6):
        monkeypatch.setattr(depthwise_triton, "RESIDENT_PROGRAMS", resident)
        monkeypatch.setattr(depthwise_triton, "tiling", lambda shape, kernel: Tiling(1, 2, 3, 2, 16))
        found[resident] = depthwise_triton._weight_gradient(x, grad, [1, 3, 3])
        assert relative_error(found[resident][0], found[1][0].double()) < 1e-6
        assert relative_error(found[resident][1], grad.double().sum((0, 2, 3, 4))) < 1e-6
    assert not torch.equal(found[1][0], found[6][0])  # other orders of adding: the work was dealt out otherwise


def test_second_derivatives(monkeypatch):
    monkeypatch.setattr(depthwise_triton, "tiling", lambda shape, kernel: Tiling(3, 3, 3, 4, 16))
    *tensors, grad = draw((2, 4, 1, 3, 3), (1, 3, 3))
    results = []
    for convolve, kind in ((depthwise_conv3d, torch.float32), (reference, torch.float64)):
        leaves = [tensor.to(kind).requires_grad_() for tensor in (*tensors, grad)]
        first = torch.autograd.grad(convolve(*leaves[:3]), leaves[:3], leaves[3], create_graph=True)
        results.append(torch.autograd.grad(sum(g.pow(2).sum() for g in first), (leaves[0], leaves[1], leaves[3])))
    for a, b in zip(*results, strict=True):
        assert relative_error(a, b) < 1e-5


def test_one_graph_when_compiled(monkeypatch):
    monkeypatch.setattr(depthwise_triton, "tiling", lambda shape, kernel: Tiling(2, 4, 3, 4, 16))
    monkeypatch.setattr(depthwise, "reason_against_triton", lambda x, weight: None)
    *tensors, grad = draw((1, 16, 1, 4, 4), (1, 3, 3))
    compiled = torch.compile(depthwise.depthwise_conv3d, backend="aot_eager", fullgraph=True)
    results = []
    for convolve in (compiled, depthwise_conv3d):
        leaves = [tensor.clone().requires_grad_() for tensor in tensors]
        out = convolve(*leaves)
        results.append((out, *torch.autograd.grad(out, leaves, grad)))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_the_operators_are_what_torch_was_told(monkeypatch):
    monkeypatch.setattr(depthwise_triton, "tiling", lambda shape, kernel: Tiling(2, 2, 3, 4, 16))
    x, weight, bias, grad = (tensor.requires_grad_() for tensor in draw((1, 16, 1, 2, 2), (1, 3, 3)))
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(depthwise_triton._conv, (x, weight, bias, True, False), test_utils=checks)
    torch.library.opcheck(depthwise_triton._conv, (x[:, :1], weight[:1], None, False, True), test_utils=checks)
    torch.library.opcheck(depthwise_triton._weight_gradient, (x, grad, [1, 3, 3]), test_utils=checks)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(2, 4, 3, 3)}, r"x must be \(B, C, T, H, W\) and not empty, got \(2, 4, 3, 3\)"),
        ({"x": torch.zeros(0, 4, 2, 3, 3)}, "not empty"),
        ({"weight": torch.zeros(4, 1, 2, 3, 3)}, r"t, h, w odd, got \(4, 1, 2, 3, 3\)"),
        ({"weight": torch.zeros(5, 1, 3, 3, 3)}, r"weight must be \(4, 1, t, h, w\)"),
        ({"bias": torch.zeros(3)}, r"bias must be \(4,\), got \(3,\)"),
        ({"x": torch.zeros(2, 4, 2, 3, 3).double()}, "x must be float32, bfloat16 or float16, got torch.float64"),
        ({"weight": torch.zeros(4, 1, 3, 3, 3, device="meta")}, "weight must be on cpu as x is, got meta"),
        ({"x": torch.zeros(1).expand(2**18, 4, 2**6, 2**3, 2**3)}, "must be below 2\\*\\*30, got 1073741824"),
    ],
)
def test_what_the_kernels_cannot_compute(change, message):
    arguments = {"x": torch.zeros(2, 4, 2, 3, 3), "weight": torch.zeros(4, 1, 3, 3, 3), "bias": torch.zeros(4)}
    with pytest.raises(UbenchError, match=message):
        depthwise_conv3d(**(arguments | change))
