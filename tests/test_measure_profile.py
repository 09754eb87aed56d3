"""The document of `ubench profile`: the contract's keys, sums that hold, and refusals in one line."""

import io
import json

import pytest
import torch
from rich.console import Console

from uniformer_bench.errors import UbenchError
from uniformer_bench.files import to_json
from uniformer_bench.measure import profile as room
from uniformer_bench.measure.energy import Energy
from uniformer_bench.measure.largest_batch import largest_batch
from uniformer_bench.measure.profile import Weights, profile, profile_table
from uniformer_bench.measure.protocol import Protocol
from uniformer_bench.measure.roofline import Ceilings
from uniformer_bench.model import build
from uniformer_bench.model.inference import for_inference
from uniformer_bench.model.weights import load_weights
from uniformer_bench.variants import variant

SPEC = variant("micro")
AT = {"device": "cpu", "frames": 8, "size": 32, "threads": 1}


def _profile(protocol=None, **options):
    given = {"variant": "micro", "num_classes": 10, "protocol": protocol or Protocol(**AT), "budget_s": 0.2}
    return profile(SPEC, **(given | options))


@pytest.fixture(scope="module")
def document():
    return _profile()


def test_the_contract_s_keys(document):
    assert json.loads(to_json(document)) == document
    assert set(document) >= {
        "schema_version", "variant", "spec_id", "spec", "num_classes", "protocol", "params", "macs", "flops",
        "counters", "latency_ms", "throughput_clips_per_s", "memory", "stages", "environment",
        "training", "ceilings", "moved_bytes", "intensity", "attainable_ms",
    }  # fmt: skip
    assert set(document["protocol"]) >= {
        "device", "precision", "batch", "frames", "size", "threads", "implementation", "compile", "warmup", "repeats",
    }  # fmt: skip
    assert set(document["counters"]) == {"closed_form", "torch", "fvcore", "ptflops"}
    assert set(document["latency_ms"]) >= {"median", "p10", "p90", "ci95", "n", "warnings"}
    assert set(document["memory"]) >= {"inference_peak_bytes", "training_peak_bytes", "weights_bytes", "method"}
    assert set(document["stages"][0]) >= {"name", "mixer", "params", "macs", "latency_ms"}
    roofline = {"training_macs", "moved_bytes", "intensity", "bound", "ceiling", "attainable_ms", "reached"}
    for part in (*document["stages"], document["head"], *document["stages"][0]["blocks"]):
        assert set(part) >= roofline | {"latency_ms"}
    assert set(document["ceilings"]) == {"flops_per_s", "bytes_per_s", "how"}
    assert set(document["training"]) == {"macs", "flops", "counters"}


def test_parts_add_up(document):
    parts = [*document["stages"], document["head"]]
    for key in ("params", "macs", "moved_bytes"):
        assert sum(part[key] for part in parts) == document[key]
        for stage in document["stages"]:
            assert sum(block[key] for block in stage["blocks"]) == stage[key]
    assert document["flops"] == 2 * document["macs"]
    training = document["training"]
    assert sum(part["training_macs"] for part in parts) == training["macs"] == training["flops"] // 2
    assert {count["macs"] for count in training["counters"].values()} == {training["macs"]}
    assert document["attainable_ms"] == sum(part["attainable_ms"] for part in parts)
    assert {count["macs"] for count in document["counters"].values()} == {document["macs"]}
    assert document["protocol"]["repeats"] == document["latency_ms"]["n"]
    assert document["throughput_clips_per_s"] == pytest.approx(1000 / document["latency_ms"]["median"])
    assert all(part["latency_ms"] > 0 for part in parts)
    assert document["memory"]["weights_bytes"] > 4 * document["params"]  # buffers too


def test_the_bounds_follow_from_ceilings_and_times(document):
    roof = document["ceilings"]
    for part in (*document["stages"], document["head"]):
        for row in (part, *part.get("blocks", ())):
            times = {"compute": 2000 * row["macs"] / roof["flops_per_s"]}
            times["memory"] = 1000 * row["moved_bytes"] / roof["bytes_per_s"]
            assert row["attainable_ms"] == pytest.approx(max(times.values()))
            assert row["ceiling"] == max(times, key=times.get)
            assert row["bound"] == ("overhead" if row["latency_ms"] > 3 * row["attainable_ms"] else row["ceiling"])
            assert row["reached"] == pytest.approx(row["attainable_ms"] / row["latency_ms"])
            assert row["intensity"] == pytest.approx(2 * row["macs"] / row["moved_bytes"])


def test_costs_are_a_clip_s_and_bounds_the_batch_s(document):
    four = _profile(Protocol(**AT, batch=4))
    weights = 4 * document["params"]
    assert four["macs"] == document["macs"]
    assert four["moved_bytes"] == pytest.approx(document["moved_bytes"] - 0.75 * weights, rel=1e-4)
    stage = four["stages"][0]
    moved_ms = 4000 * stage["moved_bytes"] / four["ceilings"]["bytes_per_s"]
    assert stage["attainable_ms"] >= moved_ms * 0.999


def test_threads_are_set_and_restored(monkeypatch):
    seen, measured = [], room.measure_latency

    def noting(*arguments, **options):
        seen.append(torch.get_num_threads())
        return measured(*arguments, **options)

    def ceilings(*_):
        seen.append(torch.get_num_threads())
        return Ceilings(1e9, 1e9, "not measured")

    monkeypatch.setattr(room, "measure_latency", noting)
    monkeypatch.setattr(room, "ceilings", ceilings)
    before = torch.get_num_threads()
    _profile(Protocol(**(AT | {"threads": 2 if before == 1 else 1})))
    assert set(seen) == {2 if before == 1 else 1}
    assert torch.get_num_threads() == before


def test_bf16_and_weights_from_a_checkpoint(document, tmp_path):
    path, other = tmp_path / "w.pth", tmp_path / "other.pth"
    torch.save(build(SPEC, 10).state_dict(), path)
    found = _profile(Protocol(**AT, precision="bf16"), weights=Weights(path, notes=("read off",)), variant=None)
    assert found["protocol"]["precision"] == "bf16"
    assert found["variant"] is None
    assert found["checkpoint"]["path"] == str(path)
    assert found["checkpoint"]["notes"][0] == "read off"
    assert any("head_dim 16 is assumed" in note for note in found["checkpoint"]["notes"])
    assert "read off" in _text(found)
    assert document["checkpoint"] is None
    torch.save(build(variant("tiny"), 10).state_dict(), other)
    with pytest.raises(UbenchError, match="the weights must be those of LLGG"):
        _profile(weights=Weights(other))
    with pytest.raises(UbenchError, match="inflate must be average or centre, got 'middle'"):
        _profile(weights=Weights(path, "middle"))


def test_flat_weights_are_inflated_as_asked(tmp_path, monkeypatch):
    weights = {name: value[:, :, 0] if value.ndim == 5 and value.shape[2] > 1 else value
               for name, value in build(SPEC, 10).state_dict().items()}  # fmt: skip
    torch.save(weights, tmp_path / "flat.pth")
    loaded, clips_like = [], room.clips_like
    monkeypatch.setattr(room, "measure_energy", lambda run, protocol: loaded.append(run) or Energy(reason="no"))
    found = _profile(weights=Weights(tmp_path / "flat.pth", "centre"), energy=True)
    flat = sum(1 for name, value in build(SPEC, 10).state_dict().items() if value.ndim == 5 and value.shape[2] > 1)
    assert f"{flat} 2D kernels are inflated over time by centre" in found["checkpoint"]["notes"]
    deep = build(SPEC, 10).eval()
    load_weights(deep, weights, inflate="centre")
    with torch.inference_mode():
        assert torch.equal(loaded[0](), for_inference(deep)(clips_like(SPEC, 1, 8, (32, 32))))


def test_what_was_not_asked_for_is_unknown_and_not_shown(document):
    assert document["energy"]["joules_per_clip"] is None
    assert document["energy"]["reason"] == "not asked for"
    for use in ("inference", "training"):
        found = document["largest_batch"][use]
        assert (found["batch"], found["reason"]) == (None, "not asked for")
    for word in ("energy", "largest batch"):
        assert word not in _text(document)


def test_energy_on_a_cpu_is_unknown_with_the_reason():
    found = _profile(energy=True)
    assert found["energy"]["joules_per_clip"] is None
    assert "energy: unknown, no energy counter is read on cpu" in _text(found)


def test_energy_is_that_of_the_model_as_it_is_timed(monkeypatch):
    measured = Energy(joules_per_clip=0.5, net_joules_per_clip=0.4, watts=500.0, idle_watts=100.0, window_s=5.04,
                      clips=10, warnings=("warm",))  # fmt: skip
    shapes = []
    monkeypatch.setattr(room, "measure_energy", lambda run, protocol: shapes.append(run().shape) or measured)
    found = _profile(energy=True)
    assert shapes == [(1, 10)]
    assert json.loads(to_json(found["energy"])) == measured.to_dict()
    text = _text(found)
    assert "energy: 0.500 J a clip at 500 W, 0.400 J above the idle GPU's 100 W, over 5.0 s" in " ".join(text.split())
    assert "\nwarm" in text


def test_the_largest_batch_is_that_of_its_room():
    protocol = Protocol(**AT)
    found = _profile(largest=True)["largest_batch"]
    for use in ("inference", "training"):
        again = largest_batch(SPEC, protocol, num_classes=10, training=use == "training",
                              limit_bytes=found[use]["limit_bytes"]).to_dict()  # fmt: skip
        assert found[use] == again
    assert found["inference"]["batch"] > found["training"]["batch"] > 0


def test_the_largest_batch_is_shown_with_what_there_is_to_say(document):
    inference = {"batch": 12, "peak_bytes": 90, "limit_bytes": 100_000_000, "method": "m", "reason": None}
    training = inference | {"batch": None, "reason": "it does not tell"}
    text = _text(document | {"largest_batch": {"inference": inference, "training": training}}, 150)
    expected = "largest batch in 100.0 MB: inference 12, training unknown; training: it does not tell"
    assert expected in " ".join(text.split())


def test_a_gpu_s_settings_and_its_allocator_are_shown(document):
    peaks = [{"use": "inference", "start": "cold", "allocated_bytes": 2_000_000, "reserved_bytes": 3_000_000}]
    changed = {
        "protocol": document["protocol"] | {"cache": "warm", "graph": True},
        "latency_ms": document["latency_ms"] | {"graph": True},
        "memory": document["memory"] | {"gpu_peaks": peaks},
    }
    text = _text(document | changed)
    assert "fast, cache warm, CUDA graph" in text
    assert "allocated of reserved: inference cold 2.0 MB of 3.0 MB" in text
    assert "cache" not in _text(document)


def test_a_compiler_that_fails_leaves_a_sentence(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model, dynamic: 1 / 0)
    found = _profile(Protocol(**AT, compile=True))
    (sentence,) = found["warnings"]
    assert sentence == "torch.compile failed, so the model runs without it: ZeroDivisionError: division by zero"
    assert found["latency_ms"]["median"] > 0


def test_a_compiler_that_works_is_what_is_timed(monkeypatch):
    calls = []

    def compiled(model, dynamic):
        return lambda clips: calls.append(1) or model(clips)

    monkeypatch.setattr(torch, "compile", compiled)
    found = _profile(Protocol(**AT, compile=True))
    assert found["warnings"] == ["stages are timed without compilation"]
    assert len(calls) == 1 + found["protocol"]["warmup"] + found["protocol"]["repeats"]


def _fail_with(monkeypatch, error):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(room, "measure_latency", fail)


def test_out_of_memory_is_one_line(monkeypatch):
    _fail_with(monkeypatch, RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes."))
    with pytest.raises(UbenchError, match=r"^clips of 1 x 8x32x32 need more memory than cpu has; lower batch, frames"):
        _profile()


def test_other_errors_are_not_hidden(monkeypatch):
    _fail_with(monkeypatch, RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        _profile()


def test_what_cannot_fit_is_refused_before_it_runs():
    with pytest.raises(UbenchError, match=r"clips of 64 x 512x4096x4096 need more memory than is free on this machine"):
        _profile(Protocol(device="cpu", frames=512, size=4096, batch=64))


def test_refusals():
    with pytest.raises(UbenchError, match="a profile's mode must be inference, got 'training'"):
        _profile(Protocol(**AT, mode="training"))
    with pytest.raises(UbenchError, match="unknown implementation 'quick'"):
        _profile(Protocol(**AT, implementation="quick"))
    with pytest.raises(UbenchError, match="a clip must leave a token"):
        _profile(Protocol(**(AT | {"size": 4})))


def _text(document, width=120):
    console = Console(file=io.StringIO(), width=width)
    console.print(profile_table(document))
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_has_a_row_a_part(document, width):
    text = _text(document, width)
    for word in ("stage1", "stage4", "head", "whole", "1 x local", "1 x global", "embedding", "all counters agree"):
        assert word in text
    for word in ("clips/s", "forward and backward", "peak memory", "ceilings measured here"):
        assert word in text
    assert "…" not in text


def test_equal_blocks_are_one_row(document):
    stage = document["stages"][1]
    block = stage["blocks"][1] | {"macs": 2_000_000_000}
    blocks = [stage["blocks"][0], block, block, block]
    text = _text(document | {"stages": [stage | {"blocks": blocks}], "macs": 8_000_000_000}, 80)
    row = next(line for line in text.splitlines() if "3 x local" in line)
    assert "6.000" in row
    assert "75% ███" in row


def test_figures_of_any_size_fit_80_columns(document):
    huge = {"params": 900e6, "macs": 90_000e9, "latency_ms": 99_999.0, "reached": 1.5, "bound": "overhead"}
    stage = document["stages"][0]
    blocks = [block | huge for block in stage["blocks"]]
    whole = document["latency_ms"] | {"median": 99_999.0}
    changed = {"stages": [stage | huge | {"blocks": blocks}], "macs": 90_000 * 10**9, "latency_ms": whole}
    text = _text(document | changed, 80)
    assert "…" not in text
    assert "100%" in text


def test_the_table_says_what_is_unknown(document):
    torch_unknown = document["counters"] | {"torch": document["counters"]["torch"] | {"macs": None}}
    latency = document["latency_ms"] | {"ci95": None, "warnings": ["a sentence about the machine"]}
    memory = document["memory"] | {"training_peak_bytes": None}
    changed = {"counters": torch_unknown, "latency_ms": latency, "memory": memory, "throughput_clips_per_s": None}
    text = _text(document | changed)
    for words in ("counters differ", "training unknown", "a sentence about the machine"):
        assert words in text
    assert "95 % interval" not in text
