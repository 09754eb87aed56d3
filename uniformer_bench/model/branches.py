"""The residual branches of a block that stand between two matrix products: the local MHRA and the feed-forward layer.

In float32 training on a CPU each is one node of the gradients' graph: in a small model what PyTorch does between the
products, views and nodes of each, takes a good part of their time, and GELU's derivative meets its gradient in place.
Such a node is differentiated once: it says so where a graph of its gradient is to be created.
"""

from typing import Any

import torch
from torch import Tensor, nn

from uniformer_bench.errors import UbenchError
from uniformer_bench.model import gelu_cpu, llvm
from uniformer_bench.model.depthwise import convolution, depthwise_conv3d, weight_gradient
from uniformer_bench.model.linear import gradients, is_recorded, linear, linear_gelu

Layer = tuple[Tensor, Tensor | None]  # weight and bias


def layer_of(module: nn.Linear | nn.Conv3d) -> Layer:
    """Its weight and bias."""
    return module.weight, module.bias


def feed_forward(x: Tensor, fc1: Layer, fc2: Layer) -> Tensor:
    """W2 GELU(W1 x + b1) + b2 of x (..., C), for weights (C_out, C_in) or kernels (C_out, C_in, 1, 1, 1)."""
    if _serves(x, *fc1, *fc2):
        found: Tensor = _FeedForward.apply(x, *fc1, *fc2)
        return found
    return linear(linear_gelu(x, *_flat(fc1)), *_flat(fc2))


def local_relation(rows: Tensor, before: Layer, tube: Layer, after: Layer) -> Tensor:
    """Local MHRA of rows (B, T, H, W, C): a pointwise convolution, the tube, a pointwise convolution (paper, eq. 4)."""
    if _serves(rows, *before, *tube, *after):
        found: Tensor = _LocalRelation.apply(rows, *before, *tube, *after)
        return found
    volume = volume_of_rows(linear(rows, *_flat(before)))
    return linear(rows_of(depthwise_conv3d(volume, *tube)), *_flat(after))


def _serves(*tensors: Tensor | None) -> bool:
    """Whether a node of ours stands for the branch: where gradients are recorded, in float32 on the CPU."""
    if not is_recorded(*tensors) or torch.is_autocast_enabled("cpu"):
        return False
    present = [tensor for tensor in tensors if tensor is not None]
    return llvm.reads(*present) and all(tensor.dtype == torch.float32 for tensor in present)


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None) -> Tensor:
        slope = _dense(x, w1, b1)
        hidden = gelu_cpu.forward_(slope)
        ctx.save_for_backward(x, slope, hidden, w1, w2)
        return _dense(hidden, w2, b2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        _check_once()
        x, slope, hidden, w1, w2 = ctx.saved_tensors
        need = ctx.needs_input_grad
        d_hidden, d_w2, d_b2 = _dense_gradients(grad, hidden, w2, (any(need[:3]), *need[3:]))
        if d_hidden is None:
            return None, None, None, d_w2, d_b2
        return *_dense_gradients(d_hidden.mul_(slope), x, w1, need[:3]), d_w2, d_b2


class _LocalRelation(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, w1: Tensor, b1: Tensor | None, tube: Tensor, b: Tensor | None, w2: Tensor,
        b2: Tensor | None,
    ) -> Tensor:  # fmt: skip
        volume = volume_of_rows(_dense(rows, w1, b1))
        mixed = convolution(volume, tube, b)
        ctx.save_for_backward(rows, volume, mixed, w1, tube, w2)
        return _dense(rows_of(mixed), w2, b2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        _check_once()
        rows, volume, mixed, w1, tube, w2 = ctx.saved_tensors
        need = ctx.needs_input_grad
        d_mixed, d_w2, d_b2 = _dense_gradients(grad, rows_of(mixed), w2, (any(need[:5]), *need[5:]))
        if d_mixed is None:
            return None, None, None, None, None, d_w2, d_b2
        d_tube = weight_gradient(volume, volume_of_rows(d_mixed), tube) if need[3] else None
        d_bias = d_mixed.sum((0, 1, 2, 3)) if need[4] else None
        d_first: tuple[Tensor | None, ...] = (None, None, None)
        if any(need[:3]):
            d_volume = convolution(volume_of_rows(d_mixed), tube, None, flipped=True)
            del d_mixed  # its memory, before the next products take theirs
            d_first = _dense_gradients(rows_of(d_volume), rows, w1, need[:3])
        return *d_first, d_tube, d_bias, d_w2, d_b2


def _dense(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return linear(x.reshape(-1, x.shape[-1]), weight.flatten(1), bias, in_training=True).view(
        *x.shape[:-1], len(weight)
    )


def _dense_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, needed: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Those of y = W x + b to x, W and b, in their shapes."""
    rows, x_rows = (tensor.reshape(-1, tensor.shape[-1]) for tensor in (grad, x))
    d_x, d_weight, d_bias = gradients(rows, x_rows, weight.flatten(1), needed)
    shaped = [None if d is None else d.reshape(of.shape) for d, of in ((d_x, x), (d_weight, weight))]
    return shaped[0], shaped[1], d_bias


def _flat(layer: Layer) -> Layer:
    return layer[0].flatten(1), layer[1]


def rows_of(volume: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B, T, H, W, C): free, and dense where the volume is channels-last."""
    return volume.permute(0, 2, 3, 4, 1)


def volume_of_rows(rows: Tensor) -> Tensor:
    """(B, T, H, W, C) -> (B, C, T, H, W): free, and channels-last where the rows are dense."""
    return rows.permute(0, 4, 1, 2, 3)


def _check_once() -> None:
    if torch.is_grad_enabled():
        raise UbenchError(
            "a fast block in training is differentiated once, got a graph of its gradient to create; "
            "build the model with implementation 'reference'"
        )
