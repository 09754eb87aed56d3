"""Do all counters say the same of any architecture? What docs/log.md says of it comes from here.

    python benchmarks/agreement.py            about a minute on one core

Random architectures over every option, each with both implementations, where there is a choice:
1. parameters: closed form against the built model, exactly;
2. MACs of a forward pass: closed form against torch, fvcore and ptflops, within 0.1 %;
3. MACs of forward and backward: closed form against torch with grouped convolutions mended, within 0.1 %;
and how far off the tools are as they come. Ends with exit code 1 where anything disagrees.
"""

import argparse
import sys
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))  # tests.specs, wherever this is run from

from tests.specs import CLIP, random_spec
from uniformer_bench.cost import cost
from uniformer_bench.measure.macs import Count, count_macs, count_training_macs
from uniformer_bench.model import build
from uniformer_bench.spec import ArchSpec

CLASSES, TOLERANCE = 7, 1e-3
FLOPS_A_MAC = {"FLOPs": 2, "MACs": 1}


class Row(NamedTuple):
    """One comparison: what is counted, by whom, its deviation from the closed form and that of the raw figure."""

    what: str
    counter: str
    deviation: float
    raw_deviation: float


def deviation(found: float | None, expected: int) -> float:
    """Relative; infinite where a tool said nothing."""
    return float("inf") if found is None else abs(found - expected) / expected


def rows_of(spec: ArchSpec, implementation: str) -> list[Row]:
    with torch.device("meta"):
        model = build(spec, CLASSES, implementation)
    params = sum(parameter.numel() for parameter in model.parameters())
    expected = cost(spec, **CLIP, num_classes=CLASSES).params
    rows = [Row("parameters", "built model", deviation(params, expected), deviation(params, expected))]
    forward = count_macs(spec, **CLIP, num_classes=CLASSES, implementation=implementation)
    training = count_training_macs(spec, **CLIP, num_classes=CLASSES, implementation=implementation)
    return rows + compared("forward MACs", forward) + compared("training MACs", training)


def compared(what: str, counts: dict[str, Count]) -> list[Row]:
    expected = counts.pop("closed_form").macs
    assert expected is not None, "the closed form always has a figure"
    return [
        Row(what, name, deviation(count.macs, expected), deviation(raw_macs(count), expected))
        for name, count in counts.items()
    ]


def raw_macs(count: Count) -> float | None:
    return None if count.raw is None else count.raw / FLOPS_A_MAC[count.raw_unit]


def main(specs: int) -> int:
    torch.set_num_threads(1)
    started, rows, options = time.perf_counter(), list[Row](), Counter[str]()
    for seed in range(specs):
        spec = random_spec(seed)
        options.update({stage.mixer for stage in spec.stages} | {f"{spec.stem.kind} stem"})
        rows += [row for implementation in ("fast", "reference") for row in rows_of(spec, implementation)]
    print(f"{specs} random specs, fast and reference; {', '.join(f'{n} with {o}' for o, n in sorted(options.items()))}")
    print(f"{'what':15}{'counter':13}{'compared':>9}{'exact':>7}{'worst':>10}{'worst as it comes':>19}")
    for what, counter in dict.fromkeys((row.what, row.counter) for row in rows):
        of = [row for row in rows if (row.what, row.counter) == (what, counter)]
        exact, worst = sum(row.deviation == 0 for row in of), max(row.deviation for row in of)
        raw = max(row.raw_deviation for row in of)
        print(f"{what:15}{counter:13}{len(of):>9}{exact:>7}{worst:>10.3%}{raw:>19.1%}")
    wrong = [row for row in rows if row.deviation > (0 if row.what == "parameters" else TOLERANCE)]
    print(f"{len(wrong)} of {len(rows)} comparisons disagree; {time.perf_counter() - started:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--specs", type=int, default=200)
    sys.exit(main(parser.parse_args().specs))
