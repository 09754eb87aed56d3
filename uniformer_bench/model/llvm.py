"""Machine code made as the program runs, by LLVM (through llvmlite): what kernels for a CPU share.

A kernel is a function that emits LLVM's terms. `b` is the builder; sizes and indices are 64-bit, counted in floats.
"""

import ctypes
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch

try:
    from llvmlite import binding
    from llvmlite import ir as ir

    WORD = ir.IntType(64)
except ImportError:  # a platform without llvmlite still runs, with PyTorch's own operators: nothing below is called
    binding = ir = WORD = None

POINTER, INT64, FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float  # of a kernel's arguments
_FITTED = np.polynomial.Chebyshev.interpolate(np.exp2, 5, [-0.5, 0.5]).convert(kind=np.polynomial.Polynomial)
POWER_OF_TWO: list[float] = _FITTED.coef.tolist()
SMALLEST_POWER = -126.0  # of two, that is a normal number


class Machine(NamedTuple):
    """What the host's vector registers hold: floats in one, and the sums kept in them at a time."""

    lanes: int
    sums: int


class Kernel(NamedTuple):
    """Compiled code: a function by name in `run`, valid as long as `engine`, which owns them, lives."""

    run: Mapping[str, Callable[..., None]]
    engine: Any
    lanes: int


def available() -> bool:
    """Whether a kernel can be compiled here."""
    return binding is not None


def machine_of(features: dict[str, bool]) -> Machine:
    """Sums leave room for the operands among the 32 (AVX-512, Arm) or 16 vector registers."""
    if features.get("avx512f"):
        return Machine(lanes=16, sums=15)
    if features.get("avx"):
        return Machine(lanes=8, sums=10)
    return Machine(lanes=4, sums=25 if features.get("neon") else 10)


def compile_kernel(write: Callable[[Machine], "ir.Module"], signatures: Mapping[str, Iterable[Any]]) -> Kernel:
    """The functions named, with the ctypes of their arguments, of the module that `write` gives for this machine."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    features = binding.get_host_cpu_features()
    machine = machine_of(features)
    # LLVM halves the vectors of some AVX-512 hosts for fear of lower clocks; dense multiply-adds gain from whole ones.
    flags = features.flatten() + (",-prefer-256-bit" if machine.lanes == 16 else "")
    target = binding.Target.from_default_triple().create_target_machine(
        cpu=binding.get_host_cpu_name(), features=flags, opt=3, jit=True
    )
    module = binding.parse_assembly(str(write(machine)))
    _optimise(module, target)
    engine = binding.create_mcjit_compiler(module, target)
    engine.finalize_object()
    run = {  # ctypes releases the GIL
        name: ctypes.CFUNCTYPE(None, *arguments)(engine.get_function_address(name))
        for name, arguments in signatures.items()
    }
    return Kernel(run, engine, machine.lanes)


def _optimise(module: Any, target: Any) -> None:
    """Three passes make these programs as fast as the whole -O2 pipeline does, in a third of its time (measured)."""
    passes = binding.create_new_module_pass_manager()
    passes.add_sroa_pass()  # the sums move from memory to registers
    passes.add_instruction_combine_pass()
    passes.add_loop_rotate_pass()
    passes.run(module, binding.create_pass_builder(target, binding.create_pipeline_tuning_options()))


def reads(*tensors: torch.Tensor) -> bool:
    """Whether a kernel can be compiled here and reach these tensors' memory: on the CPU, plain, and nobody traces."""
    plain = all(type(t) in (torch.Tensor, torch.nn.Parameter) and t.device.type == "cpu" for t in tensors)
    return available() and plain and not torch.compiler.is_compiling()


def threads_for(macs: int, items: int, macs_per_thread: int) -> int:
    """How many of PyTorch's threads so many multiply-adds, in so many items, are worth."""
    return max(1, min(torch.get_num_threads(), items, macs // macs_per_thread))


def dealt(items: int, threads: int) -> list[tuple[int, int]]:
    """The first item of each thread, and the one after its last."""
    return list(itertools.pairwise(i * items // threads for i in range(threads + 1)))


def on_threads(function: Callable[[Any], None], parts: list[Any]) -> None:
    """Calls the function on each part, each on a thread of its own."""
    if len(parts) == 1:
        return function(parts[0])
    with ThreadPoolExecutor(len(parts)) as pool:
        list(pool.map(function, parts))
    return None


@contextmanager
def loop(b: Any, start: Any, stop: Any) -> Iterator[Any]:
    """Emit `for index in range(start, stop)` around what the `with` block emits."""
    head, body, after = (b.function.append_basic_block(name) for name in ("head", "body", "after"))
    entry = b.block
    b.branch(head)
    b.position_at_end(head)
    index = b.phi(start.type)
    index.add_incoming(start, entry)
    b.cbranch(b.icmp_signed("<", index, stop), body, after)
    b.position_at_end(body)
    yield index
    index.add_incoming(b.add(index, start.type(1)), b.block)
    b.branch(head)
    b.position_at_end(after)


def register(b: Any, kind: Any) -> Any:
    """A zero that the optimiser keeps in a register: memory allotted once, in the function's first block."""
    with b.goto_entry_block():
        slot = b.alloca(kind)
    b.store(ir.Constant(kind, None), slot)
    return slot


def multiply_add(b: Any, kind: Any, x: Any, y: Any, z: Any) -> Any:
    """x y + z of vectors of that kind."""
    return b.call(intrinsic(b, f"llvm.fmuladd.v{kind.count}f32", kind, [kind] * 3), [x, y, z])


def intrinsic(b: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    """LLVM's function of that name, declared once in a module."""
    found = b.module.globals.get(name)
    return found or ir.Function(b.module, ir.FunctionType(result, arguments), name)


def at(b: Any, base: Any, offset: Any) -> Any:
    """The place so many floats on."""
    return b.gep(base, [offset], source_etype=ir.FloatType())


def load(b: Any, kind: Any, place: Any) -> Any:
    """A value of that kind, a vector or a float, from memory that need not be aligned to it."""
    return b.load(place, align=4, typ=kind)


def product(b: Any, *factors: Any) -> Any:
    """The product of integers."""
    return functools.reduce(b.mul, factors)


def constant(value: float) -> Any:
    """A float that the code holds."""
    return ir.Constant(ir.FloatType(), value)


def splat(b: Any, kind: Any, value: Any) -> Any:
    """A vector of that kind, of one number."""
    first = b.insert_element(ir.Constant(kind, ir.Undefined), value, ir.IntType(32)(0))
    mask = ir.Constant(ir.VectorType(ir.IntType(32), kind.count), [0] * kind.count)
    return b.shuffle_vector(first, ir.Constant(kind, ir.Undefined), mask)


def sum_of(b: Any, vector: Any) -> Any:
    """The sum of a vector's numbers."""
    return _reduced(b, "fadd", vector, constant(0))


def highest_of(b: Any, vector: Any) -> Any:
    """The largest of a vector's numbers."""
    return _reduced(b, "fmax", vector)


def _reduced(b: Any, how: str, vector: Any, *start: Any) -> Any:
    kinds = [value.type for value in (*start, vector)]
    function = intrinsic(b, f"llvm.vector.reduce.{how}.v{vector.type.count}f32", ir.FloatType(), kinds)
    return b.call(function, [*start, vector], fastmath=["reassoc"])  # by halves, not one after another


def polynomial(b: Any, kind: Any, x: Any, coefficients: Sequence[float]) -> Any:
    """c0 + c1 x + c2 x^2 + ... of a vector's numbers."""
    found = splat(b, kind, constant(coefficients[-1]))
    for coefficient in reversed(coefficients[:-1]):
        found = multiply_add(b, kind, found, x, splat(b, kind, constant(coefficient)))
    return found


def power_of_two(b: Any, kind: Any, x: Any) -> Any:
    """2^x for x of at most 0, to 1e-7 of it: a polynomial to the nearest integer, whose own power is an exponent.

    What is not a number stays none: comparisons with it are false.
    """
    integers = ir.VectorType(ir.IntType(32), kind.count)
    least = splat(b, kind, constant(SMALLEST_POWER))
    x = b.select(b.fcmp_ordered("<", x, least), least, x)
    whole = b.call(intrinsic(b, f"llvm.nearbyint.v{kind.count}f32", kind, [kind]), [x])
    found = polynomial(b, kind, b.fsub(x, whole), POWER_OF_TWO)
    exponent = b.add(b.fptosi(whole, integers), ir.Constant(integers, [127] * kind.count))
    return b.fmul(found, b.bitcast(b.shl(exponent, ir.Constant(integers, [23] * kind.count)), kind))
