"""The feed-forward layer as one node of training's graph: PyTorch's three layers, gradients of what is asked, once."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from uniformer_bench.errors import UbenchError
from uniformer_bench.model import linear, llvm
from uniformer_bench.model.feed_forward import feed_forward

NODE = "_FeedForwardBackward"
pytestmark = pytest.mark.skipif(not llvm.available(), reason="llvmlite is not installed")


def weights(c_in=6, hidden=10, c_out=4, kernels=False):
    torch.manual_seed(0)
    layers = (nn.Conv3d(c_in, hidden, 1), nn.Conv3d(hidden, c_out, 1)) if kernels else None
    fc1, fc2 = layers or (nn.Linear(c_in, hidden), nn.Linear(hidden, c_out))
    return [fc1.weight, fc1.bias, fc2.weight, fc2.bias]


def by_torch(x, w1, b1, w2, b2):
    return F.linear(F.gelu(F.linear(x, w1.flatten(1), b1)), w2.flatten(1), b2)


def onednn_for_all(monkeypatch):
    monkeypatch.setattr(linear, "SERVED", (torch.float32,))
    monkeypatch.setattr(linear, "MKL_IS_WHOLE", False)
    monkeypatch.setattr(linear, "SMALLEST_WEIGHT", 1)


@pytest.mark.parametrize("onednn", [False, True])
@pytest.mark.parametrize("kernels", [False, True])
@pytest.mark.parametrize("shape", [(2, 3, 6), (2, 2, 3, 2, 6), (0, 6)])
def test_it_is_the_three_layers_and_their_gradients(shape, kernels, onednn, monkeypatch):
    if onednn:
        onednn_for_all(monkeypatch)
    x, own = torch.randn(shape, requires_grad=True), weights(kernels=kernels)
    leaves = [x, *own]
    found, expected = feed_forward(*leaves), by_torch(*leaves)
    assert type(found.grad_fn).__name__ == NODE
    assert found.shape == (*shape[:-1], 4)
    assert torch.allclose(found, expected, atol=1e-5)
    grad = torch.randn_like(found)
    for ours, theirs in zip(*(torch.autograd.grad(y, leaves, grad) for y in (found, expected)), strict=True):
        assert ours.shape == theirs.shape
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_strides_of_what_it_is_given_do_not_matter():
    own = weights()
    x, grad = torch.randn(6, 3, 2).permute(2, 1, 0).requires_grad_(), torch.randn(4, 3, 2).permute(2, 1, 0)
    found, expected = (torch.autograd.grad(f(x, *own), [x, *own], grad) for f in (feed_forward, by_torch))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("wanted", [(0,), (1, 2), (2,), (3,), (4,), (0, 3)])
def test_gradients_are_of_what_is_asked_alone(wanted):
    leaves = [torch.randn(5, 6), *(weight.detach() for weight in weights())]
    for i in wanted:
        leaves[i].requires_grad_()
    asked = [leaf for leaf in leaves if leaf.requires_grad]
    found, expected = (torch.autograd.grad(f(*leaves).sum(), asked) for f in (feed_forward, by_torch))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, expected, strict=True))


def test_without_biases():
    w1, _, w2, _ = weights()
    x = torch.randn(5, 6, requires_grad=True)
    leaves = [x, w1, w2]
    found, expected = (torch.autograd.grad(f(x, w1, None, w2, None).sum(), leaves) for f in (feed_forward, by_torch))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, expected, strict=True))


def test_backward_may_be_called_again():
    x, own = torch.randn(5, 6, requires_grad=True), weights()
    found = feed_forward(x, *own).sum()
    first, second = (torch.autograd.grad(found, [x, *own], retain_graph=True) for _ in range(2))
    assert all(map(torch.equal, first, second))


def test_twice_it_is_refused_rather_than_wrong():
    x, own = torch.randn(5, 6, requires_grad=True), weights()
    with pytest.raises(UbenchError, match="differentiated once, got a graph"):
        torch.autograd.grad(feed_forward(x, *own).sum(), x, create_graph=True)


def test_without_our_compiler_it_is_pytorchs(monkeypatch):
    monkeypatch.setattr(llvm, "available", lambda: False)
    x, own = torch.randn(5, 6, requires_grad=True), weights()
    found = feed_forward(x, *own)
    assert type(found.grad_fn).__name__ != NODE
    assert torch.allclose(found, by_torch(x, *own), atol=1e-6)


def test_what_it_leaves_to_pytorch():
    x, own = torch.randn(5, 6, requires_grad=True), weights()
    with torch.no_grad():
        assert feed_forward(x, *own).grad_fn is None
    for other in (torch.float64, torch.bfloat16):
        cast = [tensor.to(other) for tensor in (x, *own)]
        assert type(feed_forward(*cast).grad_fn).__name__ != NODE
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = feed_forward(x, *own)
    assert type(found.grad_fn).__name__ != NODE
    assert found.dtype == torch.bfloat16
