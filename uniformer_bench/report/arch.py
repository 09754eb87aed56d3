"""An architecture as a page shows it: stages with their grids and shares of cost, its YAML and its Python.

Shares are of the closed form's MACs and parameters of the whole model, patch embedding counted with its stage, and
of the sum of the stages' latencies where a record has them.
"""

import json
from typing import Any, NamedTuple

from uniformer_bench.cost import cost
from uniformer_bench.errors import SpecError
from uniformer_bench.report.info import Trial
from uniformer_bench.spec import ArchSpec, StageSpec, Triple


class StageView(NamedTuple):
    """A stage: `tube` is None off local stages, `grid` its (T, H, W) tokens, shares are fractions of the model's."""

    mixer: str
    depth: int
    width: int
    tube: Triple | None
    dpe: Triple | None
    mlp_ratio: float | None
    grid: Triple
    macs_share: float
    params_share: float
    latency_share: float | None = None


class ArchView(NamedTuple):
    """A trial's architecture and how to have it."""

    number: int
    pattern: str
    stages: tuple[StageView, ...]
    yaml: str
    python: str


class Input(NamedTuple):
    """What cost is counted for."""

    frames: int
    size: tuple[int, int]
    num_classes: int


def read_input(info: dict[str, Any]) -> Input | None:
    """The clip and the classes of a run, or None where its file does not say."""
    clip, data = info.get("input") or {}, info.get("data") or {}
    size, classes = clip.get("size"), data.get("classes")
    if not clip.get("frames") or not size or not classes:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    return Input(clip["frames"], (height, width), classes if isinstance(classes, int) else len(classes))


def view(trial: Trial, given: Input | None) -> ArchView | None:
    """The view of a trial's spec; None where there is no spec, or none that can exist for this input."""
    if trial.spec is None or given is None:
        return None
    if trial.clip is not None:
        given = given._replace(**trial.clip._asdict())
    try:
        spec = ArchSpec.from_dict(trial.spec)
        stages = _stages(spec, given, trial.stage_ms)
    except SpecError:
        return None
    return ArchView(trial.number, spec.pattern, stages, spec_yaml(spec), spec_python(spec, given))


def _stages(spec: ArchSpec, given: Input, stage_ms: tuple[float, ...]) -> tuple[StageView, ...]:
    total = cost(spec, frames=given.frames, size=given.size, num_classes=given.num_classes)
    measured = len(stage_ms) == len(spec.stages) and sum(stage_ms) > 0
    times = [ms / sum(stage_ms) for ms in stage_ms] if measured else [None] * len(spec.stages)
    rows = zip(spec.resolved_stages, total.stages, times, strict=True)
    return tuple(_stage(s, part.grid, part.macs / total.macs, part.params / total.params, t) for s, part, t in rows)


def _stage(stage: StageSpec, grid: Triple, macs: float, params: float, latency: float | None) -> StageView:
    shape = (stage.kernel, stage.dpe_kernel, stage.mlp_ratio)
    return StageView(stage.mixer, stage.depth, stage.width, *shape, grid, macs, params, latency)


def spec_yaml(spec: ArchSpec) -> str:
    """The spec as people write it, a line a stage; ArchSpec.load reads it back."""
    plain = spec.to_dict()
    stages = [f"  - {_flow(stage)}" for stage in plain.pop("stages")]
    return "\n".join([*(f"{key}: {_flow(value)}" for key, value in plain.items()), "stages:", *stages]) + "\n"


def _flow(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(each)}" for key, each in value.items()) + "}"
    return value if isinstance(value, str) and value.isalpha() else json.dumps(value)


def spec_python(spec: ArchSpec, given: Input) -> str:
    """Lines that build the model, complete in themselves."""
    plain = spec.to_dict()
    stages = "".join(f"        {stage!r},\n" for stage in plain.pop("stages"))
    rest = "".join(f"    {key!r}: {value!r},\n" for key, value in plain.items())
    body = f'spec = ub.ArchSpec.from_dict({{\n{rest}    "stages": [\n{stages}    ],\n}})\n'.replace("'", '"')
    clip = f"(B, {spec.in_channels}, {given.frames}, {given.size[0]}, {given.size[1]})"
    build = f"model = ub.build(spec, num_classes={given.num_classes})  # {clip} -> (B, {given.num_classes})\n"
    return f"import uniformer_bench as ub\n\n{body}{build}"
