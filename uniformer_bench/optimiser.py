"""What changes the weights in a training: AdamW, and Muon for matrices where the recipe asks for it.

Muon (K. Jordan et al., 2024, kellerjordan.github.io/posts/muon) moves a matrix by its momentum made orthogonal, so that
all directions of a layer learn alike. The step is scaled as in arXiv 2502.16982, section 2.2, to the size of AdamW's.
PyTorch's own takes matrices one at a time, in bfloat16, and no kernels of convolutions.

A small model has some 150 weights of a few hundred numbers each, and calls for each of them are a good part of a step:
they are laid side by side, and every change is one call for all. A large weight stands alone: its gradient is then
not copied.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from uniformer_bench import orthogonal_cpu
from uniformer_bench.errors import UbenchError
from uniformer_bench.recipe import Recipe

MOMENTUM = 0.95
ITERATIONS = 5
QUINTIC = (3.4445, -4.7750, 2.0315)  # of Jordan: singular values go to 0.7 .. 1.2, and fast
ADAM_SIZE = 0.2  # root mean square of AdamW's usual step
LARGEST_BESIDE = 65536  # numbers of a weight that lies beside others: more take longer to copy than a call takes


class Flat:
    """Weights that lie side by side in `whole`, (numbers of all,): each is a part of its memory from now on."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self.weights = tuple(weights)
        self.whole = nn.Parameter(torch.cat([weight.detach().flatten() for weight in weights]))
        self._parts = self.parts(self.whole.detach())
        for weight, part in zip(self.weights, self._parts, strict=True):
            weight.data = part

    def parts(self, whole: Tensor) -> list[Tensor]:
        """Of a tensor laid out as `whole`, the part of every weight in its shape."""
        pieces = whole.split([weight.numel() for weight in self.weights])
        return [piece.view(weight.shape) for piece, weight in zip(pieces, self.weights, strict=True)]

    def gather(self) -> None:
        """Takes the weights' gradients over as that of `whole`; of a weight without one they are zeros.

        Raises UbenchError where the weights lie elsewhere by now, as after model.to(): they would stay as they are.
        """
        if not self.weights[0].is_set_to(self._parts[0]):
            raise UbenchError("a model in training must stay where its optimisers found it, got weights moved since")
        gradients = [_gradient(weight).flatten() for weight in self.weights]
        self.forget()
        self.whole.grad = torch.cat(gradients) if len(gradients) > 1 else gradients[0]

    def forget(self) -> None:
        """Drops the weights' gradients."""
        for weight in self.weights:
            weight.grad = None


def _gradient(weight: Tensor) -> Tensor:
    return torch.zeros_like(weight) if weight.grad is None else weight.grad


def flats_of(weights: Sequence[Tensor]) -> list[Flat]:
    """All of them laid out: the small ones side by side, the large ones each alone."""
    small = [weight for weight in weights if weight.numel() <= LARGEST_BESIDE]
    large = [weight for weight in weights if weight.numel() > LARGEST_BESIDE]
    return [Flat(each) for each in (small, *([weight] for weight in large)) if each]


class Muon(torch.optim.Optimizer):
    """For weights that are matrices (M, N), or kernels of convolutions (M, ...) taken as such."""

    def __init__(self, flats: Sequence[Flat], lr: float, weight_decay: float) -> None:
        super().__init__([flat.whole for flat in flats], {"lr": lr, "weight_decay": weight_decay})
        self._flats = tuple(flats)
        self._shapes = tuple(tuple(map(_as_matrix, flat.weights)) for flat in flats)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # none is needed
        """Changes the weights by the gradients that were gathered; `closure` is not called."""
        (group,) = self.param_groups
        wholes = group["params"]
        gradients = [whole.grad for whole in wholes]
        momenta = [self._momentum(whole) for whole in wholes]
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        ahead = torch._foreach_lerp(gradients, momenta, MOMENTUM)
        found = self._steps(ahead)
        torch._foreach_mul_(wholes, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_sub_(wholes, found, alpha=group["lr"] * ADAM_SIZE)

    def _steps(self, ahead: Sequence[Tensor]) -> list[Tensor]:
        """Of numbers laid out as the weights: each weight's, as a matrix, made orthogonal, times the root of its longer
        side. What our kernel takes goes through it in one call."""
        ours = [i for i, shapes in enumerate(self._shapes) if orthogonal_cpu.serves(ahead[i], shapes)]
        others = [i for i in range(len(ahead)) if i not in ours]
        found = dict[int, Tensor]()
        if ours:
            shapes = tuple(self._shapes[i] for i in ours)
            steps = orthogonal_cpu.steps([ahead[i] for i in ours], shapes, QUINTIC, ITERATIONS)
            found.update(zip(ours, steps, strict=True))
        found.update(zip(others, _by_products([self._flats[i].parts(ahead[i]) for i in others]), strict=True))
        return [found[i] for i in range(len(ahead))]

    def _momentum(self, whole: Tensor) -> Tensor:
        state: dict[str, Tensor] = self.state[whole]
        if not state:
            state["momentum"] = torch.zeros_like(whole)
        return state["momentum"]


def _as_matrix(weight: Tensor) -> tuple[int, int]:
    """The shape of a weight as a matrix of its first axis by the others."""
    return len(weight), math.prod(weight.shape[1:])


def _by_products(groups: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """The steps of weights, by PyTorch's products; those of a group one after another in a tensor."""
    matrices = [part.flatten(1) for group in groups for part in group]
    found = orthogonal(matrices)
    for step in found:
        step.mul_(max(step.shape) ** 0.5)
    rest = iter(found)
    return [torch.cat([next(rest).flatten() for _ in group]) for group in groups]


def orthogonal(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Matrices (M, N) of the same singular vectors, whose singular values are all about 1 (Newton-Schulz); those of a
    shape together."""
    alike = dict[torch.Size, list[int]]()
    for i, matrix in enumerate(matrices):
        alike.setdefault(matrix.shape, []).append(i)
    found = dict[int, Tensor]()
    for places in alike.values():
        found.update(zip(places, _iterated(torch.stack([matrices[i] for i in places])), strict=True))
    return [found[i] for i in range(len(matrices))]


def _iterated(matrices: Tensor) -> Tensor:
    """Of (K, M, N): x -> a x + (b G + c G^2) x, G = x x^T, of the shorter side."""
    a, b, c = QUINTIC
    x = matrices.mT if matrices.shape[1] > matrices.shape[2] else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if matrices.shape[1] > matrices.shape[2] else x


class Optimisers:
    """The optimisers of a model's weights, and the weights, laid side by side: each optimiser has some of them."""

    def __init__(self, each: Sequence[torch.optim.Optimizer], flats: Sequence[Flat]) -> None:
        self.each, self._flats = tuple(each), tuple(flats)
        for group in self.groups():
            group["peak"] = group["lr"]

    def zero_grad(self) -> None:
        """Before a forward pass, which then runs without old gradients."""
        for flat in self._flats:
            flat.whole.grad = None
            flat.forget()

    def gather(self) -> None:
        """After the last backward pass of a step: from now on the gradients are the optimisers' alone."""
        for flat in self._flats:
            flat.gather()

    def clip(self, most: float) -> Tensor:
        """Scales all gradients alike where their norm together is more than `most`; gives that norm."""
        return nn.utils.clip_grad_norm_([flat.whole for flat in self._flats], most)

    def step(self) -> None:
        """Changes the weights."""
        for optimiser in self.each:
            optimiser.step()

    def at(self, share: float) -> None:
        """Sets the rate of every weight to this share of its peak."""
        for group in self.groups():
            group["lr"] = group["peak"] * share

    def groups(self) -> list[dict[str, Any]]:
        return [group for optimiser in self.each for group in optimiser.param_groups]

    def state(self) -> list[dict[str, Any]]:
        """What `restore` takes."""
        return [optimiser.state_dict() for optimiser in self.each]

    def restore(self, state: Sequence[dict[str, Any]]) -> None:
        """Goes on from another's state. Raises UbenchError where that is of weights laid out in another way."""
        try:
            for optimiser, own in zip(self.each, state, strict=True):
                optimiser.load_state_dict(own)
        except ValueError as error:
            raise UbenchError(
                f"a training goes on with weights laid out as it began, as by the same release, got: {error}"
            ) from error


def optimisers_of(model: nn.Module, recipe: Recipe) -> Optimisers:
    """AdamW that decays matrices and kernels, but neither biases nor norms nor scales; Muon in its place at
    recipe.muon_lr for dense layers but the head, where there is such a rate. Weights that are frozen are left alone.

    The weights are given other places in memory: the model stays on its device from now on.
    """
    by_muon = _dense(model) if recipe.muon_lr else []
    taken = {id(weight) for weight in by_muon}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in taken]
    large, small = (flats_of([p for p in others if (p.ndim >= 2) == several]) for several in (True, False))
    groups = [
        {"params": [flat.whole for flat in flats], "weight_decay": decay}
        for flats, decay in ((large, recipe.weight_decay), (small, 0.0))
        if flats
    ]
    adam = torch.optim.AdamW(groups, lr=recipe.lr, fused=True)
    if not by_muon or not recipe.muon_lr:
        return Optimisers([adam], large + small)
    ours = [weight for weight in by_muon if orthogonal_cpu.fits(_as_matrix(weight))]
    dense = flats_of(ours) + flats_of([weight for weight in by_muon if not orthogonal_cpu.fits(_as_matrix(weight))])
    return Optimisers([adam, Muon(dense, recipe.muon_lr, recipe.weight_decay)], large + small + dense)


def _dense(model: nn.Module) -> list[Tensor]:
    """The weights that are one matrix each, in the models' order; a classifier's rows are better learnt apart."""
    layers = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv3d)]
    head = getattr(model, "head", None)
    dense = [layer.weight for layer in layers if layer is not head and getattr(layer, "groups", 1) == 1]
    return [weight for weight in dense if weight.requires_grad]
