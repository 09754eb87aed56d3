"""A search before it is run: builds sampled architectures without memory for weights, and says what to expect.

The time comes from one sampled architecture, the middle one by cost, trained for two steps on this device.
"""

import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch

from uniformer_bench.cost import cost
from uniformer_bench.data.clips import Split
from uniformer_bench.data.digits import CLASSES, counts_of
from uniformer_bench.data.sources import read_listing
from uniformer_bench.measure.profile import thread_count
from uniformer_bench.measure.protocol import default_threads, worker_devices
from uniformer_bench.model import build
from uniformer_bench.search.feasible import check_feasible, cost_of, sample_candidates
from uniformer_bench.space import Candidate, Input, Space
from uniformer_bench.train import short_run

SAMPLES = 20
TRAINING_SHARE = 0.6  # of a folder without splits of its own
TIMED_ELEMENTS = 1 << 21  # of the clips in a timed step: large enough to be like a real one, and soon done


class _Data(NamedTuple):
    clips: int  # of the training split
    classes: int


def dry_run(
    space: Space, *, data: str, trials: int, seed: int, device: str, listing: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, Any]:
    """Checks the space, builds twenty of its architectures on the meta device, and estimates the time.

    `listing` are arguments of data.sources.read_listing.
    """
    found = _data(data, space.data, listing)
    check_feasible(space, found.classes, seed)
    rows = [_built(candidate, space, found) for candidate in sample_candidates(space, SAMPLES, seed)]
    middle = sorted(rows, key=lambda row: row["short_run_macs"])[len(rows) // 2]
    pace = _macs_per_s(middle.pop("candidate"), space, found, device)
    workers = len(worker_devices(device))
    total = min(trials, space.size())
    mean = statistics.mean(row["short_run_macs"] for row in rows)
    donor_s = _donor_macs(space, found) / pace / (workers if device == "cpu" else 1)  # a CPU's cores all work on it
    return {
        "schema_version": 1,
        "space": space.name,
        "size": space.size(),
        "built": len(rows),
        "range": {key: [min(r[key] for r in rows), max(r[key] for r in rows)] for key in ("params", "macs")},
        "trials": total,
        "workers": workers,
        "device": device,
        "expected_s": donor_s + mean * total / pace / workers,
        "architectures": [{key: value for key, value in row.items() if key != "candidate"} for row in rows],
    }


def _data(source: str, at: Input, options: Mapping[str, Any]) -> _Data:
    if source == "builtin":
        return _Data(counts_of(at.frames, at.size)["train"], len(CLASSES))
    listing = read_listing(Path(source), **options)
    trained = [video for video in listing.videos if video.split == "train"]
    return _Data(len(trained) or round(TRAINING_SHARE * len(listing.videos)), len(listing.classes))


def _built(candidate: Candidate, space: Space, data: _Data) -> dict[str, Any]:
    with torch.device("meta"):  # shapes without memory
        model = build(candidate.spec, data.classes)
    at = cost_of(candidate, space, data.classes)
    params = sum(p.numel() for p in model.parameters())
    assert params == at.params, "the closed form and the model disagree"
    known = {"spec_id": candidate.id, "pattern": candidate.spec.pattern, "params": params, "macs": at.macs}
    clips = space.recipe.steps(data.clips) * space.recipe.batch
    return known | {"short_run_macs": _forward_macs(candidate, space, data) * clips, "candidate": candidate}


def _forward_macs(candidate: Candidate, space: Space, data: _Data) -> int:
    frames, size = space.trained_clip_of(candidate)
    return cost(candidate.trained, frames=frames, size=size, num_classes=data.classes).macs


def _donor_macs(space: Space, data: _Data) -> float:
    """Forward MACs of all clips that the space's donor is trained on."""
    if space.donor is None:
        return 0.0
    spec = space.donor_spec()
    macs = _forward_macs(Candidate(spec, spec), space, data)
    return space.donor.times * space.recipe.steps(data.clips) * space.recipe.batch * macs


def _macs_per_s(candidate: Candidate, space: Space, data: _Data, device: str) -> float:
    """MACs of the forward pass that training gets through in a second, on one core where there is no GPU."""
    frames, (height, width) = space.trained_clip_of(candidate)
    clip = (frames, height, width, 3)
    batch = max(2, min(space.recipe.batch, TIMED_ELEMENTS // int(np.prod(clip))))
    rng = np.random.default_rng(0)
    split = Split(rng.integers(0, 256, (batch, *clip), dtype=np.uint8), np.arange(batch) % data.classes)
    recipe = type(space.recipe)(epochs=1, batch=batch)
    model = build(candidate.trained, data.classes)
    with thread_count(1 if device == "cpu" else default_threads()):
        short_run(model, split, recipe, device=device)  # the first step compiles and allocates
        start = time.perf_counter()
        short_run(model, split, recipe, device=device)
    return _forward_macs(candidate, space, data) * batch / (time.perf_counter() - start)


def plan_text(document: dict[str, Any]) -> str:
    """The plan for a person."""
    (low_p, high_p), (low_m, high_m) = document["range"]["params"], document["range"]["macs"]
    return "\n".join(
        [
            f"space {document['space']}: {document['size']:,} architectures; {document['built']} sampled and built",
            f"parameters {low_p / 1e6:.3g} to {high_p / 1e6:.3g} M, MACs {low_m / 1e9:.3g} to {high_m / 1e9:.3g} G",
            f"{document['trials']} trials: expect {_time(document['expected_s'])} of short runs on this device "
            f"({document['device']}, {document['workers']} at a time), by two timed steps of the middle one",
        ]
    )


def _time(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"about {seconds / length:.0f} {unit}"
    return f"about {seconds:.0f} seconds"
