"""The averaged weights (EMA) that a training is judged by: running means of parameters and statistics."""

import torch
from torch import Tensor

Weights = dict[str, Tensor]


def start_average(weights: Weights) -> Weights:
    """A copy to average into."""
    return {name: value.detach().clone() for name, value in weights.items()}


@torch.no_grad()
def average_into(average: Weights, weights: Weights, step: int, decay: float) -> None:
    """One step of the running mean, in place; counters are copied.

    The decay rises from nothing as (1 + step) / (10 + step), so that a short training is not judged by its start.
    """
    share = 1 - min(decay, (1 + step) / (10 + step))
    floats = [name for name, value in weights.items() if value.is_floating_point()]
    torch._foreach_lerp_([average[n] for n in floats], [weights[n].detach() for n in floats], share)
    for name in weights.keys() - set(floats):
        average[name].copy_(weights[name])
