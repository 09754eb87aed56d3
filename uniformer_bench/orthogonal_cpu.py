"""Newton-Schulz iterations on a CPU, in float32: machine code that keeps a matrix within the cache.

The matrices of a small model are so small that most of PyTorch's time for them goes into calls. Here all of a model's
go through all their iterations in one: x -> P x, P = a 1 + b G + c G^2, G = x x^T, of the shorter side m.

As x goes to P x, G goes to P G P, and products of polynomials in G are symmetric: all products but the last, of the
P of all iterations and x, are of (m, m), and half of each is computed. Five iterations of (m, n) take some 17/2 m^3 +
3/2 m^2 n multiply-adds in place of 5 m^2 (m + 2 n). The price: G's values are squares of singular values, and of those
below a thousandth of the largest rounding leaves the result uncertain by up to 1 % of the largest.
"""

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

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
from uniformer_bench.model.product_cpu import (
    Matrix,
    multiply,
    multiply_symmetric,
    transpose_blocks,
    write_product,
)

NAME = "orthogonal"
MACS_PER_THREAD = 50_000_000  # about 1.5 ms of work
LONGEST = 320  # of the shorter side: beyond, hardly faster than PyTorch's products
COLUMNS = 4  # of the table of matrices: where one is, where its result goes, rows, columns

Shapes = tuple[tuple[int, int], ...]


def fits(shape: tuple[int, int]) -> bool:
    """Whether the kernel has matrices of that shape: of sides that fill vectors, one of them short."""
    m, n = shape
    return min(m, n) <= LONGEST and m % 16 == 0 == n % 16 and m * n > 0


def serves(numbers: Tensor, shapes: Shapes) -> bool:
    """Whether `steps` can: float32 on the CPU, dense, of matrices that all fit."""
    dense = numbers.dtype == torch.float32 and numbers.is_contiguous()
    return dense and llvm.reads(numbers) and all(map(fits, shapes))


def steps(
    numbers: Sequence[Tensor],
    shapes: tuple[Shapes, ...],
    coefficients: tuple[float, float, float],
    iterations: int,
) -> list[Tensor]:
    """Of matrices of these shapes, whose numbers lie one after another in each tensor: each over its norm, after so
    many iterations of the polynomial with these (a, b, c), times the root of its longer side; laid out alike."""
    found = [torch.empty_like(each) for each in numbers]
    code, plan = compiled(coefficients), plan_of(shapes, iterations, torch.get_num_threads())
    scratch = torch.zeros(len(plan.parts), plan.scratch)
    places = torch.tensor([[a.data_ptr(), b.data_ptr(), 0, 0] for a, b in zip(numbers, found, strict=True)])
    table = plan.table + places[plan.owners]
    parts = [(table.data_ptr(), scratch[i].data_ptr(), *part) for i, part in enumerate(plan.parts)]
    on_threads(lambda part: code.run[NAME](*part, plan.longest, iterations), parts)
    return found


class Plan(NamedTuple):
    """How so many matrices are worked on. `table` is the kernel's, with places counted from the first number of the
    tensor that has the matrix, which `owners` names."""

    table: Tensor
    owners: Tensor
    parts: tuple[tuple[int, int], ...]  # the first row of each thread, and the one after its last
    longest: int
    scratch: int  # floats of each thread


@functools.cache
def plan_of(shapes: tuple[Shapes, ...], iterations: int, threads: int) -> Plan:
    """That of matrices of these shapes, in several tensors, on at most so many threads; made once a process."""
    rows = [(owner, *row) for owner, own in enumerate(shapes) for row in _rows(own)]
    sides = [(min(row[-2:]), max(row[-2:])) for row in rows]
    macs = [m * m * ((4 * iterations - 3) * m + 3 * n) // 2 for m, n in sides]
    threads = threads_for(sum(macs), len(rows), MACS_PER_THREAD)
    by_cost = sorted(range(len(rows)), key=macs.__getitem__)
    shares = [by_cost[i::threads] for i in range(threads)]  # alike in cost and, within one, in number
    owners, table = torch.tensor([rows[i] for share in shares for i in share]).split([1, COLUMNS], 1)
    parts = itertools.pairwise(itertools.accumulate(map(len, shares), initial=0))
    longest = max(n for _, n in sides)
    scratch = longest + max(2 * m * n + 5 * m * m for m, n in sides)
    return Plan(table.contiguous(), owners.squeeze(1), tuple(parts), longest, scratch)


def _rows(shapes: Shapes) -> Iterator[tuple[int, int, int, int]]:
    """The table's, of matrices that lie one after another."""
    starts = itertools.accumulate((4 * m * n for m, n in shapes), initial=0)
    return ((start, start, m, n) for start, (m, n) in zip(starts, shapes, strict=False))


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
        result = Matrix(found, columns, word(1))
        own, turned = Matrix(scratch, n, word(1)), Matrix(at(b, scratch, b.mul(m, n)), m, word(1))
        scaled = b.select(wide, own.place, turned.place)
        _scale(b, machine.lanes, x, scaled, b.mul(m, n), _over_norm(b, machine.lanes, x, b.mul(m, n)))
        other_way = functools.partial(transpose_blocks, b, machine.lanes)
        with b.if_else(wide) as (as_it_is, as_its_transpose):
            with as_it_is:
                other_way(own, turned, m, n)
            with as_its_transpose:
                other_way(turned, own, n, m)
        total = _polynomials(b, machine.lanes, own, turned, zeros, m, n, iterations, coefficients)
        root = b.call(intrinsic(b, "llvm.sqrt.f32", ir.FloatType(), [ir.FloatType()]), [b.sitofp(n, ir.FloatType())])
        _scale(b, machine.lanes, total.place, total.place, b.mul(m, m), root)
        with b.if_else(wide) as (as_it_is, as_its_transpose):
            with as_it_is:
                multiply(b, machine.lanes, result, total, own, zeros, m, n, m)
            with as_its_transpose:
                multiply(b, machine.lanes, result, turned, total, zeros, n, m, m)
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


def _polynomials(
    b: Any, lanes: int, own: Matrix, turned: Matrix, zeros: Matrix, m: Any, n: Any, iterations: Any, by: Sequence[float]
) -> Matrix:
    """The product of all iterations' polynomials, for own (m, n); scratch begins after `turned` (n, m)."""
    word, square = WORD, b.mul(m, m)
    after = at(b, turned.place, b.mul(m, n))
    gram, power, each, total, spare = (Matrix(at(b, after, b.mul(word(i), square)), m, word(1)) for i in range(5))
    product_of = functools.partial(multiply_symmetric, b, lanes, zeros=zeros, side=m)
    product_of(gram, own, turned, count=n)
    product_of(power, gram, gram, count=m)
    _polynomial(b, lanes, gram, power, total, m, by)
    _scale(b, lanes, total.place, each.place, square, constant(1))
    with loop(b, word(1), iterations):
        product_of(spare, each, gram, count=m)
        product_of(gram, spare, each, count=m)
        product_of(power, gram, gram, count=m)
        _polynomial(b, lanes, gram, power, each, m, by)
        product_of(spare, each, total, count=m)
        _scale(b, lanes, spare.place, total.place, square, constant(1))
    return total


def _polynomial(b: Any, lanes: int, gram: Matrix, power: Matrix, to: Matrix, m: Any, by: Sequence[float]) -> None:
    """a 1 + b G + c G^2, of G and its square."""
    kind, real = ir.VectorType(ir.FloatType(), lanes), ir.FloatType()
    first, second = (splat(b, kind, constant(each)) for each in by[1:])
    with loop(b, WORD(0), b.udiv(b.mul(m, m), WORD(lanes))) as i:
        offset = b.mul(i, WORD(lanes))
        once, twice = (load(b, kind, at(b, matrix.place, offset)) for matrix in (gram, power))
        b.store(multiply_add(b, kind, second, twice, b.fmul(first, once)), at(b, to.place, offset), align=4)
    with loop(b, WORD(0), m) as i:
        place = at(b, to.place, b.mul(i, b.add(m, WORD(1))))
        b.store(b.fadd(load(b, real, place), constant(by[0])), place, align=4)


def _scale(b: Any, lanes: int, source: Any, to: Any, count: Any, factor: Any) -> None:
    """So many numbers, times one."""
    kind = ir.VectorType(ir.FloatType(), lanes)
    with loop(b, WORD(0), b.udiv(count, WORD(lanes))) as i:
        offset = b.mul(i, WORD(lanes))
        b.store(b.fmul(load(b, kind, at(b, source, offset)), splat(b, kind, factor)), at(b, to, offset), align=4)
