"""The convolution of a stem whose patches overlap, with a gradient to its weight that PyTorch is slow at."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uniformer_bench.model import llvm, stem_cpu
from uniformer_bench.spec import Triple


def stem_serves(x: Tensor, conv: nn.Conv3d) -> bool:
    """Whether the weight gradient of conv(x) is left to our CPU kernel: x are the clips themselves, of which nobody
    asks a gradient, in float32 or bfloat16; no width is padded, nothing grouped or dilated. On one thread it is 2 to 4
    times faster at the tiny space's stem. What is traced it cannot read."""
    return (
        llvm.reads(x, conv.weight)
        and torch.is_grad_enabled()
        and conv.weight.requires_grad
        and not x.requires_grad
        and all(t.dtype in (torch.float32, torch.bfloat16) for t in (x, conv.weight))
        and isinstance(conv.padding, tuple)
        and conv.padding[2] == 0
        and conv.groups == 1
        and set(conv.dilation) == {1}
        and conv.padding_mode == "zeros"
        and x.numel() > 0
    )


def stem_conv3d(x: Tensor, conv: nn.Conv3d) -> Tensor:
    """x (B, C_in, T, H, W) -> (B, C, T', H', W'), as the convolution says."""
    found: Tensor = _Stem.apply(x, conv.weight, conv.bias, conv.stride, conv.padding)
    return found


class _Stem(torch.autograd.Function):
    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu")
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Triple, padding: Triple) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv3d(x, weight, bias, stride, padding)

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        need_weight, need_bias = ctx.needs_input_grad[1:3]
        grad_weight = _weight_gradient(x, grad, weight, ctx.stride, ctx.padding) if need_weight else None
        return None, grad_weight, grad.sum((0, 2, 3, 4)) if need_bias else None, None, None


def _weight_gradient(x: Tensor, grad: Tensor, weight: Tensor, stride: Triple, padding: Triple) -> Tensor:
    if torch.is_grad_enabled():  # to be differentiated again, which is PyTorch's
        arguments = stride, padding, [1, 1, 1], False, [0, 0, 0], 1, [False, True, False]
        return torch.ops.aten.convolution_backward(grad, x.to(grad), weight.to(grad), None, *arguments)[1]
    size = weight.shape[2], weight.shape[3], weight.shape[4]
    return stem_cpu.weight_gradient(x.float(), grad.float(), size, stride, padding).to(weight.dtype)
