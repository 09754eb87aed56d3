"""Energy by a scripted meter: joules a clip by hand, and no number that was made up."""

import json

import pytest
import torch

from tests.test_measure_gpu import Nvml, fake_cuda
from uniformer_bench.errors import UbenchError
from uniformer_bench.files import to_json
from uniformer_bench.measure.energy import Energy, Meter, measure_energy, open_meter, window
from uniformer_bench.measure.gpu import GpuState
from uniformer_bench.measure.protocol import Protocol

PROTOCOL = Protocol(device="cuda:0", frames=8, size=32, batch=4)


class Board:
    """A GPU of 100 W when idle and 500 W when at work, where a run takes 4 ms; its counter moves every 100 ms."""

    def __init__(self, tick_s=0.1, states=()):
        self.seconds, self.joules, self.modes, self.tick_s = 0.0, 0.0, set(), tick_s
        self.shown, self.states = 0, iter(states)
        self.meter = Meter(self.read, self.state, lambda: None, lambda: self.seconds, lambda s: self.pass_(s, 100))

    def pass_(self, seconds, watts):
        before = self.seconds // self.tick_s
        self.seconds += seconds
        self.joules += seconds * watts
        if self.tick_s < 1e6 and self.seconds // self.tick_s > before:
            self.shown = round(1000 * self.joules)

    def run(self):
        self.modes.add(torch.is_inference_mode_enabled())
        self.pass_(0.004, 500)

    def read(self):
        return self.shown

    def state(self):
        return next(self.states, GpuState(temperature_c=60))


def test_joules_a_clip_by_hand():
    board = Board()
    energy = measure_energy(board.run, PROTOCOL, window_s=5, meter=board.meter)
    # 500 W x 4 ms = 2 J a run of 4 clips; less 100 W x 4 ms = 0.4 J.
    assert energy.joules_per_clip == pytest.approx(0.5, rel=0.01)
    assert energy.net_joules_per_clip == pytest.approx(0.4, rel=0.01)
    assert (energy.idle_watts, energy.watts) == (pytest.approx(100, rel=0.01), pytest.approx(500, rel=0.01))
    assert 5 <= energy.window_s < 5.2
    assert energy.clips == pytest.approx(4 * energy.window_s / 0.004, rel=0.01)
    assert (energy.temperature_before_c, energy.temperature_after_c) == (60, 60)
    assert (energy.warnings, energy.reason) == ((), None)
    assert board.modes == {True}
    assert json.loads(to_json(energy.to_dict()))["warnings"] == []


@pytest.mark.parametrize("tick_s", [0.02, 0.1, 0.33])
def test_a_window_is_from_movement_to_movement(tick_s):
    board = Board(tick_s)
    board.pass_(0.6 * tick_s, 5000)  # of another's work, not to be counted
    found = window(board.run, 2.0, board.meter)
    # A movement is seen a step late at most, at both ends.
    assert 2.0 <= found.seconds <= 2.0 + tick_s + 0.004
    assert found.joules == pytest.approx(500 * found.seconds, abs=2 * 500 * 0.004)
    assert found.steps == pytest.approx(found.seconds / 0.004, abs=1)


def test_a_counter_that_stands_still_gives_no_number():
    board = Board(tick_s=1e9)
    energy = measure_energy(board.run, PROTOCOL, meter=board.meter)
    assert energy == Energy(reason="the GPU's energy counter did not move for 5 s")


def test_warnings_about_company_throttling_and_heat():
    states = [
        GpuState(temperature_c=50, other_processes=2),
        GpuState(temperature_c=56, other_processes=0, throttle_reasons=("idle", "power cap")),
    ]
    board = Board(states=states)
    company, slowed, heat = measure_energy(board.run, PROTOCOL, meter=board.meter).warnings
    assert company == "other processes were on the GPU, and their energy is in the figure: 2"
    assert slowed == "the GPU's clock was held down: power cap"
    assert heat == "the GPU grew 6 degrees warmer in the window, so it had not settled; measure longer"
    unknown = Board(states=[GpuState(temperature_c=50), GpuState()])
    assert measure_energy(unknown.run, PROTOCOL, meter=unknown.meter).warnings == ()


def test_windows_have_a_least_length():
    with pytest.raises(UbenchError, match=r"window_s must be at least 2, got 1\.5"):
        measure_energy(lambda: None, PROTOCOL, window_s=1.5)


def test_energy_is_that_of_the_graph_where_one_is_wanted():
    board, protocol = Board(), Protocol(device="cuda:0", frames=8, size=32, batch=4, graph=True)
    captured = []

    def capture(run, device):
        captured.append((device, torch.is_inference_mode_enabled()))
        return board.run, None

    energy = measure_energy(lambda: pytest.fail("the graph is run"), protocol, meter=board.meter, capture=capture)
    assert energy.joules_per_clip == pytest.approx(0.5, rel=0.01)
    assert captured == [("cuda:0", True)]
    refused = measure_energy(board.run, protocol, meter=board.meter, capture=lambda run, device: (run, "no graph"))
    assert refused.warnings == ("no graph",)


def test_a_processor_has_no_counter_and_is_not_run():
    protocol = Protocol(device="cpu", frames=8, size=32)
    energy = measure_energy(lambda: pytest.fail("must not run"), protocol)
    assert energy == Energy(reason="no energy counter is read on cpu: a processor's own (RAPL) needs root")
    assert json.loads(to_json(energy.to_dict()))["joules_per_clip"] is None


def test_a_gpu_s_meter_is_opened_or_says_why_not():
    waits, cuda = [], fake_cuda()
    cuda.synchronize = waits.append
    meter = open_meter("cuda:1", nvml=Nvml(), cuda=cuda)
    meter.wait()
    assert (meter.read_mj(), meter.state().temperature_c, waits) == (5000, 61, ["cuda:1"])
    broken = Nvml(broken=["nvmlDeviceGetTotalEnergyConsumption"])
    assert open_meter("cuda:1", nvml=broken, cuda=cuda) == "no energy counter on cuda:1: Not Supported"
    assert open_meter("cuda:1", nvml=Nvml(kind="other"), cuda=cuda) == "NVML: Not Found"
