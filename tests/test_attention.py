"""Attention by our CPU kernel: the formula in float64, forward and backward, at every size and vector width."""

import pytest
import torch
import torch.nn.functional as F

from tests.kernels import MACHINES, compiled_for
from uniformer_bench.model import attention, attention_cpu, llvm

pytestmark = pytest.mark.skipif(not llvm.available(), reason="llvmlite is not installed")


def formula(qkv):
    """softmax(q k^T / sqrt(d)) v as it is written, (B, N, 3, heads, d) -> (B, N, heads, d)."""
    q, k, v = qkv.unbind(2)
    affinity = torch.einsum("bihd,bjhd->bhij", q, k) / qkv.shape[-1] ** 0.5
    return torch.einsum("bhij,bjhd->bihd", affinity.softmax(-1), v)


def qkv_of(batch, n, heads, d, scale=1.0):
    return scale * torch.randn(batch, n, 3, heads, d, generator=torch.Generator().manual_seed(0))


def gradient(function, qkv, grad):
    leaf = qkv.clone().requires_grad_()
    return torch.autograd.grad(function(leaf), leaf, grad)[0]


def error(found, truth):
    return ((found - truth).abs().max() / truth.abs().max()).item()


SHAPES = [  # one token, fewer than a vector, a remainder of queries and keys, whole blocks, several of all
    (3, 1, 1, 16), (2, 5, 2, 16), (2, 17, 3, 32), (1, 16, 1, 48), (2, 64, 2, 16), (2, 151, 2, 32)
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("machine", MACHINES, ids=str)
def test_forward_and_gradient_are_the_formulas(shape, machine):
    qkv, grad = qkv_of(*shape), torch.randn(shape[0], shape[1], *shape[2:], generator=torch.Generator().manual_seed(1))
    with compiled_for(machine, attention_cpu):
        context, rows = attention_cpu.forward(qkv)
        found = attention_cpu.backward(qkv, context, rows, grad)
        assert attention_cpu.compiled().lanes == machine.lanes
    assert error(context, formula(qkv.double())) < 1e-6
    assert error(found, gradient(formula, qkv.double(), grad.double())) < 5e-6


def test_it_serves_training_and_agrees_with_pytorch():
    qkv, grad = qkv_of(2, 70, 2, 16), torch.randn(2, 70, 2, 16, generator=torch.Generator().manual_seed(1))
    leaf = qkv.clone().requires_grad_()
    found = attention.attention(leaf)
    assert torch.equal(found, attention_cpu.forward(qkv)[0])
    assert type(found.grad_fn).__name__ == "_TiledBackward"
    assert error(found, attention.fused(qkv)) < 1e-6
    assert error(gradient(attention.attention, qkv, grad), gradient(attention.fused, qkv, grad)) < 5e-6


@pytest.mark.parametrize("scale", [1e-4, 30.0, 1e4])
def test_weights_from_even_to_a_single_one(scale):
    """Affinities far apart underflow to nothing; none overflows."""
    qkv = qkv_of(2, 40, 1, 16, scale)
    assert error(attention_cpu.forward(qkv)[0], formula(qkv.double())) < 1e-4


def test_all_alike_is_the_mean():
    qkv = qkv_of(1, 33, 1, 16)
    qkv[:, :, 0] = 0
    expected = qkv[:, :, 2].mean(1, keepdim=True).expand(1, 33, 1, 16)
    assert (attention_cpu.forward(qkv)[0] - expected).abs().max() < 1e-6


@pytest.mark.parametrize("part", [0, 1, 2])
def test_what_is_not_a_number_stays_none(part):
    qkv = qkv_of(1, 20, 1, 16)
    qkv[0, 3, part] = float("nan")
    context, rows = attention_cpu.forward(qkv)
    assert context.isnan().any()
    assert context[0, 3].isnan().all()
    assert attention_cpu.backward(qkv, context, rows, torch.ones_like(context)).isnan().any()


def test_threads_agree(monkeypatch):
    qkv, grad = qkv_of(3, 50, 2, 16), torch.ones(3, 50, 2, 16)
    monkeypatch.setattr(attention_cpu, "MACS_PER_THREAD", 1)
    found = []
    for threads in (1, 2, 4):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        context, rows = attention_cpu.forward(qkv)
        found.append((context, attention_cpu.backward(qkv, context, rows, grad)))
    for context, change in found[1:]:
        assert torch.equal(context, found[0][0])
        assert torch.equal(change, found[0][1])


def test_memory_layout_does_not_matter():
    qkv = qkv_of(2, 3, 1, 16).permute(1, 0, 2, 3, 4)  # clips and tokens swapped in memory
    grad = torch.ones(1, 1, 1, 1).expand(3, 2, 1, 16)  # what the gradient of a sum is
    assert error(gradient(attention.attention, qkv, grad), gradient(formula, qkv.double(), grad.double())) < 1e-5


def test_second_derivatives_are_pytorchs():
    qkv = qkv_of(1, 6, 1, 16).requires_grad_()
    found = []
    for route in (attention.attention, formula):
        (first,) = torch.autograd.grad(route(qkv).square().sum(), qkv, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), qkv)[0])
    assert error(*found) < 1e-5


def test_what_is_left_to_pytorch(monkeypatch):
    fp32, tokens = torch.float32, 100
    assert attention.choose("cpu", fp32, tokens, True, 16).name == "tiled"
    assert attention.choose("cpu", fp32, tokens, False, 16).name == "fused"
    assert attention.choose("cpu", torch.float64, tokens, True, 16).name == "fused"
    assert attention.choose("cpu", fp32, tokens, True, 64).name == "fused"
    assert attention.choose("cpu", fp32, tokens, True, 24).name == "fused"
    assert attention.choose("meta", fp32, tokens, True, 16).name == "fused"
    monkeypatch.setattr(llvm, "binding", None)
    assert attention.choose("cpu", fp32, tokens, True, 16).name == "fused"
    qkv = qkv_of(1, 5, 1, 16).requires_grad_()
    assert F.mse_loss(attention.attention(qkv), attention.fused(qkv)) == 0
