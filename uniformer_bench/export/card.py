"""The texts of an exported folder: the model card (README.md) and the snippet (predict.py).

Names of classes and of data are other people's text: they are shown, never read as markup.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from uniformer_bench.export.graphs import TOLERANCE, Graph

PREDICT = '''"""Prints the labels of a video: python predict.py VIDEO (needs uniformer_bench)."""

import sys
from pathlib import Path

from uniformer_bench.export import load_exported, predict

exported = load_exported(Path(__file__).parent)
for label, probability in predict(exported, sys.argv[1]):
    print(f"{probability:7.2%}  {label}")
'''

_FRONT_MATTER = """---
library_name: uniformer_bench
pipeline_tag: video-classification
tags: [video-classification, uniformer]
---
"""


def model_card(
    config: Mapping[str, Any],
    *,
    numbers: Sequence[tuple[str, str]],
    source: str,
    results: Mapping[str, Any] | None,
    plan: Mapping[str, Any] | None,
    data: Mapping[str, Any],
    graphs: Sequence[Graph],
    environment: Mapping[str, Any],
) -> str:
    """README.md. `numbers` are (label, value with unit), measured as `source` says."""
    at = config["preprocessing"]
    height, width = at["size"]
    parts = [
        _FRONT_MATTER,
        f"# UniFormer {config['spec_id']}\n",
        f"{'Trained' if config['trained'] else '**Not trained: an architecture only**'}, for "
        f"{config['num_labels']} classes and clips of {at['frames']} frames of {height} x {width}.\n",
        _use(config["trained"]),
        f"## Numbers\n\n{cell(source)}\n\n{_table(('what', 'value'), numbers)}",
        _accuracy(results) if results else "",
        _graphs(graphs, environment),
        _preprocessing(at),
        _data(data),
        _training(plan) if plan else "",
    ]
    return "\n".join(part for part in parts if part)


def cell(value: object) -> str:
    """Text that Markdown and HTML show as it is, on one line."""
    text = " ".join(str(value).split())
    for sign in "\\`*_{}[]<>|#!~$":
        text = text.replace(sign, f"\\{sign}" if sign not in "<>" else {"<": "&lt;", ">": "&gt;"}[sign])
    return text


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cell(c) if c != "---" else c for c in line) + " |\n" for line in lines)


def _use(trained: bool) -> str:
    if trained:
        return "## Use\n\n```\npip install uniformer_bench\npython predict.py video.mp4\n```\n"
    return (
        "The graphs (untrained.pt2, untrained.onnx) hold random weights: they tell what the architecture costs on a\n"
        "device or in a runtime, and answer at random. Weights of a search's short run are not kept.\n\n"
        "## Train it\n\n```\nubench train --spec spec.yaml --data YOUR_VIDEOS --out training\n"
        "ubench export training --out model\n```\n"
    )


def _accuracy(results: Mapping[str, Any]) -> str:
    rows = [(name, _percent(results[key])) for key, name in (("top1", "top-1"), ("top5", "top-5"))]
    rows += [("mean of classes", _percent(results["mean_class"]))]
    rows += [(name, _percent(row)) for name, row in results["by_class"].items()]
    about = f"{results['clips']} clips of the {results['split']} split, {results['views']} views; 95 % intervals."
    return f"## Accuracy\n\n{about}\n\n{_table(('', 'accuracy'), rows)}"


def _percent(row: Mapping[str, Any]) -> str:
    low, high = row["ci95"]
    return f"{100 * row['value']:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def _graphs(graphs: Sequence[Graph], environment: Mapping[str, Any]) -> str:
    rows = [
        (
            graph.backend,
            graph.file or "",
            "" if graph.largest_difference is None else f"{graph.largest_difference:.2g}",
            "" if graph.latency_ms is None else f"{graph.latency_ms:.3g}",
            graph.reason or "as the model",
        )
        for graph in graphs
    ]
    head = ("backend", "file", "largest difference", "ms a clip", "verdict")
    about = (
        f"Logits compared with the model's on random clips, in fp32, {TOLERANCE:g} allowed; batch 1 on "
        f"{environment.get('threads')} thread(s) of {cell(environment.get('cpu') or 'an unnamed CPU')}, "
        f"torch {environment.get('torch')}."
    )
    return f"## Files that run without this package\n\n{about}\n\n{_table(head, rows)}"


def _preprocessing(at: Mapping[str, Any]) -> str:
    return f"## Preprocessing\n\n{_table(('step', 'value'), list(at.items()))}"


def _data(data: Mapping[str, Any]) -> str:
    keys = ("name", "kind", "hash", "seed", "counts", "class_counts", "short_clips")
    rows = [(key, data[key]) for key in keys if key in data]
    left_out = data.get("left_out")
    if left_out is not None:
        rows.append(("clips left out", len(left_out) if isinstance(left_out, list) else left_out))
    return f"## Data\n\n{_table(('what', 'value'), rows)}"


def _training(plan: Mapping[str, Any]) -> str:
    rows = [(key, value) for key, value in plan.items() if key not in ("spec", "recipe")]
    return f"## Training\n\n{_table(('setting', 'value'), [*plan['recipe'].items(), *rows])}"
