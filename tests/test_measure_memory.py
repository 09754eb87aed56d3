"""Peaks by hand, and against torch's profiler, which counts real allocations of a real run."""

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.profiler import ProfilerActivity, profile

from uniformer_bench.files import to_json
from uniformer_bench.measure import memory as room
from uniformer_bench.measure.memory import Found, GpuPeak, LiveBytes, is_out_of_memory, peak_memory, weights_bytes
from uniformer_bench.measure.profile import thread_count
from uniformer_bench.measure.protocol import Protocol
from uniformer_bench.model import build, clips_like
from uniformer_bench.variants import variant

PROTOCOL = Protocol(device="cpu", frames=8, size=32)
BF16 = Protocol(device="cpu", frames=8, size=32, precision="bf16")
SCALARS = 64  # bytes: a loss and its gradient


def test_inference_by_hand():
    model = nn.Sequential(nn.Linear(8, 16, bias=False), nn.GELU(), nn.Linear(16, 4, bias=False))
    weights = 4 * (8 * 16 + 16 * 4)
    memory = peak_memory(model, torch.empty(2, 8), PROTOCOL, training=False)
    assert memory.weights_bytes == weights
    # GELU's moment: the clips, its input and its output.
    assert memory.inference_peak_bytes == weights + 4 * (2 * 8 + 2 * 16 + 2 * 16)
    assert memory.training_peak_bytes is None
    assert memory.to_dict()["reasons"] == {"training_peak_bytes": "not asked for"}


def test_training_by_hand_where_weights_rule():
    memory = peak_memory(nn.Linear(1000, 10, bias=False), torch.empty(1, 1000), PROTOCOL)
    weights, clips, labels, logits, gradient_of_logits = 40_000, 4_000, 8, 40, 40
    steps = 4  # AdamW counts its steps in a float
    expected = weights + 2 * weights + steps + weights + clips + labels + logits + gradient_of_logits
    assert expected <= memory.training_peak_bytes <= expected + SCALARS


def test_training_by_hand_where_activations_rule():
    model, batch = nn.Sequential(nn.Linear(4, 4, bias=False), *[nn.GELU() for _ in range(8)]), 1000
    memory = peak_memory(model, torch.empty(batch, 4), PROTOCOL)
    one, weights, steps = 4 * 4 * batch, 64, 4
    assert memory.inference_peak_bytes == weights + 3 * one
    # At the gradient of log_softmax: clips, the inputs of 8 GELUs, logits, log_softmax, its gradient in and out.
    expected = 3 * weights + steps + (1 + 8 + 1 + 1 + 2) * one + 8 * batch
    assert expected <= memory.training_peak_bytes <= expected + SCALARS


@pytest.fixture(autouse=True)
def one_thread():
    """With two, kernels of the reference take scratch memory, which the profiler sees and no live tensor is."""
    with thread_count(1):
        yield


def _profiled_peak(run):
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def _bytes(tensors):
    return sum(t.numel() * t.element_size() for t in tensors)


@pytest.mark.parametrize("implementation", ["fast", "reference"])
def test_inference_is_what_the_profiler_sees(implementation):
    model = build(variant("tiny"), 10, implementation).eval()
    clips = clips_like(variant("tiny"), 4, 8, (32, 32))
    found = peak_memory(model, clips, PROTOCOL, training=False).inference_peak_bytes
    with torch.inference_mode():
        model(clips)
        allocated = _profiled_peak(lambda: model(clips))
    assert found == pytest.approx(_bytes([clips, *model.state_dict().values()]) + allocated, rel=0.03)


@pytest.mark.parametrize("implementation", ["fast", "reference"])
def test_training_is_what_the_profiler_sees(implementation):
    model = build(variant("tiny"), 10, implementation)
    clips, labels = clips_like(variant("tiny"), 4, 8, (32, 32)), torch.zeros(4, dtype=torch.int64)
    optimiser = torch.optim.AdamW(model.parameters(), fused=True)

    def step():
        F.cross_entropy(model(clips), labels).backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    step()
    state = [t for slot in optimiser.state.values() for t in slot.values()]
    allocated = _profiled_peak(step)
    found = peak_memory(model, clips, PROTOCOL).training_peak_bytes
    assert found == pytest.approx(_bytes([clips, labels, *model.state_dict().values(), *state]) + allocated, rel=0.03)


def test_the_model_is_not_touched():
    model = build(variant("micro"), 10).eval()
    before = copy.deepcopy(model.state_dict())
    kept = {name: id(p) for name, p in model.named_parameters()}
    peak_memory(model, clips_like(variant("micro"), 1, 8, (32, 32)), BF16)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert kept == {name: id(p) for name, p in model.named_parameters()}
    assert not model.training
    assert all(p.grad is None and p.dtype == torch.float32 for p in model.parameters())


def test_a_model_without_memory_gives_the_same_bytes_again_and_again():
    clips = clips_like(variant("micro"), 1, 8, (32, 32))
    found = peak_memory(build(variant("micro"), 10), clips, PROTOCOL, training_batch=64)
    with torch.device("meta"):
        model = build(variant("micro"), 10)
    assert [peak_memory(model, clips.to("meta"), PROTOCOL, training_batch=64) for _ in range(2)] == [found, found]


def test_training_grows_with_its_own_batch():
    model, clips = build(variant("micro"), 10), clips_like(variant("micro"), 1, 8, (32, 32))
    one, two, three = (peak_memory(model, clips, PROTOCOL, training_batch=8 * i) for i in (1, 2, 3))
    assert one.inference_peak_bytes == three.inference_peak_bytes
    # A share for each clip and one for none.
    step = two.training_peak_bytes - one.training_peak_bytes
    assert three.training_peak_bytes - two.training_peak_bytes == pytest.approx(step, rel=0.01)


def test_bf16_halves_inference():
    model, clips = build(variant("micro"), 10), clips_like(variant("micro"), 1, 8, (32, 32))
    full, half = peak_memory(model, clips, PROTOCOL), peak_memory(model, clips, BF16)
    assert half.inference_peak_bytes == pytest.approx(full.inference_peak_bytes / 2, rel=0.001)
    assert half.training_peak_bytes < full.training_peak_bytes
    counters = sum(b.numel() for b in model.buffers() if not b.is_floating_point())
    assert weights_bytes(model, BF16) == (weights_bytes(model, PROTOCOL) - 8 * counters) / 2 + 8 * counters


def test_live_bytes_counts_storages_once_and_forgets_them():
    with LiveBytes() as memory:
        a = torch.zeros(100)
        b = a.view(10, 10).t()  # shares the storage
        assert memory.live == 400
        del a
        assert memory.live == 400
        del b
        assert (memory.live, memory.peak) == (0, 400)


class _Keeps(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x * 2)
        return x.sum()

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0]


def test_live_bytes_sees_what_an_autograd_function_keeps():
    x = torch.ones(100, requires_grad=True)
    with LiveBytes() as memory:
        loss = _Keeps.apply(x)
        assert memory.live == 400 + 4
        loss.backward()
        del loss
    assert x.grad.sum() == 200


def test_a_device_that_does_not_say_is_unknown_with_a_reason():
    protocol = Protocol(device="mps", frames=8, size=32)
    memory = peak_memory(nn.Linear(2, 2), torch.empty(1, 2), protocol)
    assert (memory.inference_peak_bytes, memory.training_peak_bytes, memory.weights_bytes) == (None, None, 24)
    assert memory.to_dict()["reasons"]["inference_peak_bytes"] == "mps does not say what its tensors take"


def _gpu_of(monkeypatch, peaks):
    """A GPU whose peaks are given by the weights' dtype; an exception in place of a peak is raised."""

    def peak(model, dtype, device, run, use):
        assert device == "cuda:0"
        if isinstance(peaks[dtype], Exception):
            raise peaks[dtype]
        return Found(peaks[dtype], (GpuPeak(use, "cold", 2 * peaks[dtype], 3 * peaks[dtype]),))

    monkeypatch.setattr(room, "peak_on_gpu", peak)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 4096)
    protocol = Protocol(device="cuda:0", frames=8, size=32, precision="fp16")
    return peak_memory(nn.Linear(2, 2), torch.empty(1, 2), protocol)


class Allocator:
    """torch.cuda's, in which every run takes what `runs` says, as (live, workspaces for good, gaps); 700 were there."""

    def __init__(self, monkeypatch, runs):
        self.runs, self.log, self.kept = iter(runs), [], 700
        self.peak = self.reserved_peak = 10**9  # of what was before, and must be reset
        for name in ("empty_cache", "synchronize", "reset_peak_memory_stats"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: self.kept)
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: self.kept + 24)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: self.peak)
        monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: self.reserved_peak)

    def empty_cache(self):
        self.log.append("emptied")

    def synchronize(self, device):
        self.log.append("waited")

    def reset_peak_memory_stats(self, device):
        self.peak, self.reserved_peak = self.kept, self.kept + 24
        self.log.append("reset")

    def run(self, twin):
        live, workspace, gaps = next(self.runs)
        self.kept += workspace
        self.peak = max(self.peak, self.kept + live)
        self.reserved_peak = max(self.reserved_peak, self.kept + live + gaps + 24)
        self.log.append(twin)


def test_a_gpu_is_measured_cold_then_warm_without_what_was_there(monkeypatch):
    monkeypatch.setattr(room, "_twin", lambda model, dtype, device: (dtype, device))
    allocator = Allocator(monkeypatch, [(300, 50, 200), (300, 0, 10)])
    found = room.peak_on_gpu(nn.Linear(1, 1), torch.float16, "cuda:1", allocator.run, "inference")
    cold, warm = GpuPeak("inference", "cold", 350, 550), GpuPeak("inference", "warm", 300, 310)
    assert found == Found(300, (cold, warm))
    once = ["emptied", "reset", (torch.float16, "cuda:1"), "waited"]
    assert allocator.log == once + once


def test_a_gpu_says_what_its_allocator_holds(monkeypatch):
    memory = _gpu_of(monkeypatch, {torch.float16: 10, torch.float32: 30})
    assert (memory.inference_peak_bytes, memory.training_peak_bytes, memory.reserved_bytes) == (10, 30, 4096)
    assert (memory.weights_bytes, memory.reasons) == (12, ())
    assert json.loads(to_json(memory.to_dict()))["gpu_peaks"] == [
        {"use": "inference", "start": "cold", "allocated_bytes": 20, "reserved_bytes": 30},
        {"use": "training", "start": "cold", "allocated_bytes": 60, "reserved_bytes": 90},
    ]


def test_a_gpu_too_small_to_train_still_has_its_inference(monkeypatch):
    memory = _gpu_of(monkeypatch, {torch.float16: 10, torch.float32: torch.OutOfMemoryError("CUDA out of memory")})
    assert (memory.inference_peak_bytes, memory.training_peak_bytes) == (10, None)
    assert memory.to_dict()["reasons"] == {"training_peak_bytes": "the GPU is too small for a step of training"}
    with pytest.raises(torch.OutOfMemoryError):
        _gpu_of(monkeypatch, {torch.float16: torch.OutOfMemoryError("CUDA out of memory")})


def test_what_counts_as_out_of_memory():
    said = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")
    libraries = RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), RuntimeError("CUDA error: out of memory")
    python = MemoryError(), torch.OutOfMemoryError("CUDA out of memory")
    assert all(is_out_of_memory(error) for error in (said, *libraries, *python))
    assert not any(is_out_of_memory(error) for error in (RuntimeError("shape"), ValueError("can't allocate memory")))


@pytest.mark.parametrize("name", ["micro", "tiny"])
def test_running_a_small_model_and_running_its_shapes_agree(name, monkeypatch):
    model, clips = build(variant(name), 5), torch.empty(1, 3, 8, 32, 32)
    protocol = Protocol(device="cpu", frames=8, size=32)
    run = peak_memory(model, clips, protocol, training_batch=8)
    monkeypatch.setattr(room, "SMALL_WEIGHTS_BYTES", 0)
    shaped = peak_memory(model, clips, protocol, training_batch=8)
    assert (run.method, shaped.method) == (room.BY_RUNNING, room.BY_SHAPE)
    assert run.inference_peak_bytes == shaped.inference_peak_bytes
    assert run.training_peak_bytes == pytest.approx(
        shaped.training_peak_bytes, rel=5e-3
    )  # a copy behind fused attention
