"""Convolutions over patches that do not overlap, as matrix products over channels-last memory."""

from torch import Tensor, nn

from uniformer_bench.model.linear import linear


def patches_serve(x: Tensor, conv: nn.Conv3d) -> bool:
    """Whether the patches of x (B, C, T, H, W) lie side by side and fill it: kernel equals stride, no padding."""
    grid = zip(x.shape[2:], conv.kernel_size, strict=True)
    return conv.kernel_size == conv.stride and not any(conv.padding) and all(n % k == 0 for n, k in grid)  # type: ignore[arg-type]  # padding is typed as str | tuple


def patch_conv3d(x: Tensor, conv: nn.Conv3d) -> Tensor:
    """x (B, C, T, H, W) of sizes that the kernel divides -> (B, C_out, T/t, H/h, W/w), channels-last in memory."""
    batch, channels, frames, height, width = x.shape
    t, h, w = conv.kernel_size
    grid = frames // t, height // h, width // w
    split = x.permute(0, 2, 3, 4, 1).reshape(batch, grid[0], t, grid[1], h, grid[2], w, channels)
    patches = split.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(batch, *grid, t * h * w * channels)
    weight = conv.weight.permute(0, 2, 3, 4, 1).flatten(1)  # (C_out, t*h*w*C)
    return linear(patches, weight, conv.bias).permute(0, 4, 1, 2, 3)
