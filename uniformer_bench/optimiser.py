"""What changes the weights in a training: AdamW, and Muon for matrices where the recipe asks for it.

Muon (K. Jordan et al., 2024, kellerjordan.github.io/posts/muon) moves a matrix by its momentum made orthogonal, so that
all directions of a layer learn alike. The step is scaled as in arXiv 2502.16982, section 2.2, to the size of AdamW's.
PyTorch's own takes matrices one at a time, in bfloat16, and no kernels of convolutions.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from uniformer_bench import norm_cpu, orthogonal_cpu
from uniformer_bench.recipe import Recipe

MOMENTUM = 0.95
ITERATIONS = 5
QUINTIC = (3.4445, -4.7750, 2.0315)  # of Jordan: singular values go to 0.7 .. 1.2, and fast
ADAM_SIZE = 0.2  # root mean square of AdamW's usual step


class Muon(torch.optim.Optimizer):
    """Matrices (M, N), and kernels of convolutions (M, ...) as such."""

    def __init__(self, weights: Sequence[Tensor], lr: float, weight_decay: float) -> None:
        super().__init__(weights, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # none is needed
        """Changes every weight that has a gradient; `closure` is not called."""
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights:
                self._step(weights, group["lr"], group["weight_decay"])

    def _step(self, weights: list[Tensor], lr: float, weight_decay: float) -> None:
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        momenta = [self._momentum(weight) for weight in weights]
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        ahead = torch._foreach_lerp(gradients, momenta, MOMENTUM)
        torch._foreach_mul_(weights, 1 - lr * weight_decay)
        torch._foreach_sub_(weights, _steps(ahead), alpha=lr * ADAM_SIZE)

    def _momentum(self, weight: Tensor) -> Tensor:
        state: dict[str, Tensor] = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        return state["momentum"]


def _steps(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Each made orthogonal as a matrix of its first axis by the others, times the root of its longer side."""
    matrices = [tensor.flatten(1) for tensor in tensors]
    found = orthogonal(matrices)
    torch._foreach_mul_(found, [max(matrix.shape) ** 0.5 for matrix in matrices])
    return [step.view_as(tensor) for step, tensor in zip(found, tensors, strict=True)]


def orthogonal(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Matrices (M, N) of the same singular vectors, whose singular values are all about 1 (Newton-Schulz)."""
    ours, alike = list[int](), dict[torch.Size, list[int]]()
    for i, matrix in enumerate(matrices):
        (ours if orthogonal_cpu.serves(matrix) else alike.setdefault(matrix.shape, [])).append(i)
    found = dict[int, Tensor]()
    if ours:
        steps = orthogonal_cpu.orthogonal([matrices[i] for i in ours], QUINTIC, ITERATIONS)
        found.update(zip(ours, steps, strict=True))
    for places in alike.values():
        found.update(zip(places, _iterated(torch.stack([matrices[i] for i in places])), strict=True))
    return [found[i] for i in range(len(matrices))]


def _iterated(matrices: Tensor) -> Tensor:
    """The same of (K, M, N), by PyTorch's products."""
    a, b, c = QUINTIC
    x = matrices.mT if matrices.shape[1] > matrices.shape[2] else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if matrices.shape[1] > matrices.shape[2] else x


class Optimisers(tuple[torch.optim.Optimizer, ...]):
    """The optimisers of a model's weights, each with some of them."""

    def zero_grad(self) -> None:
        """Before a forward pass, which then runs without old gradients."""
        for each in self:
            each.zero_grad(set_to_none=True)

    def at(self, share: float) -> None:
        """Sets the rate of every weight to this share of its peak."""
        for group in self.groups():
            group["lr"] = group["peak"] * share

    def groups(self) -> list[dict[str, Any]]:
        return [group for each in self for group in each.param_groups]

    def state(self) -> list[dict[str, Any]]:
        """What `restore` takes."""
        return [each.state_dict() for each in self]

    def restore(self, state: Sequence[dict[str, Any]]) -> None:
        for each, own in zip(self, state, strict=True):
            each.load_state_dict(own)


def optimisers_of(model: nn.Module, recipe: Recipe) -> Optimisers:
    """AdamW that decays matrices and kernels, but neither biases nor norms nor scales; Muon in its place at
    recipe.muon_lr for dense layers but the head, where there is such a rate."""
    by_muon = _dense(model) if recipe.muon_lr else []
    taken = {id(weight) for weight in by_muon}
    others = [parameter for parameter in model.parameters() if id(parameter) not in taken]
    groups = [
        {"params": [p for p in others if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0},
    ]
    adam = torch.optim.AdamW([group for group in groups if group["params"]], lr=recipe.lr, fused=True)
    muon = [Muon(by_muon, recipe.muon_lr, recipe.weight_decay)] if by_muon and recipe.muon_lr else []
    found = Optimisers((adam, *muon))
    for group in found.groups():
        group["peak"] = group["lr"]
    return found


def clip_gradients(weights: Iterable[Tensor], most: float) -> None:
    """Scales all gradients alike where their norm together is more than `most`, as clip_grad_norm_ does."""
    weights = list(weights)
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    if not norm_cpu.serves(gradients):
        nn.utils.clip_grad_norm_(weights, most)
        return
    total = norm_cpu.norm(gradients)
    if not total <= most:  # so that what is not a number spreads to all, as there
        torch._foreach_mul_(gradients, most / (total + 1e-6))


def _dense(model: nn.Module) -> list[Tensor]:
    """The weights that are one matrix each, in the models' order; a classifier's rows are better learnt apart."""
    layers = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv3d)]
    head = getattr(model, "head", None)
    return [layer.weight for layer in layers if layer is not head and getattr(layer, "groups", 1) == 1]
