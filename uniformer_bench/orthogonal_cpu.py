"""Newton-Schulz iterations on a CPU, in float32: machine code that keeps a matrix within the cache.

The matrices of a small model are so small that most of PyTorch's time for them goes into calls. Here a matrix goes
through all its iterations in one: x -> (a 1 + b G + c G^2) x, G = x x^T.
"""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from uniformer_bench.model import llvm
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
    ir,
    load,
    loop,
    on_threads,
    splat,
    threads_for,
)
from uniformer_bench.model.product_cpu import Matrix, multiply, transpose, write_product

NAME = "iterate"
MACS_PER_THREAD = 50_000_000  # about 1.5 ms of work
LONGEST = 128  # of the shorter side: beyond, PyTorch's products are faster


def serves(x: Tensor) -> bool:
    """Whether `iterated` can: float32 on the CPU, (K, M, N) of M <= N that fill the widest vectors, M not large."""
    _, m, n = x.shape
    return llvm.reads(x) and x.dtype == torch.float32 and m <= n and m <= LONGEST and m % 16 == 0 == n % 16


def iterated(x: Tensor, coefficients: tuple[float, float, float], iterations: int) -> Tensor:
    """(K, M, N) after so many iterations of the polynomial with these (a, b, c)."""
    count, m, n = x.shape
    code = compiled(coefficients)
    threads = threads_for(iterations * count * m * m * (2 * n + m), count, MACS_PER_THREAD)
    x, found = x.contiguous(), torch.empty_like(x, memory_format=torch.contiguous_format)
    scratch = torch.zeros(threads, n + 2 * m * n + 3 * m * m)
    places = x.data_ptr(), found.data_ptr()
    parts = [(*places, scratch[i].data_ptr(), *part) for i, part in enumerate(dealt(count, threads))]
    on_threads(lambda part: code.run[NAME](*part, m, n, iterations), parts)
    return found


@functools.cache
def compiled(coefficients: tuple[float, float, float]) -> Kernel:
    """The code for all sizes; compiled once a process."""
    return compile_kernel(lambda machine: _module(machine, coefficients), {NAME: [*[POINTER] * 3, *[INT64] * 5]})


def _module(machine: Machine, coefficients: Sequence[float]) -> "ir.Module":
    """Arguments: x and the result (K, M, N), a thread's scratch, all zeros; first and last matrix; M, N, iterations."""
    module, word, pointer = ir.Module(), WORD, ir.PointerType()
    write_product(module, machine)
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [pointer] * 3 + [word] * 5), NAME)
    x, found, scratch, first, last, m, n, iterations = function.args
    b, lanes = ir.IRBuilder(function.append_basic_block()), machine.lanes
    size, square = b.mul(m, n), b.mul(m, m)
    with loop(b, first, last) as item:
        own, zeros = at(b, found, b.mul(item, size)), Matrix(scratch, word(0), word(1))
        place = at(b, scratch, n)
        turned, place = Matrix(place, m, word(1)), at(b, place, size)
        new, place = Matrix(place, n, word(1)), at(b, place, size)
        gram, left, start = (Matrix(at(b, place, b.mul(word(i), square)), m, word(1)) for i in range(3))
        _copy(b, lanes, at(b, x, b.mul(item, size)), own, size)
        with loop(b, word(0), iterations):
            matrix = Matrix(own, n, word(1))
            transpose(b, matrix, turned, m, n, constant(1))
            multiply(b, lanes, gram, matrix, turned, zeros, m, m, n)
            _polynomial(b, lanes, gram, left, start, m, coefficients)
            multiply(b, lanes, start, left, gram, start, m, m, m)
            multiply(b, lanes, new, start, matrix, zeros, m, n, m)
            _copy(b, lanes, new.place, own, size)
    b.ret_void()
    return module


def _polynomial(b: Any, lanes: int, gram: Matrix, left: Matrix, start: Matrix, m: Any, by: Sequence[float]) -> None:
    """left = c G, start = a 1 + b G: with left G added, start is the polynomial."""
    kind, real = ir.VectorType(ir.FloatType(), lanes), ir.FloatType()
    with loop(b, WORD(0), b.udiv(b.mul(m, m), WORD(lanes))) as i:
        offset = b.mul(i, WORD(lanes))
        value = load(b, kind, at(b, gram.place, offset))
        for to, factor in ((left, by[2]), (start, by[1])):
            b.store(b.fmul(value, splat(b, kind, constant(factor))), at(b, to.place, offset), align=4)
    with loop(b, WORD(0), m) as i:
        place = at(b, start.place, b.mul(i, b.add(m, WORD(1))))
        b.store(b.fadd(load(b, real, place), constant(by[0])), place, align=4)


def _copy(b: Any, lanes: int, source: Any, to: Any, count: Any) -> None:
    kind = ir.VectorType(ir.FloatType(), lanes)
    with loop(b, WORD(0), b.udiv(count, WORD(lanes))) as i:
        offset = b.mul(i, WORD(lanes))
        b.store(load(b, kind, at(b, source, offset)), at(b, to, offset), align=4)
