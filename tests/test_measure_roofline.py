"""The roofline: arithmetic by hand, ceilings on a clock that we turn, and on this machine."""

import itertools

import pytest
import torch

from uniformer_bench.errors import UbenchError
from uniformer_bench.measure import roofline
from uniformer_bench.measure.latency import Sample, Stopwatch
from uniformer_bench.measure.protocol import Protocol
from uniformer_bench.measure.roofline import Bound, Ceilings, bound, ceilings, verdict

AT = Protocol(device="cpu", frames=1, size=(8, 8))
ROOF = Ceilings(flops_per_s=2e9, bytes_per_s=1e9, how="by hand")  # ridge 2 FLOP a byte


def test_bound_by_hand():
    assert ROOF.ridge == 2
    assert bound(3_000_000, 1_000_000, ROOF) == Bound("compute", 3.0)  # 6 MFLOP at 2 GFLOP/s, 1 MB at 1 GB/s
    assert bound(500_000, 4_000_000, ROOF) == Bound("memory", 4.0)
    assert bound(1_000_000, 1_000_000, ROOF) == Bound("compute", 1.0)  # on the ridge


def test_overhead_is_what_neither_ceiling_explains():
    assert verdict(Bound("memory", 2.0), 6.0) == "memory"
    assert verdict(Bound("memory", 2.0), 6.1) == "overhead"
    assert verdict(Bound("compute", 2.0), 1.0) == "compute"


def _clock(times_ms):
    """A clock whose runs are run once, take the times given, and of which every look is a second later."""
    seconds = itertools.count()

    def time_runs(run, n):
        run()
        return [Sample(next(times_ms)) for _ in range(n)]

    return Stopwatch(time_runs, lambda: next(seconds), 0.001, lambda: 0.0, 1)


def test_ceilings_are_the_fastest_runs_after_warm_up(monkeypatch):
    monkeypatch.setattr(roofline, "SMALLEST_SIDE", 8)
    monkeypatch.setattr(roofline, "COPIED_BYTES", 4 * roofline.BLOCK)
    # 8x8: warm-up, 1 ms is too short; 16x16: warm-up, 20 ms; warm-up, then 12 the fastest; copy: warm-up, then 5.
    times = iter([0.1, 1, 0.1, 20, 0.1, 13, 12, 14, 0.1, 6, 5, 7])
    found = ceilings(AT, 1.0, clock=_clock(times))
    assert found.flops_per_s == pytest.approx(2 * 16**3 / 0.012)
    assert found.bytes_per_s == pytest.approx(2 * 4 * roofline.BLOCK / 0.005)
    assert "16x16 fp32" in found.how
    assert f"threads {torch.get_num_threads()}" in found.how
    assert next(times, None) is None


def test_matrices_stop_growing(monkeypatch):
    monkeypatch.setattr(roofline, "SMALLEST_SIDE", 8)
    monkeypatch.setattr(roofline, "LARGEST_SIDE", 16)
    monkeypatch.setattr(roofline, "COPIED_BYTES", 1)
    assert "16x16" in ceilings(AT, 1.0, clock=_clock(itertools.repeat(0.5))).how


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_this_machine_has_ceilings(precision, monkeypatch):
    monkeypatch.setattr(roofline, "SMALLEST_SIDE", 128)
    monkeypatch.setattr(roofline, "LONG_ENOUGH_MS", 0.0)
    monkeypatch.setattr(roofline, "COPIED_BYTES", 1 << 20)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    found = ceilings(Protocol(device="cpu", frames=1, size=(8, 8), precision=precision), 0.01)
    assert found.flops_per_s > 0
    assert found.bytes_per_s > 0
    assert found.to_dict() == {"flops_per_s": found.flops_per_s, "bytes_per_s": found.bytes_per_s, "how": found.how}
    assert torch.equal(torch.get_rng_state(), before)


def test_a_budget_must_be_positive():
    with pytest.raises(UbenchError, match="budget_s must be positive, got 0"):
        ceilings(AT, 0)
