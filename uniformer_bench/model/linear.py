"""Matrix products of a UniFormer, y = x W^T + b, by whichever library of PyTorch's is fastest on the processor.

PyTorch gives float32 products to MKL, which leaves half of the width of an AMD processor's AVX-512 unused: oneDNN,
which PyTorch carries and uses for bfloat16, is twice as fast there. On Intel's MKL is ahead, but for few channels in
inference, where oneDNN takes GELU in; with AVX2 alone MKL is up to 1.6 times faster.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from uniformer_bench.model.choice import Choice

SMALLEST_WEIGHT = 1024  # elements; below, the call itself takes longer than what is saved
LARGEST_BESIDE_MKL = 65536  # elements: 128 channels by 512; beyond, MKL is ahead by up to 1.15 where it uses all lanes


def _served() -> tuple[torch.dtype, ...]:
    """What oneDNN may compute faster than PyTorch's other library: a build that has it, a processor with AVX-512."""
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    if not (wide and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return ()
    bfloat16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()  # oneDNN refuses without instructions for it
    return (torch.float32, torch.bfloat16) if bfloat16 else (torch.float32,)


SERVED = _served()
# MKL's kernels use all lanes on its maker's processors; releases of torch without this function do not tell them.
MKL_IS_WHOLE = hasattr(torch.cpu, "get_capabilities") and "Intel" in str(torch.cpu.get_capabilities().get("cpu_name"))


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, in_training: bool = False) -> Tensor:
    """x (..., C_in), weight (C_out, C_in), bias (C_out) or None -> (..., C_out).

    `in_training` says that it is a part of a training step, though PyTorch records no gradients of it.
    """
    recorded = is_recorded(x, weight, bias)
    if not _serves(x, weight, recorded or in_training):
        return F.linear(x, weight, bias)
    return _Linear.apply(x, weight, bias) if recorded else _product(x, weight, bias, "none")


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """GELU of the same, exact; one pass over memory where nothing is recorded for gradients."""
    if is_recorded(x, weight, bias) or not _serves(x, weight, recorded=False):
        return F.gelu(linear(x, weight, bias))
    return _product(x, weight, bias, "gelu")


def is_recorded(*tensors: Tensor | None) -> bool:
    """Whether PyTorch records what is done to these for gradients."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def product(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none") -> Tensor:
    """oneDNN's product, not recorded for gradients, and `activation` "gelu" (exact) applied to the result.

    weight is dense in memory, as a matrix or its transpose: oneDNN is a hundred times slower with gaps.
    """
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], "none")


@torch.library.custom_op("uniformer_bench::product", mutates_args=())
def compiled_product(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    """`product` for compiled models: Inductor has a form of oneDNN's product for weights that are inputs only, which
    folded and reshaped ones are not, and would else go back to MKL."""
    return product(x, weight, bias, activation)


@compiled_product.register_fake
def _product_by_shape(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    return (compiled_product if torch.compiler.is_compiling() else product)(x, weight, bias, activation)


def ahead(dtype: torch.dtype) -> bool:
    """Whether oneDNN's large products in this dtype are faster than PyTorch's other ones."""
    return dtype in SERVED and not (dtype == torch.float32 and MKL_IS_WHOLE)


def choose(device: str, dtype: torch.dtype, weight_elements: int, recorded: bool) -> Choice:
    """Which product serves, and why; `recorded` where gradients will be asked for."""
    if device != "cpu":
        return Choice("torch", f"torch: on {device} it calls the vendor's library")
    if dtype not in SERVED:
        named = str(dtype).removeprefix("torch.")
        return Choice("torch", f"torch: oneDNN's product in {named} is no faster on this processor, or is not tried")
    if recorded and dtype == torch.bfloat16:
        return Choice("torch", "torch: it calls oneDNN itself for bfloat16, forward and backward")
    if weight_elements < SMALLEST_WEIGHT:
        return Choice("torch", f"torch: {weight_elements} weights are too few to pay for a call of oneDNN")
    if ahead(dtype):
        return Choice("onednn", "onednn: it uses whole vectors where MKL, torch's own for float32, may use half")
    if recorded or weight_elements > LARGEST_BESIDE_MKL:
        return Choice("torch", "torch: MKL, made by the processor's maker, is ahead of oneDNN in float32")
    return Choice("onednn", f"onednn: with {weight_elements} weights it is no slower than MKL, and takes GELU in")


def _serves(x: Tensor, weight: Tensor, recorded: bool) -> bool:
    if recorded and torch.compiler.is_compiling():  # our gradients are not for tracing
        return False
    same = x.dtype == weight.dtype and not torch.is_autocast_enabled("cpu")
    return same and x.numel() > 0 and choose(x.device.type, x.dtype, weight.numel(), recorded).name == "onednn"


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        rows, x_rows = (tensor.reshape(-1, tensor.shape[-1]) for tensor in (grad, x))
        grad_x, grad_weight, grad_bias = gradients(rows, x_rows, weight, ctx.needs_input_grad)
        return None if grad_x is None else grad_x.reshape(x.shape), grad_weight, grad_bias


def gradients(
    grad: Tensor, x: Tensor, weight: Tensor, needed: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """What a gradient (M, N) of y = x W^T + b is to x (M, K), weight (N, K) and bias (N), of which some are needed."""
    grad, x = grad.contiguous(), x.contiguous()
    grad_x = linear(grad, weight.t(), None, in_training=True) if needed[0] else None
    grad_weight = _crossed(grad, x) if needed[1] else None
    return grad_x, grad_weight, grad.sum(0) if needed[2] else None


def _crossed(a: Tensor, b: Tensor) -> Tensor:
    """a^T b for a (M, N), b (M, K); oneDNN copies its first operand, so that is the smaller one there."""
    if a.shape[1] <= b.shape[1] or not ahead(a.dtype):
        return linear(a.t(), b.t(), None, in_training=True)
    return linear(b.t(), a.t(), None, in_training=True).t()
