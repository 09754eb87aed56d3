"""GELU by our CPU kernel: PyTorch's in float64 with its derivative, at every vector width."""

import pytest
import torch
import torch.nn.functional as F

from tests.kernels import MACHINES, compiled_for
from uniformer_bench.model import gelu_cpu, llvm

pytestmark = pytest.mark.skipif(not llvm.available(), reason="llvmlite is not installed")


def truth(x):
    """GELU and its derivative in float64."""
    leaf = x.double().requires_grad_()
    value = F.gelu(leaf)
    return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 40, 4003])
@pytest.mark.parametrize("machine", MACHINES, ids=str)
def test_value_and_derivative_are_those_of_float64(count, machine):
    x = torch.linspace(-13, 13, count)
    derivative = x.clone()
    with compiled_for(machine, gelu_cpu):
        value = gelu_cpu.forward_(derivative)
        assert gelu_cpu.compiled().lanes == machine.lanes
    for found, expected in zip((value, derivative), truth(x), strict=True):
        assert torch.allclose(found.double(), expected, rtol=1e-6, atol=1e-6)


def test_what_is_not_a_number_stays_none():
    x = torch.tensor([1.0, torch.nan, -1.0])
    assert gelu_cpu.forward_(x).isnan().tolist() == [False, True, False]
    assert x.isnan().tolist() == [False, True, False]


def test_threads_share_the_work(monkeypatch):
    x = torch.randn(1001, generator=torch.Generator().manual_seed(0))
    alone = gelu_cpu.forward_(x.clone())
    monkeypatch.setattr(gelu_cpu, "NUMBERS_PER_THREAD", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert torch.allclose(gelu_cpu.forward_(x.clone()), alone, atol=1e-6)
