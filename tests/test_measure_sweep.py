"""Sweeps: when the doubling stops, where the knee is, and that what cannot be is a row with its reason."""

import io

import pytest
from rich.console import Console

from uniformer_bench.errors import UbenchError
from uniformer_bench.files import to_json
from uniformer_bench.measure import sweep as room
from uniformer_bench.measure.protocol import Protocol
from uniformer_bench.measure.sweep import sweep, sweep_batch, sweep_precision, sweep_table
from uniformer_bench.variants import variant

SPEC = variant("micro")
AT = Protocol(device="cpu", frames=8, size=(32, 32))


def _speeds(monkeypatch, speeds):
    """Rows of these throughputs, by batch, in place of measurements."""

    def timed(model, at, budget_s, peak):
        speed = speeds[at.batch]
        latency = {"median": 1000 * at.batch / speed, "ci95": None, "n": 3, "warnings": []}
        return room._row(at, latency, speed, peak, None)

    monkeypatch.setattr(room, "_timed", timed)


def _batch(**options):
    return sweep_batch(SPEC, **({"num_classes": 5, "protocol": AT, "budget_s": 100.0} | options))


def test_doubling_ends_after_two_in_vain(monkeypatch):
    _speeds(monkeypatch, {1: 100.0, 2: 200.0, 4: 208.0, 8: 230.0, 16: 231.0, 32: 180.0})
    rows = _batch()
    assert [row["batch"] for row in rows] == [1, 2, 4, 8, 16, 32]  # 4 was in vain, 8 was not
    assert [row["batch"] for row in rows if row["knee"]] == [8]  # 5 % below 231 is 219.5
    assert all(row["reason"] is None for row in rows)


def test_a_recovery_from_a_dip_is_no_gain(monkeypatch):
    _speeds(monkeypatch, {1: 100.0, 2: 50.0, 4: 90.0})
    rows = _batch()
    assert [(row["batch"], row["knee"]) for row in rows] == [(1, True), (2, False), (4, False)]


def test_doubling_has_an_end(monkeypatch):
    _speeds(monkeypatch, {1 << i: 2.0**i for i in range(20)})
    assert _batch()[-1]["batch"] == room.LARGEST_BATCH


def test_batches_that_are_given_are_all_measured(monkeypatch):
    _speeds(monkeypatch, {3: 100.0, 5: 100.0, 7: 100.0, 9: 100.0})
    assert [row["batch"] for row in _batch(batches=(3, 5, 7, 9))] == [3, 5, 7, 9]


def test_memory_that_is_short_is_the_last_row(monkeypatch):
    _speeds(monkeypatch, {1: 100.0, 2: 200.0})
    monkeypatch.setattr(room.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 2_000_000}))
    rows = _batch()
    assert rows[-1]["reason"].startswith("out of memory: needs")
    assert rows[-1]["inference_peak_bytes"] > 2_000_000
    assert rows[-1]["clips_per_s"] is None
    assert [row["knee"] for row in rows] == [False, True, False]


def test_out_of_memory_while_running_is_a_row(monkeypatch):
    def fail(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes.")

    monkeypatch.setattr(room, "_timed", fail)
    rows = _batch()
    assert [(row["batch"], row["reason"], row["knee"]) for row in rows] == [(1, "out of memory", False)]


def test_other_errors_are_not_hidden(monkeypatch):
    def fail(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(room, "_timed", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        _batch()


def test_time_that_is_up_is_said(monkeypatch):
    _speeds(monkeypatch, {1: 100.0})
    moments = iter([0.0, 101.0])
    monkeypatch.setattr(room.time, "monotonic", lambda: next(moments))
    assert [row["reason"] for row in _batch()] == [None, "the sweep's 100 s were up"]


def test_a_precision_the_device_lacks_is_a_row(monkeypatch):
    def check(device, precision):
        if precision == "fp16":
            raise UbenchError("fp16 must run elsewhere")

    monkeypatch.setattr(room, "check_precision", check)
    rows = sweep_precision(SPEC, num_classes=5, protocol=AT, budget_s=0.1)
    assert [row["precision"] for row in rows] == ["fp32", "bf16", "fp16"]
    assert [row["reason"] for row in rows] == [None, None, "fp16 must run elsewhere"]
    fp32, bf16, _ = rows
    assert fp32["clips_per_s"] == pytest.approx(1000 / fp32["latency_ms"])
    assert 0.4 < bf16["inference_peak_bytes"] / fp32["inference_peak_bytes"] < 0.7
    assert not any(row["knee"] for row in rows)


def test_both_sweeps_are_plain_data_with_one_knee():
    found = sweep(SPEC, num_classes=5, protocol=AT, budget_s=0.5)
    assert to_json(found)
    assert set(found) == {"batch", "precision"}
    assert sum(row["knee"] for row in found["batch"]) == 1
    measured = [row for row in found["batch"] if row["reason"] is None]
    assert [row["batch"] for row in measured] == [1 << i for i in range(len(measured))]
    assert all(row["n"] >= 3 and row["inference_peak_bytes"] > 0 for row in measured)


def test_refusals():
    with pytest.raises(UbenchError, match="budget_s must be positive, got 0"):
        _batch(budget_s=0)
    with pytest.raises(UbenchError, match="budget_s must be positive, got -1"):
        sweep_precision(SPEC, num_classes=5, protocol=AT, budget_s=-1)
    with pytest.raises(UbenchError, match="precision must be one of"):
        sweep_precision(SPEC, num_classes=5, protocol=AT, budget_s=1, precisions=("fp8",))


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_and_says_why(width, monkeypatch):
    _speeds(monkeypatch, {1: 1000.0, 1024: 2000.0, 4096: 1990.0})
    rows = [*_batch(batches=(1, 1024, 4096)), room._unmeasured(AT, "out of memory: needs 9.9 GB", 9_900_000_000)]
    console = Console(file=io.StringIO(), width=width)
    console.print(sweep_table(rows))
    text = console.file.getvalue()
    assert "…" not in text
    assert text.count("knee") == 1
    assert "batch 1 fp32: out of memory: needs 9.9 GB" in text
