"""A search before it is run: builds sampled architectures without memory for weights, and says what to expect."""

import statistics
from typing import Any

import torch

from uniformer_bench.cost import cost
from uniformer_bench.model import build
from uniformer_bench.search.driver import check_feasible, sample_candidates
from uniformer_bench.space import Candidate, Space

SAMPLES = 20
# A short run's pace on one core, in MACs of the forward pass a second, from `benchmarks/clips.py` on two
# AVX-512 cores. A rough guide: another machine, another pace.
TRAINING_MACS_PER_S = 12e9
CLIPS = 2048  # of the built-in training split; a folder's are counted when it is read


def dry_run(space: Space, *, data: str, trials: int, seed: int) -> dict[str, Any]:
    """Checks the space, builds twenty of its architectures on the meta device, and estimates the time."""
    classes = 14 if data == "builtin" else 400
    check_feasible(space, classes, seed)
    candidates = sample_candidates(space, SAMPLES, seed)
    rows = [_built(candidate, space, classes) for candidate in candidates]
    total = min(trials, space.size())
    seconds = statistics.mean(row["short_run_macs"] for row in rows) * total / TRAINING_MACS_PER_S
    return {
        "schema_version": 1,
        "space": space.name,
        "size": space.size(),
        "built": len(rows),
        "range": {key: [min(r[key] for r in rows), max(r[key] for r in rows)] for key in ("params", "macs")},
        "trials": total,
        "expected_core_seconds": seconds,
        "architectures": rows,
    }


def _built(candidate: Candidate, space: Space, classes: int) -> dict[str, Any]:
    with torch.device("meta"):  # shapes without memory
        model = build(candidate.spec, classes)
    at = cost(candidate.spec, frames=space.input.frames, size=space.input.size, num_classes=classes)
    short = cost(candidate.trained, frames=space.data.frames, size=space.data.size, num_classes=classes)
    params = sum(p.numel() for p in model.parameters())
    assert params == at.params, "the closed form and the model disagree"
    clips = space.recipe.steps(CLIPS) * space.recipe.batch
    known = {"spec_id": candidate.spec.id, "pattern": candidate.spec.pattern, "params": params, "macs": at.macs}
    return known | {"short_run_macs": short.macs * clips}


def plan_text(document: dict[str, Any]) -> str:
    """The plan for a person."""
    (low_p, high_p), (low_m, high_m) = document["range"]["params"], document["range"]["macs"]
    return "\n".join(
        [
            f"space {document['space']}: {document['size']:,} architectures; {document['built']} built",
            f"parameters {low_p / 1e6:.3g} to {high_p / 1e6:.3g} M, MACs {low_m / 1e9:.3g} to {high_m / 1e9:.3g} G",
            f"{document['trials']} trials: about {document['expected_core_seconds'] / 60:.0f} minutes of one core's "
            "time for the short runs, by the pace of one AVX-512 core",
        ]
    )
