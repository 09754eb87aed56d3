"""The weight gradient of a depthwise 3D convolution on a CPU, in float32: machine code made for the kernel's size.

PyTorch has no fast path for this gradient, so LLVM (through llvmlite) compiles one when a kernel size is first met,
in some 0.02 s (the first one: 0.1 s). Vectors lie along the channels (channels-last memory), and the sums of several
rows of taps stay in registers while a plane of the clip is read: `rows + kw` loads serve `rows x kw` multiply-adds.
x and grad are (B, T, H, W, C) in memory, the kernel is (kt, kh, kw).
"""

import ctypes
import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

try:
    from llvmlite import binding, ir
except ImportError:  # a platform without llvmlite still trains, with PyTorch's own gradient
    binding = None

MACS_PER_THREAD = 100_000_000  # about 1.5 ms of work: waking a thread can take as long on a busy machine


class Machine(NamedTuple):
    """What the host's vector registers hold: floats in one, and the sums kept in them at a time."""

    lanes: int
    sums: int


class Kernel(NamedTuple):
    """Compiled code: `run` is valid as long as `engine`, which owns it, lives."""

    run: Callable[..., None]
    engine: Any
    lanes: int


def available() -> bool:
    """Whether a kernel can be compiled here."""
    return binding is not None


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
    threads = _threads(x.numel() * size[0] * size[1] * size[2], batch * blocks)
    x, grad = (tensor.permute(0, 2, 3, 4, 1).contiguous() for tensor in (x, grad))
    sums = torch.zeros(threads, blocks, *size, kernel.lanes)
    # Allotted here: PyTorch called in a new thread would start threads of its own.
    rows = torch.zeros(threads, frames * height * (width + size[2] - 1) * kernel.lanes)
    plane = torch.zeros(threads, (height + size[1] - 1) * width * kernel.lanes)
    bounds = [i * batch * blocks // threads for i in range(threads + 1)]
    work = [
        (x.data_ptr(), grad.data_ptr(), *(scratch[i].data_ptr() for scratch in (sums, rows, plane)), *bounds[i : i + 2])
        for i in range(threads)
    ]
    _each(lambda part: kernel.run(*part, batch, channels, *grid, size[0]), work)
    total = sums.sum(0).permute(0, 4, 1, 2, 3).reshape(-1, 1, *size)[:channels]
    outside = [(k - n) // 2 for k, n in zip(kernel_size, size, strict=True)]
    return F.pad(total, [p for n in reversed(outside) for p in (n, n)]) if any(outside) else total.contiguous()


def _each(function: Callable[[Any], None], parts: list[Any]) -> None:
    if len(parts) == 1:
        return function(parts[0])
    with ThreadPoolExecutor(len(parts)) as pool:
        list(pool.map(function, parts))
    return None


def _threads(macs: int, items: int) -> int:
    return max(1, min(torch.get_num_threads(), items, macs // MACS_PER_THREAD))


def _machine(features: dict[str, bool]) -> Machine:
    """Sums leave room for the operands among the 32 (AVX-512, Arm) or 16 vector registers."""
    if features.get("avx512f"):
        return Machine(lanes=16, sums=15)
    if features.get("avx"):
        return Machine(lanes=8, sums=10)
    return Machine(lanes=4, sums=25 if features.get("neon") else 10)


@functools.cache
def compiled(kh: int, kw: int) -> Kernel:
    """The code for kernels of kh x kw taps a plane, and any number of planes; compiled once a process."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    features = binding.get_host_cpu_features()
    machine = _machine(features)
    # LLVM halves the vectors of some AVX-512 hosts for fear of lower clocks; dense multiply-adds gain from whole ones.
    flags = features.flatten() + (",-prefer-256-bit" if machine.lanes == 16 else "")
    target = binding.Target.from_default_triple().create_target_machine(
        cpu=binding.get_host_cpu_name(), features=flags, opt=3, jit=True
    )
    module = binding.parse_assembly(str(_module(kh, kw, machine)))
    _optimise(module, target)
    engine = binding.create_mcjit_compiler(module, target)
    engine.finalize_object()
    signature = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 5, *[ctypes.c_int64] * 8)  # releases the GIL
    return Kernel(signature(engine.get_function_address("weight_gradient")), engine, machine.lanes)


def _optimise(module: Any, target: Any) -> None:
    """Three passes make this program as fast as the whole -O2 pipeline does, in a third of its time (measured)."""
    passes = binding.create_new_module_pass_manager()
    passes.add_sroa_pass()  # the sums move from memory to registers
    passes.add_instruction_combine_pass()
    passes.add_loop_rotate_pass()
    passes.run(module, binding.create_pass_builder(target, binding.create_pipeline_tuning_options()))


# Below, the program in LLVM's terms. `b` is the builder; sizes and indices are 64-bit, counted in floats.


def _module(kh: int, kw: int, machine: Machine) -> "ir.Module":
    """For each item (channel block, clip): copy the clip's block with zeros around, then sum plane by plane.

    Arguments: x, grad, the sums (blocks, kt, kh, kw, lanes), scratch (T, H, W + kw - 1, lanes) for x and
    (H + kh - 1, W, lanes) for a plane of grad, both zero; first and last item; B, C, T, H, W, kt.
    """
    module, word, pointer = ir.Module(), ir.IntType(64), ir.PointerType()
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [pointer] * 5 + [word] * 8), "weight_gradient")
    for argument in function.args[:5]:
        argument.add_attribute("noalias")
    x, grad, sums, rows, plane, first, last, batch, channels, frames, height, width, kt = function.args
    b, lanes = ir.IRBuilder(function.append_basic_block()), machine.lanes
    area, width_padded = b.mul(height, width), b.add(width, word(kw - 1))
    with _loop(b, first, last) as item:
        block, clip = b.udiv(item, batch), b.urem(item, batch)
        channel = b.mul(block, word(lanes))
        start = b.add(_product(b, clip, frames, area, channels), channel)
        copy = functools.partial(_copy_rows, b, width=width, channels=channels, left=b.sub(channels, channel))
        inside = _at(b, rows, word(kw // 2 * lanes))
        copy(inside, _at(b, x, start), b.mul(frames, height), b.mul(width_padded, word(lanes)), lanes)
        with _loop(b, word(0), frames) as t:
            inside = _at(b, plane, b.mul(width, word(kh // 2 * lanes)))
            source = _at(b, grad, b.add(start, _product(b, t, area, channels)))
            copy(inside, source, height, b.mul(width, word(lanes)), lanes)
            with _loop(b, word(0), kt) as tap:
                t_x = b.sub(b.add(t, tap), b.lshr(kt, word(1)))
                with b.if_then(b.icmp_unsigned("<", t_x, frames)):  # unsigned: a negative one is large
                    x_plane = _at(b, rows, _product(b, t_x, height, width_padded, word(lanes)))
                    taps = _product(b, b.add(b.mul(block, kt), tap), word(kh * kw * lanes))
                    _sum_plane(b, x_plane, plane, _at(b, sums, taps), height, width, kh, kw, machine)
    b.ret_void()
    return module


def _sum_plane(
    b: Any, x: Any, grad: Any, sums: Any, height: Any, width: Any, kh: int, kw: int, machine: Machine
) -> None:
    """Add to all kh x kw taps what one plane of x and one of grad give, a few rows of taps at a time.

    sums[i, j] += sum over r, w of x[r, w + j] grad[r + kh - 1 - i, w], in the padded planes.
    """
    lanes, step = machine.lanes, max(1, machine.sums // kw)
    vector, word = ir.VectorType(ir.FloatType(), lanes), ir.IntType(64)
    multiply_add = ir.Function(b.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fmuladd.v{lanes}f32")
    for top in range(0, kh, step):
        rows = range(top, min(top + step, kh))
        totals = {(i, j): _register(b, vector) for i in rows for j in range(kw)}
        with _loop(b, word(0), height) as r, _loop(b, word(0), width) as w:
            at_x = b.add(b.mul(r, b.add(width, word(kw - 1))), w)
            at_grad = [b.add(b.mul(b.add(r, word(kh - 1 - i)), width), w) for i in rows]
            factors = [_load(b, vector, _at(b, grad, b.mul(at, word(lanes)))) for at in at_grad]
            for j in range(kw):
                value = _load(b, vector, _at(b, x, b.mul(b.add(at_x, word(j)), word(lanes))))
                for i, factor in zip(rows, factors, strict=True):
                    total = b.load(totals[i, j], typ=vector)
                    b.store(b.call(multiply_add, [factor, value, total]), totals[i, j])
        for (i, j), total in totals.items():
            place = _at(b, sums, word((i * kw + j) * lanes))
            b.store(b.fadd(_load(b, vector, place), b.load(total, typ=vector)), place, align=4)


def _copy_rows(
    b: Any, to: Any, source: Any, rows: Any, to_stride: Any, lanes: int, *, width: Any, channels: Any, left: Any
) -> None:
    """Copy rows x width positions of one channel block, of which `left` channels exist."""
    vector, word = ir.VectorType(ir.FloatType(), lanes), ir.IntType(64)
    with _loop(b, word(0), rows) as row, _loop(b, word(0), width) as w:
        place = _at(b, to, b.add(b.mul(row, to_stride), b.mul(w, word(lanes))))
        position = _at(b, source, _product(b, b.add(b.mul(row, width), w), channels))
        with b.if_else(b.icmp_signed(">=", left, word(lanes))) as (whole, partial):
            with whole:
                b.store(_load(b, vector, position), place, align=4)
            with partial, _loop(b, word(0), left) as lane:
                # The lanes beyond keep older values: their sums are never read.
                b.store(_load(b, ir.FloatType(), _at(b, position, lane)), _at(b, place, lane), align=4)


@contextmanager
def _loop(b: Any, start: Any, stop: Any) -> Iterator[Any]:
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


def _register(b: Any, vector: Any) -> Any:
    """A zero that the optimiser keeps in a register: memory allotted once, in the function's first block."""
    with b.goto_entry_block():
        slot = b.alloca(vector)
    b.store(ir.Constant(vector, None), slot)
    return slot


def _at(b: Any, base: Any, offset: Any) -> Any:
    return b.gep(base, [offset], source_etype=ir.FloatType())


def _load(b: Any, kind: Any, place: Any) -> Any:
    return b.load(place, align=4, typ=kind)


def _product(b: Any, *factors: Any) -> Any:
    return functools.reduce(b.mul, factors)
