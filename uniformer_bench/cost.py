"""What an architecture costs, in closed form, block by block and without torch.

One multiply-accumulate (MAC) is two floating-point operations (FLOPs). MACs are those of convolutions,
linear layers and the two products of attention; normalisations, softmax, GELU and additions are not
among them, nor are biases. Everything is for one clip.

With N tokens of C channels in a stage (section 3 of the paper): a local block takes N*C*(d + k + 2C + 2H),
a global one N*C*(d + 4C + 2H) + 2*N*N*C, where d and k are the taps of DPE and tube and H the FFN's width.

Training adds, for every operator, the gradient to its input and to its weight, each with the MACs of the
forward pass (in a depthwise convolution too); the first convolution needs no gradient to the clip. Attention
has four products backward for two forward: recomputing the affinity, as some fused kernels do, is not counted.

Bytes moved are those of operators that read their inputs and weights once and write their output once: a
lower bound that knows no cache. Fused attention writes no affinity. Copies into another layout are not in it.
"""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import NamedTuple

from uniformer_bench.spec import ArchSpec, PatchSpec, StageSpec, Triple

FP32_BYTES = 4


class _Operator(NamedTuple):
    """One operator on one clip, in elements. `products` is how many of its gradients take the forward's MACs."""

    read: int
    written: int
    weights: int = 0  # parameters
    macs: int = 0
    products: int = 2
    addition: bool = False  # additions, scales and means write nothing that activation_bytes counts


@dataclass(frozen=True)
class BlockCost:
    """Cost of one module: the parameters, the MACs and the bytes its operators write for one clip.

    `activation_bytes` counts the fp32 outputs of convolutions, linear layers, normalisations, GELU and
    attention, each once; residual additions and copies are not in it. `training_macs` are forward and backward.
    `moved_bytes` is what the forward pass reads and writes, the clip's share of the weights included.
    """

    name: str
    kind: str
    params: int
    macs: int
    activation_bytes: int
    training_macs: int
    moved_bytes: int

    @property
    def intensity(self) -> float:
        """FLOPs for each byte moved."""
        return _intensity(self)


@dataclass(frozen=True)
class StageCost:
    """Cost of a stage: its patch embedding and its blocks, on a grid of (T, H, W) tokens."""

    name: str
    mixer: str
    grid: Triple
    blocks: tuple[BlockCost, ...]

    @cached_property
    def params(self) -> int:
        return sum(block.params for block in self.blocks)

    @cached_property
    def macs(self) -> int:
        return sum(block.macs for block in self.blocks)

    @property
    def activation_bytes(self) -> int:
        return sum(block.activation_bytes for block in self.blocks)

    @property
    def training_macs(self) -> int:
        return sum(block.training_macs for block in self.blocks)

    @property
    def moved_bytes(self) -> int:
        return sum(block.moved_bytes for block in self.blocks)

    @property
    def intensity(self) -> float:
        """FLOPs for each byte moved."""
        return _intensity(self)


@dataclass(frozen=True)
class Cost:
    """Cost of a whole model for one clip: `stages`, and `head` (last BatchNorm and classifier)."""

    stages: tuple[StageCost, ...]
    head: BlockCost

    def _parts(self) -> Iterable[StageCost | BlockCost]:
        return (*self.stages, self.head)

    @cached_property
    def params(self) -> int:
        return sum(part.params for part in self._parts())

    @cached_property
    def macs(self) -> int:
        return sum(part.macs for part in self._parts())

    @property
    def flops(self) -> int:
        return 2 * self.macs

    @property
    def activation_bytes(self) -> int:
        return sum(part.activation_bytes for part in self._parts())

    @property
    def training_macs(self) -> int:
        return sum(part.training_macs for part in self._parts())

    @property
    def training_flops(self) -> int:
        return 2 * self.training_macs

    @property
    def moved_bytes(self) -> int:
        return sum(part.moved_bytes for part in self._parts())

    @property
    def intensity(self) -> float:
        """FLOPs for each byte moved."""
        return _intensity(self)


def _intensity(part: BlockCost | StageCost | Cost) -> float:
    return 2 * part.macs / part.moved_bytes


class _Bytes(NamedTuple):
    """How elements become bytes: their size, and among how many clips the weights are shared."""

    element: int
    batch: int


def cost(
    spec: ArchSpec,
    *,
    frames: int,
    size: int | tuple[int, int],
    num_classes: int,
    bytes_per_element: int = FP32_BYTES,
    batch: int = 1,
) -> Cost:
    """The cost of `spec` for a clip (3, frames, height, width). Raises SpecError where it is too small.

    `bytes_per_element` and `batch`, the clips among which a read of the weights is shared, bear on moved_bytes alone.
    """
    unit, grids = _Bytes(bytes_per_element, batch), spec.grids(frames, size)
    stages, c_in = [], spec.in_channels
    before: Triple = (frames, size, size) if isinstance(size, int) else (frames, *size)
    for i, (stage, grid) in enumerate(zip(spec.resolved_stages, grids, strict=True)):
        operators = _embedding(spec.embedding(i), c_in, stage.width, before)
        if i == 0:
            operators[0] = operators[0]._replace(products=1)  # nobody wants the gradient to the clip
        embedding = _block_cost(f"patch_embed{i + 1}", "embedding", operators, unit)
        block = _block_cost("", stage.mixer, _block(stage, grid), unit)
        blocks = (replace(block, name=f"blocks{i + 1}.{j}") for j in range(stage.depth))
        stages.append(StageCost(f"stage{i + 1}", stage.mixer, grid, (embedding, *blocks)))
        c_in, before = stage.width, grid
    return Cost(tuple(stages), _block_cost("head", "head", _head(c_in, prod(before), num_classes), unit))


def _block_cost(name: str, kind: str, operators: list[_Operator], unit: _Bytes) -> BlockCost:
    params = sum(op.weights for op in operators)
    written = sum(op.written for op in operators)
    moved = sum(op.read for op in operators) + written
    return BlockCost(
        name=name,
        kind=kind,
        params=params,
        macs=sum(op.macs for op in operators),
        activation_bytes=FP32_BYTES * sum(op.written for op in operators if not op.addition),
        training_macs=sum(op.macs * (1 + op.products) for op in operators),
        moved_bytes=unit.element * moved + -(-unit.element * params // unit.batch),
    )


def _linear(n: int, c_in: int, c_out: int) -> _Operator:
    """A linear layer or a pointwise convolution of n tokens."""
    return _Operator(n * c_in, n * c_out, c_in * c_out + c_out, n * c_in * c_out)


def _depthwise(n: int, c: int, taps: int) -> _Operator:
    return _Operator(n * c, n * c, c * taps + c, n * c * taps)


def _layer_norm(n: int, c: int) -> _Operator:
    return _Operator(n * c, n * c, 2 * c)


def _batch_norm(n: int, c: int) -> _Operator:
    return _Operator(n * c + 2 * c, n * c, 2 * c)  # its running mean and variance are read and are no parameters


def _gelu(n: int, c: int) -> _Operator:
    return _Operator(n * c, n * c)


def _addition(n: int, c: int) -> _Operator:
    return _Operator(2 * n * c, n * c, addition=True)


def _scale(n: int, c: int) -> _Operator:
    return _Operator(n * c, n * c, c, addition=True)


def _embedding(patch: PatchSpec, c_in: int, width: int, grid: Triple) -> list[_Operator]:
    channels, taps, operators = patch.channels(c_in, width), prod(patch.kernel), list[_Operator]()
    norm = _layer_norm if patch.kind == "patch" else _batch_norm
    for a, b in itertools.pairwise(channels):
        clip, grid = prod(grid) * a, patch.out_grid(grid)
        n = prod(grid)
        operators += [_Operator(clip, n * b, a * b * taps + b, n * b * a * taps), norm(n, b), _gelu(n, b)]
    return operators[:-1]  # GELU is between convolutions


def _block(stage: StageSpec, grid: Triple) -> list[_Operator]:
    return _dpe(stage, prod(grid)) + _mixer(stage, grid) + _ffn(stage, prod(grid))


def _branch(stage: StageSpec, n: int) -> list[_Operator]:
    """What ends a residual branch: its learned scale where there is one, and the addition."""
    scale = [] if stage.layer_scale is None else [_scale(n, stage.width)]
    return [*scale, _addition(n, stage.width)]


def _dpe(stage: StageSpec, n: int) -> list[_Operator]:
    if stage.dpe_kernel is None:
        return []
    return [_depthwise(n, stage.width, prod(stage.dpe_kernel)), _addition(n, stage.width)]


def _mixer(stage: StageSpec, grid: Triple) -> list[_Operator]:
    n, c = prod(grid), stage.width
    if stage.mixer == "local":
        assert stage.kernel is not None, "a local stage without a tube"
        pointwise = _linear(n, c, c)
        return [_batch_norm(n, c), pointwise, _depthwise(n, c, prod(stage.kernel)), pointwise, *_branch(stage, n)]
    if stage.mixer == "global":
        return _attention(c, n, n) + _branch(stage, n)
    over_time = [*_attention(c, n, grid[0]), _addition(n, c)]
    return over_time + _attention(c, n, grid[1] * grid[2]) + _branch(stage, n)


def _attention(c: int, n: int, keys: int) -> list[_Operator]:
    """Norm, qkv, softmax(q k) v over `keys` tokens each, projection."""
    fused = _Operator(3 * n * c, n * c, macs=2 * n * keys * c)
    return [_layer_norm(n, c), _linear(n, c, 3 * c), fused, _linear(n, c, c)]


def _ffn(stage: StageSpec, n: int) -> list[_Operator]:
    if not stage.ffn:
        return []
    c, hidden = stage.width, stage.hidden
    norm = _batch_norm if stage.mixer == "local" else _layer_norm
    return [norm(n, c), _linear(n, c, hidden), _gelu(n, hidden), _linear(n, hidden, c), *_branch(stage, n)]


def _head(c: int, n: int, num_classes: int) -> list[_Operator]:
    mean = _Operator(n * c, c, addition=True)
    return [_batch_norm(n, c), mean, _linear(1, c, num_classes)]
