"""A depthwise 3D convolution on a CPU, in float32, as it stands in training: machine code made for the kernel's width.

A training step of a small model calls many small convolutions, and oneDNN takes as long to prepare one as to compute
it. Vectors lie along the channels (channels-last memory); `step` positions of a row share each weight that is read.
All on one thread: what is worth several is worth oneDNN's preparations.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from uniformer_bench.model.depthwise_cpu import copy_rows
from uniformer_bench.model.llvm import (
    INT64,
    POINTER,
    WORD,
    Kernel,
    Machine,
    at,
    compile_kernel,
    constant,
    ir,
    load,
    loop,
    multiply_add,
    product,
    register,
)

NAME = "convolution"
STEP = 4  # positions at a time: their sums, what they read and a weight fit into the registers


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, flipped: bool, residual: bool) -> Tensor:
    """float32 x (B, C, T, H, W), weight (C, 1, t, h, w) odd, bias (C) or None -> (B, C, T, H, W), channels-last.

    `flipped` reverses the kernel on all axes, as the gradient to the input has it; `residual` adds x.
    """
    batch, channels, *grid = x.shape
    weight, bias = _within(weight, grid).contiguous(), None if bias is None else bias.contiguous()
    size = weight.shape[2:]
    kernel = compiled(size[2], min(STEP, grid[2]))
    blocks = -(-channels // kernel.lanes)
    x = x.contiguous(memory_format=torch.channels_last_3d)
    found = torch.empty_like(x, memory_format=torch.channels_last_3d)  # with strides that PyTorch knows it by
    own = (math.prod(size) + 1) * blocks + grid[0] * grid[1] * (grid[2] + size[2] - 1)
    scratch = torch.zeros((own + blocks) * kernel.lanes)
    no_bias = scratch.data_ptr() + 4 * own * kernel.lanes
    start = no_bias if bias is None else bias.data_ptr()
    places = x.data_ptr(), weight.data_ptr(), start, found.data_ptr(), scratch.data_ptr()
    kernel.run[NAME](*places, batch, channels, *grid, size[0], size[1], flipped, residual)
    return found


def _within(weight: Tensor, grid: Sequence[int]) -> Tensor:
    """The kernel without taps further from the centre than the grid is long, which meet padding only."""
    for axis, n in enumerate(grid, 2):
        beyond = weight.shape[axis] // 2 - (n - 1)
        weight = weight.narrow(axis, beyond, 2 * n - 1) if beyond > 0 else weight
    return weight


@functools.cache
def compiled(kw: int, step: int) -> Kernel:
    """The code for rows of kw taps, any number of them, `step` positions at a time; compiled once a process."""
    return compile_kernel(lambda machine: _module(kw, step, machine), {NAME: [*[POINTER] * 5, *[INT64] * 9]})


class _Row(NamedTuple):
    """A row of positions (t, h) of one clip's channel block, and what its sums are made of."""

    t: Any
    h: Any
    to: Any  # where its first position goes
    rows: Any  # all of the block's, padded to so many positions
    padded: Any
    weights: Any  # (kt, kh, kw, lanes)
    start: Any  # of every sum: the bias
    left: Any  # channels that there are


def _module(kw: int, step: int, machine: Machine) -> "ir.Module":
    """Weights and biases are put side by side in vectors. Then for each item (channel block, clip): copy the clip's
    block with zeros beside its rows, and sum row by row.

    Arguments: x (B, T, H, W, C), weights (C, kt, kh, kw), bias (C), the result as x, scratch, all zeros;
    B, C, T, H, W, kt, kh; whether the kernel is flipped and whether x is added, as 0 or 1.
    """
    module, word, pointer = ir.Module(), WORD, ir.PointerType()
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [pointer] * 5 + [word] * 9), NAME)
    for argument in function.args[:5]:
        argument.add_attribute("noalias")
    x, weights, bias, found, scratch, batch, channels, frames, height, width, kt, kh, *how = function.args
    b, lanes = ir.IRBuilder(function.append_basic_block()), machine.lanes
    blocks = b.udiv(b.add(channels, word(lanes - 1)), word(lanes))
    taps, padded = product(b, kt, kh, word(kw)), b.add(width, word(kw - 1))
    starts = at(b, scratch, product(b, blocks, taps, word(lanes)))
    rows = at(b, starts, b.mul(blocks, word(lanes)))
    _pack(b, lanes, weights, scratch, channels, taps, *how)
    _copy(b, bias, starts, channels)
    with loop(b, word(0), b.mul(batch, blocks)) as item:
        block, clip = b.udiv(item, batch), b.urem(item, batch)
        channel = b.mul(block, word(lanes))
        left = b.sub(channels, channel)
        origin = b.add(product(b, clip, frames, height, width, channels), channel)
        copy = functools.partial(copy_rows, b, width=width, channels=channels, left=left)
        inside = at(b, rows, word(kw // 2 * lanes))
        copy(inside, at(b, x, origin), b.mul(frames, height), b.mul(padded, word(lanes)), lanes)
        own = at(b, scratch, product(b, block, taps, word(lanes)))
        start = load(b, ir.VectorType(ir.FloatType(), lanes), at(b, starts, channel))
        with loop(b, word(0), frames) as t, loop(b, word(0), height) as h:
            to = at(b, found, b.add(origin, product(b, b.add(b.mul(t, height), h), width, channels)))
            row = _Row(t, h, to, rows, padded, own, start, left)
            some = functools.partial(_some, b, row, kw, frames, height, channels, kt, kh)
            steps = b.udiv(width, word(step))
            with loop(b, word(0), steps) as w:
                some(b.mul(w, word(step)), step)
            if step > 1:
                with loop(b, b.mul(steps, word(step)), width) as w:
                    some(w, 1)
    b.ret_void()
    return module


def _pack(b: Any, lanes: int, weights: Any, to: Any, channels: Any, taps: Any, flipped: Any, residual: Any) -> None:
    """(channels, taps) -> (blocks, taps, lanes), the taps in reverse where the kernel is flipped; where x is to be
    added, 1 more at the centre."""
    real, word = ir.FloatType(), WORD
    last = b.sub(taps, word(1))
    centre = b.lshr(last, word(1))
    with loop(b, word(0), channels) as channel, loop(b, word(0), taps) as tap:
        source = b.select(b.trunc(flipped, ir.IntType(1)), b.sub(last, tap), tap)
        value = load(b, real, at(b, weights, b.add(b.mul(channel, taps), source)))
        more = b.and_(b.icmp_signed("==", tap, centre), b.trunc(residual, ir.IntType(1)))
        value = b.select(more, b.fadd(value, constant(1.0)), value)
        block, lane = b.udiv(channel, word(lanes)), b.urem(channel, word(lanes))
        place = b.add(b.mul(b.add(b.mul(block, taps), tap), word(lanes)), lane)
        b.store(value, at(b, to, place), align=4)


def _copy(b: Any, source: Any, to: Any, count: Any) -> None:
    with loop(b, WORD(0), count) as i:
        b.store(load(b, ir.FloatType(), at(b, source, i)), at(b, to, i), align=4)


def _some(
    b: Any, row: _Row, kw: int, frames: Any, height: Any, channels: Any, kt: Any, kh: Any, w: Any, count: int
) -> None:
    """The sums of `count` neighbours in a row, from the one at w on."""
    kind, word = row.start.type, WORD
    totals = [register(b, kind) for _ in range(count)]
    for total in totals:
        b.store(row.start, total)
    with loop(b, *_inside(b, row.t, frames, kt)) as i, loop(b, *_inside(b, row.h, height, kh)) as j:
        t, h = (b.sub(b.add(at_, tap), b.lshr(k, word(1))) for at_, tap, k in ((row.t, i, kt), (row.h, j, kh)))
        position = b.add(b.mul(b.add(b.mul(t, height), h), row.padded), w)
        x = at(b, row.rows, b.mul(position, word(kind.count)))
        taps = at(b, row.weights, product(b, b.add(b.mul(i, kh), j), word(kw * kind.count)))
        _add_taps(b, kind, x, taps, totals, kw)
    for n, total in enumerate(totals):
        place = at(b, row.to, b.mul(b.add(w, word(n)), channels))
        _store(b, b.load(total, typ=kind), place, row.left)


def _inside(b: Any, position: Any, count: Any, taps: Any) -> tuple[Any, Any]:
    """The first of an axis's taps that is inside the clip at that position, and the one after the last."""
    half, none = b.lshr(taps, WORD(1)), WORD(0)
    before, after = b.sub(half, position), b.add(b.sub(count, position), half)
    first = b.select(b.icmp_signed(">", before, none), before, none)
    return first, b.select(b.icmp_signed("<", after, taps), after, taps)


def _add_taps(b: Any, kind: Any, x: Any, weights: Any, totals: Sequence[Any], kw: int) -> None:
    """To the sums of some neighbours what a row of taps gives each."""
    values = [load(b, kind, at(b, x, WORD(n * kind.count))) for n in range(len(totals) + kw - 1)]
    for tap in range(kw):
        weight = load(b, kind, at(b, weights, WORD(tap * kind.count)))
        for value, total in zip(values[tap:], totals, strict=False):
            b.store(multiply_add(b, kind, value, weight, b.load(total, typ=kind)), total)


def _store(b: Any, value: Any, place: Any, left: Any) -> None:
    """A vector of channels, or the `left` that there are."""
    lanes = value.type.count
    with b.if_else(b.icmp_signed(">=", left, WORD(lanes))) as (whole, partial):
        with whole:
            b.store(value, place, align=4)
        with partial:
            for lane in range(lanes):
                with b.if_then(b.icmp_signed("<", WORD(lane), left)):
                    b.store(b.extract_element(value, ir.IntType(32)(lane)), at(b, place, WORD(lane)), align=4)
