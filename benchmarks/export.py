"""Does every architecture survive the way out? PyTorch against reloaded torch.export and ONNX Runtime.

    python benchmarks/export.py [--random 20] [--variants micro,tiny,...]      about 10 minutes on one core

Every variant in full width and depth, on a small clip, and random specs over every option. A line each: parameters,
largest difference of the logits, ms a clip; then how many passed.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch

from uniformer_bench.cost import cost
from uniformer_bench.export.graphs import export_graphs
from uniformer_bench.measure.protocol import Protocol
from uniformer_bench.model import build
from uniformer_bench.spec import ArchSpec
from uniformer_bench.variants import VARIANTS

sys.path.insert(0, str(Path(__file__).parent.parent))  # the tests are no part of the distribution
from tests.specs import CLIP, random_spec

CLASSES = 10
LARGEST_LOGIT = 12  # or so, as a trained classifier has: the tolerance is absolute


def trip(name: str, spec: ArchSpec, frames: int, size: int) -> bool:
    """Whether all backends agree, with the line that says so."""
    torch.manual_seed(0)
    model = build(spec, CLASSES).eval()
    for module in model.modules():  # statistics as training leaves them, so that BatchNorm is no identity
        if isinstance(module, torch.nn.BatchNorm3d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    torch.nn.init.normal_(model.head.weight, std=LARGEST_LOGIT / 3 / model.head.in_features**0.5)
    start = time.perf_counter()
    protocol = Protocol(device="cpu", frames=frames, size=size)
    with tempfile.TemporaryDirectory() as folder:
        rows = export_graphs(model, Path(folder), stem="model", protocol=protocol)
    params = cost(spec, frames=frames, size=size, num_classes=CLASSES).params
    cells = [f"{r.backend} {r.largest_difference:.1e} {r.latency_ms:.2f} ms" if r.ok else str(r.reason) for r in rows]
    took = time.perf_counter() - start
    print(f"{name:20} {params / 1e6:7.2f} M  {frames}x{size}  {'   '.join(cells)}   ({took:.0f} s)", flush=True)
    return all(row.ok for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--random", type=int, default=20)
    parser.add_argument("--variants", default=",".join(VARIANTS))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    named = [VARIANTS[name] for name in asked.variants.split(",") if name]
    passed = [trip(row.name, row.spec, min(row.frames, 4), 32) for row in named]
    passed += [trip(f"random {seed}", random_spec(seed), CLIP["frames"], CLIP["size"]) for seed in range(asked.random)]
    print(f"{sum(passed)} of {len(passed)} make the round trip, with differences of at most 1e-4")


if __name__ == "__main__":
    main()
