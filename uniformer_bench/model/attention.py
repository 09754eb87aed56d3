"""Softmax attention, softmax(q k^T / sqrt(d)) v, computed as is fastest on the device, in the dtype and at the size.

q, k, v are (B, heads, N, head_dim), views of one product allowed; so is the result, whose (B, N, heads, head_dim)
is contiguous where we compute it, so that the tokens after it are a free view.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from uniformer_bench.model import linear
from uniformer_bench.model.choice import Choice

ROWS = 256  # queries at a time: their affinities stay in the cache while they are normalised and used
MOST_TOKENS = 4096  # by rows: not tried with more
FEWEST_CHANNELS = 32  # of a head; below, many small products on several threads lose to PyTorch's kernel
FEWEST_TOKENS = {torch.float32: 256, torch.bfloat16: 512}  # below, the calls cost more than the cache saves


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The route that `choose` names."""
    recorded = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    name = choose(q.device.type, q.dtype, q.shape[2], recorded, q.shape[3]).name
    if name == "by_rows":
        return compiled_by_rows(q, k, v) if torch.compiler.is_compiling() else by_rows(q, k, v)
    return explicit(q, k, v) if name == "explicit" else F.scaled_dot_product_attention(q, k, v)


def explicit(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As the paper writes it, the affinity of all to all in memory."""
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
    if not recorded and dtype in linear.SERVED and fits and head_dim >= FEWEST_CHANNELS:
        return Choice("by_rows", f"by_rows: {ROWS} queries' affinities to {tokens} tokens fit the cache")
    if dtype == torch.bfloat16 and tokens <= MOST_TOKENS:
        return Choice("explicit", "explicit: on a CPU PyTorch's fused kernel is slower than two products in bfloat16")
    return Choice("fused", "fused: PyTorch's kernel, which never has the whole affinity in memory")
