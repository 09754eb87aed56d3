"""The doctor: what systems write, judged; what they do not say, unknown; and this very machine without a crash."""

import io
import json
import subprocess

import pytest
from rich.console import Console

from uniformer_bench.files import to_json
from uniformer_bench.measure import doctor
from uniformer_bench.measure.checks import (
    Check,
    check_governor,
    check_gpus,
    check_heat,
    check_libraries,
    check_load,
    check_memory,
    check_quota,
    check_simd,
    check_spread,
    check_steal,
    check_swap,
    check_threads,
    check_timer,
    check_turbo,
)
from uniformer_bench.measure.doctor import doctor_document, doctor_table, examine, matmul_times

STAT = "cpu  {user} 10 200 4000 50 0 30 {steal} 0 0\ncpu0 1 2 3 4 5 6 7 8 9 10\nintr 1 2 3\n"


def _is(check, state, *words):
    assert (check.state, [word for word in words if word not in f"{check.found} {check.advice}"]) == (state, [])
    assert (check.state == "warn") == bool(check.advice)


def test_load():
    _is(check_load(0.2, 2), "ok", "0.20 processes on 2 cores")
    _is(check_load(0.7, 16), "ok")  # under 5 % of the cores
    _is(check_load(3.4, 16), "warn", "measure with 12 thread(s)")
    _is(check_load(1.5, 2), "warn", "compare with one thread")
    _is(check_load(None, 2), "unknown", "no load average")


def test_steal_is_the_share_between_two_readings():
    before, after = STAT.format(user=1000, steal=5), STAT.format(user=1090, steal=15)  # 90 + 10 ticks more
    _is(check_steal(before, after), "warn", "10.0%")
    _is(check_steal(before, STAT.format(user=2000, steal=5)), "ok", "0.0%")
    for pair in ((before, before), ("", after), ("cpu  1 2 3\n", after)):
        _is(check_steal(*pair), "unknown", "does not tell")


def test_quota():
    _is(check_quota("max 100000\n", 2), "ok", "none")
    _is(check_quota("400000 100000\n", 2), "ok", "4 of 2 cores")
    _is(check_quota("150000 100000\n", 2), "warn", "1.5 of 2 cores", "use 1 thread(s)")
    _is(check_quota("", 2), "unknown")


def test_governor():
    _is(check_governor(["performance"] * 4), "ok", "performance")
    _is(check_governor(["performance", "powersave"]), "warn", "performance, powersave", "cpupower")
    _is(check_governor([]), "unknown", "not shown")


@pytest.mark.parametrize(
    ("no_turbo", "boost", "state"),
    [
        ("1\n", "", "ok"), ("0\n", "", "warn"), ("", "0\n", "ok"), ("", "1\n", "warn"),
        ("", "", "unknown"), ("1", "1", "ok"), ("?", "", "unknown"),
    ],
)  # fmt: skip
def test_turbo(no_turbo, boost, state):
    _is(check_turbo(no_turbo, boost), state)


def test_heat_is_what_is_new():
    _is(check_heat(["3", "4"], ["3", "4"]), "ok", "7 times since the start")
    _is(check_heat(["3", "4"], ["5", "4"]), "warn", "2 times during")
    for pair in (([], []), (["1"], ["1", "2"]), (["x"], ["1"])):
        _is(check_heat(*pair), "unknown")


def test_threads():
    _is(check_threads({}, 2), "ok", "OMP_NUM_THREADS not set, OMP_WAIT_POLICY not set, 2 cores")
    _is(check_threads({"OMP_NUM_THREADS": "2,1", "OMP_WAIT_POLICY": "PASSIVE"}, 2), "ok", "PASSIVE")
    _is(check_threads({"OMP_NUM_THREADS": "8"}, 2), "warn", "to 2 or fewer")
    _is(check_threads({"OMP_NUM_THREADS": "many"}, 2), "warn", "positive integer")
    _is(check_threads({"OMP_WAIT_POLICY": "ACTIVE"}, 2), "warn", "unset OMP_WAIT_POLICY")


MEMINFO = "MemTotal: 8000000 kB\nMemFree: 9 kB\nMemAvailable:  {free} kB\nSwapTotal: {swap} kB\nSwapFree: 1000000 kB\n"


def test_memory_and_swap():
    _is(check_memory(MEMINFO.format(free=4000000, swap=0)), "ok", "4.1 of 8.2 GB")
    _is(check_memory(MEMINFO.format(free=400000, swap=0)), "warn", "0.4 of 8.2 GB")
    _is(check_memory(""), "unknown")
    _is(check_swap(MEMINFO.format(free=1, swap=1050000)), "ok", "0.1 of 1.1 GB in use")
    _is(check_swap(MEMINFO.format(free=1, swap=2000000)), "warn", "1.0 of 2.0 GB in use", "swapoff")
    _is(check_swap("SwapTotal: 0 kB\nSwapFree: 0 kB\n"), "ok", "none")
    _is(check_swap(""), "unknown")


def test_slow_releases_matter_on_a_gpu():
    _is(check_libraries({"torch": "2.9.0+cu128"}, cuda=True), "warn", "3D convolutions", "2.9.1")
    _is(check_libraries({"torch": "2.9.0+cpu"}, cuda=False), "ok")
    _is(check_libraries({"torch": "2.9.1"}, cuda=True), "ok", "torch 2.9.1")
    _is(check_libraries({"torch": None}, cuda=True), "unknown", "torch of unknown version")


def test_vector_instructions_and_timer():
    _is(check_simd("AVX512"), "ok", "AVX512")
    _is(check_simd("DEFAULT"), "warn", "ATEN_CPU_CAPABILITY")
    _is(check_timer([0.0, 0.0, 2e-7, 5e-7]), "ok", "0.2 µs")
    _is(check_timer([0.0, 0.015, 0.045]), "warn", "1.5e+04 µs")
    _is(check_timer([1.0, 1.0]), "unknown", "stood still over 2 readings")


def test_gpus():
    (absent,) = check_gpus(None, None, 7)
    _is(absent, "unknown", "no NVIDIA GPU")
    first, second, third, others = check_gpus("0, 0x1, 35\n1, 0x44, 88\n2, [N/A], 40\n", "7, 512\n8, 1024\n", 7)
    _is(first, "ok", "not held back, 35 °C")
    _is(second, "warn", "power cap, heat (hardware), 88 °C")
    _is(third, "unknown", "[N/A]")
    _is(others, "warn", "process 8, 1024 MiB", "another GPU")
    assert "process 7" not in others.found
    _is(check_gpus("0, 0x0, 35\n", "7, 512\n", 7)[1], "ok", "none but this one")
    _is(check_gpus("0, 0x0, 35\n", "", 7)[1], "ok")
    _is(check_gpus("0, 0x0, 35\n", None, 7)[1], "unknown")


def test_the_self_test_s_spread():
    times = [0.001] * 8 + [0.00105, 0.004]  # p90 is the ninth: 5 % over p10
    _is(check_spread(times), "ok", "10 equal matrix products of 1.00 ms: p10 to p90 5.0%")
    _is(check_spread([0.001] * 8 + [0.002] * 2), "warn", "100.0%", "ubench compare")


def test_the_self_test_lasts_as_long_as_it_is_told():
    ticks = iter(range(100))
    assert matmul_times(3, now=lambda: next(ticks)) == [1]  # from 0 to 3; 1 and 2 around a product
    assert len(matmul_times(0)) == 1


def test_nvidia_smi_that_is_not_there_fails_or_hangs_says_nothing(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert doctor._nvidia_smi("--query-gpu=index") is None
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/bin/nvidia-smi")
    asked = []

    def answers(code):
        def run(command, **options):
            asked.append(command)
            if code is None:
                raise subprocess.TimeoutExpired(command, options["timeout"])
            return subprocess.CompletedProcess(command, code, stdout="0, 0x0, 35\n")

        return run

    for code, expected in ((0, "0, 0x0, 35\n"), (9, None), (None, None)):
        monkeypatch.setattr(doctor.subprocess, "run", answers(code))
        assert doctor._nvidia_smi("--query-gpu=index") == expected
    assert asked[0] == ["/bin/nvidia-smi", "--query-gpu=index", "--format=csv,noheader,nounits"]


def test_files_that_cannot_be_read_are_empty(tmp_path):
    assert doctor._read(str(tmp_path / "absent")) == ""
    for name, text in (("cpu0", "3\n"), ("cpu1", "4\n"), ("cpufreq", "")):
        (tmp_path / name).write_text(text)
    assert doctor._read_all(str(tmp_path), "cpu*") == ["3", "4"]


def test_this_machine_is_examined(monkeypatch):
    monkeypatch.setattr(doctor, "SELF_TEST_S", 0.02)
    checks = examine()
    names = [check.name for check in checks]
    assert len(names) == len(set(names)) >= 14
    assert all(check.state in ("ok", "warn", "unknown") and check.found for check in checks)
    document = doctor_document(checks)
    assert json.loads(to_json(document)) == document
    assert document["fit"] == all(check.state != "warn" for check in checks)


def test_the_document_and_the_table():
    good = [Check("a", "ok", "fine"), Check("b", "unknown", "[hidden]")]
    bad = [*good, Check("c", "warn", "hot", "cool it")]
    assert doctor_document(good) == {
        "schema_version": 1,
        "fit": True,
        "checks": [
            {"name": "a", "state": "ok", "found": "fine", "advice": ""},
            {"name": "b", "state": "unknown", "found": "[hidden]", "advice": ""},
        ],
    }
    assert doctor_document(bad)["fit"] is False
    shown = []
    for checks in (good, bad):
        console = Console(file=io.StringIO(), width=100)
        console.print(doctor_table(checks))
        shown.append(console.file.getvalue())
    assert "fit to measure" in shown[0]
    assert "[hidden]" in shown[0]
    assert "1 thing(s) in the way" in shown[1]
    assert "cool it" in shown[1]
