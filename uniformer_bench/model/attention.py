"""Softmax attention, softmax(q k^T / sqrt(d)) v, computed as is fastest on the device, in the dtype and at the size.

It takes qkv (B, N, 3, heads, head_dim), as one product has it, and gives (B, N, heads, head_dim). Routes that take
q, k and v apart take views of it, (B, heads, N, head_dim); what they give is such a view too where we compute it.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from uniformer_bench.model import attention_cpu, linear, llvm
from uniformer_bench.model.choice import Choice

ROWS = 256  # queries at a time: their affinities stay in the cache while they are normalised and used
MOST_TOKENS = 4096  # by rows and tiled: not tried with more
FEWEST_CHANNELS = 32  # of a head; below, many small products on several threads lose to PyTorch's kernel
FEWEST_TOKENS = {torch.float32: 256, torch.bfloat16: 512}  # below, the calls cost more than the cache saves
TILED_CHANNELS = (16, 32, 48)  # of a head: whole vectors, and fewer than PyTorch's kernel is good at


def attention(qkv: Tensor) -> Tensor:
    """The route that `choose` names."""
    recorded = torch.is_grad_enabled() and qkv.requires_grad
    name = choose(qkv.device.type, qkv.dtype, qkv.shape[1], recorded, qkv.shape[4]).name
    if name == "tiled" and type(qkv) is Tensor and llvm.reads(qkv):
        return _Tiled.apply(qkv.contiguous())
    if name == "by_rows":
        route = compiled_by_rows if torch.compiler.is_compiling() else by_rows
        return route(*_apart(qkv)).transpose(1, 2)
    return plain(qkv) if name == "explicit" else fused(qkv)


def plain(qkv: Tensor) -> Tensor:
    """As the paper writes it."""
    return explicit(*_apart(qkv)).transpose(1, 2)


def fused(qkv: Tensor) -> Tensor:
    """By PyTorch's kernels."""
    return F.scaled_dot_product_attention(*_apart(qkv)).transpose(1, 2)


def _apart(qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v


class _Tiled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor) -> Tensor:
        context, rows = attention_cpu.forward(qkv)
        ctx.save_for_backward(qkv, context, rows)
        return context

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        qkv, context, rows = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again, which is PyTorch's
            return torch.autograd.grad(plain(qkv), qkv, grad, create_graph=True)[0]
        return attention_cpu.backward(qkv, context, rows, grad.contiguous())


def explicit(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """With the affinity of all to all in memory."""
    affinity = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # (B, heads, N, N)
    return affinity.softmax(dim=-1) @ v


def by_rows(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The affinities of a few queries at a time, by oneDNN's products, not recorded for gradients."""
    batch, heads, n, _ = q.shape
    context = q.new_empty(batch, n, heads, v.shape[-1])
    q = (q * q.shape[-1] ** -0.5).contiguous()
    k, v_transposed = k.contiguous(), v.transpose(-2, -1).contiguous()
    for clip in range(batch):
        for head in range(heads):
            for start in range(0, n, ROWS):
                affinity = linear.product(q[clip, head, start : start + ROWS], k[clip, head], None)
                torch.softmax(affinity, -1, out=affinity)
                context[clip, start : start + ROWS, head] = linear.product(affinity, v_transposed[clip, head], None)
    return context.transpose(1, 2)


@torch.library.custom_op("uniformer_bench::attention_by_rows", mutates_args=())
def compiled_by_rows(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`by_rows` for compiled models, which would unroll its loops."""
    return by_rows(q, k, v)


@compiled_by_rows.register_fake
def _by_rows_by_shape(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    batch, heads, n, _ = q.shape
    return q.new_empty(batch, n, heads, v.shape[-1]).transpose(1, 2)


def choose(device: str, dtype: torch.dtype, tokens: int, recorded: bool, head_dim: int) -> Choice:
    """Which route serves, and why; `recorded` where gradients will be asked for."""
    if device != "cpu":
        return Choice("fused", f"fused: on {device} PyTorch's kernels keep the affinity on the chip")
    fits = FEWEST_TOKENS.get(dtype, MOST_TOKENS + 1) <= tokens <= MOST_TOKENS
    if not recorded and linear.ahead(dtype) and fits and head_dim >= FEWEST_CHANNELS:
        return Choice("by_rows", f"by_rows: {ROWS} queries' affinities to {tokens} tokens fit the cache")
    if (
        recorded
        and llvm.available()
        and dtype == torch.float32
        and head_dim in TILED_CHANNELS
        and tokens <= MOST_TOKENS
    ):
        return Choice("tiled", f"tiled: heads of {head_dim} channels are small for PyTorch's kernel, and fit registers")
    if dtype == torch.bfloat16 and tokens <= MOST_TOKENS:
        return Choice("explicit", "explicit: on a CPU PyTorch's fused kernel is slower than two products in bfloat16")
    return Choice("fused", "fused: PyTorch's kernel, which never has the whole affinity in memory")
