"""A product of small matrices on a CPU, in float32, as part of other machine code: it works within the cache.

A library's call costs as much as such a product; PyTorch's for many at once is made for larger ones.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from uniformer_bench.model.llvm import (
    WORD,
    Machine,
    at,
    ir,
    load,
    loop,
    multiply_add,
    register,
    splat,
)

# Rows of registers by vectors in a row, where the registers hold few sums and where they hold many: eight hide a
# multiply-add's latency, sixteen use each factor read for more of them.
TILES = {False: {2: (4, 1), 1: (8, 4, 1)}, True: {2: (8, 4, 1), 1: (16, 8, 4, 1)}}
MANY = 15


class Matrix(NamedTuple):
    """A place in memory, and how far on the next row and the next column are."""

    place: Any
    row: Any
    column: Any


def write_product(module: "ir.Module", machine: Machine) -> None:
    """C = I + A B as a function: C (rows, vectors x lanes), A (rows, count), B (count, vectors x lanes).

    Arguments: C, A, B, I; then between rows of C, rows of A, columns of A, rows of B, rows of I; rows, vectors, count;
    whether what lies above the diagonal may be left out, as 0 or 1.
    """
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [ir.PointerType()] * 4 + [WORD] * 9), "product")
    function.linkage = "internal"
    b, vectors, lanes = ir.IRBuilder(function.append_basic_block()), function.args[10], machine.lanes
    tiles, pairs = TILES[machine.sums >= MANY], b.lshr(vectors, WORD(1))
    with loop(b, WORD(0), pairs) as pair:
        _strip(b, lanes, function.args, b.mul(pair, WORD(2 * lanes)), 2, tiles[2])
    with b.if_then(b.trunc(vectors, ir.IntType(1))):
        _strip(b, lanes, function.args, b.mul(pairs, WORD(2 * lanes)), 1, tiles[1])
    b.ret_void()


def _strip(b: Any, lanes: int, args: Sequence[Any], column: Any, vectors: int, steps: Sequence[int]) -> None:
    """The rows of so many vectors of columns, all or those from the diagonal on, in tiles of fewer and fewer rows."""
    done: Any = b.select(b.trunc(args[12], ir.IntType(1)), column, WORD(0))
    for step in steps:
        tiles = b.udiv(b.sub(args[9], done), WORD(step))
        with loop(b, WORD(0), tiles) as tile:
            _tile(b, lanes, args, b.add(done, b.mul(tile, WORD(step))), column, step, vectors)
        done = b.add(done, b.mul(tiles, WORD(step)))


def _tile(b: Any, lanes: int, args: Sequence[Any], row: Any, column: Any, rows: int, vectors: int) -> None:
    """The sums of a tile, in registers."""
    c, left, right, start, c_row, left_row, left_column, right_row, start_row, _, _, count, _ = args
    kind = ir.VectorType(ir.FloatType(), lanes)
    numbers = [b.add(row, WORD(i)) for i in range(rows)]
    columns = [b.add(column, WORD(j * lanes)) for j in range(vectors)]
    sums = {(i, j): register(b, kind) for i in range(rows) for j in range(vectors)}
    for (i, j), total in sums.items():
        b.store(load(b, kind, at(b, start, b.add(b.mul(numbers[i], start_row), columns[j]))), total)
    lefts = [at(b, left, b.mul(number, left_row)) for number in numbers]
    rights = [at(b, right, each) for each in columns]
    with loop(b, WORD(0), count) as t:
        across, down = b.mul(t, left_column), b.mul(t, right_row)
        values = [load(b, kind, at(b, place, down)) for place in rights]
        for i, place in enumerate(lefts):
            factor = splat(b, kind, load(b, ir.FloatType(), at(b, place, across)))
            for j, value in enumerate(values):
                b.store(multiply_add(b, kind, factor, value, b.load(sums[i, j], typ=kind)), sums[i, j])
    for (i, j), total in sums.items():
        b.store(b.load(total, typ=kind), at(b, c, b.add(b.mul(numbers[i], c_row), columns[j])), align=4)


def multiply(
    b: Any, lanes: int, c: Matrix, left: Matrix, right: Matrix, start: Matrix, rows: Any, columns: Any, count: Any
) -> None:
    """C (rows, columns) = start + left (rows, count) right (count, columns), in a module that `write_product` wrote to;
    columns fill vectors. C may be `start`."""
    _call(b, lanes, c, left, right, start, (rows, columns, count), WORD(0))


def multiply_symmetric(
    b: Any, lanes: int, c: Matrix, left: Matrix, right: Matrix, zeros: Matrix, side: Any, count: Any
) -> None:
    """C (side, side) = left right, where it is known to be symmetric: half is computed, and mirrored.

    The side fills vectors."""
    _call(b, lanes, c, left, right, zeros, (side, side, count), WORD(1))
    blocks = b.udiv(side, WORD(lanes))
    with loop(b, WORD(0), blocks) as i, loop(b, WORD(0), i) as j:
        _transpose_block(b, lanes, c, c, b.mul(i, WORD(lanes)), b.mul(j, WORD(lanes)))


def _call(
    b: Any, lanes: int, c: Matrix, left: Matrix, right: Matrix, start: Matrix, sizes: tuple[Any, Any, Any], lower: Any
) -> None:
    rows, columns, count = sizes
    places = [each.place for each in (c, left, right, start)]
    steps = [c.row, left.row, left.column, right.row, start.row]
    b.call(b.module.get_global("product"), [*places, *steps, rows, b.udiv(columns, WORD(lanes)), count, lower])


def transpose(b: Any, matrix: Matrix, to: Matrix, rows: Any, columns: Any, factor: Any) -> None:
    """(rows, columns) times a number -> (columns, rows); what `to` has beyond them stays."""
    with loop(b, WORD(0), columns) as j, loop(b, WORD(0), rows) as i:
        value = load(b, ir.FloatType(), at(b, matrix.place, b.add(b.mul(i, matrix.row), j)))
        b.store(b.fmul(value, factor), at(b, to.place, b.add(b.mul(j, to.row), i)))


def transpose_blocks(b: Any, lanes: int, matrix: Matrix, to: Matrix, rows: Any, columns: Any) -> None:
    """(rows, columns) -> (columns, rows), of sides that fill vectors."""
    step = WORD(lanes)
    with loop(b, WORD(0), b.udiv(rows, step)) as i, loop(b, WORD(0), b.udiv(columns, step)) as j:
        _transpose_block(b, lanes, matrix, to, b.mul(i, step), b.mul(j, step))


def _transpose_block(b: Any, lanes: int, matrix: Matrix, to: Matrix, row: Any, column: Any) -> None:
    """The square of registers at (row, column) -> (column, row): each step takes the first half's numbers in turns
    with the second half's, until a column's are side by side."""
    kind = ir.VectorType(ir.FloatType(), lanes)
    own = [at(b, matrix.place, b.add(b.mul(b.add(row, WORD(i)), matrix.row), column)) for i in range(lanes)]
    vectors = [load(b, kind, place) for place in own]
    in_turns = [lane // 2 + lane % 2 * lanes for lane in range(2 * lanes)]
    masks = [ir.Constant(ir.VectorType(ir.IntType(32), lanes), part) for part in (in_turns[:lanes], in_turns[lanes:])]
    for _ in range(lanes.bit_length() - 1):
        pairs = zip(vectors[: lanes // 2], vectors[lanes // 2 :], strict=True)
        vectors = [b.shuffle_vector(*pair, mask) for pair in pairs for mask in masks]
    for i, vector in enumerate(vectors):
        b.store(vector, at(b, to.place, b.add(b.mul(b.add(column, WORD(i)), to.row), row)), align=4)
