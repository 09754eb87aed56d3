"""Who changes which weights, and by how much: Muon against its definition by singular values."""

import math

import pytest
import torch
from torch import nn

from tests.kernels import MACHINES, compiled_for
from uniformer_bench import norm_cpu, orthogonal_cpu
from uniformer_bench.errors import UbenchError
from uniformer_bench.model import build, llvm
from uniformer_bench.optimiser import (
    ADAM_SIZE,
    ITERATIONS,
    MOMENTUM,
    QUINTIC,
    Muon,
    clip_gradients,
    optimisers_of,
    orthogonal,
)
from uniformer_bench.recipe import Recipe
from uniformer_bench.variants import variant


def matrices(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def by_singular_values(matrix):
    """The iteration as it acts on each singular value alone: x -> a x + b x^3 + c x^5, from x / |all of them|."""
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    a, b, c = QUINTIC
    x = s / s.norm()
    for _ in range(ITERATIONS):
        x = a * x + b * x**3 + c * x**5
    return u @ torch.diag(x) @ v


OWN = [(2, 16, 16), (3, 48, 16), (1, 32, 144), (2, 80, 96)]  # shapes that our CPU kernel takes


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 5, 40), (2, 40, 5), (1, 1, 7), *OWN])
def test_orthogonal_moves_singular_values_alone(shape):
    found = orthogonal(list(matrices(*shape)))
    for own, matrix in zip(found, matrices(*shape), strict=True):
        assert (own - by_singular_values(matrix)).abs().max() < 1e-3
        assert torch.linalg.svdvals(own).max() < 1.3


@pytest.mark.skipif(not llvm.available(), reason="llvmlite is not installed")
@pytest.mark.parametrize("machine", MACHINES, ids=str)
@pytest.mark.parametrize("shape", OWN)
def test_our_kernel_iterates_as_pytorch(shape, machine):
    given = list(matrices(*shape))
    assert all(map(orthogonal_cpu.serves, given))
    with compiled_for(machine, orthogonal_cpu):
        found = orthogonal_cpu.orthogonal(given, QUINTIC, 3)
    a, b, c = QUINTIC
    for own, matrix in zip(found, given, strict=True):
        expected = (matrix / matrix.norm()).double()
        for _ in range(3):
            gram = expected @ expected.mT
            expected = a * expected + (b * gram + c * gram @ gram) @ expected
        assert ((own - expected).abs().max() / expected.abs().max()) < 1e-5


def test_whom_our_kernel_does_not_serve():
    refused = [(16, 24), (8, 16), (144, 144), (0, 16)]
    assert [orthogonal_cpu.serves(matrices(*shape)) for shape in refused] == [False] * 4
    assert orthogonal_cpu.serves(matrices(32, 16))
    assert not orthogonal_cpu.serves(matrices(32, 16).t())
    assert not orthogonal_cpu.serves(matrices(16, 16).double())


@pytest.mark.skipif(not llvm.available(), reason="llvmlite is not installed")
def test_matrices_of_all_shapes_go_through_at_once(monkeypatch):
    """Those that our kernel takes, in one call, and the others, each as it is alone and in its place."""
    given = [matrices(*shape) for shape in ((16, 32), (5, 7), (48, 16), (5, 7), (16, 16), (144, 160))]
    alone = [orthogonal([matrix])[0] for matrix in given]
    for threads in (1, 2):
        monkeypatch.setattr(orthogonal_cpu, "MACS_PER_THREAD", 1)
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        for together, one in zip(orthogonal(given), alone, strict=True):
            assert (together - one).abs().max() < 1e-6


def test_nothing_becomes_of_no_gradient():
    for shape in ((16, 16), (4, 3)):
        assert torch.equal(orthogonal([torch.zeros(shape)])[0], torch.zeros(shape))
    assert orthogonal([]) == []


def test_the_first_two_steps_are_as_defined():
    lr, decay = 0.1, 0.5
    weight = nn.Parameter(matrices(1, 6, 4)[0])
    first, second = matrices(2, 6, 4)
    muon = Muon([weight], lr, decay)
    expected, momentum = weight.detach().clone(), torch.zeros(6, 4)
    for gradient in (first, second):
        momentum = MOMENTUM * momentum + (1 - MOMENTUM) * gradient
        looked_ahead = (1 - MOMENTUM) * gradient + MOMENTUM * momentum
        step = lr * ADAM_SIZE * math.sqrt(6) * by_singular_values(looked_ahead)
        expected = expected * (1 - lr * decay) - step.float()
        weight.grad = gradient.clone()
        muon.step()
        assert (weight - expected).abs().max() < 1e-4


def test_kernels_are_matrices_and_those_alike_are_independent():
    kernels = [nn.Parameter(matrices(3, 6, 2, 1, 3, 3)[i].clone()) for i in range(3)]
    flat = [nn.Parameter(kernel.detach().flatten(1).clone()) for kernel in kernels]
    for many, single in zip(kernels, flat, strict=True):
        many.grad = torch.sin(many.detach())
        single.grad = many.grad.flatten(1)
        Muon([single], 0.1, 0.0).step()
    kernels[2].grad = None
    before = kernels[2].detach().clone()
    Muon(kernels, 0.1, 0.0).step()
    for many, single in zip(kernels[:2], flat[:2], strict=True):
        assert (many.flatten(1) - single).abs().max() < 1e-6
    assert torch.equal(kernels[2], before)


def test_only_kernels_and_matrices_decay():
    model = build(variant("micro"), 2)
    decayed, others = optimisers_of(model, Recipe()).groups()
    assert {p.ndim for p in others["params"]} == {1}
    assert min(p.ndim for p in decayed["params"]) == 2
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.05, 0.0)
    assert len(decayed["params"]) + len(others["params"]) == len(list(model.parameters()))


def test_muon_has_the_dense_layers_but_the_head():
    model = build(variant("micro"), 2)
    adam, muon = optimisers_of(model, Recipe(muon_lr=0.02))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    taken = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    left = {names[id(p)] for group in adam.param_groups for p in group["params"]}
    assert taken | left == set(names.values())
    assert not taken & left
    assert {"patch_embed1.proj.weight", "blocks1.0.conv1.weight", "blocks1.0.mlp.fc1.weight"} <= taken
    assert {"head.weight", "blocks1.0.pos_embed.weight", "blocks1.0.attn.weight", "norm.weight"} <= left


def test_rates_are_shares_of_their_own_peaks():
    optimisers = optimisers_of(build(variant("micro"), 2), Recipe(lr=0.004, muon_lr=0.02))
    optimisers.at(0.25)
    assert [group["lr"] for group in optimisers.groups()] == pytest.approx([0.001, 0.001, 0.005])


def test_going_on_from_a_state_is_going_on():
    def two_steps(stop):
        torch.manual_seed(0)
        model, recipe = build(variant("micro"), 2), Recipe(muon_lr=0.02)
        optimisers = optimisers_of(model, recipe)
        for step in range(2):
            if stop and step:
                state, optimisers = optimisers.state(), optimisers_of(model, recipe)
                optimisers.restore(state)
            optimisers.zero_grad()
            sum(p.square().sum() * (step + 1) + p.sum() for p in model.parameters()).backward()
            for each in optimisers:
                each.step()
        return model.state_dict()

    whole, stopped = two_steps(False), two_steps(True)
    assert all(torch.equal(whole[name], stopped[name]) for name in whole)


def weights_with_gradients():
    shapes = [(3, 70), (1,), (16, 16), (5,), (33,)]
    weights = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    for weight in weights:
        weight.grad = 3 * matrices(*weight.shape)
    return [*weights, nn.Parameter(torch.zeros(2))]  # of which the last has none


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("most", [0.5, 1e6])
def test_gradients_are_clipped_to_their_norm(most, dtype):
    weights = [nn.Parameter(weight.detach().to(dtype)) for weight in weights_with_gradients()]
    for weight, like in zip(weights, weights_with_gradients(), strict=True):
        weight.grad = None if like.grad is None else like.grad.to(dtype)
    numbers = torch.cat([weight.grad.double().flatten() for weight in weights[:-1]])
    clip_gradients((weight for weight in weights), most)
    expected = numbers * min(1.0, most / (numbers.square().sum().sqrt() + 1e-6))
    found = torch.cat([weight.grad.double().flatten() for weight in weights[:-1]])
    assert (found - expected).abs().max() < 1e-6
    assert weights[-1].grad is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_as_pytorch_clips_it(value):
    ours, theirs = weights_with_gradients(), weights_with_gradients()
    for weights in (ours, theirs):
        weights[2].grad[3, 3] = value
    clip_gradients(ours, 1.0)
    nn.utils.clip_grad_norm_(theirs, 1.0)
    for own, other in zip(ours[:-1], theirs, strict=False):
        assert torch.equal(own.grad.nan_to_num(9.0), other.grad.nan_to_num(9.0))


@pytest.mark.skipif(not llvm.available(), reason="llvmlite is not installed")
@pytest.mark.parametrize("machine", MACHINES, ids=str)
def test_the_norm_is_that_of_all_numbers(machine):
    tensors = [matrices(*shape) for shape in ((0,), (1,), (31,), (32,), (129, 7), (64, 64))]
    assert norm_cpu.serves(tensors)
    assert not norm_cpu.serves([*tensors, matrices(4, 6).t()])
    with compiled_for(machine, norm_cpu):
        found = norm_cpu.norm(tensors)
    assert found == pytest.approx(torch.cat([t.double().flatten() for t in tensors]).norm().item(), rel=1e-6)


@pytest.mark.parametrize("rate", [0, -1, "fast", float("nan")])
def test_a_rate_must_be_positive(rate):
    with pytest.raises(UbenchError, match="muon_lr must be a positive number"):
        Recipe(muon_lr=rate)
