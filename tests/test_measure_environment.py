"""The environment: complete, plain, and silent about who and where."""

import getpass
import importlib.metadata
import json
import platform
import socket
from pathlib import Path
from types import SimpleNamespace

import torch

from uniformer_bench.files import to_json
from uniformer_bench.measure.environment import cpu_model, driver_version, environment, library_version


def test_versions_are_the_installed_ones():
    found = environment()
    assert found["python"] == platform.python_version()
    assert found["torch"] == importlib.metadata.version("torch")
    assert library_version("no_such_library") is None
    assert found["cores"] is None or 1 <= found["cores"]
    assert 1 <= found["usable_cores"]
    assert 0 < found["memory_available_bytes"] < found["memory_bytes"]
    assert found["cpu_capability"]


def test_it_is_strict_json_and_names_nobody(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("OMP_TOOL_LIBRARIES", "/home/someone/tool.so")
    found = environment()
    assert found["variables"]["OMP_NUM_THREADS"] == "1"
    text = to_json(found)
    assert json.loads(text) == found
    assert "/" not in text
    values = json.dumps([value for key, value in found.items() if key not in ("os", "cpu")])
    assert socket.gethostname() not in values
    assert str(Path.home()) not in text
    assert getpass.getuser() not in found["os"]


def test_the_processor_s_name_is_read_from_cpuinfo():
    assert (
        cpu_model("processor\t: 0\nmodel name\t: AMD EPYC 9654\nflags\t: x\nmodel name\t: other\n") == "AMD EPYC 9654"
    )
    assert cpu_model("") is None


def test_the_driver_s_version_is_read_from_its_file():
    old = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\n"
    new = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.10  Release Build  (user@host)\n"
    assert driver_version(old + "GCC version: gcc 12.2.0\n") == "550.54.15"
    assert driver_version(new) == "570.86.10"
    assert driver_version("") is None


def test_a_gpu_s_own_figures_are_there_where_a_gpu_is(monkeypatch):
    assert "gpu_l2_bytes" not in environment() or torch.cuda.is_available()
    figures = {
        "name": "G",
        "total_memory": 80,
        "L2_cache_size": 50,
        "multi_processor_count": 132,
        "major": 9,
        "minor": 0,
    }
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda: SimpleNamespace(**figures))
    found = environment()
    assert (found["gpu"], found["gpu_memory_bytes"], found["gpu_l2_bytes"]) == ("G", 80, 50)
    assert (found["gpu_multiprocessors"], found["gpu_capability"]) == (132, "9.0")
    assert found["tf32_convolutions"] is torch.backends.cudnn.allow_tf32
    assert json.loads(to_json(found)) == found
