"""What an architecture costs, in closed form, block by block and without torch.

One multiply-accumulate (MAC) is two floating-point operations (FLOPs). MACs are those of convolutions,
linear layers and the two products of attention; normalisations, softmax, GELU and additions are not
among them, nor are biases. Everything is for one clip.

With N tokens of C channels in a stage (section 3 of the paper): a local block takes N*C*(d + k + 2C + 2H),
a global one N*C*(d + 4C + 2H) + 2*N*N*C, where d and k are the taps of DPE and tube and H the FFN's width.
"""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

from uniformer_bench.spec import ArchSpec, PatchSpec, StageSpec, Triple

FP32_BYTES = 4


@dataclass(frozen=True)
class BlockCost:
    """Cost of one module: the parameters, the MACs and the bytes its operators write for one clip.

    `activation_bytes` counts the fp32 outputs of convolutions, linear layers, normalisations, GELU and
    attention, each once; residual additions and copies are not in it.
    """

    name: str
    kind: str
    params: int
    macs: int
    activation_bytes: int


@dataclass(frozen=True)
class StageCost:
    """Cost of a stage: its patch embedding and its blocks, on a grid of (T, H, W) tokens."""

    name: str
    mixer: str
    grid: Triple
    blocks: tuple[BlockCost, ...]

    @property
    def params(self) -> int:
        return sum(block.params for block in self.blocks)

    @property
    def macs(self) -> int:
        return sum(block.macs for block in self.blocks)

    @property
    def activation_bytes(self) -> int:
        return sum(block.activation_bytes for block in self.blocks)


@dataclass(frozen=True)
class Cost:
    """Cost of a whole model for one clip: `stages`, and `head` (last BatchNorm and classifier)."""

    stages: tuple[StageCost, ...]
    head: BlockCost

    def _parts(self) -> Iterable[StageCost | BlockCost]:
        return (*self.stages, self.head)

    @property
    def params(self) -> int:
        return sum(part.params for part in self._parts())

    @property
    def macs(self) -> int:
        return sum(part.macs for part in self._parts())

    @property
    def flops(self) -> int:
        return 2 * self.macs

    @property
    def activation_bytes(self) -> int:
        return sum(part.activation_bytes for part in self._parts())


def cost(spec: ArchSpec, *, frames: int, size: int | tuple[int, int], num_classes: int) -> Cost:
    """The cost of `spec` for a clip (3, frames, height, width). Raises SpecError where it is too small."""
    grids = spec.grids(frames, size)
    stages, c_in = [], spec.in_channels
    before: Triple = (frames, size, size) if isinstance(size, int) else (frames, *size)
    for i, (stage, grid) in enumerate(zip(spec.resolved_stages, grids, strict=True)):
        blocks = [_embedding(f"patch_embed{i + 1}", spec.embedding(i), c_in, stage.width, before)]
        blocks += [_block(f"blocks{i + 1}.{j}", stage, grid) for j in range(stage.depth)]
        stages.append(StageCost(f"stage{i + 1}", stage.mixer, grid, tuple(blocks)))
        c_in, before = stage.width, grid
    return Cost(tuple(stages), _head(c_in, prod(before), num_classes))


def _block_cost(name: str, kind: str, params: int, macs: int, written: int) -> BlockCost:
    return BlockCost(name, kind, params, macs, FP32_BYTES * written)


def _embedding(name: str, patch: PatchSpec, c_in: int, width: int, grid: Triple) -> BlockCost:
    channels, taps = patch.channels(c_in, width), prod(patch.kernel)
    params = macs = written = 0
    for i, (a, b) in enumerate(itertools.pairwise(channels)):
        grid = patch.out_grid(grid)
        out = prod(grid) * b
        params += a * b * taps + b + 2 * b  # the convolution with its bias, the norm
        macs += out * a * taps
        written += 2 * out + (out if i < patch.layers - 1 else 0)  # GELU between convolutions
    return _block_cost(name, "embedding", params, macs, written)


def _block(name: str, stage: StageSpec, grid: Triple) -> BlockCost:
    tokens = prod(grid)
    parts = [_dpe(stage, tokens), _mixer(stage, grid), _ffn(stage, tokens)]
    params, macs, written = (sum(column) for column in zip(*parts, strict=True))
    scales = (1 + stage.ffn) * stage.width if stage.layer_scale is not None else 0
    return _block_cost(name, stage.mixer, params + scales, macs, written)


def _dpe(stage: StageSpec, tokens: int) -> tuple[int, int, int]:
    if stage.dpe_kernel is None:
        return 0, 0, 0
    taps, c = prod(stage.dpe_kernel), stage.width
    return c * taps + c, tokens * c * taps, tokens * c


def _mixer(stage: StageSpec, grid: Triple) -> tuple[int, int, int]:
    if stage.mixer == "local":
        return _local(stage, prod(grid))
    space = _attention(stage.width, prod(grid), prod(grid) if stage.mixer == "global" else grid[1] * grid[2])
    if stage.mixer == "global":
        return space
    time = _attention(stage.width, prod(grid), grid[0])
    return space[0] + time[0], space[1] + time[1], space[2] + time[2]


def _local(stage: StageSpec, tokens: int) -> tuple[int, int, int]:
    assert stage.kernel is not None, "a local stage without a tube"
    taps, c = prod(stage.kernel), stage.width
    params = 2 * c + 2 * (c * c + c) + c * taps + c  # norm, two pointwise convolutions, the tube
    return params, tokens * c * (taps + 2 * c), 4 * tokens * c


def _attention(c: int, tokens: int, keys: int) -> tuple[int, int, int]:
    """Norm, qkv, softmax(q k) v over `keys` tokens each, projection."""
    params = 2 * c + 3 * c * c + 3 * c + c * c + c
    return params, 4 * tokens * c * c + 2 * tokens * keys * c, 6 * tokens * c


def _ffn(stage: StageSpec, tokens: int) -> tuple[int, int, int]:
    if not stage.ffn:
        return 0, 0, 0
    c, hidden = stage.width, stage.hidden
    return 2 * c + 2 * c * hidden + hidden + c, 2 * tokens * c * hidden, 2 * tokens * (c + hidden)


def _head(width: int, tokens: int, num_classes: int) -> BlockCost:
    params = 2 * width + width * num_classes + num_classes
    return _block_cost("head", "head", params, width * num_classes, tokens * width + num_classes)
