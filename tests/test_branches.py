"""The branches of a block as one node of training's graph each: PyTorch's layers, gradients of what is asked, once."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from uniformer_bench.errors import UbenchError
from uniformer_bench.model import linear, llvm
from uniformer_bench.model.branches import feed_forward, local_relation

pytestmark = pytest.mark.skipif(not llvm.available(), reason="llvmlite is not installed")


class Branch(NamedTuple):
    """One of ours, PyTorch's, and what it is called with: an input and the weights."""

    ours: Callable[..., torch.Tensor]
    theirs: Callable[..., torch.Tensor]
    leaves: Callable[[], list[torch.Tensor]]
    node: str


def layers(kernels):
    torch.manual_seed(0)
    fc1, fc2 = (nn.Conv3d(6, 10, 1), nn.Conv3d(10, 4, 1)) if kernels else (nn.Linear(6, 10), nn.Linear(10, 4))
    return [fc1.weight, fc1.bias, fc2.weight, fc2.bias]


def feed_forward_of(*shape, kernels=False):
    return Branch(
        lambda x, w1, b1, w2, b2: feed_forward(x, (w1, b1), (w2, b2)),
        lambda x, w1, b1, w2, b2: F.linear(F.gelu(F.linear(x, w1.flatten(1), b1)), w2.flatten(1), b2),
        lambda: [torch.randn(shape, requires_grad=True), *layers(kernels)],
        "_FeedForwardBackward",
    )


def local_relation_of(*shape, kernel=(3, 3, 3)):
    def theirs(rows, w1, b1, tube, b, w2, b2):
        x = F.conv3d(rows.permute(0, 4, 1, 2, 3), w1, b1)
        x = F.conv3d(x, tube, b, padding=[k // 2 for k in kernel], groups=len(tube))
        return F.conv3d(x, w2, b2).permute(0, 2, 3, 4, 1)

    def leaves():
        torch.manual_seed(0)
        convs = nn.Conv3d(6, 10, 1), nn.Conv3d(10, 10, kernel, groups=10), nn.Conv3d(10, 4, 1)
        return [torch.randn(shape, requires_grad=True), *(p for conv in convs for p in (conv.weight, conv.bias))]

    def ours(rows, *weights):
        return local_relation(rows, weights[:2], weights[2:4], weights[4:])

    return Branch(ours, theirs, leaves, "_LocalRelationBackward")


BRANCHES = [
    feed_forward_of(2, 3, 6),
    feed_forward_of(0, 6),
    feed_forward_of(2, 2, 3, 2, 6, kernels=True),
    local_relation_of(2, 2, 3, 4, 6),
    local_relation_of(1, 3, 2, 2, 6, kernel=(1, 5, 5)),
    local_relation_of(3, 1, 1, 1, 6),
]
ONE_OF_EACH = [BRANCHES[0], BRANCHES[3]]


def onednn_for_all(monkeypatch):
    monkeypatch.setattr(linear, "SERVED", (torch.float32,))
    monkeypatch.setattr(linear, "MKL_IS_WHOLE", False)
    monkeypatch.setattr(linear, "SMALLEST_WEIGHT", 1)


def assert_alike(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("onednn", [False, True])
@pytest.mark.parametrize("branch", BRANCHES)
def test_a_branch_is_its_layers_and_their_gradients(branch, onednn, monkeypatch):
    if onednn:
        onednn_for_all(monkeypatch)
    leaves = branch.leaves()
    found, expected = branch.ours(*leaves), branch.theirs(*leaves)
    assert type(found.grad_fn).__name__ == branch.node
    assert_alike([found], [expected])
    grad = torch.randn_like(found)
    assert_alike(*(torch.autograd.grad(y, leaves, grad) for y in (found, expected)))


@pytest.mark.parametrize("branch", ONE_OF_EACH)
def test_strides_of_what_it_is_given_do_not_matter(branch):
    leaves = branch.leaves()
    turned = leaves[0].detach().mT.contiguous().mT.requires_grad_()
    grad = torch.randn_like(branch.ours(*leaves)).mT.contiguous().mT
    leaves = [turned, *leaves[1:]]
    assert_alike(*(torch.autograd.grad(f(*leaves), leaves, grad) for f in (branch.ours, branch.theirs)))


def cases_of_what_is_asked():
    few = [(0,), (1,), (2,), (3,), (4,), (1, 2), (0, 3)]
    return [(ONE_OF_EACH[0], each) for each in few] + [(ONE_OF_EACH[1], each) for each in [*few, (5,), (6,), (3, 6)]]


@pytest.mark.parametrize(("branch", "wanted"), cases_of_what_is_asked())
def test_gradients_are_of_what_is_asked_alone(branch, wanted):
    leaves = [leaf.detach() for leaf in branch.leaves()]
    asked = [leaves[i].requires_grad_() for i in wanted]
    assert_alike(*(torch.autograd.grad(f(*leaves).sum(), asked) for f in (branch.ours, branch.theirs)))


@pytest.mark.parametrize("branch", ONE_OF_EACH)
def test_without_biases(branch):
    leaves = [None if leaf.ndim == 1 else leaf for leaf in branch.leaves()]
    there = [leaf for leaf in leaves if leaf is not None]
    assert_alike(*(torch.autograd.grad(f(*leaves).sum(), there) for f in (branch.ours, branch.theirs)))


@pytest.mark.parametrize("branch", ONE_OF_EACH)
def test_backward_may_be_called_again(branch):
    leaves = branch.leaves()
    found = branch.ours(*leaves).sum()
    first, second = (torch.autograd.grad(found, leaves, retain_graph=True) for _ in range(2))
    assert all(map(torch.equal, first, second))


@pytest.mark.parametrize("branch", ONE_OF_EACH)
def test_twice_it_is_refused_rather_than_wrong(branch):
    leaves = branch.leaves()
    with pytest.raises(UbenchError, match="differentiated once, got a graph"):
        torch.autograd.grad(branch.ours(*leaves).sum(), leaves[0], create_graph=True)


@pytest.mark.parametrize("branch", ONE_OF_EACH)
def test_without_our_compiler_it_is_pytorchs(branch, monkeypatch):
    monkeypatch.setattr(llvm, "available", lambda: False)
    leaves = branch.leaves()
    found = branch.ours(*leaves)
    assert type(found.grad_fn).__name__ != branch.node
    assert_alike([found], [branch.theirs(*leaves)])


@pytest.mark.parametrize("branch", ONE_OF_EACH)
def test_what_it_leaves_to_pytorch(branch):
    leaves = branch.leaves()
    with torch.no_grad():
        assert branch.ours(*leaves).grad_fn is None
    for other in (torch.float64, torch.bfloat16):
        cast = [tensor.to(other) for tensor in leaves]
        assert type(branch.ours(*cast).grad_fn).__name__ != branch.node
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = branch.ours(*leaves)
    assert type(found.grad_fn).__name__ != branch.node
    assert found.dtype == torch.bfloat16
