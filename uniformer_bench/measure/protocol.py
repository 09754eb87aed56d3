"""The protocol: everything that a measured number depends on, as a frozen value that needs no torch.

Two numbers may be compared when their protocols are equal and their environments alike.
"""

import os
from dataclasses import asdict, dataclass
from typing import Any

from uniformer_bench.errors import UbenchError

PRECISIONS = ("fp32", "bf16", "fp16")
MODES = ("inference", "training")
CACHES = ("cold", "warm")


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a model is run: `batch` clips of `frames` x `size` (height, width) on `threads` CPU threads.

    `device` is a device that is there, as resolve_device gives it. On a CUDA device, `cache` says whether its L2
    is emptied before a repeat (cold, the default) or left as the last one made it, and `graph` whether repeats are
    replays of a CUDA graph; elsewhere there is neither. `onnx` says that ONNX Runtime runs the model instead of
    PyTorch, in fp32 on a CPU. Raises UbenchError with the rule and the value.
    """

    device: str
    frames: int
    size: tuple[int, int]
    precision: str = "fp32"
    batch: int = 1
    threads: int = 1
    implementation: str = "fast"
    compile: bool = False
    mode: str = "inference"
    cache: str | None = None
    graph: bool = False
    onnx: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", (self.size, self.size) if isinstance(self.size, int) else tuple(self.size))
        if len(self.size) != 2:
            raise UbenchError(f"size must be one number or two (height, width), got {self.size!r}")
        counts = {"batch": self.batch, "frames": self.frames, "threads": self.threads}
        for name, value in (counts | {"height": self.size[0], "width": self.size[1]}).items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UbenchError(f"{name} must be a positive integer, got {value!r}")
        for name, word, known in (("precision", self.precision, PRECISIONS), ("mode", self.mode, MODES)):
            if word not in known:
                raise UbenchError(f"{name} must be one of {', '.join(known)}, got {word!r}")
        self._check_gpu_settings()
        fits = runs_onnx(self.device, self.precision, self.compile) and self.mode == "inference"
        if self.onnx and not fits:
            got = f"{self.device}, {self.precision}{', compiled' if self.compile else ''}, {self.mode}"
            raise UbenchError(f"onnx must be inference on a CPU in fp32, not compiled, got {got}")

    def _check_gpu_settings(self) -> None:
        if self.cache is not None and self.cache not in CACHES:
            raise UbenchError(f"cache must be one of {', '.join(CACHES)}, got {self.cache!r}")
        if self.cache is not None and not self.on_cuda:
            raise UbenchError(f"cache must be left out but on a CUDA device, got {self.cache!r} on {self.device}")
        if self.graph and not self.on_cuda:
            raise UbenchError(f"graph must be False but on a CUDA device, got True on {self.device}")
        if self.on_cuda and self.cache is None:
            object.__setattr__(self, "cache", "cold")

    @property
    def on_cuda(self) -> bool:
        return self.device.startswith("cuda")

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as JSON has it; `cache` and `graph` only for a CUDA device, `onnx` only where it is true."""
        unsaid = (() if self.on_cuda else ("cache", "graph")) + (() if self.onnx else ("onnx",))
        plain = asdict(self) | {"size": list(self.size)}
        return {name: plain[name] for name in plain if name not in unsaid}

    def dtype(self) -> Any:
        """The torch.dtype of weights and clips."""
        import torch

        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self.precision]


def runs_onnx(device: str, precision: str, compiled: bool) -> bool:
    """Whether a forward pass so measured may be ONNX Runtime's."""
    return device == "cpu" and precision == "fp32" and not compiled


def default_threads() -> int:
    """The logical cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def resolve_device(name: str) -> str:
    """The device that `name` means: auto is a GPU where there is one, else the CPU; cuda is the current GPU.

    Raises UbenchError where it is not there.
    """
    import torch

    there = ["cpu", *(["cuda"] if _gpus() else []), *(f"cuda:{i}" for i in range(_gpus()))]
    there += ["mps"] if torch.backends.mps.is_available() else []
    device = there[min(1, _gpus())] if name == "auto" else name
    if device not in there:
        raise UbenchError(f"device must be auto or one of {', '.join(there)} on this machine, got {name!r}")
    return device


def devices_like(device: str) -> tuple[str, ...]:
    """The devices that may share the work of `device`: every GPU for cuda, else the one that is named."""
    return tuple(f"cuda:{i}" for i in range(_gpus())) if device == "cuda" else (device,)


def worker_devices(device: str, workers: int | None = None) -> tuple[str, ...]:
    """The device of each worker: one for every core of a CPU or every GPU that `devices_like` names, or so many in
    turn."""
    own = (device,) * default_threads() if device == "cpu" else devices_like(device)
    return tuple(own[i % len(own)] for i in range(workers or len(own)))


def _gpus() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def emulated(device: str, precision: str) -> bool:
    """Whether the device computes in `precision` without instructions for it: bf16 on a CPU with AVX2 alone takes ten
    times as long as fp32."""
    import torch

    return precision == "bf16" and device == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported()


def check_precision(device: str, precision: str) -> None:
    """Raises UbenchError where `device` cannot compute in `precision` at speed.

    A CPU without fp16 instructions runs fp16 convolutions one element after another, 10 to 30 times slower
    than fp32, so what it would show is no property of the model.
    """
    import torch

    if precision == "fp16" and device == "cpu" and not torch.ops.mkldnn._is_mkldnn_fp16_supported():
        raise UbenchError("fp16 must run on a GPU or a CPU with fp16 instructions, got cpu; bf16 and fp32 run here")
    if precision == "bf16" and device.startswith("cuda") and not torch.cuda.is_bf16_supported():
        raise UbenchError(f"bf16 must run on a GPU that has it, got {device}; fp16 and fp32 run there")
