"""A synthetic run on disk: plausible numbers of a search over four stages, made without torch or Optuna."""

import base64
import json
import math
import random
import struct
import zlib
from pathlib import Path
from typing import Any

from uniformer_bench.cost import cost
from uniformer_bench.runs import Run, write_csv
from uniformer_bench.spec import ArchSpec

CLASSES = ["up", "down", "left", "right", "clockwise", "anticlockwise", "grow", "shrink"]
INPUT = {"frames": 8, "size": [32, 32], "batch": 1}
TUBES = ["3x3x3", "1x5x5", "5x5x5", "3x7x7"]
SPACE = """# tiny: a first search on a CPU
name: tiny
input: {frames: 8, size: 32, batch: 1}
spec: {head_dim: 16, stem: {kernel: [3, 2, 2], stride: [2, 2, 2]}}
vary: {mlp_ratio: [2, 3, 4]}
stages:
  - {mixer: [local, global, split], depth: {low: 1, high: 2}, width: [16, 32], kernel: [[3, 3, 3], [1, 5, 5]]}
"""


def make_run(trials: int = 200, *, seed: int = 0, baselines: bool = True) -> Run:
    """A run of so many counted trials, the baselines first."""
    rng = random.Random(seed)
    records: list[dict[str, Any]] = []
    names = [("paper pattern", "LLGG"), ("all local", "LLLL"), ("all global", "GGGG")] if baselines else []
    for number in range(trials):
        fixed = names[number] if number < len(names) else None
        learned = number / max(trials, 1)
        records.append(_record(number, rng, fixed, learned))
    _mark_front(records)
    return Run(_info(records, trials), records)


def save_run(run: Run, folder: Path) -> Path:
    """Writes the run's files and returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(run.info), encoding="utf-8")
    (folder / "trials.json").write_text(json.dumps(run.trials), encoding="utf-8")
    (folder / "trials.csv").write_text(write_csv(run.trials), encoding="utf-8")
    (folder / "front.json").write_text(json.dumps([r for r in run.trials if r["front"]]), encoding="utf-8")
    return folder


def _params(rng: random.Random, pattern: str | None, learned: float) -> dict[str, Any]:
    params: dict[str, Any] = {"mlp_ratio": rng.choice([2, 3, 4])}
    for i in range(4):
        late = 0.75 if i >= 2 else 0.25
        odds = [1 - late * (0.5 + learned / 2), late * (0.5 + learned / 2), 0.3 * (1 - learned)]
        mixer = (
            {"L": "local", "G": "global"}[pattern[i]] if pattern else rng.choices(["local", "global", "split"], odds)[0]
        )
        params[f"stage{i + 1}.mixer"] = mixer
        params[f"stage{i + 1}.depth"] = rng.choice([1, 1, 2, 3] if i == 2 else [1, 2])
        params[f"stage{i + 1}.width"] = rng.choice([16, 32, 48]) * (1 + i // 2)
        if mixer == "local":
            params[f"stage{i + 1}.kernel"] = "5x5x5" if pattern else rng.choice(TUBES)
        params[f"stage{i + 1}.dpe_kernel"] = rng.choice(["3x3x3", "1x3x3"])
    return params


def _spec(params: dict[str, Any]) -> ArchSpec:
    stages = []
    for i in range(4):
        own = {k.split(".")[1]: v for k, v in params.items() if k.startswith(f"stage{i + 1}.")}
        stages.append({k: [int(a) for a in v.split("x")] if "kernel" in k else v for k, v in own.items()})
    stem = {"kernel": [3, 2, 2], "stride": [2, 2, 2]}
    return ArchSpec.from_dict({"stages": stages, "stem": stem, "head_dim": 16, "mlp_ratio": params["mlp_ratio"]})


def _record(number: int, rng: random.Random, fixed: tuple[str, str] | None, learned: float) -> dict[str, Any]:
    params = _params(rng, fixed[1] if fixed else None, learned)
    spec = _spec(params)
    state, reason = ("complete", None) if fixed else _fate(rng, number)
    metrics, intervals = _metrics(rng, spec, state)
    seconds = {"build": 0.03, "latency": 0.4 + rng.random() / 4, "memory": 0.1, "train": 1.5 + rng.random() * 2}
    if state not in ("complete", "diverged"):
        seconds = {key: value for key, value in seconds.items() if key != "train"}
    record = {"number": number, "state": state, "reason": reason, "spec_id": spec.id, "spec": spec.to_dict()}
    record |= {"baseline": fixed[0] if fixed else None, "params": params, "metrics": metrics, "intervals": intervals}
    return record | {"seconds": seconds, "finished_s": round(2.4 * (number + 1), 2), "front": False}


def _fate(rng: random.Random, number: int) -> tuple[str, str | None]:
    roll = rng.random()
    for share, state, reason in (
        (0.16, "pruned", f"rung {1 + number % 2}: accuracy below the upper half at that rung"),
        (0.20, "infeasible", "params 2.31 M over max_params_m 2"),
        (0.22, "oom", "RuntimeError: not enough memory: you tried to allocate 268435456 bytes"),
        (0.235, "timeout", "no answer within 60 s"),
        (0.25, "diverged", "loss is not finite at step 31"),
        (0.26, "crashed", "worker ended with signal 11 (SIGSEGV)"),
    ):
        if roll < share:
            return state, reason
    return "complete", None


def _metrics(rng: random.Random, spec: ArchSpec, state: str) -> tuple[dict[str, Any], dict[str, Any]]:
    total = cost(spec, frames=8, size=32, num_classes=len(CLASSES))
    slow = {"local": 1.0, "global": 1.25, "split": 1.6}
    load = sum(slow[s.mixer] * (0.12 * len(s.blocks) + s.macs / 9e7) for s in total.stages)
    latency = (0.35 + load) * math.exp(rng.gauss(0, 0.04))
    late = sum(s.mixer != "local" for s in spec.stages[2:]) + 0.5 * (spec.stages[0].mixer == "local")
    accuracy = 0.55 + 0.09 * late + 0.045 * math.log(total.macs / 1e7) + rng.gauss(0, 0.025)
    accuracy = min(0.985, max(0.2, accuracy)) * (0.7 if state == "pruned" else 1)
    metrics: dict[str, Any] = {"macs": total.macs, "flops": total.flops, "params": total.params}
    intervals: dict[str, Any] = {}
    if state in ("complete", "pruned", "diverged", "infeasible"):
        metrics |= {
            "latency": latency,
            "throughput": 1000 / latency,
            "memory": 4 * total.params + total.activation_bytes,
        }
        intervals["latency"] = [latency * 0.96, latency * 1.05]
    if state in ("complete", "pruned"):
        half = 1.96 * math.sqrt(accuracy * (1 - accuracy) / 640)
        metrics |= {"accuracy": accuracy, "training_memory": 16 * total.params + 3 * total.activation_bytes}
        intervals["accuracy"] = [accuracy - half, min(1.0, accuracy + half)]
    return metrics, intervals


def _mark_front(records: list[dict[str, Any]]) -> None:
    done = [r for r in records if r["state"] == "complete"]
    for record in done:
        a, t = record["metrics"]["accuracy"], record["metrics"]["latency"]
        record["front"] = not any(o["metrics"]["accuracy"] > a and o["metrics"]["latency"] < t for o in done)


def _history(records: list[dict[str, Any]]) -> list[list[float]]:
    rows, seen = [], []
    for record in records:
        if record["state"] == "complete":
            seen.append((record["metrics"]["latency"], record["metrics"]["accuracy"]))
            rows.append([record["finished_s"], record["number"], _hypervolume(seen)])
    return rows


def _hypervolume(points: list[tuple[float, float]], worst: float = 6.0) -> float:
    area, best = 0.0, 0.0
    for latency, accuracy in sorted(points):
        if accuracy > best and latency < worst:
            area += (worst - latency) * (accuracy - best)
            best = accuracy
    return area / worst


def strip(frames: int = 8, side: int = 32, seed: int = 0) -> str:
    """A grey PNG data URI: a bright square that moves over `frames` pictures laid side by side."""
    rng = random.Random(seed)
    dx, dy = rng.choice([(2, 0), (-2, 0), (0, 2), (0, -2), (2, 2)])
    rows = []
    for y in range(side):
        row = bytearray(b"\0")
        for f in range(frames):
            cx, cy = side // 2 + dx * (f - 4), side // 2 + dy * (f - 4)
            row += bytes(225 if abs(x - cx) < 5 and abs(y - cy) < 5 else 28 + (x * y) % 13 for x in range(side))
        rows.append(bytes(row))
    body = _chunk(b"IHDR", struct.pack(">IIBBBBB", frames * side, side, 8, 0, 0, 0, 0))
    body += _chunk(b"IDAT", zlib.compress(b"".join(rows), 9)) + _chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + body).decode()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _info(records: list[dict[str, Any]], asked: int) -> dict[str, Any]:
    history = _history(records)
    return {
        "schema_version": 1,
        "name": "tiny-builtin-cpu-3fa1",
        "command": "ubench search --trials 200",
        "version": "0.1.0",
        "created": "2026-11-20T09:12:44+00:00",
        "elapsed_s": 2.4 * len(records),
        "seed": 0,
        "sampler": "nsga2",
        "space_name": "tiny",
        "space_text": SPACE,
        "objectives": ["accuracy", "latency"],
        "constraints": {"max_params_m": 2},
        "input": INPUT,
        "protocol": {"device": "cpu", "precision": "fp32", "batch": 1, "threads": 2, "warmup": 5, "repeats": 40},
        "recipe": {"epochs": 4, "batch": 64, "lr": 0.002},
        "data": {
            "name": "builtin digits",
            "classes": CLASSES,
            "counts": {"train": 1280, "validation": 640},
            "hash": "9c1d0b7e22aa",
            "left_out": 0,
            "samples": [{"name": name, "image": strip(seed=i)} for i, name in enumerate(CLASSES[:4])],
        },
        "environment": {"python": "3.11.9", "torch": "2.13.0+cpu", "platform": "Linux x86_64", "cpu": "2 cores"},
        "hypervolume": {
            "reference": {"accuracy": 0, "latency": 6.0},
            "value": history[-1][2] if history else None,
            "history": history,
        },
        "trials_asked": asked,
        "notes": ["Energy was not measured: this device reports no power."],
    }


def with_evidence(run: Run) -> Run:
    """The run with what a fuller search records: rungs, stages' latencies, finalists and a fidelity card."""
    records = [_with_rungs(record) for record in run.trials]
    front = [record for record in records if record["front"]][:3]
    finalists = [
        {
            "trial": record["number"],
            "latency_ms": {"median": record["metrics"]["latency"], "ci95": record["intervals"]["latency"], "n": 40},
            "latency_ms_in_search": 1.1 * record["metrics"]["latency"],
            "accuracy": _twice(record["metrics"]["accuracy"]),
            "accuracy_in_search": record["metrics"]["accuracy"] + 0.02,
            "test_accuracy": _twice(record["metrics"]["accuracy"] - 0.01),
            "on_front": 0.9,
        }
        for record in front
    ]
    points = [{"trial": n, "short": 0.5 + n / 100, "long": 0.6 + n / 90} for n in range(12)]
    fidelity = {
        "tau": 0.71, "ci95": [0.52, 0.84], "n": 24, "longer": 8, "points": points,
        "bands": [{"name": "cheapest third", "tau": -0.05, "ci95": [-0.4, 0.3], "n": 8}],
        "straw_men": {"params": {"tau": 0.31, "ci95": [0.02, 0.55]}},
        "warnings": ["within the cheapest third the interval holds 0"],
    }  # fmt: skip
    return Run({**run.info, "finalists": finalists, "fidelity": fidelity}, records)


def _twice(accuracy: float) -> dict[str, Any]:
    """An accuracy as the end of a search has it: the search's own training, and two after it."""
    by_seed = {"0": accuracy + 0.02, "1": accuracy - 0.01, "2": accuracy + 0.01}
    ci95 = [accuracy - 0.03, min(1.0, accuracy + 0.03)]
    return {"by_seed": by_seed, "failed": {}, "mean": accuracy, "ci95": ci95, "trainings": 2, "clips": 640}


def _with_rungs(record: dict[str, Any]) -> dict[str, Any]:
    accuracy, number = record["metrics"].get("accuracy"), record["number"]
    if accuracy is None:
        return record
    epochs = [0.5, 1.0] if record["state"] == "pruned" else [0.5, 1.0, 4.0]
    rungs = [{"epochs": e, "loss": 2.5 - accuracy * (0.6 + e / 10), "seconds": e / 2} for e in epochs]
    stages = [{"name": f"stage{i}", "latency_ms": 0.1 * (1 + (number + i) % 3)} for i in range(1, 5)]
    return {**record, "rungs": rungs, "stages": stages}
