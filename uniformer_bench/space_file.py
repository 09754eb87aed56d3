"""The file of a search space read and checked: every error names the rule, the value and the place in it."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from uniformer_bench.errors import UbenchError
from uniformer_bench.files import nearest, read_text
from uniformer_bench.metrics import LIMITS, find_metric
from uniformer_bench.recipe import Donor, Halving, Recipe
from uniformer_bench.space import (
    CLIP_KEYS,
    MIXER_LETTERS,
    STAGE_KEYS,
    Candidate,
    Choice,
    Domain,
    Input,
    Pick,
    Range,
    Space,
    label,
    pair,
    picked_clip,
)
from uniformer_bench.spec import ArchSpec
from uniformer_bench.yaml_text import parse_yaml

PACKAGED = Path(__file__).parent / "search_spaces"  # in a wheel
CHECKOUT = Path(__file__).parent.parent / "search_spaces"
WHOLE_KEYS = ("head_dim", "mlp_ratio", "drop_path")
MEASURED = ("accuracy", "latency", "memory", "training_memory")  # what closed forms do not give
MEASURABLE = (*MEASURED, "energy")  # the last only where a GPU counts it, so on request


def space_files() -> dict[str, Path]:
    """The spaces that come with the package, by name."""
    folder = PACKAGED if PACKAGED.is_dir() else CHECKOUT
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_space(name_or_file: str) -> Space:
    """A packaged space by name, or any file by path. Raises UbenchError with the rule, the value and the place."""
    packaged = space_files()
    if name_or_file in packaged:
        return parse_space(read_text(packaged[name_or_file]), name_or_file)
    path = Path(name_or_file)
    if not path.suffix and not path.exists():
        raise UbenchError(f"unknown space {name_or_file!r}{nearest(name_or_file, packaged)}")
    return parse_space(read_text(path), name_or_file)


def parse_space(text: str, source: str) -> Space:
    """The space that a YAML text describes; `source` names it in errors."""
    data = parse_yaml(text, source)
    try:
        space = _space(data, text)
        _check_every_option(space)
    except UbenchError as error:
        raise type(error)(f"{error}, in space {source}") from None
    return space


_TOP_KEYS = (
    "name", "input", "data", "spec", "vary", "stages", "architectures", "scale", "short_run_scale",
    "objectives", "constraints", "recipe", "halving", "measure", "baselines", "donor",
)  # fmt: skip


def _space(data: object, text: str) -> Space:
    top = _mapping(data, _TOP_KEYS, "the file")
    for key in ("name", "input"):
        if key not in top:
            raise UbenchError(f"{key} must be given")
    if ("stages" in top) == ("architectures" in top):
        raise UbenchError(
            "either stages or architectures must be given, got " + ("both" if "stages" in top else "none")
        )
    measured_at = _input(top["input"], "input")
    return Space(
        name=_name(top["name"]),
        text=text,
        title=next((line.strip("# ").strip() for line in text.splitlines() if line.startswith("#")), ""),
        input=measured_at,
        data=_input({"frames": measured_at.frames, "size": measured_at.size, **top.get("data", {})}, "data"),
        fixed=top.get("spec", {}),
        vary={k: _as_domain(v, k) for k, v in _mapping(top.get("vary", {}), (*WHOLE_KEYS, *CLIP_KEYS), "vary").items()},
        stages=tuple(_stage_domains(stage, f"stages[{i}]") for i, stage in enumerate(top.get("stages", []))),
        architectures=_architectures(top),
        objectives=_objectives(top.get("objectives", ["accuracy", "latency"])),
        constraints=_constraints(top.get("constraints", {})),
        recipe=Recipe.from_dict(_mapping(top.get("recipe", {}), None, "recipe")),
        halving=Halving.from_dict(_mapping(top.get("halving", {}), None, "halving")),
        measure=tuple(_one_of(key, MEASURABLE, "measure") for key in top.get("measure", MEASURED)),
        baselines=tuple(_baseline(b, len(top.get("stages", []))) for b in top.get("baselines", [])),
        donor=_donor(top["donor"], len(top.get("stages", []))) if "donor" in top else None,
    )


def _name(value: object) -> str:
    if not isinstance(value, str) or not value.replace("_", "").replace("-", "").isalnum():
        raise UbenchError(f"name must be letters, digits, - and _, got {value!r}")
    return value


def _mapping(value: object, known: tuple[str, ...] | None, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UbenchError(f"{place} must be a mapping, got {value!r}")
    for key in value:
        if known is not None and key not in known:
            raise UbenchError(f"unknown key {key!r} in {place}{nearest(key, known)}")
    return value


def _one_of(value: object, known: tuple[str, ...], place: str) -> str:
    if value not in known:
        raise UbenchError(f"unknown {value!r} in {place}{nearest(value, known)}")
    return str(value)


def _input(value: object, place: str) -> Input:
    given = _mapping(value, ("frames", "size", "batch"), place)
    height, width = pair(given.get("size"))
    numbers: dict[str, Any] = {
        "frames": given.get("frames"),
        "height": height,
        "width": width,
        "batch": given.get("batch", 1),
    }
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise UbenchError(f"{name} must be a positive integer, got {number!r} in {place}")
    return Input(numbers["frames"], (numbers["height"], numbers["width"]), numbers["batch"])


def _as_domain(value: object, place: str) -> Domain:
    domain = _domain(value, place)
    if not isinstance(domain, Choice | Range):
        home = "input" if place in CLIP_KEYS else "spec"
        raise UbenchError(
            f"{place} must be a list or a range in vary, got {value!r}; what is fixed belongs into {home}"
        )
    return domain


def _domain(value: object, place: str) -> Any:
    """A Choice for a list, a Range for {low, high, step}; anything else is fixed."""
    if isinstance(value, dict):
        return _range(_mapping(value, ("low", "high", "step"), place), place)
    if not isinstance(value, list) or (len(value) == 3 and place.endswith("kernel") and isinstance(value[0], int)):
        return value  # three integers are one tube
    if not value or len({label(option) for option in value}) < len(value):
        raise UbenchError(f"a choice must have options that differ, got {value!r} in {place}")
    return Choice(tuple(value)) if len(value) > 1 else value[0]


def _range(given: dict[str, Any], place: str) -> Any:
    low, high, step = given.get("low"), given.get("high"), given.get("step", 1)
    if not all(isinstance(n, int | float) and not isinstance(n, bool) for n in (low, high, step)):
        raise UbenchError(f"a range must have numbers for low, high and step, got {given!r} in {place}")
    assert low is not None, "checked above"
    assert high is not None, "checked above"
    if step <= 0 or low > high:
        raise UbenchError(f"a range must rise from low to high by a positive step, got {given!r} in {place}")
    return Range(low, high, step) if low + step <= high else low


def _stage_domains(value: object, place: str) -> dict[str, Any]:
    given = _mapping(value, STAGE_KEYS, place)
    for key in ("mixer", "depth", "width"):
        if key not in given:
            raise UbenchError(f"{key} must be given in {place}")
    return {key: _domain(option, f"{place}.{key}") for key, option in given.items()}


def _objectives(value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not value or len(set(value)) < len(value):
        raise UbenchError(f"objectives must be a list of different metrics, got {value!r}")
    return tuple(find_metric(key).key for key in value)


def _constraints(value: object) -> dict[str, float]:
    limits = _mapping(value, tuple(LIMITS), "constraints")
    for key, limit in limits.items():
        if isinstance(limit, bool) or not isinstance(limit, int | float) or limit <= 0:
            raise UbenchError(f"{key} must be a positive number, got {limit!r} in constraints")
    return limits


def _baseline(value: object, stages: int) -> dict[str, Any]:
    given = _mapping(value, ("name", "pattern", *CLIP_KEYS, *STAGE_KEYS[1:]), "baselines")
    return {"name": _pattern(given.get("pattern"), stages, "baselines"), **given}


def _donor(value: object, stages: int) -> Donor:
    given = _mapping(value, ("pattern", "times"), "donor")
    return Donor(**given | {"pattern": _pattern(given.get("pattern"), stages, "donor")})


def _pattern(value: object, stages: int, place: str) -> str:
    if not stages:
        raise UbenchError(f"a space must have stages for {place}, got a list of architectures")
    if not isinstance(value, str) or len(value) != stages or set(value) - set(MIXER_LETTERS):
        letters = "/".join(MIXER_LETTERS)
        raise UbenchError(f"pattern must be one of {letters} for each of {stages} stages, got {value!r} in {place}")
    return value


def _architectures(top: Mapping[str, Any]) -> tuple[Candidate, ...]:
    """The rows of a grid, each at the scale its cost is for and at the scale its short run has."""
    rows = []
    for i, value in enumerate(top.get("architectures", [])):
        place = f"architectures[{i}]"
        row = _mapping(value, ("name", "pattern", "depth", "kernel", "dpe_kernel", "ffn"), place)
        if set(row.get("pattern", "?")) - set(MIXER_LETTERS) or "name" not in row or "depth" not in row:
            raise UbenchError(f"name, depth and a pattern of {'/'.join(MIXER_LETTERS)} must be given in {place}")
        full, short = (_at_scale(row, top.get(key), key) for key in ("scale", "short_run_scale"))
        rows.append(Candidate(full, short, str(row["name"])))
    return tuple(rows)


def _at_scale(row: Mapping[str, Any], scale: object, place: str) -> ArchSpec:
    given = dict(_mapping(scale, ("width", "head_dim", "mlp_ratio", "stem", "downsample"), place))
    widths = given.pop("width", None)
    if not isinstance(widths, list) or not len(widths) == len(row["pattern"]) == len(row["depth"]):
        raise UbenchError(f"width and depth must be given for every stage of the pattern, got {widths!r} in {place}")
    options = {key: row[key] for key in ("kernel", "dpe_kernel") if key in row}
    ffns = row.get("ffn", [True] * len(widths))
    columns = zip(row["pattern"], row["depth"], widths, ffns, strict=True)
    stages = [{"mixer": MIXER_LETTERS[m], "depth": d, "width": w, "ffn": f, **options} for m, d, w, f in columns]
    return ArchSpec.from_dict({**given, "stages": stages})


def _check_every_option(space: Space) -> None:
    """Makes every option of every parameter once, and every width with every head_dim, so that none fails later."""
    _check_clips(space)
    for pick in _covering_picks(space):
        candidate = space.candidate(pick)
        candidate.spec.grids(*space.clip_of(candidate))
        candidate.trained.grids(*space.trained_clip_of(candidate))
    for _ in space.baseline_picks():
        pass
    if space.donor:
        space.donor_spec()
    _check_objectives(space)


def _check_clips(space: Space) -> None:
    """Where clips vary, smaller ones are made of those that the space has."""
    varied = [key for key in CLIP_KEYS if key in space.vary]
    if varied and space.data[:2] != space.input[:2]:
        raise UbenchError(
            f"clips must be trained on as they are measured where {' and '.join(varied)} vary, got "
            f"{label((space.data.frames, *space.data.size))} in data and "
            f"{label((space.input.frames, *space.input.size))} in input"
        )
    for baseline in space.baselines:
        named = [key for key in CLIP_KEYS if key in baseline and key not in varied]
        if named:
            raise UbenchError(f"a baseline's {named[0]} must vary, got it fixed in baseline {baseline['name']!r}")
    for clip in (picked_clip({key: option}, space.input) for key in varied for option in space.vary[key].options):
        assert clip is not None, "one of its keys varies"
        _input({"frames": clip.frames, "size": clip.size}, "vary")
        if clip.frames > space.input.frames or clip.size[0] > space.input.size[0] or clip.size[1] > space.input.size[1]:
            raise UbenchError(
                "clips must not be larger than input's, which they are made of, got "
                f"{label((clip.frames, *clip.size))} in vary of {label((space.input.frames, *space.input.size))}"
            )
        space.candidate(_cycling_pick({}, 0)).spec.grids(*clip)  # whatever the architecture, strides are the space's


def _check_objectives(space: Space) -> None:
    left_out = set(space.objectives) & set(MEASURABLE) - set(space.measure)
    if left_out:
        raise UbenchError(f"an objective must be measured, got {', '.join(sorted(left_out))} left out")


def _covering_picks(space: Space) -> Iterator[Pick]:
    longest = max((len(d.options) for d in _domains(space)), default=1)
    for first, second, third in itertools.product(range(min(longest, 8)), range(min(longest, 8)), range(3)):
        shifts = {"mixer": third, "width": first, "head_dim": second}
        yield _cycling_pick(shifts, first)


def _cycling_pick(shifts: Mapping[str, int], other: int) -> Pick:
    def pick(name: str, domain: Domain) -> Any:
        shift = shifts.get(name.rpartition(".")[2], other)
        return domain.options[shift % len(domain.options)]

    return pick


def _domains(space: Space) -> Iterator[Domain]:
    if space.architectures:
        yield Choice(tuple(candidate.name for candidate in space.architectures))
    for values in (space.vary, *space.stages):
        yield from (value for value in values.values() if isinstance(value, Choice | Range))


def with_overrides(
    space: Space, *, objectives: tuple[str, ...] | None, constraints: Mapping[str, float], epochs: float | None = None
) -> Space:
    """The space under other objectives, and under further or other constraints."""
    recipe = space.recipe if epochs is None else dataclasses.replace(space.recipe, epochs=epochs)
    changed = dataclasses.replace(
        space,
        objectives=_objectives(objectives) if objectives else space.objectives,
        constraints=_constraints({**space.constraints, **constraints}),
        recipe=recipe,
    )
    _check_objectives(changed)
    return changed
