"""What NVML says of a GPU at one moment: clocks, what holds them down, heat, power, energy, and who else is on it.

Needs the package nvidia-ml-py (extra `gpu`), imported when first asked. What is not known is None, with the reason
beside it. Devices are matched by UUID, since NVML's numbers ignore CUDA_VISIBLE_DEVICES.
"""

import importlib
import os
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import psutil
import torch

# Bits of NVML's clocks event reasons (its manual, "Clocks Event Reasons").
EVENT_REASONS = {
    0x1: "idle",
    0x2: "clocks set by a user",
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "heat (software)",
    0x40: "heat (hardware)",
    0x80: "power brake",
    0x100: "display clocks",
    0x200: "board limit",
    0x400: "reliability",
}
SLOWING = frozenset(EVENT_REASONS[bit] for bit in (0x4, 0x8, 0x20, 0x40, 0x80, 0x200, 0x400))


@dataclass(frozen=True, kw_only=True)
class GpuState:
    """One reading. `throttle_reasons` are all that NVML gives for the present clock, `slowdowns` those that hold it
    down against its will; `other_processes` are those that compute on it and are neither this process nor below it."""

    sm_clock_mhz: int | None = None
    max_sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    temperature_c: int | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    throttle_reasons: tuple[str, ...] | None = None
    other_processes: int | None = None
    total_energy_mj: int | None = None
    reason: str | None = None

    @property
    def slowdowns(self) -> tuple[str, ...]:
        return tuple(word for word in self.throttle_reasons or () if word in SLOWING)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as JSON has it."""
        return asdict(self) | {"throttle_reasons": None if self.throttle_reasons is None else [*self.throttle_reasons]}


class Gpu(NamedTuple):
    """A device as NVML knows it: the library and the library's handle."""

    nvml: Any
    handle: Any


def gpu_state(device: str, *, nvml: Any = None, cuda: Any = None) -> GpuState:
    """The state of a device now; all None with the reason where NVML does not know it. Takes some milliseconds."""
    return state_reader(device, nvml=nvml, cuda=cuda)()


def state_reader(device: str, *, nvml: Any = None, cuda: Any = None) -> Callable[[], GpuState]:
    """Reads the state of `device` at every call; finding the device is done once."""
    cuda = cuda or torch.cuda
    gpu = open_gpu(device, nvml=nvml, cuda=cuda)
    if isinstance(gpu, str):
        return lambda: GpuState(reason=gpu)
    return lambda: read_state(gpu, own=_family(), on_it=cuda.is_initialized())


def open_gpu(device: str, *, nvml: Any = None, cuda: Any = None) -> Gpu | str:
    """The device in NVML, or why it is not there. `nvml` and `cuda` stand in for pynvml and torch.cuda."""
    if not device.startswith("cuda"):
        return f"NVML knows NVIDIA GPUs only, not {device}"
    try:
        nvml = nvml or importlib.import_module("pynvml")
    except ImportError:
        return "nvidia-ml-py is not installed (the extra gpu)"
    try:
        nvml.nvmlInit()
        return Gpu(nvml, _handle(nvml, str((cuda or torch.cuda).get_device_properties(device).uuid)))
    except nvml.NVMLError as error:
        return f"NVML: {error}"


def _handle(nvml: Any, uuid: str) -> Any:
    """CUDA leaves out the prefix by which NVML tells a whole GPU from a slice of one."""
    try:
        return nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
    except nvml.NVMLError:
        return nvml.nvmlDeviceGetHandleByUUID(f"MIG-{uuid}")


def read_state(gpu: Gpu, *, own: Collection[int], on_it: bool) -> GpuState:
    """`own` are processes that do not count as others; `on_it` says whether one of them surely uses the device."""
    nvml, handle = gpu
    asked: dict[str, Callable[[], Any]] = {
        "sm_clock_mhz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
        "max_sm_clock_mhz": lambda: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM),
        "memory_clock_mhz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM),
        "temperature_c": lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
        "power_w": lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000,
        "power_limit_w": lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000,
        "throttle_reasons": lambda: decode_events(_events(gpu)),
        "other_processes": lambda: _others(gpu, own, on_it),
        "total_energy_mj": lambda: energy_mj(gpu),
    }
    found, reasons = dict[str, Any](), list[str]()
    for name, ask in asked.items():
        try:
            found[name] = ask()
        except (nvml.NVMLError, LookupError) as error:
            reasons.append(f"{name}: {error}")
    return GpuState(**found, reason="; ".join(reasons) or None)


def energy_mj(gpu: Gpu) -> int:
    """Millijoules that the device has used since its driver was loaded. Raises NVML's error where it does not count."""
    return gpu.nvml.nvmlDeviceGetTotalEnergyConsumption(gpu.handle)


def decode_events(bits: int) -> tuple[str, ...]:
    """The reasons in NVML's bit mask, in words; a bit that has none is given as it is."""
    known = tuple(word for bit, word in EVENT_REASONS.items() if bits & bit)
    rest = bits & ~sum(EVENT_REASONS)
    return (*known, f"unknown ({rest:#x})") if rest else known


def _events(gpu: Gpu) -> int:
    """Drivers before 535 know them by their older name only."""
    try:
        return gpu.nvml.nvmlDeviceGetCurrentClocksEventReasons(gpu.handle)
    except gpu.nvml.NVMLError:
        return gpu.nvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu.handle)


def _others(gpu: Gpu, own: Collection[int], on_it: bool) -> int:
    """Raises LookupError where ids are those of another namespace, so that ours is among them unrecognised."""
    there = {process.pid for process in gpu.nvml.nvmlDeviceGetComputeRunningProcesses(gpu.handle)}
    if on_it and there and there.isdisjoint(own):
        raise LookupError(f"this process is not among the {len(there)} listed, as in a container")
    return len(there.difference(own))


def _family() -> set[int]:
    return {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
