"""The norm of many tensors together on a CPU, in float32: machine code that reads them one after the other.

A small model has a hundred gradients of a few hundred numbers each, and PyTorch is called for each of them.
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
    ir,
    load,
    loop,
    multiply_add,
    register,
    sum_of,
)

NAME = "squares"
SUMS = 4  # at a time, to hide a multiply-add's latency
COLUMNS = 2  # of the table: where a tensor's numbers are, how many


def serves(tensors: Sequence[Tensor]) -> bool:
    """Whether `norm` can: all in float32 on the CPU, and dense."""
    return llvm.reads(*tensors) and all(t.dtype == torch.float32 and t.is_contiguous() for t in tensors)


def norm(tensors: Sequence[Tensor]) -> float:
    """The root of the sum of all squares; a tensor's own in float32, the sum over tensors in float64."""
    table = torch.tensor([[tensor.data_ptr(), tensor.numel()] for tensor in tensors])
    total = torch.zeros(1, dtype=torch.float64)
    compiled().run[NAME](table.data_ptr(), total.data_ptr(), len(tensors))
    return total.item() ** 0.5


@functools.cache
def compiled() -> Kernel:
    """The code for any tensors; compiled once a process."""
    return compile_kernel(_module, {NAME: [*[POINTER] * 2, INT64]})


def _module(machine: Machine) -> "ir.Module":
    """Arguments: the table, the sum, to be added to, how many tensors."""
    module, word, pointer = ir.Module(), WORD, ir.PointerType()
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [pointer] * 2 + [word]), NAME)
    table, sum_of_all, tensors = function.args
    b, lanes = ir.IRBuilder(function.append_basic_block()), machine.lanes
    with loop(b, word(0), tensors) as item:
        row = b.gep(table, [b.mul(item, word(COLUMNS))], source_etype=word)
        place, count = (b.load(b.gep(row, [word(i)], source_etype=word), typ=word) for i in range(COLUMNS))
        squares = _squares(b, lanes, b.inttoptr(place, pointer), count)
        double = ir.DoubleType()
        b.store(b.fadd(b.load(sum_of_all, typ=double), b.fpext(squares, double)), sum_of_all)
    b.ret_void()
    return module


def _squares(b: Any, lanes: int, x: Any, count: Any) -> Any:
    """The sum of the squares of so many numbers: of whole vectors, several at a time, then of the numbers left."""
    kind, real, step = ir.VectorType(ir.FloatType(), lanes), ir.FloatType(), WORD(SUMS * lanes)
    totals, rest = [register(b, kind) for _ in range(SUMS)], register(b, real)
    steps = b.udiv(count, step)
    with loop(b, WORD(0), steps) as i:
        for n, total in enumerate(totals):
            value = load(b, kind, at(b, x, b.add(b.mul(i, step), WORD(n * lanes))))
            b.store(multiply_add(b, kind, value, value, b.load(total, typ=kind)), total)
    with loop(b, b.mul(steps, step), count) as i:
        value = load(b, real, at(b, x, i))
        b.store(b.fadd(b.fmul(value, value), b.load(rest, typ=real)), rest)
    numbers = functools.reduce(b.fadd, [b.load(total, typ=kind) for total in totals])
    return b.fadd(sum_of(b, numbers), b.load(rest, typ=real))
