"""Zero-cost proxies: numbers of an untrained model that are said to foretell its accuracy, as straw men.

The model is taken in evaluation mode, so that stochastic depth is off, a clip's gradient is its own, and nothing in
the model changes: BatchNorm goes by the statistics it begins with.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Proxy = Callable[[nn.Module, Tensor, Tensor], float]
LEAST_EIGENVALUE = 1e-5  # added to each, as by Mellor et al.


def grad_norm(model: nn.Module, clips: Tensor, labels: Tensor) -> float:
    """The sum over parameters of the Euclidean norm of the cross-entropy's gradient (Abdelfattah et al., 2021).

    clips (B, 3, T, H, W), labels (B). Higher is said to be better.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    loss = F.cross_entropy(model.eval()(clips), labels)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return sum(gradient.norm().item() for gradient in gradients if gradient is not None)


def jacob_cov(model: nn.Module, clips: Tensor, labels: Tensor) -> float:
    """How little the clips' gradients are alike (Mellor et al., 2020, version 1): minus the sum of log v + 1 / v
    over the eigenvalues v of the correlation matrix of d(sum of logits) / d(clip), a row a clip.

    clips (B, 3, T, H, W); the labels have no part in it. Higher is said to be better.
    """
    inputs = clips.detach().clone().requires_grad_()
    (jacobian,) = torch.autograd.grad(model.eval()(inputs).sum(), inputs)
    correlation = torch.corrcoef(jacobian.flatten(1).double().cpu())
    eigenvalues = torch.linalg.eigvalsh(correlation).clamp(min=0) + LEAST_EIGENVALUE
    return -(eigenvalues.log() + 1 / eigenvalues).sum().item()


PROXIES: tuple[tuple[str, Proxy], ...] = (("grad_norm", grad_norm), ("jacob_cov", jacob_cov))
