"""Four counters, one number: exactly the closed form's, whatever the architecture and the operators."""

import sys

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from tests.specs import CLIP, random_spec
from uniformer_bench.measure import macs
from uniformer_bench.measure.macs import Count, count_macs, count_training_macs
from uniformer_bench.spec import ArchSpec, StageSpec
from uniformer_bench.variants import find_variant

COUNTERS = {"closed_form", "torch", "fvcore", "ptflops"}
# 2 tokens of width 4 out of a clip 3x1x4x8: the stem's 3x3x4x4 taps, DPE, qkv and projection, the two products of
# attention, an FFN of 8, a head of 5 classes.
BY_HAND = 2 * 4 * 3 * 3 * 16 + 2 * 4 * 27 + 4 * 2 * 4 * 4 + 2 * 2 * 2 * 4 + 2 * 2 * 4 * 8 + 4 * 5
ONE_BLOCK = ArchSpec(stages=(StageSpec(mixer="global", depth=1, width=4, mlp_ratio=2),), head_dim=2)


def _numbers(counts):
    return {name: count.macs for name, count in counts.items()}


def _small(spec, implementation="fast"):
    return count_macs(spec, **CLIP, num_classes=7, implementation=implementation)


def test_one_block_by_hand():
    counts = count_macs(ONE_BLOCK, frames=1, size=(4, 8), num_classes=5)
    assert _numbers(counts) == dict.fromkeys(COUNTERS, BY_HAND)


@pytest.mark.parametrize("implementation", ["fast", "reference"])
@pytest.mark.parametrize("seed", range(8))
def test_all_agree_on_random_architectures(seed, implementation):
    found = _numbers(_small(random_spec(seed), implementation))
    assert set(found) == COUNTERS
    assert len(set(found.values())) == 1, found


@pytest.mark.parametrize("implementation", ["fast", "reference"])
def test_uniformer_s_is_the_published_figure(implementation):
    row = find_variant("s")
    counts = count_macs(row.spec, frames=16, size=224, num_classes=400, implementation=implementation)
    assert _numbers(counts) == dict.fromkeys(COUNTERS, 41_662_541_824)
    assert counts["torch"].raw == 83_325_083_648
    attention, norms = 13_060_210_688, 61_716_480 + 32_514_048
    published = 41_662_541_824 + norms  # 41.757: what the paper printed, with fvcore
    assert counts["fvcore"].raw == published - (attention if implementation == "fast" else 0)
    assert counts["ptflops"].raw > counts["ptflops"].macs


def test_training_one_block_by_hand():
    counts = count_training_macs(ONE_BLOCK, frames=1, size=(4, 8), num_classes=5)
    stem = 2 * 4 * 3 * 3 * 16
    assert _numbers(counts) == dict.fromkeys(("closed_form", "torch"), 3 * BY_HAND - stem)
    # torch counts the weight gradient of DPE, 2 x 4 x 27 MACs, as often as it has groups, 4 times
    assert counts["torch"].raw == 2 * (3 * BY_HAND - stem + 3 * 2 * 4 * 27)


@pytest.mark.parametrize("implementation", ["fast", "reference"])
@pytest.mark.parametrize("seed", range(12))
def test_training_agrees_on_random_architectures(seed, implementation):
    counts = count_training_macs(random_spec(seed), **CLIP, num_classes=7, implementation=implementation)
    closed_form, torch_count = counts["closed_form"].macs, counts["torch"].macs
    assert torch_count == pytest.approx(closed_form, rel=1e-3)
    assert counts["torch"].raw >= 2 * torch_count


def test_training_uniformer_s_is_not_what_torch_says():
    counts = count_training_macs(find_variant("s").spec, frames=16, size=224, num_classes=400)
    assert _numbers(counts) == dict.fromkeys(("closed_form", "torch"), 249_512_828_928 // 2)
    assert counts["torch"].raw == 551_507_722_240
    assert "301,994,893,312 too many" in counts["torch"].note


def test_training_that_cannot_be_counted_is_a_reason(monkeypatch):
    monkeypatch.setattr(macs, "FlopCounterMode", lambda **_: 1 / 0)
    counts = count_training_macs(ONE_BLOCK, frames=1, size=(4, 8), num_classes=5)
    assert counts["torch"] == Count(None, None, "FLOPs", "ZeroDivisionError: division by zero")
    assert counts["closed_form"].macs > 0


def test_uniformer_b_is_counted_without_its_memory():
    """Its weights would be 199 MB, the affinities of one block of stage 3 another 12 MB; a byte by hand is seen."""
    row = find_variant("b")
    at = {"frames": row.frames, "size": row.size, "num_classes": row.num_classes}
    model, clip = macs._without_memory(row.spec, row.frames, row.size, row.num_classes, "fast")
    assert {tensor.device.type for tensor in (*model.parameters(), *model.buffers(), clip)} == {"meta"}
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        counts = count_macs(row.spec, **at)
        torch.empty(12345, dtype=torch.uint8)
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    assert 12345 in {event.nbytes() for event in events}
    assert sum(max(0, event.nbytes()) for event in events) - 12345 < 1e5
    assert len(set(_numbers(counts).values())) == 1


def test_tools_are_those_asked_for():
    assert set(count_macs(ONE_BLOCK, frames=1, size=(4, 8), num_classes=5, tools=("torch",))) == {
        "closed_form",
        "torch",
    }


def test_counting_twice_changes_nothing():
    functions = (nn.functional.conv3d, nn.functional.linear, torch.matmul, nn.functional.scaled_dot_product_attention)
    first = _small(random_spec(1))
    assert [_small(random_spec(1)) for _ in range(2)] == [first, first]
    assert functions == (
        nn.functional.conv3d,
        nn.functional.linear,
        torch.matmul,
        nn.functional.scaled_dot_product_attention,
    )
    assert not torch.overrides._is_torch_function_mode_enabled()


def test_counting_leaves_the_random_state_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    _small(random_spec(1))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("package", ["fvcore.nn", "ptflops"])
def test_a_missing_tool_is_a_reason_and_not_zero(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    count = _small(random_spec(1))[package.split(".")[0]]
    assert (count.macs, count.raw) == (None, None)
    assert "ModuleNotFoundError" in count.note


def test_a_failing_tool_says_why(monkeypatch):
    monkeypatch.setattr(macs, "FlopCounterMode", lambda **_: 1 / 0)
    counts = _small(random_spec(1))
    assert counts["torch"] == Count(None, None, "FLOPs", "ZeroDivisionError: division by zero")
    assert counts["ptflops"].macs == counts["closed_form"].macs


def test_a_tool_that_prints_its_failure_is_heard(monkeypatch, capsys):
    monkeypatch.setattr("ptflops.aten_engine.FlopCounterMode", lambda *_: [][0])
    count = _small(random_spec(1))["ptflops"]
    assert count.macs is None
    assert "IndexError" in count.note
    assert capsys.readouterr() == ("", "")


def test_a_counter_is_plain_data():
    assert Count(1, 2.0, "FLOPs").to_dict() == {"macs": 1, "raw": 2.0, "raw_unit": "FLOPs", "note": None}
