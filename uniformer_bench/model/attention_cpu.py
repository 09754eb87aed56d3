"""Softmax attention and its gradients on a CPU, in float32: machine code that works within the cache.

PyTorch's kernel is made for heads of 64 channels and more, and spends most of its time around small products. Here a
block of queries has its affinities to all keys in a scratch of the cache, and five kinds of product are one program of
multiply-adds over tiles of registers. The formulas are those of FlashAttention-2 (arXiv 2307.08691, section 3.1):
softmax in powers of two, the affinities computed again in the backward pass from each row's maximum and sum.

q, k, v lie in one tensor (B, N, 3, heads, d) of dense memory, d a multiple of the vector's floats.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from uniformer_bench.model.llvm import (
    FLOAT,
    INT64,
    POINTER,
    WORD,
    Kernel,
    Machine,
    at,
    compile_kernel,
    constant,
    dealt,
    highest_of,
    ir,
    load,
    loop,
    multiply_add,
    on_threads,
    power_of_two,
    product,
    register,
    splat,
    sum_of,
    threads_for,
)
from uniformer_bench.model.product_cpu import Matrix, multiply, transpose, write_product

QUERIES = 16  # at a time
MACS_PER_THREAD = 20_000_000  # less than other kernels ask for: PyTorch's attention would take all threads
FORWARD, BACKWARD = 2, 5  # products of N x N x d
HIDDEN = -1e30  # an affinity to what fills up the last vector of keys


def forward(qkv: Tensor) -> tuple[Tensor, Tensor]:
    """(B, N, 3, heads, d) -> context (B, N, heads, d), and each row's maximum and 1 / sum, (B, heads, N, 2)."""
    batch, n, _, heads, d = qkv.shape
    context, rows = qkv.new_empty(batch, n, heads, d), qkv.new_empty(batch, heads, n, 2)
    _run("forward", FORWARD, qkv, [context, rows])
    return context, rows


def backward(qkv: Tensor, context: Tensor, rows: Tensor, grad: Tensor) -> Tensor:
    """The gradient to qkv, of its shape; `grad` is the context's, dense in memory."""
    found = torch.empty_like(qkv)
    _run("backward", BACKWARD, qkv, [context, rows, grad, found])
    return found


def _run(name: str, products: int, qkv: Tensor, others: Sequence[Tensor]) -> None:
    batch, n, _, heads, d = qkv.shape
    kernel, items = compiled(), batch * heads
    threads = threads_for(products * items * n * n * d, items, MACS_PER_THREAD)
    width = -(-n // kernel.lanes) * kernel.lanes
    # Allotted here: PyTorch called in a new thread would start threads of its own.
    scratch = torch.zeros(threads, (2 * d + 2 * QUERIES + 1) * width + max(width, d))
    scratch[:, n:width] = HIDDEN
    pointers = [tensor.data_ptr() for tensor in (qkv, *others)]
    parts = [(*pointers, scratch[i].data_ptr(), *part) for i, part in enumerate(dealt(items, threads))]
    on_threads(lambda part: kernel.run[name](*part, n, width, heads, d, d**-0.5), parts)


@functools.cache
def compiled() -> Kernel:
    """The code for all sizes; compiled once a process."""
    shared = [*[INT64] * 6, FLOAT]
    return compile_kernel(_module, {"forward": [*[POINTER] * 4, *shared], "backward": [*[POINTER] * 6, *shared]})


# Below, the program in LLVM's terms.


class Terms(NamedTuple):
    """What every part of the program speaks of: builder, kinds, and the sizes among a function's arguments."""

    b: Any
    lanes: int
    n: Any
    width: Any  # n, filled up to whole vectors
    heads: Any
    d: Any
    scale: Any

    @property
    def vector(self) -> Any:
        return ir.VectorType(ir.FloatType(), self.lanes)


class Scratch(NamedTuple):
    """Parts of a thread's scratch: `hidden` and `zeros` are rows to start from, the others are (d, width) and
    (QUERIES, width)."""

    hidden: Matrix
    keys: Matrix
    values: Matrix
    weights: Matrix
    changes: Matrix
    zeros: Matrix


def _module(machine: Machine) -> "ir.Module":
    module, pointer = ir.Module(), ir.PointerType()
    write_product(module, machine)
    for name, pointers, body in (("forward", 4, _forward), ("backward", 6, _backward)):
        kind = ir.FunctionType(ir.VoidType(), [pointer] * pointers + [WORD] * 6 + [ir.FloatType()])
        function = ir.Function(module, kind, name)
        *tensors, scratch, first, last = function.args[: pointers + 2]
        b = ir.IRBuilder(function.append_basic_block())
        terms = Terms(b, machine.lanes, *function.args[pointers + 2 :])
        with loop(b, first, last) as item:
            body(terms, item, tensors, _scratch(terms, scratch))
        b.ret_void()
    return module


def _forward(terms: Terms, item: Any, tensors: Sequence[Any], scratch: Scratch) -> None:
    """One head of one clip: tensors are qkv, context, rows."""
    b = terms.b
    q, k, v = _qkv(terms, item, tensors[0])
    context, rows = _context(terms, item, tensors[1]), _rows(terms, item, tensors[2])
    transpose(b, k, scratch.keys, terms.n, terms.d, b.fmul(terms.scale, constant(math.log2(math.e))))
    with _blocks(terms) as (start, count):
        out = _from(terms, context, start)
        queries = _from(terms, q, start)
        multiply(b, terms.lanes, scratch.weights, queries, scratch.keys, scratch.hidden, count, terms.width, terms.d)
        with loop(b, WORD(0), count) as i:
            _softmax(terms, _from(terms, scratch.weights, i).place, _from(terms, rows, b.add(start, i)).place)
        multiply(b, terms.lanes, out, scratch.weights, v, scratch.zeros, count, terms.d, terms.n)
        with loop(b, WORD(0), count) as i:
            share = at(b, _from(terms, rows, b.add(start, i)).place, WORD(1))
            _scale(terms, _from(terms, out, i).place, load(b, ir.FloatType(), share))


def _backward(terms: Terms, item: Any, tensors: Sequence[Any], scratch: Scratch) -> None:
    """One head of one clip: tensors are qkv, context, rows, the context's gradient, qkv's gradient."""
    b, (weights, changes, zeros) = terms.b, (scratch.weights, scratch.changes, scratch.zeros)
    (q, k, v), (dq, dk, dv) = (_qkv(terms, item, tensors[i]) for i in (0, 4))
    context, grad, rows = (
        _context(terms, item, tensors[1]),
        _context(terms, item, tensors[3]),
        _rows(terms, item, tensors[2]),
    )
    transpose(b, k, scratch.keys, terms.n, terms.d, b.fmul(terms.scale, constant(math.log2(math.e))))
    transpose(b, v, scratch.values, terms.n, terms.d, constant(1))
    with _blocks(terms) as (start, count):
        queries, grads = _from(terms, q, start), _from(terms, grad, start)
        multiply(b, terms.lanes, weights, queries, scratch.keys, scratch.hidden, count, terms.width, terms.d)
        multiply(b, terms.lanes, changes, grads, scratch.values, zeros, count, terms.width, terms.d)
        with loop(b, WORD(0), count) as i:
            number = b.add(start, i)
            mean = _inner(terms, _from(terms, grad, number).place, _from(terms, context, number).place)
            line, change = _from(terms, weights, i).place, _from(terms, changes, i).place
            _softmax_gradient(terms, line, change, _from(terms, rows, number).place, mean)
        multiply(b, terms.lanes, _from(terms, dq, start), changes, k, zeros, count, terms.d, terms.n)
        begun = b.icmp_signed(">", start, WORD(0))
        for out, left, right in ((dk, changes, queries), (dv, weights, grads)):
            so_far = Matrix(b.select(begun, out.place, zeros.place), b.select(begun, out.row, WORD(0)), WORD(1))
            turned = Matrix(left.place, left.column, left.row)
            multiply(b, terms.lanes, out, turned, right, so_far, terms.n, terms.d, count)


# ---------------------------------------------------------------- places


def _scratch(terms: Terms, place: Any) -> Scratch:
    b, found = terms.b, list[Matrix]()
    for rows in (None, terms.d, terms.d, WORD(QUERIES), WORD(QUERIES), None):
        found.append(Matrix(place, WORD(0) if rows is None else terms.width, WORD(1)))
        place = at(b, place, terms.width if rows is None else b.mul(rows, terms.width))
    return Scratch(*found)


def _qkv(terms: Terms, item: Any, place: Any) -> list[Matrix]:
    """q, k and v (N, d) of a head of a clip in (B, N, 3, heads, d)."""
    b = terms.b
    clip, head = b.udiv(item, terms.heads), b.urem(item, terms.heads)
    apart = b.mul(terms.heads, terms.d)
    row = b.mul(apart, WORD(3))
    start = b.add(product(b, clip, terms.n, row), b.mul(head, terms.d))
    return [Matrix(at(b, place, b.add(start, b.mul(apart, WORD(i)))), row, WORD(1)) for i in range(3)]


def _context(terms: Terms, item: Any, place: Any) -> Matrix:
    """(N, d) of a head of a clip in (B, N, heads, d)."""
    b = terms.b
    clip, head = b.udiv(item, terms.heads), b.urem(item, terms.heads)
    row = b.mul(terms.heads, terms.d)
    return Matrix(at(b, place, b.add(product(b, clip, terms.n, row), b.mul(head, terms.d))), row, WORD(1))


def _rows(terms: Terms, item: Any, place: Any) -> Matrix:
    """(N, 2) of a head of a clip in (B, heads, N, 2)."""
    return Matrix(at(terms.b, place, product(terms.b, item, terms.n, WORD(2))), WORD(2), WORD(1))


def _from(terms: Terms, matrix: Matrix, row: Any) -> Matrix:
    """The rows from this one on."""
    return matrix._replace(place=at(terms.b, matrix.place, terms.b.mul(row, matrix.row)))


@contextmanager
def _blocks(terms: Terms) -> Iterator[tuple[Any, Any]]:
    """First query and number of queries, block by block."""
    b = terms.b
    blocks = b.udiv(b.add(terms.n, WORD(QUERIES - 1)), WORD(QUERIES))
    with loop(b, WORD(0), blocks) as block:
        start = b.mul(block, WORD(QUERIES))
        left = b.sub(terms.n, start)
        yield start, b.select(b.icmp_signed("<", left, WORD(QUERIES)), left, WORD(QUERIES))


# ---------------------------------------------------------------- a row


def _softmax(terms: Terms, line: Any, row: Any) -> None:
    """Affinities become powers, not yet shares: `row` is told the maximum and what a share is of a power."""
    b, kind = terms.b, terms.vector
    highest, total = register(b, kind), register(b, kind)
    b.store(load(b, kind, line), highest)
    with _vectors(terms, terms.width) as offset:
        value, best = load(b, kind, at(b, line, offset)), b.load(highest, typ=kind)
        b.store(b.select(b.fcmp_ordered(">", value, best), value, best), highest)
    top = highest_of(b, b.load(highest, typ=kind))
    with _vectors(terms, terms.width) as offset:
        power = power_of_two(b, kind, b.fsub(load(b, kind, at(b, line, offset)), splat(b, kind, top)))
        b.store(power, at(b, line, offset), align=4)
        b.store(b.fadd(b.load(total, typ=kind), power), total)
    b.store(top, row)
    b.store(b.fdiv(constant(1), sum_of(b, b.load(total, typ=kind))), at(b, row, WORD(1)))


def _softmax_gradient(terms: Terms, line: Any, change: Any, row: Any, mean: Any) -> None:
    """Affinities become weights P, and the gradient to the weights, dP, that to the affinities: P (dP - mean)."""
    b, kind, number = terms.b, terms.vector, ir.FloatType()
    top, share = (splat(b, kind, load(b, number, at(b, row, WORD(i)))) for i in range(2))
    mean, scale = splat(b, kind, mean), splat(b, kind, terms.scale)
    with _vectors(terms, terms.width) as offset:
        place, other = at(b, line, offset), at(b, change, offset)
        weight = b.fmul(power_of_two(b, kind, b.fsub(load(b, kind, place), top)), share)
        b.store(weight, place, align=4)
        b.store(b.fmul(b.fmul(weight, scale), b.fsub(load(b, kind, other), mean)), other, align=4)


def _scale(terms: Terms, line: Any, factor: Any) -> None:
    b, kind = terms.b, terms.vector
    with _vectors(terms, terms.d) as offset:
        place = at(b, line, offset)
        b.store(b.fmul(load(b, kind, place), splat(b, kind, factor)), place, align=4)


def _inner(terms: Terms, x: Any, y: Any) -> Any:
    """The inner product of d numbers."""
    b, kind = terms.b, terms.vector
    total = register(b, kind)
    with _vectors(terms, terms.d) as offset:
        left, right = load(b, kind, at(b, x, offset)), load(b, kind, at(b, y, offset))
        b.store(multiply_add(b, kind, left, right, b.load(total, typ=kind)), total)
    return sum_of(b, b.load(total, typ=kind))


@contextmanager
def _vectors(terms: Terms, length: Any) -> Iterator[Any]:
    """Where each whole vector of a line begins."""
    with loop(terms.b, WORD(0), terms.b.udiv(length, WORD(terms.lanes))) as i:
        yield terms.b.mul(i, WORD(terms.lanes))
