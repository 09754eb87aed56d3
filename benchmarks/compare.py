"""Does `ubench compare` tell what is so: A/A calls, and calls with a true 5 % difference, beside a busy process?

The pair that differs is a deep narrow model and the same with one block more. Prints a row a call and the two
counts; the aim is "no difference seen" in at least 19 of 20 A/A calls, the difference found in at least 9 of 10.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from uniformer_bench.cost import cost
from uniformer_bench.measure.compare import compare
from uniformer_bench.measure.protocol import Protocol
from uniformer_bench.measure.subjects import Subject
from uniformer_bench.spec import ArchSpec

CLASSES = 12
DEPTH = 18


def deep(depth: int) -> Subject:
    """One local block, then `depth` global ones on 4x8x8 tokens."""
    stem = {"kernel": [3, 2, 2], "stride": [2, 2, 2]}
    stages = [
        {"mixer": "local", "depth": 1, "width": 16, "kernel": [3, 3, 3]},
        {"mixer": "global", "depth": depth, "width": 48},
    ]
    spec = ArchSpec.from_dict({"stem": stem, "head_dim": 16, "mlp_ratio": 2, "stages": stages})
    return Subject(f"{depth + 1} blocks", spec)


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """So many other processes that never wait."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for other in others:
            other.terminate()
            other.wait()


def calls(a: Subject, b: Subject, n: int, protocol: Protocol, budget_s: float, expected: str) -> int:
    """How many of n calls gave the expected verdict; a row each."""
    right = 0
    for seed in range(n):
        start = time.perf_counter()
        found = compare(a, b, base=protocol, num_classes=CLASSES, budget_s=budget_s, seed=seed)
        right += found["verdict"] == expected
        print(_row(a, b, found, time.perf_counter() - start), flush=True)
    return right


def _row(a: Subject, b: Subject, found: dict[str, Any], seconds: float) -> str:
    ratio, control = (f"{x['ratio']:.4f} [{x['ci95'][0]:.4f}, {x['ci95'][1]:.4f}]" for x in (found, found["control"]))
    pairs, clock = f"{found['rounds']}x{found['pairs'] // found['rounds']}", found["clock"]
    return f"{a.text:>9} : {b.text:9}  {ratio}  {control}  {pairs:>7} {clock:8}{seconds:5.1f} s  {found['verdict']}"


def main(same: int, different: int, budget_s: float, threads: int, load: int) -> None:
    protocol = Protocol(device="cpu", frames=8, size=(32, 32), threads=threads)
    a, b = deep(DEPTH), deep(DEPTH + 1)
    macs = [cost(x.spec, frames=8, size=32, num_classes=CLASSES).macs for x in (a, b)]
    print(f"{os.cpu_count()} cores, {load} of them kept busy; {threads} thread(s), {budget_s:g} s a call")
    print(f"{a.text}: {macs[0] / 1e6:.1f} M MACs, {b.text}: {macs[1] / 1e6:.1f} M, ratio {macs[0] / macs[1]:.4f}")
    print(f"{'A : B':>16}       A/B [95 % interval]       A/A [95 % interval]        pairs   clock    took    verdict")
    start = time.perf_counter()
    with busy(load):
        still = calls(a, a, same, protocol, budget_s, "no difference seen")
        halves = different // 2
        found = calls(a, b, halves, protocol, budget_s, "faster")
        found += calls(b, a, different - halves, protocol, budget_s, "slower")
    print(f"A/A: no difference seen in {still} of {same} (aim: 19 of 20)")
    print(f"one block more: found in {found} of {different} (aim: 9 of 10)")
    print(f"all in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--same", type=int, default=20, help="A/A calls")
    parser.add_argument("--different", type=int, default=10, help="calls with a difference")
    parser.add_argument("--budget", type=float, default=10.0, help="seconds a call")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--load", type=int, default=1, help="processes that keep a core busy")
    arguments = parser.parse_args()
    main(arguments.same, arguments.different, arguments.budget, arguments.threads, arguments.load)
