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
from uniformer_bench.model.attention import attention, explicit
from uniformer_bench.model.depthwise import depthwise_conv3d
from uniformer_bench.model.linear import linear

Convolution = Callable[[Tensor, nn.Conv3d], Tensor]


class Ops(NamedTuple):
    """One implementation of every operator that can be written in more than one way."""

    name: str
    enter: Callable[[Tensor], Tensor]  # the clips (B, C, T, H, W) in the memory layout of the rest
    convolution: Convolution  # dense, strided: stem and downsampling
    depthwise: Convolution  # DPE and tube: stride 1, same size
    pointwise: Convolution  # 1x1x1
    linear: Callable[[Tensor, nn.Linear], Tensor]  # on tokens (B, N, C_in) -> (B, N, C_out)
    attention: Callable[[Tensor, Tensor, Tensor], Tensor]  # q, k, v (B, heads, N, head_dim) -> the same


def tokens_of(x: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B, T*H*W, C); a free view where x is channels-last."""
    return x.flatten(2).transpose(1, 2)


def volume_of(tokens: Tensor, grid: torch.Size) -> Tensor:
    """(B, T*H*W, C) -> (B, C, T, H, W) over the (T, H, W) of `grid`, channels-last in memory."""
    return tokens.transpose(1, 2).reshape(tokens.shape[0], tokens.shape[2], *grid)


def _convolution(x: Tensor, conv: nn.Conv3d) -> Tensor:
    return F.conv3d(x, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)  # type: ignore[arg-type]  # padding is typed as str | tuple


def _linear(x: Tensor, layer: nn.Linear) -> Tensor:
    return F.linear(x, layer.weight, layer.bias)


def _fast_depthwise(x: Tensor, conv: nn.Conv3d) -> Tensor:
    return depthwise_conv3d(x, conv.weight, conv.bias)


def _fast_pointwise(x: Tensor, conv: nn.Conv3d) -> Tensor:
    weight = conv.weight.flatten(1)  # (C_out, C_in)
    return linear(x.permute(0, 2, 3, 4, 1), weight, conv.bias).permute(0, 4, 1, 2, 3)


def _fast_linear(x: Tensor, layer: nn.Linear) -> Tensor:
    return linear(x, layer.weight, layer.bias)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last_3d)


REFERENCE = Ops(
    name="reference",
    enter=torch.Tensor.contiguous,
    convolution=_convolution,
    depthwise=_convolution,
    pointwise=_convolution,
    linear=_linear,
    attention=explicit,
)
FAST = Ops(
    name="fast",
    enter=_channels_last,
    convolution=_convolution,
    depthwise=_fast_depthwise,
    pointwise=_fast_pointwise,
    linear=_fast_linear,
    attention=attention,
)

IMPLEMENTATIONS = {ops.name: ops for ops in (REFERENCE, FAST)}


def find_ops(name: str) -> Ops:
    """The implementation of that name. Raises UbenchError with those there are."""
    if name not in IMPLEMENTATIONS:
        raise UbenchError(f"unknown implementation {name!r}{nearest(name, IMPLEMENTATIONS)}")
    return IMPLEMENTATIONS[name]
