"""Who changes which weights, and by how much: Muon against its definition by singular values."""

import math

import pytest
import torch
from torch import nn

from tests.kernels import MACHINES, compiled_for
from uniformer_bench import optimiser, orthogonal_cpu
from uniformer_bench.errors import UbenchError
from uniformer_bench.model import build, llvm
from uniformer_bench.optimiser import (
    ADAM_SIZE,
    ITERATIONS,
    MOMENTUM,
    QUINTIC,
    Flat,
    Muon,
    Optimisers,
    flats_of,
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


OWN = [(2, 16, 16), (3, 48, 16), (1, 32, 144), (2, 80, 96), (1, 320, 336)]  # shapes that our CPU kernel takes


def by_kernel(given, iterations=ITERATIONS):
    """What our kernel makes of matrices, without the roots of their longer sides."""
    shapes = tuple((len(matrix), len(matrix[0])) for matrix in given)
    numbers = torch.cat([matrix.flatten() for matrix in given])
    assert orthogonal_cpu.serves(numbers, shapes)
    (found,) = orthogonal_cpu.steps([numbers], (shapes,), QUINTIC, iterations)
    parts = found.split([m * n for m, n in shapes])
    return [own.view(shape) / max(shape) ** 0.5 for own, shape in zip(parts, shapes, strict=True)]


def by_pytorch(given):
    return orthogonal(given)


def routes():
    ours = pytest.mark.skipif(not llvm.available(), reason="llvmlite is not installed")
    every = [(by_pytorch, shape) for shape in [(3, 8, 8), (2, 5, 40), (2, 40, 5), (1, 1, 7), *OWN]]
    return every + [pytest.param(by_kernel, shape, marks=ours) for shape in OWN]


@pytest.mark.parametrize(("route", "shape"), routes())
def test_orthogonal_moves_singular_values_alone(route, shape):
    for own, matrix in zip(route(list(matrices(*shape))), matrices(*shape), strict=True):
        assert (own - by_singular_values(matrix)).abs().max() < 1e-3
        assert torch.linalg.svdvals(own).max() < 1.3


@pytest.mark.skipif(not llvm.available(), reason="llvmlite is not installed")
@pytest.mark.parametrize("machine", MACHINES, ids=str)
@pytest.mark.parametrize("shape", OWN)
def test_our_kernel_iterates_as_defined(shape, machine):
    given = list(matrices(*shape))
    with compiled_for(machine, orthogonal_cpu):
        found = by_kernel(given, 3)
    a, b, c = QUINTIC
    for own, matrix in zip(found, given, strict=True):
        expected = (matrix / matrix.norm()).double()
        for _ in range(3):
            gram = expected @ expected.mT
            expected = a * expected + (b * gram + c * gram @ gram) @ expected
        assert ((own - expected).abs().max() / expected.abs().max()) < 1e-5


@pytest.mark.skipif(not llvm.available(), reason="llvmlite is not installed")
@pytest.mark.parametrize("machine", MACHINES, ids=str)
@pytest.mark.parametrize("shape", [(32, 96), (96, 32), (48, 48)])
def test_our_kernel_on_a_gradient_of_nearly_low_rank(shape, machine):
    """Singular values from 1 down to 1e-6, whose squares are below what float32 tells from none beside 1."""
    u, _, v = torch.linalg.svd(matrices(*shape).double(), full_matrices=False)
    given = (u * torch.logspace(0, -6, min(shape)) @ v).float()
    with compiled_for(machine, orthogonal_cpu):
        (found,) = by_kernel([given])
    assert (found - by_singular_values(given)).abs().max() < 0.01
    assert torch.linalg.svdvals(found).max() < 1.3


def test_whom_our_kernel_does_not_serve():
    numbers = matrices(512)
    assert orthogonal_cpu.serves(numbers, ((32, 16),)) == llvm.available()
    for refused in ((16, 24), (8, 16), (336, 336)):
        assert not orthogonal_cpu.serves(numbers, ((32, 16), refused))
    assert not orthogonal_cpu.serves(numbers[:0], ((0, 16),))
    assert not orthogonal_cpu.serves(matrices(2, 512)[:, ::2], ((32, 16),))
    assert not orthogonal_cpu.serves(numbers.double(), ((32, 16),))


@pytest.mark.skipif(not llvm.available(), reason="llvmlite is not installed")
def test_matrices_of_all_shapes_go_through_at_once(monkeypatch):
    """On one thread or two, each as it is alone and in its place."""
    given = [matrices(*shape) for shape in ((16, 32), (48, 16), (16, 16), (16, 32))]
    alone = [by_kernel([matrix])[0] for matrix in given]
    monkeypatch.setattr(orthogonal_cpu, "MACS_PER_THREAD", 1)
    for threads in (1, 2):
        orthogonal_cpu.plan_of.cache_clear()
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        for together, one in zip(by_kernel(given), alone, strict=True):
            assert (together - one).abs().max() < 1e-6
    orthogonal_cpu.plan_of.cache_clear()


@pytest.mark.skipif(not llvm.available(), reason="llvmlite is not installed")
def test_matrices_of_several_tensors_go_through_at_once():
    shapes = (((16, 32), (48, 16)), ((16, 16),))
    numbers = [torch.cat([matrices(*shape).flatten() for shape in own]) for own in shapes]
    for together, own, each in zip(
        orthogonal_cpu.steps(numbers, shapes, QUINTIC, ITERATIONS), shapes, numbers, strict=True
    ):
        (alone,) = orthogonal_cpu.steps([each], (own,), QUINTIC, ITERATIONS)
        assert torch.equal(together, alone)


def test_pytorchs_route_has_matrices_of_all_shapes_in_their_places():
    given = [matrices(*shape) for shape in ((16, 32), (5, 7), (48, 16), (5, 7))]
    for together, matrix in zip(orthogonal(given), given, strict=True):
        assert (together - orthogonal([matrix])[0]).abs().max() < 1e-6
    assert orthogonal([]) == []


@pytest.mark.parametrize("shape", [(16, 16), (4, 3)])
def test_nothing_becomes_of_no_gradient(shape):
    weight = nn.Parameter(torch.ones(shape))
    step_by_muon([weight], [torch.zeros(shape)], 0.1, 0.0)
    assert torch.equal(weight, torch.ones(shape))


def step_by_muon(weights, gradients, lr, decay, muon=None):
    """One step of Muon on the weights by these gradients; gives the optimiser, for the next."""
    if muon is None:
        flats = flats_of(weights)
        muon = Optimisers([Muon(flats, lr, decay)], flats)
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = None if gradient is None else gradient.clone()
    muon.gather()
    muon.step()
    return muon


def test_the_first_two_steps_are_as_defined():
    lr, decay = 0.1, 0.5
    weight = nn.Parameter(matrices(1, 6, 4)[0])
    expected, momentum, muon = weight.detach().clone(), torch.zeros(6, 4), None
    for gradient in matrices(2, 6, 4):
        momentum = MOMENTUM * momentum + (1 - MOMENTUM) * gradient
        looked_ahead = (1 - MOMENTUM) * gradient + MOMENTUM * momentum
        step = lr * ADAM_SIZE * math.sqrt(6) * by_singular_values(looked_ahead)
        expected = expected * (1 - lr * decay) - step.float()
        muon = step_by_muon([weight], [gradient], lr, decay, muon)
        assert (weight - expected).abs().max() < 1e-4


def test_a_step_by_our_kernel_and_by_pytorchs_products_are_one(monkeypatch):
    shapes = ((16, 32), (32, 16), (16, 1, 1, 3, 16), (5, 7))
    ours, theirs = ([nn.Parameter(matrices(*shape)) for shape in shapes] for _ in range(2))
    gradients = [torch.cos(weight.detach()) for weight in ours]
    flats = [Flat(ours[:3]), Flat(ours[3:])]
    step_by_muon(ours, gradients, 0.1, 0.01, Optimisers([Muon(flats, 0.1, 0.01)], flats))
    monkeypatch.setattr(orthogonal_cpu, "steps", None)  # one odd matrix has all of a tensor go by products
    step_by_muon(theirs, gradients, 0.1, 0.01)
    for own, other in zip(ours, theirs, strict=True):
        assert (own - other).abs().max() < 1e-4


def test_matrices_that_our_kernel_takes_lie_apart_from_the_others():
    model = build(variant("micro"), 2)
    optimisers = optimisers_of(model, Recipe(muon_lr=0.02))
    *_, served, odd = names_by_optimiser(model, optimisers)
    shapes = {name: (len(weight), weight[0].numel()) for name, weight in model.named_parameters() if weight.ndim > 1}
    assert served
    assert odd
    assert all(orthogonal_cpu.fits(shapes[name]) for name in served)
    assert not any(orthogonal_cpu.fits(shapes[name]) for name in odd)


@pytest.mark.parametrize("largest", [0, 24, 36, 1000])
def test_large_weights_stand_alone_and_learn_alike(largest, monkeypatch):
    monkeypatch.setattr(optimiser, "LARGEST_BESIDE", largest)
    shapes, laid = ((6, 4), (6, 6), (3, 4)), {0: [24, 36, 12], 24: [36, 36], 36: [72], 1000: [72]}[largest]
    weights, alone = ([nn.Parameter(matrices(*shape)) for shape in shapes] for _ in range(2))
    assert sorted(len(flat.whole) for flat in flats_of(weights)) == sorted(laid)
    gradients = [torch.cos(weight.detach()) for weight in weights]
    step_by_muon(weights, gradients, 0.1, 0.01)
    for weight, gradient, other in zip(weights, gradients, alone, strict=True):
        step_by_muon([other], [gradient], 0.1, 0.01)
        assert (weight - other).abs().max() < 1e-6


def test_kernels_are_matrices_and_those_alike_are_independent():
    shapes = ((6, 2, 1, 3, 3), (6, 2, 1, 3, 3), (4, 70))
    kernels = [nn.Parameter(matrices(*shape)) for shape in shapes]
    single = [nn.Parameter(kernel.detach().flatten(1).clone()) for kernel in kernels]
    gradients = [torch.sin(kernel.detach() + i) for i, kernel in enumerate(kernels)]
    for kernel, gradient in zip(single, gradients, strict=True):
        step_by_muon([kernel], [gradient.flatten(1)], 0.1, 0.01)
    step_by_muon(kernels, gradients, 0.1, 0.01)
    for many, one in zip(kernels, single, strict=True):
        assert (many.flatten(1) - one).abs().max() < 1e-6


def test_a_weight_without_a_gradient_has_one_of_zeros():
    weights = [nn.Parameter(matrices(6, 4)), nn.Parameter(matrices(4, 4))]
    before = weights[1].detach().clone()
    step_by_muon(weights, [torch.ones(6, 4), None], 0.1, 0.5)
    assert torch.allclose(weights[1], 0.95 * before)


def test_weights_side_by_side_keep_their_values_and_share_the_whole():
    weights = [nn.Parameter(matrices(*shape)) for shape in ((3, 2), (4,), (2, 1, 3, 1, 1))]
    before = [weight.detach().clone() for weight in weights]
    flat = Flat(weights)
    assert flat.whole.shape == (6 + 4 + 6,)
    assert all(map(torch.equal, weights, before))
    with torch.no_grad():
        flat.whole.mul_(2)
    assert all(torch.equal(weight, 2 * old) for weight, old in zip(weights, before, strict=True))


def test_weights_that_were_moved_are_refused_rather_than_left():
    model = build(variant("micro"), 2)
    optimisers = optimisers_of(model, Recipe())
    model.double().float()
    with pytest.raises(UbenchError, match="must stay where its optimisers found it"):
        optimisers.gather()


def test_frozen_weights_are_left_alone():
    model, recipe = build(variant("micro"), 2), Recipe(muon_lr=0.02)
    frozen = [model.patch_embed1.proj.weight, model.head.weight, model.norm.bias]
    for weight in frozen:
        weight.requires_grad_(False)
    before = [weight.clone() for weight in frozen]
    optimisers = optimisers_of(model, recipe)
    sum(p.square().sum() for p in model.parameters()).backward()
    optimisers.gather()
    optimisers.step()
    assert all(map(torch.equal, frozen, before))


def test_gathered_gradients_lie_as_the_weights_do_whatever_their_layout():
    weights = [nn.Parameter(matrices(*shape)) for shape in ((4, 6), (5,), (2, 3, 2, 2, 2))]
    flat = Flat(weights)
    gradients = [matrices(6, 4).t(), matrices(5), matrices(2, 3, 2, 2, 2).to(memory_format=torch.channels_last_3d)]
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = gradient
    flat.gather()
    assert all(map(torch.equal, flat.parts(flat.whole.grad), gradients))
    assert all(weight.grad is None for weight in weights)


def test_adam_takes_the_steps_it_takes_of_each_weight_alone():
    recipe = Recipe(lr=0.01, weight_decay=0.1)
    torch.manual_seed(0)
    ours, theirs = build(variant("micro"), 2), build(variant("micro"), 2)
    theirs.load_state_dict(ours.state_dict())
    optimisers = optimisers_of(ours, recipe)
    groups = [
        {"params": [p for p in theirs.parameters() if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in theirs.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    adam = torch.optim.AdamW(groups, lr=0.01)
    for step in range(3):
        for model in (ours, theirs):
            model.zero_grad()
            sum((p.square() * (step + 1) + p.sin()).sum() for p in model.parameters()).backward()
        optimisers.gather()
        optimisers.clip(1.0)
        optimisers.step()
        nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        adam.step()
    for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert (own - other).abs().max() < 1e-6


def names_by_optimiser(model, optimisers):
    """The names of each group's weights: those that lie in its tensor's memory."""
    spans = [(p.data_ptr(), p.data_ptr() + 4 * p.numel()) for g in optimisers.groups() for p in g["params"]]
    weights = list(model.named_parameters())
    return [{name for name, weight in weights if first <= weight.data_ptr() < last} for first, last in spans]


def test_only_kernels_and_matrices_decay():
    model = build(variant("micro"), 2)
    optimisers = optimisers_of(model, Recipe())
    shapes = {name: weight.ndim for name, weight in model.named_parameters()}
    decayed, others = names_by_optimiser(model, optimisers)
    assert {shapes[name] for name in others} == {1}
    assert min(shapes[name] for name in decayed) == 2
    assert decayed | others == shapes.keys()
    assert [group["weight_decay"] for group in optimisers.groups()] == [0.05, 0.0]


def test_muon_has_the_dense_layers_but_the_head():
    model = build(variant("micro"), 2)
    optimisers = optimisers_of(model, Recipe(muon_lr=0.02))
    large, small, *dense = names_by_optimiser(model, optimisers)
    left, taken = large | small, set[str]().union(*dense)
    assert taken | left == dict(model.named_parameters()).keys()
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
            optimisers.gather()
            optimisers.step()
        return model.state_dict()

    whole, stopped = two_steps(False), two_steps(True)
    assert all(torch.equal(whole[name], stopped[name]) for name in whole)


def test_a_state_of_weights_one_by_one_is_refused():
    model = build(variant("micro"), 2)
    several = ([p for p in model.parameters() if (p.ndim >= 2) == wide] for wide in (True, False))
    one_by_one = torch.optim.AdamW([{"params": each} for each in several]).state_dict()
    with pytest.raises(UbenchError, match="weights laid out as it began, as by the same release, got"):
        optimisers_of(model, Recipe()).restore([one_by_one])
    with pytest.raises(UbenchError, match="laid out as it began"):
        optimisers_of(model, Recipe()).restore([])


def gathered(most, change=lambda weights: None):
    """All gradients after a clip, and as they were before it."""
    model = build(variant("micro"), 2)
    optimisers = optimisers_of(model, Recipe(muon_lr=0.02))
    for weight in model.parameters():
        weight.grad = torch.cos(weight.detach())
    change(list(model.parameters()))
    optimisers.gather()
    before = torch.cat([p.grad.double() for group in optimisers.groups() for p in group["params"]])
    norm = optimisers.clip(most)
    return torch.cat([p.grad.double() for group in optimisers.groups() for p in group["params"]]), before, norm


@pytest.mark.parametrize("most", [0.5, 1e6])
def test_gradients_are_clipped_to_their_norm_together(most):
    found, before, norm = gathered(most)
    assert norm.item() == pytest.approx(before.norm().item(), rel=1e-4)
    assert torch.allclose(found, before * min(1.0, most / before.norm().item()), rtol=1e-3)


def test_what_is_no_number_spreads_to_all():
    def spoil(weights):
        weights[3].grad.view(-1)[0] = torch.nan

    assert gathered(1.0, spoil)[0].isnan().all()


@pytest.mark.parametrize("rate", [0, -1, "fast", float("nan")])
def test_a_rate_must_be_positive(rate):
    with pytest.raises(UbenchError, match="muon_lr must be a positive number"):
        Recipe(muon_lr=rate)
