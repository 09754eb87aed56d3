"""Depthwise 3D convolution, stride 1 and same size, with the gradients PyTorch is slow at.

The gradient to the input of such a convolution is itself one, of the output's gradient with the
kernel flipped on all axes, so it takes the fast forward path: oneDNN on channels-last memory, or a kernel of our own.
"""

import importlib.util
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from uniformer_bench.model import depthwise_cpu, llvm, tubes_cpu

TRITON = importlib.util.find_spec("triton") is not None  # PyTorch's CUDA builds bring it
WIDE = (torch.float32, torch.float64)
LARGEST_OWN = 6_000_000  # multiply-adds of a convolution that oneDNN, with AVX-512 or threads, does not make faster


def depthwise_conv3d(x: Tensor, weight: Tensor, bias: Tensor | None, residual: bool = False) -> Tensor:
    """x (B, C, T, H, W), weight (C, 1, t, h, w) with t, h, w odd, bias (C) or None -> (B, C, T, H, W).

    `residual` adds x: in the Triton kernel, or by the kernel's centre tap where its dtype can tell 1 + w from 1.
    """
    if reason_against_triton(x, weight) is None:
        from uniformer_bench.model import depthwise_triton  # imports Triton

        return depthwise_triton.depthwise_conv3d(x, weight, bias, residual=residual)
    if residual and (x.dtype not in WIDE or _narrowed(x.device.type)):
        return x + depthwise_conv3d(x, weight, bias)
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return _Depthwise.apply(x, weight, bias, residual)
    return _pytorchs(x, _with_identity(weight) if residual else weight, bias)


def _narrowed(device: str) -> bool:
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def _with_identity(weight: Tensor) -> Tensor:
    """The kernel of x + conv(x)."""
    t, h, w = _padding(weight)
    weight = weight.clone()
    weight[:, :, t, h, w] += 1
    return weight


def _padding(weight: Tensor) -> list[int]:
    return [k // 2 for k in weight.shape[2:]]


def convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, *, flipped: bool = False, residual: bool = False
) -> Tensor:
    """As a part of a training step, of which PyTorch records no gradients: the kernel reversed on all axes, and x
    added, where that is asked for."""
    if own_convolution_serves(x, weight, bias):
        return tubes_cpu.convolution(x, weight, bias, flipped, residual)
    weight = _with_identity(weight) if residual else weight
    return _pytorchs(x, weight.flip(2, 3, 4) if flipped else weight, bias)


def _pytorchs(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if torch.compiler.is_compiling() and x.device.type == "cpu" and x.dtype == weight.dtype and not _narrowed("cpu"):
        return compiled_convolution(x.permute(0, 2, 3, 4, 1), weight, bias).permute(0, 4, 1, 2, 3)
    return _conv3d(x, weight, bias)


def _conv3d(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.conv3d(x, weight, bias, padding=_padding(weight), groups=weight.shape[0])


@torch.library.custom_op("uniformer_bench::depthwise", mutates_args=())
def compiled_convolution(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """rows (B, T, H, W, C) -> the same shape, for compiled models: Inductor gives a single clip's axis a stride by
    which PyTorch does not know channels-last memory, and the convolution would copy twice."""
    dense = rows.reshape(-1).view(rows.shape)
    return _conv3d(dense.permute(0, 4, 1, 2, 3), weight, bias).permute(0, 2, 3, 4, 1).contiguous()


@compiled_convolution.register_fake
def _convolution_by_shape(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return rows.new_empty(rows.shape)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu")
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, residual: bool) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias, ctx.residual = bias is not None, residual
        return convolution(x, weight, bias, residual=residual)

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last_3d)
        need_x, need_weight, need_bias, _ = ctx.needs_input_grad
        grad_x = convolution(grad, weight, None, flipped=True, residual=ctx.residual) if need_x else None
        grad_weight = weight_gradient(x, grad, weight) if need_weight else None
        grad_bias = grad.sum((0, 2, 3, 4)) if ctx.has_bias and need_bias else None
        return grad_x, grad_weight, grad_bias, None


def weight_gradient(x: Tensor, grad: Tensor, weight: Tensor) -> Tensor:
    """The gradient to the weight (C, 1, t, h, w) of the output's gradient (B, C, T, H, W), in the weight's dtype."""
    if own_kernel_serves(x, grad, weight):
        size = weight.shape[2], weight.shape[3], weight.shape[4]
        return depthwise_cpu.weight_gradient(x.float(), grad.float(), size).to(weight.dtype)
    arguments = [1, 1, 1], _padding(weight), [1, 1, 1], False, [0, 0, 0], weight.shape[0]
    only_weight = [False, True, False]
    x, cast_weight = x.to(grad.dtype), weight.to(grad.dtype)  # autocast leaves them wider than the gradient
    computed = torch.ops.aten.convolution_backward(grad, x, cast_weight, None, *arguments, only_weight)[1]
    return computed.to(weight.dtype)


def own_convolution_serves(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether the convolution is left to our CPU kernel rather than to oneDNN, in float32.

    oneDNN takes some 0.05 ms to prepare one: a small convolution is up to 2 times faster with ours. With AVX2 a large
    one is too, 1.2 to 1.7 times, on one thread; with AVX-512 oneDNN's computes at the machine's rate. In inference
    oneDNN, which other tools can see.
    """
    tensors = [x, weight] if bias is None else [x, weight, bias]
    recorded = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512" or torch.get_num_threads() > 1
    return (
        llvm.reads(*tensors)
        and not recorded
        and not _narrowed("cpu")
        and all(tensor.dtype == torch.float32 for tensor in tensors)
        and x.shape[1] == len(weight)
        and all(k % 2 for k in weight.shape[2:])
        and weight.numel() > len(weight)
        and 0 < x.numel() * weight.numel() <= len(weight) * (LARGEST_OWN if wide else math.inf)
    )


def own_kernel_serves(x: Tensor, grad: Tensor, weight: Tensor) -> bool:
    """Whether the weight gradient is left to our CPU kernel rather than to PyTorch.

    On one thread it is 4 to 20 times faster from 16 channels on (1 to 2 times with 1 to 3 channels), in bfloat16 even
    after conversion to float32 and back; with one tap (a scaling) there is nothing to gain. It reads memory, which
    tensors being traced or differentiated a second time do not allow; those, other dtypes and other devices are
    PyTorch's.
    """
    tensors = x, grad, weight
    recorded = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors[:2])
    return (
        llvm.reads(*tensors)
        and not recorded
        and all(tensor.dtype in (torch.float32, torch.bfloat16) for tensor in tensors)
        and weight.numel() > len(weight)
        and x.numel() > 0
    )


def reason_against_triton(x: Tensor, weight: Tensor) -> str | None:
    """Why our Triton kernels do not compute this convolution and its gradients; None where they do, for their reuse
    of what was read, where PyTorch's own GPU kernels read every input once a tap.
    """
    if x.device.type != "cuda" or torch.version.cuda is None:
        return f"Triton kernels are for NVIDIA GPUs, x is on {x.device}"
    if not TRITON:
        return "Triton is not installed"
    if any(tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16) for tensor in (x, weight)):
        return f"Triton kernels are for float32, bfloat16 and float16, got {x.dtype} and {weight.dtype}"
    if not 0 < x.numel() // max(1, x.shape[1]) < 2**30:
        return f"Triton kernels are for 1 to 2**30 - 1 positions, x is {tuple(x.shape)}"
    return None if weight.numel() > len(weight) else "a kernel of one tap is a scaling"
