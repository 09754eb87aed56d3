"""Newton-Schulz iterations on a CPU, in float32: machine code that keeps a matrix within the cache.

The matrices of a small model are so small that most of PyTorch's time for them goes into calls. Here all of a model's
go through all their iterations in one: x -> (a 1 + b G + c G^2) x, G = x x^T, of the shorter side.
"""

import functools
import itertools
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
    intrinsic,
    ir,
    load,
    loop,
    multiply_add,
    on_threads,
    register,
    splat,
    sum_of,
    threads_for,
)
from uniformer_bench.model.product_cpu import Matrix, multiply, transpose, write_product

NAME = "orthogonal"
MACS_PER_THREAD = 50_000_000  # about 1.5 ms of work
LONGEST = 128  # of the shorter side: beyond, PyTorch's products are faster
COLUMNS = 4  # of the table of matrices: where one is, where its result goes, rows, columns


def serves(matrix: Tensor) -> bool:
    """Whether `orthogonal` can: (M, N) in float32 on the CPU, dense, of sides that fill vectors, one of them short."""
    m, n = matrix.shape
    fits = min(m, n) <= LONGEST and m % 16 == 0 == n % 16 and matrix.numel() > 0
    return fits and llvm.reads(matrix) and matrix.dtype == torch.float32 and matrix.is_contiguous()


def orthogonal(matrices: Sequence[Tensor], coefficients: tuple[float, float, float], iterations: int) -> list[Tensor]:
    """Each (M, N) over its norm, after so many iterations of the polynomial with these (a, b, c)."""
    found = [torch.empty_like(matrix) for matrix in matrices]
    code = compiled(coefficients)
    sides = [(min(matrix.shape), max(matrix.shape)) for matrix in matrices]
    macs = [m * m * (2 * n + m) for m, n in sides]
    threads = threads_for(iterations * sum(macs), len(matrices), MACS_PER_THREAD)
    longest = max(n for _, n in sides)
    scratch = torch.zeros(threads, longest + max(3 * m * n + 3 * m * m for m, n in sides))
    by_cost = sorted(range(len(matrices)), key=macs.__getitem__)
    shares = [by_cost[i::threads] for i in range(threads)]  # alike in cost and, within one, in number
    table = torch.tensor(
        [[matrices[i].data_ptr(), found[i].data_ptr(), *matrices[i].shape] for share in shares for i in share]
    )
    starts = itertools.pairwise(itertools.accumulate(map(len, shares), initial=0))
    parts = [(table.data_ptr(), scratch[i].data_ptr(), *part) for i, part in enumerate(starts)]
    on_threads(lambda part: code.run[NAME](*part, longest, iterations), parts)
    return found


@functools.cache
def compiled(coefficients: tuple[float, float, float]) -> Kernel:
    """The code for all sizes; compiled once a process."""
    return compile_kernel(lambda machine: _module(machine, coefficients), {NAME: [*[POINTER] * 2, *[INT64] * 4]})


def _module(machine: Machine, coefficients: Sequence[float]) -> "ir.Module":
    """Arguments: the table; a thread's scratch, all zeros; first and last matrix; the longest side; iterations."""
    module, word, pointer = ir.Module(), WORD, ir.PointerType()
    write_product(module, machine)
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [pointer] * 2 + [word] * 4), NAME)
    table, scratch, first, last, longest, iterations = function.args
    b = ir.IRBuilder(function.append_basic_block())
    zeros, scratch = Matrix(scratch, word(0), word(1)), at(b, scratch, longest)
    with loop(b, first, last) as item:
        row = b.gep(table, [b.mul(item, word(COLUMNS))], source_etype=word)
        x, found, rows, columns = (b.load(b.gep(row, [word(i)], source_etype=word), typ=word) for i in range(COLUMNS))
        x, found = b.inttoptr(x, pointer), b.inttoptr(found, pointer)
        wide = b.icmp_signed("<=", rows, columns)
        m, n = b.select(wide, rows, columns), b.select(wide, columns, rows)
        own, place = Matrix(scratch, n, word(1)), at(b, scratch, b.mul(m, n))
        given = Matrix(x, columns, word(1))
        factor = _over_norm(b, machine.lanes, x, b.mul(m, n))
        with b.if_else(wide) as (as_it_is, turned):
            with as_it_is:
                _copy(b, machine.lanes, x, own.place, b.mul(m, n), factor)
            with turned:
                transpose(b, given, own, rows, columns, factor)
        with loop(b, word(0), iterations):
            _iterate(b, machine.lanes, own, zeros, place, m, n, coefficients)
        with b.if_else(wide) as (as_it_is, turned):
            with as_it_is:
                _copy(b, machine.lanes, own.place, found, b.mul(m, n), constant(1))
            with turned:
                transpose(b, own, Matrix(found, columns, word(1)), m, n, constant(1))
    b.ret_void()
    return module


def _over_norm(b: Any, lanes: int, x: Any, count: Any) -> Any:
    """1 over the root of the sum of the squares of so many numbers."""
    kind, real = ir.VectorType(ir.FloatType(), lanes), ir.FloatType()
    total = register(b, kind)
    with loop(b, WORD(0), b.udiv(count, WORD(lanes))) as i:
        value = load(b, kind, at(b, x, b.mul(i, WORD(lanes))))
        b.store(multiply_add(b, kind, value, value, b.load(total, typ=kind)), total)
    root = b.call(intrinsic(b, "llvm.sqrt.f32", real, [real]), [sum_of(b, b.load(total, typ=kind))])
    return b.fdiv(constant(1), b.fadd(root, constant(1e-7)))


def _iterate(
    b: Any, lanes: int, own: Matrix, zeros: Matrix, place: Any, m: Any, n: Any, coefficients: Sequence[float]
) -> None:
    """own (m, n) -> (a 1 + b G + c G^2) own, with scratch from `place` on."""
    word, size, square = WORD, b.mul(m, n), b.mul(m, m)
    turned, place = Matrix(place, m, word(1)), at(b, place, size)
    new, place = Matrix(place, n, word(1)), at(b, place, size)
    gram, left, start = (Matrix(at(b, place, b.mul(word(i), square)), m, word(1)) for i in range(3))
    transpose(b, own, turned, m, n, constant(1))
    multiply(b, lanes, gram, own, turned, zeros, m, m, n)
    _polynomial(b, lanes, gram, left, start, m, coefficients)
    multiply(b, lanes, start, left, gram, start, m, m, m)
    multiply(b, lanes, new, start, own, zeros, m, n, m)
    _copy(b, lanes, new.place, own.place, size, constant(1))


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


def _copy(b: Any, lanes: int, source: Any, to: Any, count: Any, factor: Any) -> None:
    """So many numbers, times one."""
    kind = ir.VectorType(ir.FloatType(), lanes)
    with loop(b, WORD(0), b.udiv(count, WORD(lanes))) as i:
        offset = b.mul(i, WORD(lanes))
        b.store(b.fmul(load(b, kind, at(b, source, offset)), splat(b, kind, factor)), at(b, to, offset), align=4)
