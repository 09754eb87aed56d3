"""GELU and its derivative on a CPU, in float32 and in one pass: machine code for training.

PyTorch computes the normal distribution's function forward, and it and its density again backward. Both come from one
exponential here, and the derivative takes the input's place in memory: backward is a multiplication.

x Phi(x), Phi by Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26: to 1.5e-7 at most.
"""

import functools
import math
from typing import Any

import torch
from torch import Tensor

from uniformer_bench.model.llvm import (
    INT64,
    POINTER,
    WORD,
    Kernel,
    Machine,
    at,
    compile_kernel,
    constant,
    dealt,
    intrinsic,
    ir,
    load,
    loop,
    multiply_add,
    on_threads,
    polynomial,
    power_of_two,
    splat,
    threads_for,
)

NAME = "gelu"
NUMBERS_PER_THREAD = 1_000_000  # about 1 ms of work
# erfc(z) = t (a1 + a2 t + ... ) exp(-z^2), t = 1 / (1 + p z)
P = 0.3275911
A = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)


def forward_(x: Tensor) -> Tensor:
    """GELU, exact, of float32 x on the CPU, dense in memory; x, which nobody else may need, then holds its derivative.

    A gradient made of it cannot be differentiated again, as the input is no more.
    """
    found, count, code = torch.empty_like(x), x.numel(), compiled()
    threads = threads_for(count, count, NUMBERS_PER_THREAD)
    scratch = torch.zeros(threads, 2 * code.lanes)
    parts = [
        (x.data_ptr() + 4 * first, found.data_ptr() + 4 * first, scratch[i].data_ptr(), last - first)
        for i, (first, last) in enumerate(dealt(count, threads))
    ]
    on_threads(lambda part: code.run[NAME](*part), parts)
    return found


@functools.cache
def compiled() -> Kernel:
    """The code for all sizes; compiled once a process."""
    return compile_kernel(_module, {NAME: [*[POINTER] * 3, INT64]})


def _module(machine: Machine) -> "ir.Module":
    """Arguments: x, which becomes the derivative; GELU; scratch of two vectors; how many numbers."""
    module, word, pointer, lanes = ir.Module(), WORD, ir.PointerType(), machine.lanes
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [pointer] * 3 + [word]), NAME)
    for argument in function.args[:3]:
        argument.add_attribute("noalias")
    x, found, scratch, count = function.args
    b, kind, real = ir.IRBuilder(function.append_basic_block()), ir.VectorType(ir.FloatType(), lanes), ir.FloatType()
    rest = scratch, at(b, scratch, word(lanes))
    whole = b.udiv(count, word(lanes))
    with loop(b, word(0), whole) as i:
        _store_gelu(b, kind, at(b, x, b.mul(i, word(lanes))), at(b, found, b.mul(i, word(lanes))))
    start = b.mul(whole, word(lanes))
    left = b.sub(count, start)
    with loop(b, word(0), left) as i:
        b.store(load(b, real, at(b, x, b.add(start, i))), at(b, rest[0], i), align=4)
    _store_gelu(b, kind, *rest)
    with loop(b, word(0), left) as i:
        for place, to in zip(rest, (x, found), strict=True):
            b.store(load(b, real, at(b, place, i)), at(b, to, b.add(start, i)), align=4)
    b.ret_void()
    return module


def _store_gelu(b: Any, kind: Any, x: Any, found: Any) -> None:
    """Of the vector at x: GELU to `found`, the derivative to x."""
    value, slope = _gelu(b, kind, load(b, kind, x))
    b.store(value, found, align=4)
    b.store(slope, x, align=4)


def _gelu(b: Any, kind: Any, x: Any) -> tuple[Any, Any]:
    """x Phi(x) and Phi(x) + x phi(x) of a vector's numbers."""

    def all_(value: float) -> Any:
        return splat(b, kind, constant(value))

    size = b.call(intrinsic(b, f"llvm.fabs.v{kind.count}f32", kind, [kind]), [x])
    t = b.fdiv(all_(1), multiply_add(b, kind, size, all_(P / math.sqrt(2)), all_(1)))
    bell = power_of_two(b, kind, b.fmul(b.fmul(x, x), all_(-0.5 / math.log(2))))  # exp(-x^2 / 2)
    tail = b.fmul(b.fmul(polynomial(b, kind, t, [0.5 * a for a in A]), t), bell)
    below = b.select(b.fcmp_ordered(">", x, all_(0)), b.fsub(all_(1), tail), tail)
    return b.fmul(x, below), multiply_add(b, kind, b.fmul(x, bell), all_(1 / math.sqrt(2 * math.pi)), below)
