"""The weight gradient of a depthwise 3D convolution on a CPU, in float32: machine code made for the kernel's size.

PyTorch has no fast path for this gradient, so LLVM (through llvmlite) compiles one when a kernel size is first met,
in some 0.02 s (the first one: 0.1 s). Vectors lie along the channels (channels-last memory), and the sums of several
rows of taps stay in registers while a plane of the clip is read: `rows + kw` loads serve `rows x kw` multiply-adds.
x and grad are (B, T, H, W, C) in memory, the kernel is (kt, kh, kw).
"""

import functools
import itertools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from uniformer_bench.model.llvm import (
    INT64,
    POINTER,
    WORD,
    Kernel,
    Machine,
    at,
    compile_kernel,
    dealt,
    ir,
    load,
    loop,
    multiply_add,
    on_threads,
    product,
    register,
    threads_for,
)

NAME = "weight_gradient"
MACS_PER_THREAD = 100_000_000  # about 1.5 ms of work: waking a thread can take as long on a busy machine


def weight_gradient(x: Tensor, grad: Tensor, kernel_size: tuple[int, int, int]) -> Tensor:
    """float32 x and grad (B, C, T, H, W) on the CPU, kernel (t, h, w) odd -> (C, 1, t, h, w).

    For a given `torch.get_num_threads()` the result is the same at every call.
    """
    batch, channels, *grid = x.shape
    frames, height, width = grid
    # A tap further from the centre than the grid is long meets padding only: its gradient is zero.
    size = [min(k, 2 * n - 1) for k, n in zip(kernel_size, grid, strict=True)]
    kernel = compiled(size[1], size[2])
    blocks = -(-channels // kernel.lanes)
    threads = threads_for(x.numel() * size[0] * size[1] * size[2], batch * blocks, MACS_PER_THREAD)
    x, grad = (tensor.contiguous(memory_format=torch.channels_last_3d) for tensor in (x, grad))
    # Allotted here: PyTorch called in a new thread would start threads of its own.
    parts = [
        math.prod(size) * blocks * kernel.lanes,  # the sums
        frames * height * (width + size[2] - 1) * kernel.lanes,
        (height + size[1] - 1) * width * kernel.lanes,
    ]
    scratch = torch.zeros(threads, sum(parts))
    starts = [4 * start for start in itertools.accumulate(parts[:-1], initial=0)]
    places = [scratch.data_ptr() + 4 * i * sum(parts) for i in range(threads)]
    work = [
        (x.data_ptr(), grad.data_ptr(), *(place + start for start in starts), *part)
        for place, part in zip(places, dealt(batch * blocks, threads), strict=True)
    ]
    on_threads(lambda part: kernel.run[NAME](*part, batch, channels, *grid, size[0]), work)
    sums = scratch[:, : parts[0]].sum(0) if threads > 1 else scratch[0, : parts[0]]
    total = sums.view(blocks, *size, kernel.lanes).permute(0, 4, 1, 2, 3).reshape(-1, 1, *size)[:channels]
    outside = [(k - n) // 2 for k, n in zip(kernel_size, size, strict=True)]
    return F.pad(total, [p for n in reversed(outside) for p in (n, n)]) if any(outside) else total.contiguous()


@functools.cache
def compiled(kh: int, kw: int) -> Kernel:
    """The code for kernels of kh x kw taps a plane, and any number of planes; compiled once a process."""
    return compile_kernel(lambda machine: _module(kh, kw, machine), {NAME: [*[POINTER] * 5, *[INT64] * 8]})


def _module(kh: int, kw: int, machine: Machine) -> "ir.Module":
    """For each item (channel block, clip): copy the clip's block with zeros around, then sum plane by plane.

    Arguments: x, grad, the sums (blocks, kt, kh, kw, lanes), scratch (T, H, W + kw - 1, lanes) for x and
    (H + kh - 1, W, lanes) for a plane of grad, both zero; first and last item; B, C, T, H, W, kt.
    """
    module, word, pointer = ir.Module(), WORD, ir.PointerType()
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [pointer] * 5 + [word] * 8), NAME)
    for argument in function.args[:5]:
        argument.add_attribute("noalias")
    x, grad, sums, rows, plane, first, last, batch, channels, frames, height, width, kt = function.args
    b, lanes = ir.IRBuilder(function.append_basic_block()), machine.lanes
    area, width_padded = b.mul(height, width), b.add(width, word(kw - 1))
    with loop(b, first, last) as item:
        block, clip = b.udiv(item, batch), b.urem(item, batch)
        channel = b.mul(block, word(lanes))
        start = b.add(product(b, clip, frames, area, channels), channel)
        copy = functools.partial(copy_rows, b, width=width, channels=channels, left=b.sub(channels, channel))
        inside = at(b, rows, word(kw // 2 * lanes))
        copy(inside, at(b, x, start), b.mul(frames, height), b.mul(width_padded, word(lanes)), lanes)
        with loop(b, word(0), frames) as t:
            inside = at(b, plane, b.mul(width, word(kh // 2 * lanes)))
            source = at(b, grad, b.add(start, product(b, t, area, channels)))
            copy(inside, source, height, b.mul(width, word(lanes)), lanes)
            with loop(b, word(0), kt) as tap:
                t_x = b.sub(b.add(t, tap), b.lshr(kt, word(1)))
                with b.if_then(b.icmp_unsigned("<", t_x, frames)):  # unsigned: a negative one is large
                    x_plane = at(b, rows, product(b, t_x, height, width_padded, word(lanes)))
                    taps = product(b, b.add(b.mul(block, kt), tap), word(kh * kw * lanes))
                    _sum_plane(b, x_plane, plane, at(b, sums, taps), height, width, kh, kw, machine)
    b.ret_void()
    return module


def _sum_plane(
    b: Any, x: Any, grad: Any, sums: Any, height: Any, width: Any, kh: int, kw: int, machine: Machine
) -> None:
    """Add to all kh x kw taps what one plane of x and one of grad give, a few rows of taps at a time.

    sums[i, j] += sum over r, w of x[r, w + j] grad[r + kh - 1 - i, w], in the padded planes.
    """
    lanes, step = machine.lanes, max(1, machine.sums // kw)
    vector, word = ir.VectorType(ir.FloatType(), lanes), WORD
    for top in range(0, kh, step):
        rows = range(top, min(top + step, kh))
        totals = {(i, j): register(b, vector) for i in rows for j in range(kw)}
        with loop(b, word(0), height) as r, loop(b, word(0), width) as w:
            at_x = b.add(b.mul(r, b.add(width, word(kw - 1))), w)
            at_grad = [b.add(b.mul(b.add(r, word(kh - 1 - i)), width), w) for i in rows]
            factors = [load(b, vector, at(b, grad, b.mul(place, word(lanes)))) for place in at_grad]
            for j in range(kw):
                value = load(b, vector, at(b, x, b.mul(b.add(at_x, word(j)), word(lanes))))
                for i, factor in zip(rows, factors, strict=True):
                    total = b.load(totals[i, j], typ=vector)
                    b.store(multiply_add(b, vector, factor, value, total), totals[i, j])
        for (i, j), total in totals.items():
            place = at(b, sums, word((i * kw + j) * lanes))
            b.store(b.fadd(load(b, vector, place), b.load(total, typ=vector)), place, align=4)


def copy_rows(
    b: Any, to: Any, source: Any, rows: Any, to_stride: Any, lanes: int, *, width: Any, channels: Any, left: Any
) -> None:
    """Copy rows x width positions of one channel block, of which `left` channels exist."""
    vector, word = ir.VectorType(ir.FloatType(), lanes), WORD
    with loop(b, word(0), rows) as row, loop(b, word(0), width) as w:
        place = at(b, to, b.add(b.mul(row, to_stride), b.mul(w, word(lanes))))
        position = at(b, source, product(b, b.add(b.mul(row, width), w), channels))
        with b.if_else(b.icmp_signed(">=", left, word(lanes))) as (whole, partial):
            with whole:
                b.store(load(b, vector, position), place, align=4)
            with partial, loop(b, word(0), left) as lane:
                # The lanes beyond keep older values: their sums are never read.
                b.store(load(b, ir.FloatType(), at(b, position, lane)), at(b, place, lane), align=4)
