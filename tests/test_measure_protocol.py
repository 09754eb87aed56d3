"""The protocol: what it refuses, what a device name means, and that it needs no torch."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from uniformer_bench.errors import UbenchError
from uniformer_bench.measure.protocol import (
    Protocol,
    check_precision,
    default_threads,
    devices_like,
    resolve_device,
    worker_devices,
)


def test_to_dict_is_plain_and_complete():
    protocol = Protocol(device="cpu", frames=16, size=(224, 320), batch=2, threads=3)
    assert protocol.to_dict() == {
        "device": "cpu",
        "precision": "fp32",
        "batch": 2,
        "frames": 16,
        "size": [224, 320],
        "threads": 3,
        "implementation": "fast",
        "compile": False,
        "mode": "inference",
    }


def test_one_number_is_a_square():
    assert Protocol(device="cpu", frames=1, size=32).size == (32, 32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 0}, "batch must be a positive integer, got 0"),
        ({"frames": 1.5}, "frames must be a positive integer, got 1.5"),
        ({"threads": True}, "threads must be a positive integer, got True"),
        ({"size": (32, -1)}, "width must be a positive integer, got -1"),
        ({"size": (1, 2, 3)}, "size must be one number or two"),
        ({"precision": "fp8"}, "precision must be one of fp32, bf16, fp16, got 'fp8'"),
        ({"mode": "dream"}, "mode must be one of inference, training, got 'dream'"),
        ({"cache": "hot"}, "cache must be one of cold, warm, got 'hot'"),
        ({"graph": True}, "graph must be False but on a CUDA device, got True on cpu"),
        ({"cache": "warm"}, "cache must be left out but on a CUDA device, got 'warm' on cpu"),
    ],
)
def test_refusals_name_rule_and_value(change, message):
    with pytest.raises(UbenchError, match=message):
        Protocol(**({"device": "cpu", "frames": 8, "size": 32} | change))


def test_a_gpu_s_settings_are_in_play_on_a_gpu_only():
    cpu, gpu = (Protocol(device=device, frames=8, size=32) for device in ("cpu", "cuda:0"))
    assert (cpu.cache, gpu.cache) == (None, "cold")
    assert replace(gpu, cache="warm") != gpu
    assert replace(cpu, device="cuda:0") == gpu
    assert replace(replace(gpu, cache="warm"), device="cuda:1").cache == "warm"
    assert replace(gpu, graph=True).to_dict() == cpu.to_dict() | {"device": "cuda:0", "cache": "cold", "graph": True}


def test_importing_it_is_cheap():
    code = "import sys, uniformer_bench.measure.protocol; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_worker_for_every_gpu_or_core_or_as_many_as_asked_for(monkeypatch):
    _with_gpus(monkeypatch, 2)
    assert worker_devices("cuda") == ("cuda:0", "cuda:1")
    assert worker_devices("cuda", 3) == ("cuda:0", "cuda:1", "cuda:0")
    assert worker_devices("cuda:1", 2) == ("cuda:1", "cuda:1")
    assert worker_devices("cpu") == ("cpu",) * default_threads()
    assert worker_devices("cpu", 1) == ("cpu",)
    assert worker_devices("mps") == ("mps",)


def _with_gpus(monkeypatch, count):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def test_auto_is_the_gpu_where_there_is_one(monkeypatch):
    _with_gpus(monkeypatch, 2)
    assert [resolve_device(name) for name in ("auto", "cuda", "cuda:1", "cpu")] == ["cuda", "cuda", "cuda:1", "cpu"]
    assert devices_like("cuda") == ("cuda:0", "cuda:1")
    assert devices_like("cuda:1") == ("cuda:1",)
    with pytest.raises(UbenchError, match=r"one of cpu, cuda, cuda:0, cuda:1 on this machine, got 'cuda:2'"):
        resolve_device("cuda:2")


def test_auto_is_the_cpu_without_a_gpu(monkeypatch):
    _with_gpus(monkeypatch, 0)
    assert resolve_device("auto") == "cpu"
    for name in ("cuda", "cuda:0", "mps", "tpu"):
        with pytest.raises(UbenchError, match=f"device must be auto or one of cpu on this machine, got '{name}'"):
            resolve_device(name)


def test_mps_is_taken_where_it_is(monkeypatch):
    _with_gpus(monkeypatch, 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_device("mps") == "mps"
    assert resolve_device("auto") == "cpu"


def test_precisions_that_a_device_cannot_do(monkeypatch):
    monkeypatch.setattr("torch.ops.mkldnn._is_mkldnn_fp16_supported", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    with pytest.raises(UbenchError, match="fp16 must run on a GPU or a CPU with fp16 instructions, got cpu"):
        check_precision("cpu", "fp16")
    with pytest.raises(UbenchError, match="bf16 must run on a GPU that has it, got cuda:0"):
        check_precision("cuda:0", "bf16")
    for device, precision in (("cpu", "bf16"), ("cpu", "fp32"), ("cuda", "fp16")):
        check_precision(device, precision)


def test_there_is_a_thread():
    assert 1 <= default_threads()
