"""The operators of a UniFormer, twice: `REFERENCE`, plain and as the paper's code has them, and `FAST`.

Both take and return tensors of logical shape (B, C, T, H, W), or tokens (B, N, C), read the same
weights and agree up to rounding. `FAST` keeps (B, C, T, H, W) in channels-last memory, where tokens
are a free view and a 1x1x1 convolution is a matrix product. An operator takes the module that holds
its weights, under the official name, and never changes it.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uniformer_bench.errors import UbenchError
from uniformer_bench.files import nearest
from uniformer_bench.model.attention import attention, plain
from uniformer_bench.model.branches import feed_forward, layer_of, local_relation, rows_of, volume_of_rows
from uniformer_bench.model.depthwise import depthwise_conv3d
from uniformer_bench.model.linear import linear
from uniformer_bench.model.patches import patch_conv3d, patches_serve
from uniformer_bench.model.stem import stem_conv3d, stem_serves

Convolution = Callable[[Tensor, nn.Conv3d], Tensor]
Dense = nn.Linear | nn.Conv3d  # on tokens, or of one tap on volumes


class Ops(NamedTuple):
    """One implementation of every operator that can be written in more than one way."""

    name: str
    enter: Callable[[Tensor], Tensor]  # the clips (B, C, T, H, W) in the memory layout of the rest
    convolution: Convolution  # dense, strided: stem and downsampling
    position: Convolution  # DPE: depthwise, stride 1, same size, and x added
    dense: Callable[[Tensor, nn.Linear], Tensor]  # on tokens
    feed_forward: Callable[[Tensor, Dense, Dense], Tensor]  # dense, GELU, dense
    local_relation: Callable[[Tensor, nn.Conv3d, nn.Conv3d, nn.Conv3d], Tensor]  # local MHRA: dense, tube, dense
    attention: Callable[[Tensor], Tensor]  # qkv (B, N, 3, heads, head_dim) -> (B, N, heads, head_dim)
    add: Callable[[Tensor, Tensor], Tensor]  # a residual and its branch, which may be overwritten


def tokens_of(x: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B, T*H*W, C); a free view where x is channels-last."""
    return rows_of(x).flatten(1, 3)


def volume_of(tokens: Tensor, grid: torch.Size) -> Tensor:
    """(B, T*H*W, C) -> (B, C, T, H, W) over the (T, H, W) of `grid`, channels-last in memory.

    Axes are cut before they are turned: the other way round leaves a single clip's axis with a stride by which PyTorch
    does not know channels-last memory, and convolutions copy it twice.
    """
    return volume_of_rows(tokens.unflatten(1, grid))


def _convolution(x: Tensor, conv: nn.Conv3d) -> Tensor:
    return F.conv3d(x, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)  # type: ignore[arg-type]  # padding is typed as str | tuple


def _position(x: Tensor, conv: nn.Conv3d) -> Tensor:
    return x + _convolution(x, conv)


def _dense(x: Tensor, layer: nn.Linear) -> Tensor:
    return layer(x)


def _local_relation(x: Tensor, before: nn.Conv3d, tube: nn.Conv3d, after: nn.Conv3d) -> Tensor:
    return after(_convolution(before(x), tube))


def _feed_forward(x: Tensor, fc1: Dense, fc2: Dense) -> Tensor:
    return fc2(F.gelu(fc1(x)))


def _fast_convolution(x: Tensor, conv: nn.Conv3d) -> Tensor:
    if patches_serve(x, conv):
        return patch_conv3d(x, conv)
    return stem_conv3d(x, conv) if stem_serves(x, conv) else _convolution(x, conv)


def _fast_position(x: Tensor, conv: nn.Conv3d) -> Tensor:
    return depthwise_conv3d(x, conv.weight, conv.bias, residual=True)


def _fast_dense(x: Tensor, layer: nn.Linear) -> Tensor:
    return linear(x, layer.weight, layer.bias)


def _fast_feed_forward(x: Tensor, fc1: Dense, fc2: Dense) -> Tensor:
    if isinstance(fc1, nn.Linear):
        return feed_forward(x, layer_of(fc1), layer_of(fc2))
    return volume_of_rows(feed_forward(rows_of(x), layer_of(fc1), layer_of(fc2)))


def _fast_local_relation(x: Tensor, before: nn.Conv3d, tube: nn.Conv3d, after: nn.Conv3d) -> Tensor:
    return volume_of_rows(local_relation(rows_of(x), layer_of(before), layer_of(tube), layer_of(after)))


def _fast_add(x: Tensor, branch: Tensor) -> Tensor:
    recorded = torch.is_grad_enabled() and (x.requires_grad or branch.requires_grad)
    return x + branch if recorded or branch.dtype != x.dtype else branch.add_(x)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last_3d)


REFERENCE = Ops(
    name="reference",
    enter=torch.Tensor.contiguous,
    convolution=_convolution,
    position=_position,
    dense=_dense,
    feed_forward=_feed_forward,
    local_relation=_local_relation,
    attention=plain,
    add=torch.add,
)
FAST = Ops(
    name="fast",
    enter=_channels_last,
    convolution=_fast_convolution,
    position=_fast_position,
    dense=_fast_dense,
    feed_forward=_fast_feed_forward,
    local_relation=_fast_local_relation,
    attention=attention,
    add=_fast_add,
)

IMPLEMENTATIONS = {ops.name: ops for ops in (REFERENCE, FAST)}


def find_ops(name: str) -> Ops:
    """The implementation of that name. Raises UbenchError with those there are."""
    if name not in IMPLEMENTATIONS:
        raise UbenchError(f"unknown implementation {name!r}{nearest(name, IMPLEMENTATIONS)}")
    return IMPLEMENTATIONS[name]
