"""The inference form of a model: what never changes after training is multiplied into the weights.

A BatchNorm in eval mode is a scale and a shift of each channel. It goes into the pointwise layer after it
(norm1 -> conv1, norm2 -> fc1, norm -> head, whose mean over the tokens commutes with it) or the convolution before it
(the convolutional stem). Layer scale goes into the layer before it. Folding is done in float64 and rounded once.
DPE's residual, GELU and the residual sums need no other weights: the fast operators take them in as they run.
"""

import copy

import torch
from torch import Tensor, nn

from uniformer_bench.errors import UbenchError
from uniformer_bench.model.blocks import ConvEmbed, GlobalBlock, LocalBlock, Residual
from uniformer_bench.model.ops import FAST
from uniformer_bench.model.uniformer import UniFormer

Layer = nn.Conv3d | nn.Linear


def for_inference(model: UniFormer) -> UniFormer:
    """What inference is measured on: the inference form of a fast model; a reference model as it is."""
    return inference_form(model) if model.ops is FAST else model


def inference_form(model: UniFormer) -> UniFormer:
    """A copy of `model` that gives the same logits up to rounding, with fewer passes over memory.

    Raises UbenchError where the model is in training mode, in which BatchNorm depends on the batch.
    """
    if model.training:
        raise UbenchError("an inference form needs a model in eval mode, got one in training mode")
    model = copy.deepcopy(model).requires_grad_(False)
    for module in list(model.modules()):
        if isinstance(module, Residual):
            _fold_block(module)
        elif isinstance(module, ConvEmbed):
            _fold_stem(module)
    _into_next(model.norm, model.head)
    model.norm = nn.Identity()
    return model


def _fold_block(block: Residual) -> None:
    if isinstance(block, LocalBlock):
        _into_next(block.norm1, block.conv1)
        block.norm1 = nn.Identity()
        if block.norm2 is not None and block.mlp is not None:
            _into_next(block.norm2, block.mlp.fc1)
            block.norm2 = nn.Identity()
    assert isinstance(block, LocalBlock | GlobalBlock), f"no inference form of {type(block).__name__}"
    last = block.conv2 if isinstance(block, LocalBlock) else block.attn.proj
    _scale_rows(last, block.gamma_1)
    if block.mlp is not None:
        _scale_rows(block.mlp.fc2, block.gamma_2)
    block.gamma_1 = block.gamma_2 = None


def _fold_stem(embed: ConvEmbed) -> None:
    layers: list[nn.Module] = []
    for layer in embed.proj:
        if isinstance(layer, nn.BatchNorm3d):
            scale, shift = _affine(layer)
            _rescale(layers[-1], scale, shift)
        else:
            layers.append(layer)
    embed.proj = nn.Sequential(*layers)


def _affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """(scale, shift) of each channel, float64."""
    assert isinstance(norm, nn.BatchNorm3d)
    assert norm.running_var is not None
    assert norm.running_mean is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    return scale, norm.bias.double() - norm.running_mean.double() * scale


@torch.no_grad()
def _into_next(norm: nn.Module, layer: Layer) -> None:
    """W (s x + t) + b = (W s) x + (W t + b), for a layer that sees one position at a time."""
    scale, shift = _affine(norm)
    weight = layer.weight.double().flatten(1)
    assert layer.bias is not None
    layer.bias.copy_(weight @ shift + layer.bias.double())
    layer.weight.copy_((weight * scale).view_as(layer.weight))


@torch.no_grad()
def _rescale(layer: nn.Module, scale: Tensor, shift: Tensor) -> None:
    """s (W x + b) + t."""
    assert isinstance(layer, Layer)
    assert layer.bias is not None
    layer.weight.copy_(layer.weight.double() * scale.view(-1, *[1] * (layer.weight.ndim - 1)))
    layer.bias.copy_(layer.bias.double() * scale + shift)


def _scale_rows(layer: Layer, scale: Tensor | None) -> None:
    if scale is not None:
        _rescale(layer, scale.double().flatten(), torch.zeros_like(scale, dtype=torch.float64).flatten())
