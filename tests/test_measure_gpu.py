"""NVML by a fake: what is read, in which units, what cannot be read, whose processes are whose. No GPU is needed."""

import json
import os
from types import SimpleNamespace

import pytest

from uniformer_bench.files import to_json
from uniformer_bench.measure import checks
from uniformer_bench.measure.gpu import (
    EVENT_REASONS,
    SLOWING,
    Gpu,
    GpuState,
    decode_events,
    energy_mj,
    gpu_state,
    open_gpu,
    read_state,
    state_reader,
)

UUID = "6b3d-11"


class NVMLError(Exception):
    """What NVML says when it cannot."""


class Nvml:
    """One GPU at work. A name in `broken` is a call that the device does not support."""

    NVMLError = NVMLError
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    def __init__(self, pids=(), broken=(), kind="GPU", events=0x4 | 0x20):
        self.pids, self.broken, self.kind, self.events, self.energy, self.inits = pids, broken, kind, events, 5000, 0

    def _may(self, name):
        if name in self.broken:
            raise NVMLError("Not Supported")

    def nvmlInit(self):  # noqa: N802
        self._may("nvmlInit")
        self.inits += 1

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802
        if uuid != f"{self.kind}-{UUID}":
            raise NVMLError("Not Found")
        return "handle"

    def __getattr__(self, name):
        answers = {
            "nvmlDeviceGetClockInfo": lambda kind: {1: 1830, 2: 2619}[kind],
            "nvmlDeviceGetMaxClockInfo": lambda kind: {1: 1980}[kind],
            "nvmlDeviceGetTemperature": lambda sensor: 61,
            "nvmlDeviceGetPowerUsage": lambda: 350_500,
            "nvmlDeviceGetEnforcedPowerLimit": lambda: 700_000,
            "nvmlDeviceGetCurrentClocksEventReasons": lambda: self.events,
            "nvmlDeviceGetCurrentClocksThrottleReasons": lambda: 0x8,
            "nvmlDeviceGetComputeRunningProcesses": lambda: [SimpleNamespace(pid=pid) for pid in self.pids],
            "nvmlDeviceGetTotalEnergyConsumption": lambda: self.energy,
        }

        def call(handle, *rest):
            assert handle == "handle"
            self._may(name)
            return answers[name](*rest)

        return call


def fake_cuda(initialized=True):
    return SimpleNamespace(
        get_device_properties=lambda device: SimpleNamespace(uuid={"cuda:1": UUID, "cuda": UUID}[device]),
        is_initialized=lambda: initialized,
    )


def test_everything_is_read_in_its_unit():
    state = gpu_state("cuda:1", nvml=Nvml(pids=[os.getpid()]), cuda=fake_cuda())
    assert state == GpuState(
        sm_clock_mhz=1830,
        max_sm_clock_mhz=1980,
        memory_clock_mhz=2619,
        temperature_c=61,
        power_w=350.5,
        power_limit_w=700,
        throttle_reasons=("power cap", "heat (software)"),
        other_processes=0,
        total_energy_mj=5000,
        reason=None,
    )
    assert json.loads(to_json(state.to_dict()))["throttle_reasons"] == ["power cap", "heat (software)"]
    assert GpuState().to_dict()["throttle_reasons"] is None


def test_the_device_is_found_by_uuid_once():
    nvml = Nvml()
    read = state_reader("cuda:1", nvml=nvml, cuda=fake_cuda())
    assert (read().temperature_c, read().temperature_c, nvml.inits) == (61, 61, 1)
    slice_of_one = open_gpu("cuda:1", nvml=Nvml(kind="MIG"), cuda=fake_cuda())
    assert slice_of_one.handle == "handle"
    assert open_gpu("cuda:1", nvml=Nvml(kind="other"), cuda=fake_cuda()) == "NVML: Not Found"


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_what_is_no_nvidia_gpu_has_a_reason(device):
    assert gpu_state(device) == GpuState(reason=f"NVML knows NVIDIA GPUs only, not {device}")


def test_without_the_package_or_the_driver_there_is_a_reason(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    assert gpu_state("cuda").reason == "nvidia-ml-py is not installed (the extra gpu)"
    assert gpu_state("cuda", nvml=Nvml(broken=["nvmlInit"]), cuda=fake_cuda()).reason == "NVML: Not Supported"


def test_what_one_device_cannot_say_is_none_and_the_rest_is_there():
    broken = ["nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetPowerUsage"]
    state = gpu_state("cuda", nvml=Nvml(broken=broken), cuda=fake_cuda())
    assert (state.power_w, state.total_energy_mj, state.sm_clock_mhz) == (None, None, 1830)
    assert state.reason == "power_w: Not Supported; total_energy_mj: Not Supported"
    with pytest.raises(NVMLError, match="Not Supported"):
        energy_mj(Gpu(Nvml(broken=broken), "handle"))


def test_an_old_driver_is_asked_by_the_old_name():
    old = Nvml(broken=["nvmlDeviceGetCurrentClocksEventReasons"])
    assert gpu_state("cuda", nvml=old, cuda=fake_cuda()).throttle_reasons == ("hardware slowdown",)
    both = [*old.broken, "nvmlDeviceGetCurrentClocksThrottleReasons"]
    assert gpu_state("cuda", nvml=Nvml(broken=both), cuda=fake_cuda()).throttle_reasons is None


def test_bits_are_decoded_and_unknown_ones_shown():
    assert decode_events(0) == ()
    assert decode_events(0x1 | 0x80) == ("idle", "power brake")
    assert decode_events(0x8000 | 0x40) == ("heat (hardware)", "unknown (0x8000)")
    assert GpuState(throttle_reasons=("idle", "sync boost", "power cap")).slowdowns == ("power cap",)
    assert GpuState().slowdowns == ()


def test_others_are_neither_this_process_nor_its_children():
    def others(pids, own, on_it=True):
        return read_state(Gpu(Nvml(pids=pids), "handle"), own=own, on_it=on_it)

    assert others([7, 8, 9, 9], {7, 8}).other_processes == 1
    assert others([7], {7}).other_processes == 0
    assert others([], {7}).other_processes == 0
    assert others([9], {7}, on_it=False).other_processes == 1
    hidden = others([9], {7})  # in a container: our own is listed by another number
    assert hidden.other_processes is None
    assert hidden.reason == "other_processes: this process is not among the 1 listed, as in a container"


@pytest.mark.parametrize(("bit", "word"), EVENT_REASONS.items())
def test_the_doctor_warns_of_the_same_bits(bit, word):
    (clocks, _) = checks.check_gpus(f"0, {bit:#018x}, 50", "", 1)
    assert clocks.state == ("warn" if word in SLOWING else "ok")
    assert (word in clocks.found) == (word in SLOWING)


def test_the_real_library_has_the_names_and_bits_that_the_fake_has():
    real = pytest.importorskip("pynvml")
    answers = ("ClockInfo", "MaxClockInfo", "Temperature", "PowerUsage", "EnforcedPowerLimit", "HandleByUUID")
    answers += ("CurrentClocksEventReasons", "CurrentClocksThrottleReasons", "ComputeRunningProcesses")
    assert all(callable(getattr(real, f"nvmlDeviceGet{name}")) for name in (*answers, "TotalEnergyConsumption"))
    assert issubclass(real.NVMLError, Exception)
    assert (real.NVML_CLOCK_SM, real.NVML_CLOCK_MEM, real.NVML_TEMPERATURE_GPU) == (1, 2, 0)
    assert sum(EVENT_REASONS) == real.nvmlClocksThrottleReasonAll
    assert EVENT_REASONS[real.nvmlClocksEventReasonSwPowerCap] == "power cap"
    assert EVENT_REASONS[real.nvmlClocksEventReasonHwThermalSlowdown] == "heat (hardware)"
    assert EVENT_REASONS[real.nvmlClocksEventReasonHwPowerBrakeSlowdown] == "power brake"
