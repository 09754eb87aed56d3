"""UniFormer: patch embedding and blocks, stage after stage, then BatchNorm, mean over the tokens, classifier."""

import torch
from torch import Tensor, nn

from uniformer_bench.model.blocks import ConvEmbed, GlobalBlock, LocalBlock, PatchEmbed, SplitBlock
from uniformer_bench.model.ops import Ops, find_ops
from uniformer_bench.spec import ArchSpec

_BLOCKS = {"local": LocalBlock, "global": GlobalBlock, "split": SplitBlock}
_EMBEDDINGS = {"patch": PatchEmbed, "conv": ConvEmbed}


class UniFormer(nn.Module):
    """The model of a spec: clips (B, in_channels, T, H, W) -> logits (B, num_classes).

    `stage_modules()` gives the stages in order; names in the state dict are the official ones.
    """

    def __init__(self, spec: ArchSpec, num_classes: int, ops: Ops) -> None:
        super().__init__()
        self.spec, self.num_classes, self.ops = spec, num_classes, ops
        rates = iter(_drop_path_rates(spec))
        c_in = spec.in_channels
        for i, stage in enumerate(spec.resolved_stages):
            patch = spec.embedding(i)
            self.add_module(f"patch_embed{i + 1}", _EMBEDDINGS[patch.kind](patch, c_in, stage.width, ops))
            blocks = [_BLOCKS[stage.mixer](stage, ops, next(rates)) for _ in range(stage.depth)]
            self.add_module(f"blocks{i + 1}", nn.Sequential(*blocks))
            c_in = stage.width
        self.norm: nn.Module = nn.BatchNorm3d(c_in)
        self.head = nn.Linear(c_in, num_classes)
        self.apply(_init_weights)
        _init_temporal(self)

    def stage_modules(self) -> list[tuple[nn.Module, nn.Module]]:
        """(patch embedding, blocks) of every stage."""
        count = len(self.spec.stages)
        return [(getattr(self, f"patch_embed{i}"), getattr(self, f"blocks{i}")) for i in range(1, count + 1)]

    def forward(self, clips: Tensor) -> Tensor:
        x = self.ops.enter(clips)
        for embed, blocks in self.stage_modules():
            x = blocks(embed(x))
        return self.head(self.norm(x).flatten(2).mean(-1))


def build(spec: ArchSpec, num_classes: int, implementation: str = "fast") -> UniFormer:
    """The model of `spec`, freshly initialised from torch's random state.

    `implementation` is "fast" or "reference": other operators, the same weights and results.
    Raises UbenchError for an unknown implementation.
    """
    return UniFormer(spec, num_classes, find_ops(implementation))


def _drop_path_rates(spec: ArchSpec) -> list[float]:
    """Linear from 0 at the first block to spec.drop_path at the last."""
    blocks = sum(stage.depth for stage in spec.stages)
    return [spec.drop_path * i / max(blocks - 1, 1) for i in range(blocks)]


def _init_weights(module: nn.Module) -> None:
    """Linear layers from a normal cut at two deviations of 0.02, no bias; all else as PyTorch has it."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


def _init_temporal(model: UniFormer) -> None:
    """The official start of divided attention: qkv zero, the projection all ones."""
    for module in model.modules():
        if isinstance(module, SplitBlock):
            for parameter in (module.t_attn.qkv.weight, module.t_attn.qkv.bias, module.t_attn.proj.bias):
                nn.init.zeros_(parameter)
            nn.init.ones_(module.t_attn.proj.weight)


def clips_like(spec: ArchSpec, batch: int, frames: int, size: tuple[int, int], seed: int = 0) -> Tensor:
    """Random clips (B, C, T, H, W) from a standard normal: speed depends on values, so never zeros."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, spec.in_channels, frames, *size, generator=generator)
