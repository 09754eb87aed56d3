"""The feed-forward layer of a UniFormer, y = W2 GELU(W1 x + b1) + b2, over the last axis of x.

In float32 training on a CPU it is one node of the gradients' graph: in a small model what PyTorch does between the
products, views and nodes of each, takes a good part of their time, and GELU's derivative meets its gradient in place.
"""

from typing import Any

import torch
from torch import Tensor

from uniformer_bench.model import gelu_cpu, llvm
from uniformer_bench.model.linear import gradients, is_recorded, linear, linear_gelu


def feed_forward(x: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None) -> Tensor:
    """x (..., C), w1 (hidden, C) and w2 (C_out, hidden) or the kernels (..., 1, 1, 1) of convolutions -> (..., C_out).

    Its gradient on a CPU in float32 raises UbenchError where a graph of it is to be created: see gelu_cpu.
    """
    if is_recorded(x, w1, b1, w2, b2) and _serves(x, w1, w2):
        found: Tensor = _FeedForward.apply(x, w1, b1, w2, b2)
        return found
    return linear(linear_gelu(x, w1.flatten(1), b1), w2.flatten(1), b2)


def _serves(*tensors: Tensor) -> bool:
    plain = llvm.reads(*tensors) and not torch.is_autocast_enabled("cpu")
    return plain and all(tensor.dtype == torch.float32 for tensor in tensors)


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None) -> Tensor:
        slope = linear(_rows(x), w1.flatten(1), b1, in_training=True)
        hidden = gelu_cpu.forward_(slope)
        ctx.save_for_backward(x, slope, hidden, w1, w2)
        return linear(hidden, w2.flatten(1), b2, in_training=True).view(*x.shape[:-1], len(w2))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, slope, hidden, w1, w2 = ctx.saved_tensors
        gelu_cpu.check_once()
        need = ctx.needs_input_grad
        inside = any(need[:3])  # whether anything before GELU is asked for
        d_hidden, d_w2, d_b2 = gradients(_rows(grad), hidden, w2.flatten(1), (inside, *need[3:]))
        d_x = d_w1 = d_b1 = None
        if d_hidden is not None:
            d_x, d_w1, d_b1 = gradients(d_hidden.mul_(slope), _rows(x), w1.flatten(1), need[:3])
        return _like(d_x, x), _like(d_w1, w1), d_b1, _like(d_w2, w2), d_b2


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def _like(grad: Tensor | None, of: Tensor) -> Tensor | None:
    return None if grad is None else grad.reshape(of.shape)
