"""What this machine and its software are, as plain data to stand beside a number.

Unknown is None. Nothing in it names the host, a user or a path.
"""

import importlib.metadata
import os
import platform
import re
from pathlib import Path
from typing import Any

from uniformer_bench.measure.protocol import default_threads

LIBRARIES = ("torch", "numpy", "optuna")
VARIABLES = (
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "OMP_PROC_BIND",
    "OMP_PLACES",
    "OMP_DYNAMIC",
    "MKL_NUM_THREADS",
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_ALLOC_CONF",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_LAUNCH_BLOCKING",
    "NVIDIA_TF32_OVERRIDE",
)


def environment() -> dict[str, Any]:
    """Versions, processor, GPU, memory in bytes, load and the thread settings of the moment."""
    return {
        "python": platform.python_version(),
        **{name: library_version(name) for name in LIBRARIES},
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        **_processor(),
        **_gpu(),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def library_version(name: str) -> str | None:
    """The installed version of a library, which is not imported."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> dict[str, Any]:
    import psutil
    import torch

    memory = psutil.virtual_memory()
    return {
        "cpu": cpu_model(_text("/proc/cpuinfo")) or platform.processor() or None,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": psutil.cpu_count(logical=False),
        "usable_cores": default_threads(),
        "threads": torch.get_num_threads(),
        "memory_bytes": memory.total,
        "memory_available_bytes": memory.available,
    }


def _gpu() -> dict[str, Any]:
    import torch

    there = torch.cuda.is_available()
    properties = torch.cuda.get_device_properties() if there else None
    return {
        "gpu": properties.name if properties else None,
        "gpu_count": torch.cuda.device_count() if there else 0,
        "gpu_memory_bytes": properties.total_memory if properties else None,
        "gpu_driver": driver_version(_text("/proc/driver/nvidia/version")) if there else None,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if there else None,
        **(_gpu_details(properties) if there else {}),
    }


def _gpu_details(properties: Any) -> dict[str, Any]:
    """What more a GPU's times depend on: TF32 is what fp32 convolutions are computed in unless it is switched off."""
    import torch

    return {
        "gpu_l2_bytes": getattr(properties, "L2_cache_size", None),
        "gpu_multiprocessors": properties.multi_processor_count,
        "gpu_capability": f"{properties.major}.{properties.minor}",
        "nvml": library_version("nvidia-ml-py"),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "tf32_convolutions": torch.backends.cudnn.allow_tf32,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
    }


def cpu_model(cpuinfo: str) -> str | None:
    """The processor's name in the text of Linux' /proc/cpuinfo."""
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return found.group(1).strip() if found else None


def driver_version(text: str) -> str | None:
    """The version in the text of the NVIDIA driver's own file."""
    found = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)", text)
    return found.group(1) if found else None


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
