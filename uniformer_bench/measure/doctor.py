"""Is this machine fit to measure: reads what the system says, tries how still it keeps, and shows what to do.

Only a check that warns makes a machine unfit; what it does not show is unknown.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from rich.text import Text

from uniformer_bench.measure.checks import (
    OK,
    UNKNOWN,
    WARN,
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
from uniformer_bench.measure.environment import library_version
from uniformer_bench.measure.protocol import default_threads

SCHEMA_VERSION = 1
SELF_TEST_S = 1.0
SIDE = 384  # of the self-test's matrices: a few milliseconds
NVIDIA_SMI_S = 10.0
PROCESSORS = "/sys/devices/system/cpu"
THROTTLED = "cpu*/thermal_throttle/core_throttle_count"


def examine() -> list[Check]:
    """Looks at this machine for about a second, with a matrix product as a test of how still it keeps."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    cores, stat, throttled = default_threads(), _read("/proc/stat"), _read_all(PROCESSORS, THROTTLED)
    times = matmul_times(SELF_TEST_S)
    return [
        check_load(load, os.cpu_count() or 1),
        check_steal(stat, _read("/proc/stat")),
        check_quota(_read("/sys/fs/cgroup/cpu.max"), cores),
        check_governor(_read_all(PROCESSORS, "cpu*/cpufreq/scaling_governor")),
        check_turbo(_read(f"{PROCESSORS}/intel_pstate/no_turbo"), _read(f"{PROCESSORS}/cpufreq/boost")),
        check_heat(throttled, _read_all(PROCESSORS, THROTTLED)),
        check_threads(os.environ, cores),
        check_memory(_read("/proc/meminfo")),
        check_swap(_read("/proc/meminfo")),
        check_libraries({"torch": library_version("torch")}, cuda=torch.version.cuda is not None),
        check_simd(torch.backends.cpu.get_cpu_capability()),
        check_timer([time.perf_counter() for _ in range(1000)]),
        *check_gpus(
            _nvidia_smi("--query-gpu=index,clocks_throttle_reasons.active,temperature.gpu"),
            _nvidia_smi("--query-compute-apps=pid,used_memory"),
            os.getpid(),
        ),
        check_spread(times),
    ]


def matmul_times(seconds: float, now: Callable[[], float] = time.perf_counter) -> list[float]:
    """Seconds of wall time that the same product took, over and over, after one that is not counted."""
    matrix, times = torch.randn(SIDE, SIDE, generator=torch.Generator().manual_seed(0)), list[float]()
    matrix @ matrix
    end = now() + seconds
    while not times or now() < end:
        start = now()
        matrix @ matrix
        times.append(now() - start)
    return times


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _read_all(folder: str, pattern: str) -> list[str]:
    return [text for text in (_read(str(path)).strip() for path in sorted(Path(folder).glob(pattern))) if text]


def _nvidia_smi(query: str) -> str | None:
    """What it prints, None where there is none or it fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, query, "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=NVIDIA_SMI_S, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def doctor_document(checks: Iterable[Check]) -> dict[str, Any]:
    """The document of `ubench doctor --json`: fit where nothing warns."""
    rows = [asdict(check) for check in checks]
    return {"schema_version": SCHEMA_VERSION, "fit": all(row["state"] != WARN for row in rows), "checks": rows}


def doctor_table(checks: Sequence[Check]) -> Table:
    """The checks for a person, what to do about each beside it."""
    warned = sum(check.state == WARN for check in checks)
    title = "this machine is fit to measure" if not warned else f"{warned} thing(s) in the way of trustworthy times"
    table = Table(title=title, title_justify="left")
    for name in ("check", "state", "found", "what to do"):
        table.add_column(name, no_wrap=name in ("check", "state"))
    styles = {OK: "green", WARN: "yellow", UNKNOWN: "dim"}
    for check in checks:
        table.add_row(check.name, Text(check.state, styles[check.state]), Text(check.found), Text(check.advice))
    return table
