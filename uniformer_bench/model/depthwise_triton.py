"""Depthwise 3D convolution on a GPU: stride 1, same size, odd kernels, with all its gradients, in Triton.

Memory is NDHWC (channels-last) throughout, tensors are float32, bfloat16 or float16, and every sum is in float32.
The work is cut into patches of `rows` x `columns` outputs of a frame. A lane of a program has one patch and one
group of neighbouring channels, and keeps it in registers, unrolled when compiled: that is what tuples of tiles are
for. A tile is (patches, channels), channels innermost, so a warp reads whole lines of memory. An input that was read
serves all its taps within the patch, six to eight multiply-adds of each 5x5 plane rather than one.

Importing this module imports Triton and registers the operators with torch, as `uniformer_bench::`.
"""

# Kernels take pointers and tiles, which have no types that Python knows; Triton's tuples know no unpacking.
# mypy: disable-error-code="no-untyped-def, assignment"
# ruff: noqa: RUF005

import functools
from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from uniformer_bench.errors import UbenchError

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MOST_POSITIONS = 2**30  # patches are counted in 32 bits, with room for those of the last program; addresses have 64
CHANNEL_BLOCKS = (64, 32, 16)  # 64 of bfloat16 are a line of 128 bytes
WARPS = 4
TILE = 2 * 32 * WARPS  # elements, two a thread: the larger patches that leaves room for save more than wide loads
MOST_ROWS, MOST_COLUMNS, MOST_OUTPUTS = 4, 8, 24  # of a patch
MOST_TAPS = 28  # at a time, 56 registers: a plane of 5x5; larger planes go in groups of kernel rows
MOST_HELD = 46  # outputs of a patch and taps together: with 49, float32 at 5x5 ran out of registers
RESIDENT_PROGRAMS = 264  # two on each of the 132 multiprocessors of an H100 or H200; smaller GPUs take more turns
INSTRUCTIONS_PER_LOAD = 8  # address, two bounds, zero for what lies outside, load, and conversion of two elements
INSTRUCTIONS_PER_PATCH = 150  # where it lies: divisions; and storing


class Tiling(NamedTuple):
    """How the work is cut: patches of rows x columns outputs, kernel rows in hand at a time, a program's tile."""

    rows: int
    columns: int
    kernel_rows: int
    patches: int  # of a program
    channels: int


# --- kernels -----------------------------------------------------------------------------------------------------


@triton.jit
def _zeros(n: tl.constexpr, patches: tl.constexpr, channels: tl.constexpr):
    tiles = ()
    for _ in tl.static_range(n):
        tiles = tiles + (tl.zeros((patches, channels), tl.float32),)
    return tiles


@triton.jit
def _place(patch, frames, height, width, rows: tl.constexpr, columns: tl.constexpr):
    """Patch number -> (position of its first output, counted over the batch; its frame, row and column)."""
    frame = patch % frames  # fastest: the warps of a program share the frames between theirs, in the cache
    rest = patch // frames
    across, down = (width + columns - 1) // columns, (height + rows - 1) // rows
    column = rest % across * columns
    rest = rest // across
    row = rest % down * rows
    clip = (rest // down).to(tl.int64)
    return ((clip * frames + frame) * height + row) * width + column, frame, row, column


@triton.jit
def _inside(index, size):
    return index.to(tl.uint32, bitcast=True) < size  # one comparison: what is negative is huge


@triton.jit(do_not_specialize=["patches", "frames", "height", "width", "first_tap", "tap_step"])
def _convolve(
    x, weight, bias, out, patches, frames, height, width, channels, first_tap, tap_step,
    kt: tl.constexpr, kh: tl.constexpr, kw: tl.constexpr, kernel_rows: tl.constexpr,
    rows: tl.constexpr, columns: tl.constexpr, tile_patches: tl.constexpr, tile_channels: tl.constexpr,
    has_bias: tl.constexpr, residual: tl.constexpr,
):  # fmt: skip
    """The weights lie (taps, C), read from `first_tap` in steps of `tap_step`: 1, or -1 for the flipped kernel."""
    patch = tl.program_id(0) * tile_patches + tl.arange(0, tile_patches)[:, None]
    c = tl.program_id(1) * tile_channels + tl.arange(0, tile_channels)[None, :]
    first, frame, row, column = _place(patch, frames, height, width, rows, columns)
    real = (patch < patches) & (c < channels)
    here = x + first * channels + c
    line = width.to(tl.int64) * channels
    groups: tl.constexpr = (kh + kernel_rows - 1) // kernel_rows
    sums = _zeros(rows * columns, tile_patches, tile_channels)
    for step in range(kt * groups):
        dt, row_of_kernel = step // groups, step % groups * kernel_rows
        taps = ()
        for k in tl.static_range(kernel_rows * kw):
            of_kernel = (c < channels) & (row_of_kernel + k // kw < kh)
            tap = first_tap + tap_step * ((dt * kh + row_of_kernel) * kw + k)
            value = tl.load(weight + tap * channels + c, mask=of_kernel, other=0.0).to(tl.float32)
            if residual:  # x + conv(x) is the convolution with 1 more in the middle
                middle = (dt == kt // 2) & (row_of_kernel * kw + k == kh // 2 * kw + kw // 2)
                value += tl.where(middle, 1.0, 0.0)
            taps = taps + (tl.broadcast_to(value, (tile_patches, tile_channels)),)
        dh = row_of_kernel - kh // 2
        in_frame = real & _inside(frame + dt - kt // 2, frames)
        plane = here + ((dt - kt // 2) * height + dh) * line
        for i in tl.static_range(rows + kernel_rows - 1):
            in_row = in_frame & _inside(row + dh + i, height)
            for j in tl.static_range(columns + kw - 1):
                source = plane + i * line + (j - kw // 2) * channels
                value = tl.load(source, mask=in_row & _inside(column + (j - kw // 2), width), other=0.0).to(tl.float32)
                for r in tl.static_range(rows):
                    if i - r >= 0 and i - r < kernel_rows:
                        for s in tl.static_range(columns):
                            if j - s >= 0 and j - s < kw:
                                new = tl.fma(value, taps[(i - r) * kw + j - s], sums[r * columns + s])
                                sums = sums[: r * columns + s] + (new,) + sums[r * columns + s + 1 :]
    offset = tl.zeros((1, tile_channels), tl.float32)
    if has_bias:
        offset = tl.load(bias + c, mask=c < channels, other=0.0).to(tl.float32)
    for r in tl.static_range(rows):
        for s in tl.static_range(columns):
            target = out + first * channels + c + r * line + s * channels
            result = (sums[r * columns + s] + offset).to(out.dtype.element_ty)
            tl.store(target, result, mask=real & (row + r < height) & (column + s < width))


@triton.jit(do_not_specialize=["patches", "frames", "height", "width"])
def _correlate(
    x, grad, partial, patches, frames, height, width, channels,
    kt: tl.constexpr, kh: tl.constexpr, kw: tl.constexpr, kernel_rows: tl.constexpr,
    rows: tl.constexpr, columns: tl.constexpr, tile_patches: tl.constexpr, tile_channels: tl.constexpr,
):  # fmt: skip
    """Sums over every so-manieth tile of patches, of a few kernel rows and of `grad`: partial (split, taps + 1, C)."""
    groups: tl.constexpr = (kh + kernel_rows - 1) // kernel_rows
    step = tl.program_id(0)  # fastest, so that programs of the same patches run together and share the L2
    dt, row_of_kernel = step // groups - kt // 2, step % groups * kernel_rows
    dh = row_of_kernel - kh // 2
    c = tl.program_id(2) * tile_channels + tl.arange(0, tile_channels)[None, :]
    line = width.to(tl.int64) * channels
    sums = _zeros(kernel_rows * kw, tile_patches, tile_channels)
    total = tl.zeros((tile_patches, tile_channels), tl.float32)
    for tile in range(tl.program_id(1), (patches + tile_patches - 1) // tile_patches, tl.num_programs(1)):
        patch = tile * tile_patches + tl.arange(0, tile_patches)[:, None]
        first, frame, row, column = _place(patch, frames, height, width, rows, columns)
        real = (patch < patches) & (c < channels)
        out_here = grad + first * channels + c
        in_frame = real & _inside(frame + dt, frames)
        plane = x + first * channels + c + (dt * height + dh) * line
        outs = ()
        for i in tl.static_range(rows + kernel_rows - 1):
            if i < rows:
                for s in tl.static_range(columns):
                    known = real & (row + i < height) & (column + s < width)
                    value = tl.load(out_here + i * line + s * channels, mask=known, other=0.0).to(tl.float32)
                    total += value
                    outs = outs + (value,)
            in_row = in_frame & _inside(row + dh + i, height)
            for j in tl.static_range(columns + kw - 1):
                source = plane + i * line + (j - kw // 2) * channels
                value = tl.load(source, mask=in_row & _inside(column + (j - kw // 2), width), other=0.0).to(tl.float32)
                for r in tl.static_range(rows):
                    if i - r >= 0 and i - r < kernel_rows:
                        for s in tl.static_range(columns):
                            if j - s >= 0 and j - s < kw:
                                new = tl.fma(value, outs[r * columns + s], sums[(i - r) * kw + j - s])
                                sums = sums[: (i - r) * kw + j - s] + (new,) + sums[(i - r) * kw + j - s + 1 :]
    n_taps: tl.constexpr = kt * kh * kw
    target = partial + tl.program_id(1).to(tl.int64) * (n_taps + 1) * channels + c
    for k in tl.static_range(kernel_rows * kw):
        tap = (step // groups * kh + row_of_kernel) * kw + k
        of_kernel = (c < channels) & (row_of_kernel + k // kw < kh)
        tl.store(target + tap * channels, tl.sum(sums[k], axis=0)[None, :], mask=of_kernel)
    tl.store(target + n_taps * channels, tl.sum(total, axis=0)[None, :], mask=(c < channels) & (step == 0))


# --- how the work is cut -------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1024)  # the choice takes longer than a launch
def tiling(shape: tuple[int, ...], kernel: tuple[int, ...]) -> Tiling:
    """The cut of an input (B, C, T, H, W) for an odd kernel (t, h, w) that takes least, as instructions are counted.

    The count knows what lies beyond the edges of a frame, what halos cost, and that programs beyond those that run at
    a time wait for another turn; the weight gradient does about the same work on a patch. No GPU has confirmed it yet.
    """
    return min(_candidates(shape, kernel), key=lambda tiling: _cost(tiling, shape, kernel))


def programs(tiling: Tiling, shape: tuple[int, ...]) -> tuple[int, int]:
    """How many there are over the patches, and over the channels, of an input (B, C, T, H, W)."""
    return triton.cdiv(_patches(tiling, shape), tiling.patches), triton.cdiv(shape[1], tiling.channels)


def splits(tiling: Tiling, shape: tuple[int, ...], kernel: tuple[int, ...]) -> int:
    """Among how many programs the patches of one sum of the weight gradient are dealt out."""
    over_patches, over_channels = programs(tiling, shape)
    return min(over_patches, triton.cdiv(RESIDENT_PROGRAMS, over_channels * _steps(tiling, kernel)))


def _candidates(shape: tuple[int, ...], kernel: tuple[int, ...]) -> Iterator[Tiling]:
    channels = min(CHANNEL_BLOCKS, key=lambda block: triton.cdiv(shape[1], block) * block)
    groups = triton.cdiv(kernel[1], max(1, MOST_TAPS // kernel[2]))
    kernel_rows = triton.cdiv(kernel[1], groups)
    for rows, columns in product(range(MOST_ROWS, 0, -1), range(MOST_COLUMNS, 0, -1)):
        if rows * columns <= max(1, min(MOST_OUTPUTS, MOST_HELD - kernel_rows * kernel[2])):
            yield Tiling(rows, columns, kernel_rows, TILE // channels, channels)


def _patches(tiling: Tiling, shape: tuple[int, ...]) -> int:
    batch, _, frames, height, width = shape
    return batch * frames * triton.cdiv(height, tiling.rows) * triton.cdiv(width, tiling.columns)


def _steps(tiling: Tiling, kernel: tuple[int, ...]) -> int:
    return kernel[0] * triton.cdiv(kernel[1], tiling.kernel_rows)


def _cost(tiling: Tiling, shape: tuple[int, ...], kernel: tuple[int, ...]) -> int:
    """Instructions of a thread of `_convolve`, times the turns that programs take."""
    rows, columns, kernel_rows = tiling.rows, tiling.columns, tiling.kernel_rows
    products = 2 * rows * columns * kernel_rows * kernel[2]
    loads = (rows + kernel_rows - 1) * (columns + kernel[2] - 1) + kernel_rows * kernel[2] // 2
    step = products + INSTRUCTIONS_PER_LOAD * loads
    over_patches, over_channels = programs(tiling, shape)
    turns = triton.cdiv(over_patches * over_channels, RESIDENT_PROGRAMS)
    return turns * (_steps(tiling, kernel) * step + INSTRUCTIONS_PER_PATCH + 4 * rows * columns)


# --- launchers -----------------------------------------------------------------------------------------------------


def _ndhwc(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last_3d)


def _sizes(x: Tensor, tiling: Tiling) -> tuple[int, ...]:
    """(patches, T, H, W, C), as both kernels take them."""
    return _patches(tiling, tuple(x.shape)), *x.shape[2:], x.shape[1]


@torch.library.custom_op("uniformer_bench::depthwise_conv3d", mutates_args=())
def _conv(x: Tensor, weight: Tensor, bias: Tensor | None, residual: bool, flip: bool) -> Tensor:
    x, kernel = _ndhwc(x), tuple(weight.shape[2:])
    out = torch.empty_like(x, memory_format=torch.channels_last_3d)  # where C is 1, x's strides may say otherwise
    taps = weight.flatten(1).t().contiguous()  # (taps, C): the channels of a tap side by side
    cut = tiling(tuple(x.shape), kernel)
    order = (len(taps) - 1, -1) if flip else (0, 1)
    patch = cut.kernel_rows, cut.rows, cut.columns, cut.patches, cut.channels
    flags = bias is not None, residual
    with torch.cuda.device_of(x):
        _convolve[programs(cut, tuple(x.shape))](
            x, taps, taps if bias is None else bias, out, *_sizes(x, cut), *order, *kernel, *patch, *flags,
            num_warps=WARPS, num_stages=1,
        )  # fmt: skip
    return out


@torch.library.custom_op("uniformer_bench::depthwise_conv3d_weight_gradient", mutates_args=())
def _weight_gradient(x: Tensor, grad: Tensor, kernel: list[int]) -> tuple[Tensor, Tensor]:
    x, grad = _ndhwc(x), _ndhwc(grad)
    cut = tiling(tuple(x.shape), tuple(kernel))
    n, n_taps, channels = splits(cut, tuple(x.shape), tuple(kernel)), kernel[0] * kernel[1] * kernel[2], x.shape[1]
    partial = x.new_empty((n, n_taps + 1, channels), dtype=torch.float32)
    patch = cut.kernel_rows, cut.rows, cut.columns, cut.patches, cut.channels
    with torch.cuda.device_of(x):
        _correlate[(_steps(cut, tuple(kernel)), n, programs(cut, tuple(x.shape))[1])](
            x, grad, partial, *_sizes(x, cut), *kernel, *patch, num_warps=WARPS, num_stages=1
        )
    sums = partial.sum(0)  # in a fixed order, so that equal inputs give equal gradients; atomics would not
    return sums[:-1].t().clone(memory_format=torch.contiguous_format).view(channels, 1, *kernel), sums[-1].clone()


# --- what torch is told: shapes for tracing, and the gradients, which are these operators again -----------------------


@_conv.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, residual: bool, flip: bool) -> Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last_3d)


@_weight_gradient.register_fake
def _(x: Tensor, grad: Tensor, kernel: list[int]) -> tuple[Tensor, Tensor]:
    sums = x.new_empty((x.shape[1], 1, *kernel), dtype=torch.float32)
    return sums, x.new_empty(x.shape[1], dtype=torch.float32)


def _save_conv(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, weight, bias, ctx.residual, ctx.flip = inputs
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.save_for_backward(x, weight)


def _conv_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    need_x, need_weight, need_bias, *_ = ctx.needs_input_grad
    grad_x = _conv(grad, weight, None, ctx.residual, not ctx.flip) if need_x else None
    if not need_weight and not need_bias:
        return grad_x, None, None, None, None
    sums, total = _weight_gradient(x, grad, list(weight.shape[2:]))
    grad_weight = (sums.flip(2, 3, 4) if ctx.flip else sums).to(weight.dtype)
    return grad_x, grad_weight, total.to(ctx.bias_dtype) if need_bias else None, None, None


def _save_weight_gradient(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:2])


def _weight_gradient_backward(ctx: Any, of_sums: Tensor, of_total: Tensor) -> tuple[Tensor, Tensor, None]:
    x, grad = ctx.saved_tensors
    return _conv(grad, of_sums, None, False, True), _conv(x, of_sums, of_total, False, False), None


_conv.register_autograd(_conv_backward, setup_context=_save_conv)
_weight_gradient.register_autograd(_weight_gradient_backward, setup_context=_save_weight_gradient)


# --- the operator ----------------------------------------------------------------------------------------------------


def depthwise_conv3d(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, residual: bool = False) -> Tensor:
    """x (B, C, T, H, W), weight (C, 1, t, h, w) with t, h, w odd, bias (C) -> (B, C, T, H, W), channels-last.

    With `residual` the result is x + conv(x), rounded once. Differentiable, twice as well; equal inputs give equal
    results. Weight and bias may be wider than x and are not rounded to it. Under autocast x is taken in its dtype,
    but for the residual's sake, which keeps its own. Raises UbenchError for what the kernels cannot compute.
    """
    _check(x, weight, bias)
    if torch.is_autocast_enabled(x.device.type) and not residual:
        x = x.to(torch.get_autocast_dtype(x.device.type))
    return _conv(x, weight, bias, residual, False)


def _check(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    if x.ndim != 5 or x.numel() == 0:
        raise UbenchError(f"x must be (B, C, T, H, W) and not empty, got {tuple(x.shape)}")
    if weight.ndim != 5 or weight.shape[:2] != (x.shape[1], 1) or not all(k % 2 for k in weight.shape[2:]):
        raise UbenchError(f"weight must be ({x.shape[1]}, 1, t, h, w) with t, h, w odd, got {tuple(weight.shape)}")
    if bias is not None and bias.shape != x.shape[1:2]:
        raise UbenchError(f"bias must be ({x.shape[1]},), got {tuple(bias.shape)}")
    for name, tensor in {"x": x, "weight": weight, "bias": bias}.items():
        if tensor is not None and tensor.dtype not in DTYPES:
            raise UbenchError(f"{name} must be float32, bfloat16 or float16, got {tensor.dtype}")
        if tensor is not None and tensor.device != x.device:
            raise UbenchError(f"{name} must be on {x.device} as x is, got {tensor.device}")
    if x.numel() // x.shape[1] >= MOST_POSITIONS:
        raise UbenchError(f"B*T*H*W must be below 2**30, got {x.numel() // x.shape[1]}")
