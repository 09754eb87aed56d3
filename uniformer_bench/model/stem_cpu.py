"""The weight gradient of a strided 3D convolution on a CPU, in float32: machine code for stems, of few channels in.

Where a stem's patches overlap its convolution is no matrix product, and PyTorch takes longer for this gradient than for
all else of a tiny step's stem. Here vectors lie along the channels out (channels-last memory), and the sums of a part
of a row of taps stay in registers while a plane is read: a row's kw * C_in floats lie side by side.
x is (B, T, H, W, C_in) in memory, grad (B, T', H', W', C), the kernel (kt, kh, kw).
"""

import functools
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
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
    splat,
    threads_for,
)
from uniformer_bench.spec import Triple

NAME = "weight_gradient"
MACS_PER_THREAD = 100_000_000  # about 2 ms of work: waking a thread can take as long on a busy machine


def weight_gradient(x: Tensor, grad: Tensor, kernel: Triple, stride: Triple, padding: Triple) -> Tensor:
    """float32 x (B, C_in, T, H, W) and grad (B, C, T', H', W') on the CPU -> (C, C_in, kt, kh, kw).

    `padding` of the width is 0. For a given `torch.get_num_threads()` the result is the same at every call.
    """
    (batch, c_in, frames, height, width), channels = x.shape, grad.shape[1]
    code = compiled(kernel[2] * c_in)
    blocks = -(-channels // code.lanes)
    taps = kernel[0] * kernel[1] * kernel[2] * c_in
    threads = threads_for(grad.numel() * taps, batch * blocks, MACS_PER_THREAD)
    x = x.permute(0, 2, 3, 4, 1).contiguous()
    grad = F.pad(grad.permute(0, 2, 3, 4, 1), (0, blocks * code.lanes - channels)).contiguous()
    sums = torch.zeros(threads, blocks, *kernel[:2], kernel[2] * c_in, code.lanes)
    places = x.data_ptr(), grad.data_ptr()
    parts = [(*places, sums[i].data_ptr(), *part) for i, part in enumerate(dealt(batch * blocks, threads))]
    sizes = batch, blocks, frames, height, width * c_in, *grad.shape[1:4], *kernel[:2]
    on_threads(lambda part: code.run[NAME](*part, *sizes, *stride[:2], stride[2] * c_in, *padding[:2]), parts)
    total = sums.sum(0).reshape(blocks, *kernel, c_in, code.lanes).permute(0, 5, 4, 1, 2, 3)
    return total.reshape(-1, c_in, *kernel)[:channels].contiguous()


@functools.cache
def compiled(row: int) -> Kernel:
    """The code for kernels whose rows have so many taps, over all channels in; compiled once a process."""
    return compile_kernel(lambda machine: _module(row, machine), {NAME: [*[POINTER] * 3, *[INT64] * 17]})


def _module(row: int, machine: Machine) -> "ir.Module":
    """For each item (channel block, clip) and each plane of the gradient: the planes of x that it met, row by row.

    Arguments: x, grad, the sums (blocks, kt, kh, row, lanes), first and last item; B, blocks; T, H, floats in a row
    of x; T', H', W'; kt, kh; the strides, that of the width in floats; the padding of time and height.
    """
    module, word, pointer = ir.Module(), WORD, ir.PointerType()
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [pointer] * 3 + [word] * 17), NAME)
    for argument in function.args[:3]:
        argument.add_attribute("noalias")
    x, grad, sums, first, last, batch, blocks, *sizes = function.args
    frames, height, x_row, t_out, h_out, w_out, kt, kh, step_t, step_h, step_w, pad_t, pad_h = sizes
    b, lanes = ir.IRBuilder(function.append_basic_block()), machine.lanes
    with loop(b, first, last) as item, loop(b, word(0), t_out) as t, loop(b, word(0), kt) as i:
        block, clip = b.udiv(item, batch), b.urem(item, batch)
        t_x = b.sub(b.add(b.mul(t, step_t), i), pad_t)
        with b.if_then(b.icmp_unsigned("<", t_x, frames)):  # unsigned: a negative one is large
            plane = product(b, b.add(b.mul(clip, t_out), t), h_out, w_out, blocks, word(lanes))
            grad_plane = at(b, grad, b.add(plane, b.mul(block, word(lanes))))
            x_plane = at(b, x, product(b, b.add(b.mul(clip, frames), t_x), height, x_row))
            with loop(b, word(0), kh) as j:
                place = b.add(b.mul(b.add(b.mul(block, kt), i), kh), j)
                to = at(b, sums, b.mul(place, word(row * lanes)))
                top = b.sub(j, pad_h)
                for taps in _parts(row, machine.sums):
                    with _sums(b, to, taps, lanes) as totals, loop(b, word(0), h_out) as h:
                        y = b.add(b.mul(h, step_h), top)
                        with b.if_then(b.icmp_unsigned("<", y, height)), loop(b, word(0), w_out) as w:
                            position = b.add(b.mul(h, w_out), w)
                            gradient = at(b, grad_plane, product(b, position, blocks, word(lanes)))
                            patch = at(b, x_plane, b.add(b.mul(y, x_row), b.mul(w, step_w)))
                            _add_outer(b, gradient, patch, totals, lanes)
    b.ret_void()
    return module


def _parts(row: int, most: int) -> list[range]:
    """A row's taps in parts of at most so many, as equal as can be."""
    count = -(-row // most)
    bounds = [i * row // count for i in range(count + 1)]
    return [range(*pair) for pair in itertools.pairwise(bounds)]


@contextmanager
def _sums(b: Any, place: Any, taps: range, lanes: int) -> Iterator[dict[int, Any]]:
    """A vector of zeros for each tap, added at the end to what lies at `place`."""
    vector = ir.VectorType(ir.FloatType(), lanes)
    totals = {tap: register(b, vector) for tap in taps}
    yield totals
    for tap, total in totals.items():
        to = at(b, place, WORD(tap * lanes))
        b.store(b.fadd(load(b, vector, to), b.load(total, typ=vector)), to, align=4)


def _add_outer(b: Any, gradient: Any, patch: Any, totals: dict[int, Any], lanes: int) -> None:
    """Add to each tap's vector the gradient's times the patch's number."""
    vector = ir.VectorType(ir.FloatType(), lanes)
    factor = load(b, vector, gradient)
    for tap, total in totals.items():
        value = splat(b, vector, load(b, ir.FloatType(), at(b, patch, WORD(tap))))
        b.store(multiply_add(b, vector, factor, value, b.load(total, typ=vector)), total)
