"""Latency as ONNX Runtime has it: the same model, in a search and on another device."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from tests.test_search import SPACE, records_of, ubench
from uniformer_bench.cli import cli
from uniformer_bench.errors import UbenchError
from uniformer_bench.export.graphs import check_onnx
from uniformer_bench.measure.protocol import Protocol
from uniformer_bench.model import build, clips_like
from uniformer_bench.remeasure import default_label, protocol_like
from uniformer_bench.report.elsewhere import terms
from uniformer_bench.search.evaluate import latency_run
from uniformer_bench.variants import variant


def test_a_protocol_says_so_where_it_is_so():
    assert "onnx" not in Protocol(device="cpu", frames=8, size=32).to_dict()
    asked = Protocol(device="cpu", frames=8, size=32, onnx=True)
    assert asked.to_dict()["onnx"] is True
    assert terms(asked.to_dict()) == "cpu fp32, batch 1, 1 thread, ONNX Runtime"


@pytest.mark.parametrize(
    ("changes", "got"),
    [
        ({"device": "cuda"}, "cuda, fp32, inference"),
        ({"precision": "bf16"}, "cpu, bf16, inference"),
        ({"compile": True}, "cpu, fp32, compiled, inference"),
        ({"mode": "training"}, "cpu, fp32, training"),
    ],
)
def test_what_it_cannot_be_is_named(changes, got):
    with pytest.raises(UbenchError, match=f"onnx must be inference on a CPU in fp32, not compiled, got {got}"):
        Protocol(**{"device": "cpu", "frames": 8, "size": 32, "onnx": True} | changes)


@pytest.mark.parametrize("name", ["micro", "tiny"])
def test_it_computes_what_the_model_does(name):
    torch.manual_seed(0)
    spec = variant(name)
    model = build(spec, 5).eval()
    found = latency_run(model, spec, Protocol(device="cpu", frames=8, size=32, batch=3, onnx=True))
    with torch.inference_mode():
        expected = model(clips_like(spec, 3, 8, (32, 32)))
    torch.testing.assert_close(found.run(), expected, rtol=0, atol=1e-4)
    assert found.notes == ()


def test_another_device_that_cannot_goes_by_pytorch_and_says_so():
    info = {"input": {"frames": 8, "size": [32, 32]}, "protocol": {"precision": "fp32", "onnx": True}}
    same = protocol_like(info, "cpu", 1, {})
    assert same.onnx
    assert default_label({"cpu": "A"}, same, info["protocol"]) == "A"
    for device, asked in (
        ("mps", {}),
        ("cpu", {"compile": True}),
        ("cpu", {"precision": "bf16"}),
        ("cpu", {"onnx": False}),
    ):
        found = protocol_like(info, device, 1, asked)
        assert not found.onnx
        assert default_label({"cpu": "A"}, found, info["protocol"]).endswith("PyTorch")
    assert default_label({"cpu": "A"}, same, {}) == "A, ONNX Runtime"


def test_what_is_not_installed_is_named(monkeypatch):
    check_onnx()
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name))
    with pytest.raises(UbenchError, match=r"got no onnxruntime: pip install 'uniformer_bench\[export\]'"):
        check_onnx()


def test_a_search_and_another_device_measure_by_it(tmp_path):
    (tmp_path / "space.yaml").write_text(SPACE)
    document, said = ubench(tmp_path, "--trials", "3", "--onnx", "--finalist-seeds", "0")
    assert document["trials"]["complete"] == 3, said
    run = Path(document["run"])
    info = json.loads((run / "run.json").read_text())
    assert info["protocol"]["onnx"] is True
    assert any("Latency is that of ONNX Runtime" in note for note in info["notes"])
    records = records_of(document)
    assert all(record["seconds"]["compile"] > 0 and record["metrics"]["latency"] > 0 for record in records)
    assert all(row["latency_ms"]["median"] > 0 for row in info["finalists"])
    in_torch = CliRunner().invoke(cli, ["remeasure", str(run), "--no-onnx", "--budget", "1s", "--name", "a", "--json",
                                        "--reports", str(tmp_path / "reports")])  # fmt: skip
    assert "onnx" not in json.loads(in_torch.stdout)["protocol"]
    same = CliRunner().invoke(cli, ["remeasure", str(run), "--budget", "1s", "--json",
                                    "--reports", str(tmp_path / "reports")])  # fmt: skip
    assert json.loads(same.stdout)["protocol"]["onnx"] is True
