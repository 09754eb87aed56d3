"""What a system says of itself, judged: is it in the way of trustworthy times, and what is to be done about it.

Pure functions of what was read, most of it text. What cannot be read is `unknown` with the reason, never guessed.
"""

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from uniformer_bench.measure.gpu import SLOWING, decode_events
from uniformer_bench.measure.latency import quantile

OK, WARN, UNKNOWN = "ok", "warn", "unknown"
BUSY, BUSY_SHARE = 0.25, 0.05  # cores, or the share of them, kept busy by others without being company
STOLEN = 0.01  # the share of processor time that a host may take
TIGHT = 0.1  # of memory available, below which pages may be written out
COARSE_S = 1e-5  # a step of the clock above which a millisecond is a hundred of them or fewer
SPREAD = 0.1  # of equal work, p10 to p90, on a machine that keeps still

# Releases known to be slow at what we measure: (library, version, what is slow, what to do).
SLOW_RELEASES = (
    (
        "torch",
        "2.9.0",
        "3D convolutions run without cuDNN, several times slower (pytorch #166122)",
        "use 2.9.1 or 2.10",
    ),
)


@dataclass(frozen=True)
class Check:
    """One thing looked at: `state` is ok, warn or unknown, `found` what there is, `advice` what to do, or empty."""

    name: str
    state: str
    found: str
    advice: str = ""


def check_load(load: float | None, cores: int) -> Check:
    """`load` is the mean number of processes that ran or wanted to in the last minute."""
    if load is None:
        return Check("load", UNKNOWN, "this system has no load average")
    found = f"{load:.2f} processes on {cores} cores in the last minute"
    if load <= max(BUSY, BUSY_SHARE * cores):
        return Check("load", OK, found)
    if load <= cores - 1:
        return Check("load", WARN, found, f"measure with {max(1, int(cores - load))} thread(s), or stop what else runs")
    return Check("load", WARN, found, "stop what else runs; until then compare with one thread, by processor time")


def check_steal(before: str, after: str) -> Check:
    """Both are texts of /proc/stat: the share of processor time in between that the host gave to others."""
    first, last = _cpu_ticks(before), _cpu_ticks(after)
    if first is None or last is None or sum(last) <= sum(first):
        return Check("steal", UNKNOWN, "/proc/stat does not tell")
    share = (last[7] - first[7]) / (sum(last) - sum(first))
    found = f"{share:.1%} of processor time went to the host's other guests"
    return (
        Check("steal", WARN, found, "measure at another time or on a machine of your own")
        if share > STOLEN
        else (Check("steal", OK, found))
    )


def _cpu_ticks(stat: str) -> list[int] | None:
    """user, nice, system, idle, iowait, irq, softirq, steal of all processors (proc(5)); guests are in user."""
    found = re.search(r"^cpu +(\d+(?: \d+){7,})", stat, re.MULTILINE)
    return [int(word) for word in found.group(1).split()[:8]] if found else None


def check_quota(cpu_max: str, cores: int) -> Check:
    """`cpu_max` is cgroup v2's limit: microseconds of processor time in each period of so many, or max."""
    found = re.fullmatch(r"(max|\d+) (\d+)", cpu_max.strip())
    if found is None:
        return Check("processor quota", UNKNOWN, "no control group says so")
    if found[1] == "max":
        return Check("processor quota", OK, "none")
    allowed = int(found[1]) / int(found[2])
    text = f"{allowed:.2g} of {cores} cores"
    if allowed >= cores:
        return Check("processor quota", OK, text)
    return Check(
        "processor quota", WARN, text, f"use {max(1, int(allowed))} thread(s); more are halted in every period"
    )


def check_governor(governors: Sequence[str]) -> Check:
    """One word a processor, as cpufreq has it."""
    if not governors:
        return Check("governor", UNKNOWN, "not shown by this machine, as virtual ones do not")
    kinds = ", ".join(sorted(set(governors)))
    if set(governors) == {"performance"}:
        return Check("governor", OK, kinds)
    return Check("governor", WARN, kinds, "the clock follows the load: sudo cpupower frequency-set -g performance")


def check_turbo(no_turbo: str, boost: str) -> Check:
    """Intel's file says 1 where turbo is off, the others' says 1 where it is on; empty where there is none."""
    words = {("0", ""): True, ("1", ""): False, ("", "1"): True, ("", "0"): False}
    on = words.get((no_turbo.strip(), boost.strip() if not no_turbo.strip() else ""))
    if on is None:
        return Check("turbo", UNKNOWN, "not shown by this machine, as virtual ones do not")
    if not on:
        return Check("turbo", OK, "off")
    return Check("turbo", WARN, "on", "the clock depends on heat and neighbours: switch it off, or compare in pairs")


def check_heat(before: Sequence[str], after: Sequence[str]) -> Check:
    """Times that each processor throttled since the start, read twice."""
    if not before or len(before) != len(after) or not all(text.isdecimal() for text in (*before, *after)):
        return Check("heat", UNKNOWN, "not shown by this machine, as virtual ones do not")
    total, new = sum(map(int, after)), sum(map(int, after)) - sum(map(int, before))
    if new:
        return Check("heat", WARN, f"throttled {new} times during the self-test", "cool the machine, or wait")
    return Check("heat", OK, f"throttled {total} times since the start, none during the self-test")


def check_threads(variables: Mapping[str, str], cores: int) -> Check:
    """OpenMP's settings against the cores that this process may use."""
    number, policy = variables.get("OMP_NUM_THREADS"), variables.get("OMP_WAIT_POLICY")
    found = f"OMP_NUM_THREADS {number or 'not set'}, OMP_WAIT_POLICY {policy or 'not set'}, {cores} cores"
    first = (number or "1").split(",")[0]
    if not first.isdecimal() or int(first) < 1:
        return Check("threads", WARN, found, "OMP_NUM_THREADS must be a positive integer")
    if int(first) > cores:
        return Check("threads", WARN, found, f"set OMP_NUM_THREADS to {cores} or fewer: threads take turns")
    if (policy or "").lower() == "active":
        return Check("threads", WARN, found, "waiting threads keep their cores busy: unset OMP_WAIT_POLICY")
    return Check("threads", OK, found)


def check_memory(meminfo: str) -> Check:
    """`meminfo` is the text of /proc/meminfo, in kB of 1024 bytes."""
    total, free = _kilobytes(meminfo, "MemTotal"), _kilobytes(meminfo, "MemAvailable")
    if not total or free is None:
        return Check("memory", UNKNOWN, "/proc/meminfo does not tell")
    found = f"{free * 1024 / 1e9:.1f} of {total * 1024 / 1e9:.1f} GB available"
    return (
        Check("memory", OK, found)
        if free / total >= TIGHT
        else (Check("memory", WARN, found, "stop what takes it: the system is about to write pages out"))
    )


def check_swap(meminfo: str) -> Check:
    """Swap in use means that something was, or will be, read back from a disk."""
    total, free = _kilobytes(meminfo, "SwapTotal"), _kilobytes(meminfo, "SwapFree")
    if total is None or free is None:
        return Check("swap", UNKNOWN, "/proc/meminfo does not tell")
    found = f"{(total - free) * 1024 / 1e9:.1f} of {total * 1024 / 1e9:.1f} GB in use" if total else "none"
    if total - free <= TIGHT * total:
        return Check("swap", OK, found)
    return Check("swap", WARN, found, "free memory, then swapoff -a and swapon -a")


def _kilobytes(meminfo: str, name: str) -> int | None:
    found = re.search(rf"^{name}:\s+(\d+) kB$", meminfo, re.MULTILINE)
    return int(found[1]) if found else None


def check_libraries(versions: Mapping[str, str | None], *, cuda: bool) -> Check:
    """Releases known to be slow, all of them on GPUs: they matter where torch was built for one."""
    found = ", ".join(f"{name} {version or 'of unknown version'}" for name, version in versions.items())
    if not any(versions.values()):
        return Check("libraries", UNKNOWN, found)
    for name, version, what, advice in SLOW_RELEASES:
        if cuda and (versions.get(name) or "").split("+")[0] == version:
            return Check("libraries", WARN, f"{found}: {what}", advice)
    return Check("libraries", OK, f"{found}, not among those known to be slow")


def check_simd(capability: str) -> Check:
    """The instructions that torch's own kernels were chosen for."""
    if capability in ("DEFAULT", "NO AVX"):
        return Check(
            "vector instructions", WARN, capability, "torch runs its slowest kernels: unset ATEN_CPU_CAPABILITY"
        )
    return Check("vector instructions", OK, capability)


def check_timer(readings: Sequence[float]) -> Check:
    """`readings` of the clock one after another, in seconds: the smallest step that it shows."""
    steps = [after - before for before, after in pairwise(readings) if after > before]
    if not steps:
        return Check("timer", UNKNOWN, f"the clock stood still over {len(readings)} readings")
    found = f"steps of {1e6 * min(steps):.3g} µs"
    if min(steps) <= COARSE_S:
        return Check("timer", OK, found)
    return Check("timer", WARN, found, "choose a finer clock source (tsc), or repeat more in a sample")


def check_gpus(gpus: str | None, processes: str | None, own_pid: int) -> list[Check]:
    """From nvidia-smi's CSV without header: index, event reasons (hexadecimal), temperature; pid, memory in MiB."""
    if gpus is None:
        return [Check("GPU", UNKNOWN, "no NVIDIA GPU, or no nvidia-smi that answers")]
    found = [_check_clocks(*(word.strip() for word in line.split(","))) for line in gpus.splitlines() if line.strip()]
    others = [line.strip() for line in (processes or "").splitlines() if not line.startswith(f"{own_pid},")]
    if processes is None:
        return [*found, Check("GPU processes", UNKNOWN, "nvidia-smi does not tell")]
    if not any(others):
        return [*found, Check("GPU processes", OK, "none but this one")]
    shown = "; ".join(f"process {line} MiB" for line in others if line)
    return [*found, Check("GPU processes", WARN, shown, "stop them, or choose another GPU")]


def _check_clocks(index: str, reasons: str, celsius: str = "?") -> Check:
    name = f"GPU {index} clocks"
    if not re.fullmatch(r"0x[0-9a-fA-F]+", reasons):
        return Check(name, UNKNOWN, f"nvidia-smi says {reasons!r}")
    slow = [word for word in decode_events(int(reasons, 16)) if word in SLOWING]
    if not slow:
        return Check(name, OK, f"not held back, {celsius} °C")
    return Check(name, WARN, f"held back by {', '.join(slow)}, {celsius} °C", "cool it, raise its power limit, or wait")


def check_spread(times: Sequence[float]) -> Check:
    """`times` that equal work took: how far the middle 80 % of them lie apart."""
    low, high = quantile(times, 0.1), quantile(times, 0.9)
    spread = (high - low) / statistics.median(times)
    found = f"{len(times)} equal matrix products of {1000 * statistics.median(times):.2f} ms: p10 to p90 {spread:.1%}"
    if spread <= SPREAD:
        return Check("self-test", OK, found)
    return Check(
        "self-test", WARN, found, "single times tell little here: use ubench compare, or find out what else runs"
    )
