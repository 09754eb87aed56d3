"""The GPU's clock by a fake torch.cuda that logs what it is asked to do, in order. No GPU is needed."""

import contextlib
import itertools
from types import SimpleNamespace

import pytest
import torch

from uniformer_bench.measure.clocks import Sample, _issue_ms, capture_graph, l2_flush, protocol_clock, stopwatch
from uniformer_bench.measure.gpu import GpuState
from uniformer_bench.measure.protocol import Protocol

STATE = GpuState(sm_clock_mhz=1000)


class Cuda:
    """A device whose events are 1 ms apart and that fails a capture where told to."""

    def __init__(self, l2_bytes=1000, refuses=None):
        self.log, self.ticks, self.l2_bytes, self.refuses = [], itertools.count(), l2_bytes, refuses
        outer = self

        class Event:
            def __init__(self, enable_timing):
                assert enable_timing

            def record(self):
                self.at = float(next(outer.ticks))
                outer.log.append("event")

            def elapsed_time(self, end):
                assert outer.log[-2:] == ["wait", ")"]
                return end.at - self.at

        self.Event = Event

    def device(self, device):
        return self._within(f"on {device}")

    def get_device_properties(self, device):
        return SimpleNamespace(L2_cache_size=self.l2_bytes)

    def synchronize(self):
        self.log.append("wait")

    def CUDAGraph(self):  # noqa: N802
        return SimpleNamespace(replay=lambda: self.log.append("replay"))

    def Stream(self, device):  # noqa: N802
        return SimpleNamespace(name="side", wait_stream=lambda other: self.log.append(f"side after {other.name}"))

    def current_stream(self):
        return SimpleNamespace(name="main", wait_stream=lambda other: self.log.append(f"main after {other.name}"))

    def stream(self, stream):
        return self._within(stream.name)

    def graph(self, graph, stream):
        if self.refuses:
            raise self.refuses
        return self._within(f"capture on {stream.name}")

    @contextlib.contextmanager
    def _within(self, words):
        self.log.append(f"({words}")
        yield
        self.log.append(")")


def _clock(cuda, monkeypatch, **settings):
    protocol = Protocol(device="cuda:0", frames=8, size=32, **settings)
    monkeypatch.setattr(
        "uniformer_bench.measure.clocks.l2_flush", lambda device, cuda: lambda: cuda.log.append("flush")
    )

    def read():
        cuda.log.append("read")
        return STATE

    return protocol_clock(protocol, read=read, cuda=cuda)


def test_a_cold_repeat_is_flushed_before_its_first_event(monkeypatch):
    cuda = Cuda()
    samples = _clock(cuda, monkeypatch).time(lambda: cuda.log.append("run"), 2)
    assert samples == [Sample(1.0, None, STATE)] * 2
    repeat = ["flush", "event", "run", "event"]
    assert cuda.log == ["(on cuda:0", *repeat, *repeat, "read", "wait", ")"]


def test_warm_repeats_follow_each_other(monkeypatch):
    cuda = Cuda()
    samples = _clock(cuda, monkeypatch, cache="warm").time(lambda: cuda.log.append("run"), 2)
    assert samples == [Sample(1.0, None, STATE)] * 2
    assert cuda.log == ["(on cuda:0", "event", "run", "event", "run", "event", "read", "wait", ")"]


def test_the_flush_writes_twice_the_cache():
    found = {size: l2_flush("cpu", Cuda(size)).__self__ for size in (1000, 0)}
    assert found[1000].numel() == 2000
    assert found[0].numel() == 2 * 128 << 20  # where CUDA does not say
    buffer = found[1000].fill_(7)
    with torch.inference_mode():
        buffer.zero_()
    assert not buffer.any()


def test_the_host_s_time_is_taken_on_an_idle_gpu():
    cuda, times = Cuda(), iter([0.0, 0.002, 1.0, 1.009, 2.0, 2.003])
    found = _issue_ms(lambda: cuda.log.append("run"), "cuda:0", cuda, lambda: next(times))
    assert found == pytest.approx(3.0)  # the median of 2, 9 and 3
    assert cuda.log == ["(on cuda:0", *["wait", "run"] * 3, "wait", ")"]


def test_a_graph_is_captured_on_a_side_stream_after_a_warm_up():
    cuda = Cuda()
    replay, reason = capture_graph(lambda: cuda.log.append("run"), "cuda:0", cuda)
    replay()
    warm_up = ["side after main", "(side", "run", "run", "run", ")", "main after side"]
    assert cuda.log == ["(on cuda:0", *warm_up, "(capture on side", "run", ")", ")", "replay"]
    assert reason is None


def test_what_cannot_be_captured_is_run_with_a_word():
    cuda, run = Cuda(refuses=RuntimeError("operation not permitted\nwhen stream is capturing")), lambda: None
    same, reason = capture_graph(run, "cuda:0", cuda)
    assert same is run
    assert reason.startswith("no CUDA graph could be captured, so every kernel is launched anew: RuntimeError: ")
    assert reason.endswith("operation not permitted when stream is capturing")
    assert cuda.log[-1] == "wait"
    with pytest.raises(KeyError, match="ours"):
        capture_graph(run, "cuda:0", Cuda(refuses=KeyError("ours")))


def test_a_cpu_has_the_plain_clock():
    clock = protocol_clock(Protocol(device="cpu", frames=8, size=32))
    assert (clock.state, clock.issue_ms, clock.capture) == (None, None, None)
    assert (clock.cores, clock.resolution_ms) == (stopwatch("cpu").cores, stopwatch("cpu").resolution_ms)


def test_a_gpu_s_clock_can_issue_and_capture(monkeypatch):
    cuda = Cuda()
    clock = _clock(cuda, monkeypatch)
    assert clock.state() is STATE
    assert clock.issue_ms(lambda: None) >= 0
    assert clock.capture(lambda: None)[1] is None
