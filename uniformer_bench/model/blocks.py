"""The blocks of a UniFormer, as the paper writes them: X = DPE(X) + X; Y = MHRA(Norm(X)) + X; Z = FFN(Norm(Y)) + Y.

Every block takes and returns (B, C, T, H, W). Attribute names are the official ones (pos_embed is DPE;
the tube of a local block is attn), so that official weights load. Paper: arXiv 2201.04676, section 3.
"""

import itertools

import torch
from torch import Tensor, nn

from uniformer_bench.model.ops import Ops, tokens_of, volume_of
from uniformer_bench.spec import PatchSpec, StageSpec, Triple

LAYER_NORM_EPS = 1e-6  # of the global blocks; patch embeddings use PyTorch's 1e-5, as the official code


def _depthwise(width: int, kernel: Triple) -> nn.Conv3d:
    return nn.Conv3d(width, width, kernel, padding=tuple(k // 2 for k in kernel), groups=width)  # type: ignore[arg-type]  # a triple


def drop_path(branch: Tensor, rate: float, training: bool) -> Tensor:
    """Stochastic depth: a sample's residual branch is left out with probability `rate`, else scaled up."""
    if rate == 0 or not training:
        return branch
    keep = branch.new_empty((branch.shape[0],) + (1,) * (branch.ndim - 1)).bernoulli_(1 - rate)
    return branch * (keep / (1 - rate))


class Residual(nn.Module):
    """What all blocks share: DPE, the learned scales of the branches, stochastic depth."""

    def __init__(self, stage: StageSpec, ops: Ops, drop_path_rate: float, scale_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.ops, self.drop_path_rate = ops, drop_path_rate
        self.pos_embed = _depthwise(stage.width, stage.dpe_kernel) if stage.dpe_kernel else None
        self.gamma_1: nn.Parameter | None = None
        self.gamma_2: nn.Parameter | None = None
        if stage.layer_scale is not None:
            self.gamma_1 = nn.Parameter(torch.full(scale_shape, stage.layer_scale))
            self.gamma_2 = nn.Parameter(torch.full(scale_shape, stage.layer_scale)) if stage.ffn else None

    def with_position(self, x: Tensor) -> Tensor:
        return x if self.pos_embed is None else self.ops.position(x, self.pos_embed)

    def branch(self, y: Tensor, scale: nn.Parameter | None) -> Tensor:
        return drop_path(y if scale is None else scale * y, self.drop_path_rate, self.training)


class ConvMlp(nn.Module):
    """The FFN of a local block: two pointwise convolutions, GELU between them."""

    def __init__(self, width: int, hidden: int, ops: Ops) -> None:
        super().__init__()
        self.ops = ops
        self.fc1 = nn.Conv3d(width, hidden, 1)
        self.fc2 = nn.Conv3d(hidden, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.ops.feed_forward(x, self.fc1, self.fc2)


class Mlp(nn.Module):
    """The FFN of a global block: two linear layers on tokens, GELU between them."""

    def __init__(self, width: int, hidden: int, ops: Ops) -> None:
        super().__init__()
        self.ops = ops
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.ops.feed_forward(tokens, self.fc1, self.fc2)


class Attention(nn.Module):
    """Global MHRA: the affinity of every token to every token of its row, (B, N, C) -> (B, N, C)."""

    def __init__(self, width: int, heads: int, ops: Ops) -> None:
        super().__init__()
        self.heads, self.ops = heads, ops
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, n, width = tokens.shape
        qkv = self.ops.dense(tokens, self.qkv).reshape(batch, n, 3, self.heads, width // self.heads)
        return self.ops.dense(self.ops.attention(qkv).reshape(batch, n, width), self.proj)


class LocalBlock(Residual):
    """Local MHRA: a learnable affinity over a tube, shared by all tokens (paper, equation 4), and an FFN."""

    def __init__(self, stage: StageSpec, ops: Ops, drop_path_rate: float) -> None:
        super().__init__(stage, ops, drop_path_rate, (1, stage.width, 1, 1, 1))
        assert stage.kernel is not None, "a local stage without a tube"
        self.norm1: nn.Module = nn.BatchNorm3d(stage.width)
        self.conv1 = nn.Conv3d(stage.width, stage.width, 1)
        self.conv2 = nn.Conv3d(stage.width, stage.width, 1)
        self.attn = _depthwise(stage.width, stage.kernel)
        self.norm2: nn.Module | None = nn.BatchNorm3d(stage.width) if stage.ffn else None
        self.mlp = ConvMlp(stage.width, stage.hidden, ops) if stage.ffn else None

    def mhra(self, x: Tensor) -> Tensor:
        return self.ops.local_relation(x, self.conv1, self.attn, self.conv2)

    def forward(self, x: Tensor) -> Tensor:
        ops, x = self.ops, self.with_position(x)
        x = ops.add(x, self.branch(self.mhra(self.norm1(x)), self.gamma_1))
        if self.norm2 is not None and self.mlp is not None:
            x = ops.add(x, self.branch(self.mlp(self.norm2(x)), self.gamma_2))
        return x


class GlobalBlock(Residual):
    """Global MHRA: attention over all T x H x W tokens (paper, equation 5), and an FFN."""

    def __init__(self, stage: StageSpec, ops: Ops, drop_path_rate: float) -> None:
        super().__init__(stage, ops, drop_path_rate, (stage.width,))
        self.norm1 = nn.LayerNorm(stage.width, eps=LAYER_NORM_EPS)
        self.attn = Attention(stage.width, stage.heads, ops)
        self.norm2 = nn.LayerNorm(stage.width, eps=LAYER_NORM_EPS) if stage.ffn else None
        self.mlp = Mlp(stage.width, stage.hidden, ops) if stage.ffn else None

    def feed_forward(self, tokens: Tensor) -> Tensor:
        if self.norm2 is None or self.mlp is None:
            return tokens
        return self.ops.add(tokens, self.branch(self.mlp(self.norm2(tokens)), self.gamma_2))

    def forward(self, x: Tensor) -> Tensor:
        grid = x.shape[2:]
        tokens = tokens_of(self.with_position(x))
        tokens = self.ops.add(tokens, self.branch(self.attn(self.norm1(tokens)), self.gamma_1))
        return volume_of(self.feed_forward(tokens), grid)


class SplitBlock(GlobalBlock):
    """Divided space-time MHRA: attention over time at each place, then over space at each time.

    As in the official code the spatial residual starts from the tokens before the temporal attention,
    which therefore reaches the output through the spatial attention only.
    """

    def __init__(self, stage: StageSpec, ops: Ops, drop_path_rate: float) -> None:
        super().__init__(stage, ops, drop_path_rate)
        self.t_norm = nn.LayerNorm(stage.width, eps=LAYER_NORM_EPS)
        self.t_attn = Attention(stage.width, stage.heads, ops)

    def forward(self, x: Tensor) -> Tensor:
        x = self.with_position(x)
        batch, width, t, h, w = x.shape
        frames = x.permute(0, 2, 3, 4, 1).reshape(batch * t, h * w, width)
        over_time = frames.view(batch, t, h * w, width).transpose(1, 2).reshape(batch * h * w, t, width)
        over_time = self.ops.add(over_time, self.branch(self.t_attn(self.t_norm(over_time)), None))
        mixed = over_time.view(batch, h * w, t, width).transpose(1, 2).reshape(batch * t, h * w, width)
        frames = self.ops.add(frames, self.branch(self.attn(self.norm1(mixed)), self.gamma_1))
        return volume_of(self.feed_forward(frames).reshape(batch, t * h * w, width), torch.Size((t, h, w)))


class PatchEmbed(nn.Module):
    """Stem or downsampling: a strided convolution, and a LayerNorm over the channels."""

    def __init__(self, patch: PatchSpec, c_in: int, width: int, ops: Ops) -> None:
        super().__init__()
        self.ops = ops
        self.proj = nn.Conv3d(c_in, width, patch.kernel, patch.stride, patch.padding)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.ops.convolution(x, self.proj)
        return self.ops.enter(volume_of(self.norm(tokens_of(x)), x.shape[2:]))


class ConvEmbed(nn.Module):
    """The convolutional stem of the image model S+: overlapping convolutions with BatchNorm, GELU between."""

    def __init__(self, patch: PatchSpec, c_in: int, width: int, ops: Ops) -> None:
        super().__init__()
        channels = patch.channels(c_in, width)
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(channels):
            layers += [nn.Conv3d(a, b, patch.kernel, patch.stride, patch.padding), nn.BatchNorm3d(b), nn.GELU()]
        self.proj = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)
