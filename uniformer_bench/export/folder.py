"""What `ubench export` writes: a checkpoint with all there is of it, or a trial of a run as an architecture.

A search keeps no weights of its short runs, so a trial is exported without model.safetensors and predict.py, and its
graphs are called untrained: weights drawn anew would look like a model and answer at random.
"""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from safetensors.torch import save

from uniformer_bench.cost import cost
from uniformer_bench.errors import UbenchError
from uniformer_bench.export.card import PREDICT, model_card
from uniformer_bench.export.config import FILE, WEIGHTS, make_config
from uniformer_bench.export.graphs import Graph, export_graphs
from uniformer_bench.files import to_json, write_whole
from uniformer_bench.measure.environment import environment
from uniformer_bench.measure.profile import thread_count
from uniformer_bench.measure.protocol import Protocol
from uniformer_bench.metrics import METRICS
from uniformer_bench.model.uniformer import UniFormer, build
from uniformer_bench.picks import in_words, measured, pick_trial
from uniformer_bench.runs import Record, Run, clip_of, load_records
from uniformer_bench.spec import ArchSpec
from uniformer_bench.training.saved import read_saved

SCHEMA_VERSION = 1


class Content(NamedTuple):
    """What goes into a folder, whichever the source."""

    model: UniFormer
    config: dict[str, Any]
    numbers: list[tuple[str, str]]
    source: str
    data: Mapping[str, Any]
    results: Mapping[str, Any] | None
    plan: Mapping[str, Any] | None


def is_run(path: Path) -> bool:
    """Whether `path` is a run of a search, rather than a training."""
    return (path / "run.json").is_file()


def from_checkpoint(path: Path) -> Content:
    """A training of `ubench train`, finished or not."""
    saved = read_saved(path)
    plan, results = saved.plan, saved.results
    views = results["views"] if results else "1x1"
    at: dict[str, Any] = {"frames": plan.frames, "size": plan.size, "read_size": plan.read_size, "stride": plan.stride}
    config = make_config(plan.spec, saved.classes, **at, views=views, trained=True)
    source = f"Closed forms; trained for {saved.step} of {saved.steps} steps."
    numbers = _closed_form(plan.spec, plan.frames, plan.size, len(saved.classes))
    return Content(saved.build(), config, numbers, source, saved.data, results, _without_paths(plan.to_dict()))


def _without_paths(plan: dict[str, Any]) -> dict[str, Any]:
    """A plan to hand on: where things lay on this machine is nobody's business."""
    names = {key: Path(plan[key]).name for key in ("data", "init") if plan[key]}
    return {key: value for key, value in (plan | names).items() if key != "data_options"}


def from_trial(path: Path, trial: int | None, limits: Mapping[str, float]) -> Content:
    """A trial of a run, by number or the best within limits, under fresh weights."""
    run = load_records(path)
    record = pick_trial(run, trial, limits)
    spec, (frames, size), data = ArchSpec.from_dict(record["spec"]), clip_of(run.info, record), run.info["data"]
    classes = data["classes"]
    config = make_config(spec, classes, frames=frames, size=size, read_size=size, trained=False)
    torch.manual_seed(0)
    protocol = run.info["protocol"]
    source = (
        f"Trial {record['number']} of {run.info['name']}: measured by the search on {protocol['device']}, "
        f"{protocol['precision']}, batch {protocol['batch']}; {_accuracy_source(run, record)}."
    )
    numbers = measured(record) or _closed_form(spec, frames, size, len(classes))
    return Content(build(spec, len(classes)), config, numbers, source, data, None, None)


def _accuracy_source(run: Run, record: Record) -> str:
    """Whose accuracy it is: of the search's one short run, or of a finalist's later ones, with the test split's."""
    rows: list[dict[str, Any]] = run.info.get("finalists") or []
    row = next((row for row in rows if row.get("trial") == record["number"]), {})
    trainings, test = (row.get("accuracy") or {}).get("trainings"), row.get("test_accuracy") or {}
    if not trainings or not test.get("ci95"):
        return "the accuracy is that of a short run"
    mean, low, high = (100 * value for value in (test["mean"], *test["ci95"]))
    by = f"the mean of {trainings} short runs from seeds that did not choose it"
    return f"the accuracy is {by}, {mean:.1f} % ({low:.1f} to {high:.1f}) on the test split"


def _closed_form(spec: ArchSpec, frames: int, size: tuple[int, int], classes: int) -> list[tuple[str, str]]:
    total = cost(spec, frames=frames, size=size, num_classes=classes)
    return [in_words(METRICS[key], getattr(total, key)) for key in ("params", "macs", "flops")]


def export(content: Content, out: Path, *, threads: int = 1) -> dict[str, Any]:
    """Writes the folder, which appears under its name when it is whole; the document of the verb.

    Raises UbenchError where `out` is there already and not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UbenchError(f"a folder to export to must be new or empty, got {out}")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        graphs = _fill(temporary, content, threads)
        temporary.chmod(0o755)
        temporary.replace(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return {
        "schema_version": SCHEMA_VERSION,
        "out": str(out),
        "trained": content.config["trained"],
        "spec_id": content.config["spec_id"],
        "files": sorted(path.name for path in out.iterdir()),
        "graphs": [graph.to_dict() for graph in graphs],
    }


def _fill(folder: Path, content: Content, threads: int) -> list[Graph]:
    config, trained, model = content.config, content.config["trained"], content.model
    at = config["preprocessing"]
    height, width = at["size"]
    protocol = Protocol(device="cpu", frames=at["frames"], size=(height, width), threads=threads)
    with thread_count(threads):
        graphs = export_graphs(model, folder, stem="model" if trained else "untrained", protocol=protocol)
        machine = environment()
    write_whole(folder / "spec.yaml", yaml.safe_dump(config["spec"], sort_keys=False, default_flow_style=None))
    write_whole(folder / FILE, to_json(config, indent=2))
    write_whole(folder / "export.json", to_json({"graphs": [g.to_dict() for g in graphs], "environment": machine}))
    if trained:
        weights = {name: value.contiguous() for name, value in model.state_dict().items()}
        write_whole(folder / WEIGHTS, save(weights, metadata={"format": "pt"}))
        write_whole(folder / "predict.py", PREDICT)
    rest = content._asdict()
    about = {key: rest[key] for key in ("numbers", "source", "results", "plan", "data")}
    write_whole(folder / "README.md", model_card(config, **about, graphs=graphs, environment=machine))
    return graphs


def export_text(document: Mapping[str, Any]) -> str:
    """What was written, for a person."""
    lines = [f"{document['out']}: {', '.join(document['files'])}"]
    if not document["trained"]:
        lines.append("not trained: a search keeps no weights, so this is an architecture; `ubench train` it")
    for graph in document["graphs"]:
        took = "" if graph["latency_ms"] is None else f"{graph['latency_ms']:.3g} ms a clip"
        apart = "" if graph["largest_difference"] is None else f"largest difference {graph['largest_difference']:.2g}"
        lines.append(f"  {graph['backend']:14}{graph['reason'] or f'{took}, {apart}'}")
    return "\n".join(lines)
