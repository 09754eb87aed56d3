"""How much memory a model needs at its peak, for inference and for a step of training.

Peaks are of live tensors: weights, clips, activations, in training gradients and AdamW's state too. On a
CPU they come from running the model by shape alone (torch's fake tensors), which computes and allocates
nothing, or where it is small from running it; the two agree within half a percent (by shape, fused attention
is followed by a copy). On a GPU they come from its allocator. None knows what a kernel takes inside.
"""

import copy
import gc
import weakref
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from uniformer_bench.measure.protocol import Protocol

BY_SHAPE = "live tensors of a run by shape"
BY_RUNNING = "live tensors of a run"
BY_ALLOCATOR = "the GPU allocator's peak of live tensors"
SMALL_WEIGHTS_BYTES, SMALL_CLIP_ELEMENTS = 32 << 20, 2 << 20
USES = ("inference", "training")
NOT_ASKED = "not asked for"  # why a figure that takes its time is unknown

COLD, WARM = "cold", "warm"
OUT_OF_MEMORY_WORDS = ("can't allocate memory", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")

Use = Callable[[nn.Module], None]
PeakOf = Callable[[nn.Module, torch.dtype, str, Use, str], "Found"]


@dataclass(frozen=True)
class GpuPeak:
    """Peaks of a GPU's allocator in one run, above what it held before: in the first (cold) libraries take their
    workspaces and try their kernels, in the second (warm) they have. `allocated` is live tensors and workspaces,
    `reserved` also the gaps between them; neither has the CUDA context."""

    use: str
    start: str
    allocated_bytes: int
    reserved_bytes: int


class Found(NamedTuple):
    """The peak that counts, in bytes, and on a GPU those of each of its runs."""

    peak: int
    gpu_peaks: tuple[GpuPeak, ...] = ()


@dataclass(frozen=True)
class Memory:
    """Peaks in bytes; a None has its reason in `reasons`, by field. `reserved_bytes` is what the GPU's
    allocator holds after inference, None without one; `gpu_peaks` are empty without one."""

    inference_peak_bytes: int | None
    training_peak_bytes: int | None
    weights_bytes: int
    method: str
    reserved_bytes: int | None = None
    reasons: tuple[tuple[str, str], ...] = ()
    gpu_peaks: tuple[GpuPeak, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as JSON has it."""
        return asdict(self) | {"reasons": dict(self.reasons), "gpu_peaks": [asdict(peak) for peak in self.gpu_peaks]}


def peak_memory(
    model: nn.Module, clips: Tensor, protocol: Protocol, *, training: bool = True, training_batch: int | None = None
) -> Memory:
    """Peaks of `model`, which is not touched, for clips (B, C, T, H, W) in the protocol's precision.

    Inference has weights and clips in that precision; training has them in fp32 and computes under autocast,
    on `training_batch` clips (default: as many as `clips` has). Only the shape of `clips` is read, and for a
    CPU the model's too, so both may be on the meta device. Raises torch.OutOfMemoryError where a GPU is too
    small for inference.
    """
    device, weights = protocol.device, weights_bytes(model, protocol)
    if device != "cpu" and not device.startswith("cuda"):
        reason = f"{device} does not say what its tensors take"
        return Memory(None, None, weights, reason, None, tuple((f"{use}_peak_bytes", reason) for use in USES))
    elements = max(training_batch if training and training_batch else 1, clips.shape[0]) * clips[0].numel()
    peak_of, method = _route(device, weights, elements)
    shape = tuple(clips.shape)
    inference = peak_in(model, shape, protocol, "inference", peak_of)
    reserved = None if device == "cpu" else torch.cuda.max_memory_reserved(device)
    step, reason = None, NOT_ASKED
    if training:
        try:
            step = peak_in(model, (training_batch or shape[0], *shape[1:]), protocol, "training", peak_of)
        except torch.OutOfMemoryError:
            reason = "the GPU is too small for a step of training"
    reasons = (("training_peak_bytes", reason),) if step is None else ()
    peaks = (*inference.gpu_peaks, *(step.gpu_peaks if step else ()))
    return Memory(inference.peak, step.peak if step else None, weights, method, reserved, reasons, peaks)


def peak_in(
    model: nn.Module, shape: tuple[int, ...], protocol: Protocol, use: str, peak_of: PeakOf | None = None
) -> Found:
    """The peak of one use, inference or training, on clips of that shape; by shape alone unless told otherwise.

    Raises torch.OutOfMemoryError where a GPU that it is run on is too small.
    """
    peak_of = peak_of or _peak_by_shape
    if use == "training":
        return peak_of(model, torch.float32, protocol.device, lambda twin: _train(twin, shape, protocol), use)
    return peak_of(model, protocol.dtype(), protocol.device, lambda twin: _infer(twin, shape, protocol), use)


def weights_bytes(model: nn.Module, protocol: Protocol) -> int:
    """Parameters and buffers in the protocol's precision."""
    size = protocol.dtype().itemsize
    return sum(t.numel() * (size if t.is_floating_point() else t.element_size()) for t in _state(model))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch or Python says that memory ran out; on a CPU torch says it in words only, and so do
    a GPU's libraries of what they take themselves."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY_WORDS)


class LiveBytes(TorchDispatchMode):
    """While active, the bytes of all tensors that operators made and that somebody still holds, and their peak.

    What autograd keeps for the backward pass is held, whoever asked for it. Counts storages, so a view is free.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def track(self, values: Iterable[object]) -> None:
        """Counts tensors from here on; ones that were made before need this."""
        for tensor in values:
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in self._known:
                self._add(tensor.untyped_storage())
        self.peak = max(self.peak, self.live)

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._known.add(key)
        self.live += size
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.track(tree_leaves(out))
        return out


def _state(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _twin(model: nn.Module, dtype: torch.dtype, device: str) -> nn.Module:
    """A model like `model` whose weights are new, undefined and of that dtype; nothing is copied."""

    def like(tensor: Tensor) -> Tensor:
        return torch.empty_like(tensor, device=device, dtype=dtype if tensor.is_floating_point() else None)

    memo: dict[int, Any] = {id(p): nn.Parameter(like(p), p.requires_grad) for p in model.parameters()}
    memo |= {id(b): like(b) for b in model.buffers()}
    return copy.deepcopy(model, memo)


def _route(device: str, weights: int, elements: int) -> tuple[PeakOf, str]:
    """How to find the peak. By shape costs half a second for any model, so that a small one is simply run."""
    if device != "cpu":
        return peak_on_gpu, BY_ALLOCATOR
    small = weights <= SMALL_WEIGHTS_BYTES and elements <= SMALL_CLIP_ELEMENTS
    return (_peak_by_running, BY_RUNNING) if small else (_peak_by_shape, BY_SHAPE)


def _peak_by_running(model: nn.Module, dtype: torch.dtype, device: str, run: Use, use: str) -> Found:
    twin = _twin(model, dtype, device)
    for tensor in _state(twin):
        tensor.detach().zero_()  # what lies in fresh memory may be slow to compute with
    with LiveBytes() as memory:
        memory.track(_state(twin))
        run(twin)
    return Found(memory.peak)


def _peak_by_shape(model: nn.Module, dtype: torch.dtype, device: str, run: Use, use: str) -> Found:
    with FakeTensorMode(allow_non_fake_inputs=True):
        twin = _twin(model, dtype, device)
        with LiveBytes() as memory:
            memory.track(_state(twin))
            run(twin)
    return Found(memory.peak)


def peak_on_gpu(model: nn.Module, dtype: torch.dtype, device: str, run: Use, use: str) -> Found:
    """That of live tensors in a second run: in the first, libraries take workspaces for good, which are not the
    model's."""
    cold = _gpu_peak(lambda: run(_twin(model, dtype, device)), device, use, COLD)
    warm = _gpu_peak(lambda: run(_twin(model, dtype, device)), device, use, WARM)
    return Found(warm.allocated_bytes, (cold, warm))


def _gpu_peak(run: Callable[[], None], device: str, use: str, start: str) -> GpuPeak:
    gc.collect()  # what hangs in a cycle would be freed while we measure
    torch.cuda.empty_cache()
    allocated, reserved = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    torch.cuda.synchronize(device)
    above = torch.cuda.max_memory_allocated(device) - allocated, torch.cuda.max_memory_reserved(device) - reserved
    return GpuPeak(use, start, *above)


def _infer(model: nn.Module, shape: tuple[int, ...], protocol: Protocol) -> None:
    clips = torch.empty(shape, device=protocol.device, dtype=protocol.dtype())
    with torch.inference_mode():
        model.eval()(clips)


def _train(model: nn.Module, shape: tuple[int, ...], protocol: Protocol) -> None:
    """One step as in the middle of a run: AdamW has its state, and last step's gradients are gone.

    A training of ours has the gradients of small weights twice at the end of a step, when the activations are gone:
    more than this where weights outweigh these.
    """
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), fused=True)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    layout = torch.channels_last_3d if len(shape) == 5 else torch.contiguous_format  # as a short run's clips lie
    clips = torch.empty(shape, device=protocol.device, memory_format=layout)
    labels = torch.zeros(shape[0], dtype=torch.int64, device=protocol.device)
    kind, mixed = protocol.device.split(":")[0], protocol.precision != "fp32"
    with torch.autocast(kind, dtype=protocol.dtype() if mixed else None, enabled=mixed):
        logits = model(clips)
    F.cross_entropy(logits.float(), labels).backward()
    optimiser.step()
