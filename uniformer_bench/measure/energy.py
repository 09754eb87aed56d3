"""What a forward pass costs in energy: joules a clip, by the counter that the GPU itself keeps.

The counter moves every 20 to 100 ms, so a window starts and ends when it moves and lasts two seconds or more. It
counts the whole board, whoever uses it. Without a counter there is no number: power is never made up from a load.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import torch

from uniformer_bench.errors import UbenchError
from uniformer_bench.measure.clocks import capture_graph
from uniformer_bench.measure.gpu import GpuState, energy_mj, open_gpu, state_reader
from uniformer_bench.measure.protocol import Protocol

LEAST_WINDOW_S = 2.0
IDLE_S = 2.0
WARM_UP_S = 2.0  # clocks and voltage settle; heat takes minutes, hence the temperatures
STEP_S = 0.02  # of work between two looks at the counter, which moves more rarely
LOOK_S = 0.005  # between two looks while nothing runs
STUCK_S = 5.0  # without a movement of the counter
WARMER_C = 5  # from the window's start to its end, above which the GPU was not settled

Run = Callable[[], object]
Capture = Callable[[Run, str], tuple[Run, str | None]]


@dataclass(frozen=True, kw_only=True)
class Energy:
    """Joules a clip over `window_s` seconds of nothing but forward passes, `net` less the power of the idle GPU.

    All None with the reason where it could not be measured; `net` and `idle_watts` also where no idle moment was.
    """

    joules_per_clip: float | None = None
    net_joules_per_clip: float | None = None
    watts: float | None = None
    idle_watts: float | None = None
    window_s: float | None = None
    clips: int | None = None
    temperature_before_c: int | None = None
    temperature_after_c: int | None = None
    warnings: tuple[str, ...] = ()
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as JSON has it."""
        return asdict(self) | {"warnings": list(self.warnings)}


class Meter(NamedTuple):
    """What measuring needs of a GPU: its counter in mJ, its state, a wait until it is done, a clock and a pause."""

    read_mj: Callable[[], int]
    state: Callable[[], GpuState]
    wait: Run
    now: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], object] = time.sleep


class Window(NamedTuple):
    """What was used between two movements of the counter, and how many steps were made."""

    joules: float
    seconds: float
    steps: int


class _StuckError(Exception):
    """The counter does not move."""


def measure_energy(
    run: Run,
    protocol: Protocol,
    *,
    window_s: float = 5.0,
    meter: Meter | str | None = None,
    capture: Capture = capture_graph,
) -> Energy:
    """Of `run`, one forward pass of the protocol's batch on its device, under inference_mode.

    Takes about window_s + 5 seconds: idle power first, then a warm-up, then the window. Passes follow each other, as
    a CUDA graph where the protocol wants one, so that the cache is warm whatever the protocol says. `meter` stands in
    for the device's own, or says why it has none. Raises UbenchError for a window under two seconds.
    """
    if window_s < LEAST_WINDOW_S:
        raise UbenchError(f"window_s must be at least {LEAST_WINDOW_S:g}, got {window_s:g}")
    meter = meter or open_meter(protocol.device)
    if isinstance(meter, str):
        return Energy(reason=meter)
    try:
        with torch.inference_mode():
            run, refused = capture(run, protocol.device) if protocol.graph else (run, None)
            energy = _measured(run, protocol.batch, window_s, meter)
            return replace(energy, warnings=(refused, *energy.warnings)) if refused else energy
    except _StuckError:
        return Energy(reason=f"the GPU's energy counter did not move for {STUCK_S:g} s")


def open_meter(device: str, *, nvml: Any = None, cuda: Any = None) -> Meter | str:
    """The meter of a device, or why it has none. `nvml` and `cuda` stand in for pynvml and torch.cuda."""
    if not device.startswith("cuda"):
        return f"no energy counter is read on {device}: a processor's own (RAPL) needs root"
    cuda = cuda or torch.cuda
    gpu = open_gpu(device, nvml=nvml, cuda=cuda)
    if isinstance(gpu, str):
        return gpu
    try:
        energy_mj(gpu)
    except gpu.nvml.NVMLError as error:
        return f"no energy counter on {device}: {error}"
    state = state_reader(device, nvml=gpu.nvml, cuda=cuda)
    return Meter(lambda: energy_mj(gpu), state, lambda: cuda.synchronize(device))


def _measured(run: Run, batch: int, window_s: float, meter: Meter) -> Energy:
    meter.wait()
    idle = window(lambda: meter.sleep(LOOK_S), IDLE_S, meter)
    runs = _warm_up(run, meter)
    before = meter.state()
    busy = window(lambda: _repeat(run, runs, meter.wait), window_s, meter)
    after = meter.state()
    clips, idle_watts = busy.steps * runs * batch, idle.joules / idle.seconds
    energy = Energy(
        joules_per_clip=busy.joules / clips,
        net_joules_per_clip=(busy.joules - idle_watts * busy.seconds) / clips,
        watts=busy.joules / busy.seconds,
        idle_watts=idle_watts,
        window_s=busy.seconds,
        clips=clips,
        temperature_before_c=before.temperature_c,
        temperature_after_c=after.temperature_c,
    )
    return replace(energy, warnings=_warnings(before, after))


def window(step: Run, seconds: float, meter: Meter) -> Window:
    """Repeats `step` from one movement of the counter to the first that is at least so many seconds later."""
    start_mj, start_s, _ = _until_moved(step, meter, meter.read_mj())
    mj, now, steps = start_mj, start_s, 0
    while now < start_s + seconds:
        mj, now, more = _until_moved(step, meter, mj)
        steps += more
    return Window((mj - start_mj) / 1000, now - start_s, steps)


def _until_moved(step: Run, meter: Meter, before_mj: int) -> tuple[int, float, int]:
    """(counter, time, steps made)."""
    begun, steps = meter.now(), 0
    while True:
        step()
        steps += 1
        mj, now = meter.read_mj(), meter.now()
        if mj != before_mj:
            return mj, now, steps
        if now > begun + STUCK_S and steps > 1:
            raise _StuckError


def _warm_up(run: Run, meter: Meter) -> int:
    """Keeps the GPU busy; how many runs then fill one step."""
    _repeat(run, 1, meter.wait)  # compiles, allocates, chooses kernels
    begun, runs = meter.now(), 0
    while (now := meter.now()) < begun + WARM_UP_S:
        _repeat(run, 1, meter.wait)
        runs += 1
    return max(1, int(STEP_S * runs / (now - begun)))


def _repeat(run: Run, n: int, wait: Run) -> None:
    for _ in range(n):
        run()
    wait()


def _warnings(before: GpuState, after: GpuState) -> tuple[str, ...]:
    found, states = [], (before, after)
    others = max(state.other_processes or 0 for state in states)
    if others:
        found.append(f"other processes were on the GPU, and their energy is in the figure: {others}")
    slowed = dict.fromkeys(word for state in states for word in state.slowdowns)
    if slowed:
        found.append(f"the GPU's clock was held down: {', '.join(slowed)}")
    if None not in (before.temperature_c, after.temperature_c):
        warmer = (after.temperature_c or 0) - (before.temperature_c or 0)
        if warmer > WARMER_C:
            found.append(f"the GPU grew {warmer} degrees warmer in the window, so it had not settled; measure longer")
    return tuple(found)
