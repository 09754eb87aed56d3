"""The largest batch against brute force: on a CPU by shape, on a fake GPU by trying."""

import json

import pytest
import torch

from uniformer_bench.errors import UbenchError
from uniformer_bench.files import to_json
from uniformer_bench.measure import largest_batch as room
from uniformer_bench.measure.largest_batch import BY_LINE, BY_TRYING, by_shape, by_trying, largest_batch
from uniformer_bench.measure.memory import BY_SHAPE, Found, GpuPeak, peak_in
from uniformer_bench.measure.protocol import Protocol
from uniformer_bench.model import build
from uniformer_bench.variants import variant

CPU = Protocol(device="cpu", frames=8, size=32)
GPU = Protocol(device="cuda:0", frames=8, size=32)


def _brute_force(peak, limit, cap):
    return max((batch for batch in range(1, cap + 1) if peak(batch) <= limit), default=0)


def _counted(peak):
    calls = []

    def counting(batch):
        calls.append(batch)
        return peak(batch)

    return counting, calls


@pytest.mark.parametrize("limit", [1099, 1100, 1109, 1110, 1120, 5555, 10**5])
def test_a_straight_line_needs_four_looks(limit):
    peak, calls = _counted(lambda batch: 1000 + 10 * batch + 90)
    found = by_shape(peak, limit)
    assert found.batch == _brute_force(lambda batch: 1090 + 10 * batch, limit, 10_000)
    assert len(calls) == len(set(calls)) <= 4
    assert found.method == BY_SHAPE


@pytest.mark.parametrize("find", [by_shape, by_trying])
@pytest.mark.parametrize(
    "peak",
    [
        lambda batch: max(1000 + batch, 100 * batch, 300 * batch - 9000),  # other moments rule at other batches
        lambda batch: 7 * batch * batch,
        lambda batch: 100 * (batch // 8),  # steps
        lambda batch: 50,
        lambda batch: 40 + (batch > 77) * 10**6,
    ],
)
def test_any_growing_peak_is_solved_like_brute_force(find, peak):
    for limit in (45, 99, 1000, 1001, 3000, 12_345, 10**5):
        found = find(peak, limit, 200)
        assert found.batch == _brute_force(peak, limit, 200)
        assert found.reason is None or found.batch in (0, 200)
        if found.batch:
            assert found.peak_bytes == peak(found.batch) <= limit


def test_a_peak_that_jumps_is_halved_where_lines_mislead():
    peak, calls = _counted(lambda batch: batch + (batch > 7000) * 10**9)
    assert by_shape(peak, 10**6, 10_000).batch == 7000
    assert len(calls) <= 2 + 2 * BY_LINE + 1 + 14  # 2^14 > 10 000


def test_beyond_the_cap_nobody_looks():
    for find in (by_shape, by_trying):
        for cap in (1, 2, 3, 10):
            peak, calls = _counted(lambda batch: batch)
            found = find(peak, 10**9, cap)
            assert (found.batch, max(calls)) == (cap, cap)
            assert found.reason == f"batches above {cap} were not looked at"


def test_where_one_clip_is_too_large_the_answer_is_none_of_them():
    found = by_shape(lambda batch: 3_000_000 * batch, 2_000_000)
    assert (found.batch, found.peak_bytes) == (0, 3_000_000)
    assert found.reason == "one clip needs 3.0 MB, the limit is 2.0 MB"
    tried = by_trying(lambda batch: "out of memory", 2_000_000)
    assert (tried.batch, tried.peak_bytes, tried.reason) == (0, None, "one clip ran out of memory, the limit is 2.0 MB")


def test_what_stops_a_gpu_before_its_memory_is_named():
    found = by_trying(lambda batch: batch if batch < 13 else "RuntimeError: too many elements", 10**6)
    assert (found.batch, found.reason) == (12, "batch 13 stopped at RuntimeError: too many elements")
    full = by_trying(lambda batch: batch if batch < 13 else "out of memory", 10**6)
    assert (full.batch, full.peak_bytes, full.reason) == (12, 12, None)


@pytest.mark.parametrize("training", [False, True])
def test_a_real_model_on_a_small_limit_like_brute_force(training):
    spec, use = variant("micro"), "training" if training else "inference"
    model = build(spec, 10)

    def peak(batch):
        return peak_in(model, (batch, 3, 8, 32, 32), CPU, use).peak

    limit = peak(5) + 1000
    expected = _brute_force(peak, limit, 7)
    found = largest_batch(model, CPU, training=training, limit_bytes=limit)
    assert (found.batch, found.limit_bytes, found.reason) == (expected, limit, None)
    assert found == largest_batch(spec, CPU, num_classes=10, training=training, limit_bytes=limit)
    assert json.loads(to_json(found.to_dict()))["batch"] == expected == 5


def test_without_a_limit_it_is_what_is_available_less_a_tenth(monkeypatch):
    monkeypatch.setattr(room.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 10_000_000}))
    found = largest_batch(variant("micro"), CPU, num_classes=10)
    assert found.limit_bytes == 9_000_000
    assert found.batch >= 1


@pytest.mark.parametrize(("name", "value"), [("limit_bytes", 0), ("cap", 0)])
def test_limits_must_be_positive(name, value):
    with pytest.raises(UbenchError, match=f"{name} must be positive, got {value}"):
        largest_batch(variant("micro"), CPU, **{name: value})


def test_a_device_that_does_not_tell_is_unknown():
    found = largest_batch(variant("micro"), Protocol(device="mps", frames=8, size=32))
    assert (found.batch, found.peak_bytes, found.reason) == (None, None, "mps does not say what its tensors take")


def _gpu(monkeypatch, fails):
    """A GPU of 10 MB, on which a clip takes 1 MB live and the allocator half as much again in its first run."""
    log = []

    def peak(model, shape, protocol, use, peak_of):
        batch = shape[0]
        log.append((batch, use))
        fails(batch)
        runs = (
            GpuPeak(use, "cold", batch * 10**6, batch * 1_500_000),
            GpuPeak(use, "warm", batch * 10**6, batch * 10**6),
        )
        return Found(batch * 10**6, runs)

    monkeypatch.setattr(room, "peak_in", peak)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: log.append("emptied"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10_000_000, 80_000_000))
    return log


def test_a_gpu_is_tried_until_it_is_out_of_memory(monkeypatch):
    def fails(batch):
        if batch > 6:
            raise torch.OutOfMemoryError("CUDA out of memory")

    log = _gpu(monkeypatch, fails)
    found = largest_batch(variant("micro"), GPU, training=True)
    assert (found.batch, found.peak_bytes, found.limit_bytes) == (6, 9_000_000, 10_000_000)
    assert (found.method, found.reason) == (BY_TRYING, None)
    tried = [(batch, "training") for batch in (1, 2, 4, 8, 6, 7)]
    assert log == ["emptied", *tried[:4], "emptied", *tried[4:], "emptied"]


def test_a_limit_binds_on_a_gpu_before_its_memory_does(monkeypatch):
    _gpu(monkeypatch, lambda batch: None)
    assert largest_batch(variant("micro"), GPU, limit_bytes=4_600_000).batch == 3


def test_another_error_is_a_reason_but_not_for_one_clip(monkeypatch):
    def fails(batch):
        if batch >= 3:
            raise RuntimeError("canUse32BitIndexMath\nis false")

    _gpu(monkeypatch, fails)
    found = largest_batch(variant("micro"), GPU)
    assert (found.batch, found.reason) == (2, "batch 3 stopped at RuntimeError: canUse32BitIndexMath is false")

    def broken(batch):
        raise RuntimeError("a mistake of ours")

    _gpu(monkeypatch, broken)
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        largest_batch(variant("micro"), GPU)
