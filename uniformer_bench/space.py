"""A search space: a file that people edit, turned into architectures by whoever picks.

The file says what is fixed and what varies, for the whole model and by stage: a list is a choice, and
{low, high, step} a range. `Space.candidate(pick)` asks `pick(name, domain)` for every value that is active
in the architecture being made, and for nothing else: random draws, Optuna and the counting of a space are
three ways to pick. A space may instead list its `architectures`, a finite grid.
"""

import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from uniformer_bench.errors import UbenchError
from uniformer_bench.recipe import Donor, Halving, Recipe
from uniformer_bench.spec import ArchSpec

MIXER_LETTERS = {"L": "local", "G": "global", "S": "split"}
STAGE_KEYS = ("mixer", "depth", "width", "kernel", "head_dim", "dpe_kernel", "ffn", "mlp_ratio")
CLIP_KEYS = ("frames", "size")


@dataclass(frozen=True)
class Choice:
    """One of these values, as they stand in the file."""

    options: tuple[Any, ...]

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """A short name for each option, as 3x5x5 for a tube: what storage and tables show."""
        return tuple(label(option) for option in self.options)


class Range(NamedTuple):
    """low, low + step, ... up to high."""

    low: int | float
    high: int | float
    step: int | float

    @property
    def options(self) -> tuple[int | float, ...]:
        count = math.floor((self.high - self.low) / self.step + 1e-9) + 1
        return tuple(self.low + i * self.step for i in range(count))


Domain = Choice | Range
Pick = Callable[[str, Domain], Any]


class Input(NamedTuple):
    """Clips of this many frames and this (height, width); `batch` of them where cost is measured."""

    frames: int
    size: tuple[int, int]
    batch: int = 1


class Clip(NamedTuple):
    """What a model sees at once: so many frames of this (height, width)."""

    frames: int
    size: tuple[int, int]


class Candidate(NamedTuple):
    """An architecture to evaluate: `spec` is what is measured, `trained` what learns (mostly the same).

    `clip` is its own where clips vary in the space, else None: the space's.
    """

    spec: ArchSpec
    trained: ArchSpec
    name: str | None = None
    clip: Clip | None = None

    @property
    def id(self) -> str:
        """The spec's, with the clip's shape where that is its own: what is evaluated once."""
        if self.clip is None:
            return self.spec.id
        return f"{self.spec.id}@{label((self.clip.frames, *self.clip.size))}"


@dataclass(frozen=True, kw_only=True)
class Space:
    """A checked search space. `text` is the file verbatim, `title` its first line of comment."""

    name: str
    text: str
    title: str
    input: Input
    data: Input
    fixed: Mapping[str, Any]
    vary: Mapping[str, Domain]
    stages: tuple[Mapping[str, Any], ...]
    architectures: tuple[Candidate, ...]
    objectives: tuple[str, ...]
    constraints: Mapping[str, float]
    recipe: Recipe
    halving: Halving
    measure: tuple[str, ...]
    baselines: tuple[Mapping[str, Any], ...] = field(default=())
    donor: Donor | None = None

    def candidate(self, pick: Pick) -> Candidate:
        """The architecture that `pick` makes. Raises SpecError where its values do not go together."""
        if self.architectures:
            by_name = {candidate.name: candidate for candidate in self.architectures}
            return by_name[pick("architecture", Choice(tuple(by_name)))]
        whole = {name: pick(name, domain) for name, domain in self.vary.items()}
        values = {**self.fixed, **{name: value for name, value in whole.items() if name not in CLIP_KEYS}}
        values["stages"] = [_stage(stage, f"stage{i}.", pick) for i, stage in enumerate(self.stages, 1)]
        spec = ArchSpec.from_dict(values)
        return Candidate(spec, spec, clip=picked_clip(whole, self.input))

    def clip_of(self, candidate: Candidate) -> Clip:
        """What the candidate is measured on."""
        return candidate.clip or Clip(self.input.frames, self.input.size)

    def trained_clip_of(self, candidate: Candidate) -> Clip:
        """What the candidate's short run is on."""
        return candidate.clip or Clip(self.data.frames, self.data.size)

    def baseline_picks(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """(name, every suggested parameter as storage has it) of each baseline, or of each row of a grid."""
        if self.architectures:
            for candidate in self.architectures:
                yield str(candidate.name), {"architecture": candidate.name}
        for baseline in self.baselines:
            picks: dict[str, Any] = {}
            self.candidate(_baseline_pick(baseline, picks))
            yield baseline["name"], picks

    def donor_spec(self) -> ArchSpec:
        """The architecture that short runs inherit from: the donor's pattern, every stage as deep, wide and far-seeing
        as the space has it. Raises UbenchError where the space does not have the pattern."""
        assert self.donor is not None, "a space without a donor was asked for its architecture"
        spec = self.candidate(_largest_pick(self.donor.pattern)).trained
        if spec.pattern != self.donor.pattern:
            raise UbenchError(f"a donor must lie in the space, got pattern {self.donor.pattern!r}, which is not in it")
        return spec

    def size(self) -> int:
        """How many different sets of active values there are."""
        if self.architectures:
            return len(self.architectures)
        whole = math.prod(len(domain.options) for domain in self.vary.values())
        return whole * math.prod(_stage_size(stage) for stage in self.stages)


def picked_clip(whole: Mapping[str, Any], own: Input) -> Clip | None:
    """The clip that was picked, of the space's own where only one of its keys varies."""
    if not set(CLIP_KEYS) & set(whole):
        return None
    return Clip(whole.get("frames", own.frames), pair(whole.get("size", own.size)))


def pair(size: Any) -> tuple[int, int]:
    """(height, width), of which a single number is both."""
    height, width = size if isinstance(size, list | tuple) and len(size) == 2 else (size, size)
    return height, width


def random_pick(rng: random.Random) -> Pick:
    """Every option equally likely."""
    return lambda name, domain: rng.choice(domain.options)


def stored(domain: Domain, option: Any) -> Any:
    """An option as storage has it: of a choice its label, of a range its number."""
    return domain.labels[domain.options.index(option)] if isinstance(domain, Choice) else option


def stored_pick(params: Mapping[str, Any]) -> Pick:
    """Picks what storage has. It raises KeyError or ValueError for a parameter or a label that is not there."""

    def pick(name: str, domain: Domain) -> Any:
        return domain.options[domain.labels.index(params[name])] if isinstance(domain, Choice) else params[name]

    return pick


def label(value: Any) -> str:
    """An option in a word, as 3x5x5 for a tube."""
    if isinstance(value, list | tuple):
        return "x".join(map(str, value))
    if isinstance(value, bool):  # of which 1 and 0 are none, though equal
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def _stage(stage: Mapping[str, Any], prefix: str, pick: Pick) -> dict[str, Any]:
    """One stage's values; what its mixer (or a missing FFN) does not use is not asked for."""

    def value_of(key: str) -> Any:
        value = stage[key]
        return pick(prefix + key, value) if isinstance(value, Choice | Range) else value

    values: dict[str, Any] = {}
    for key in (key for key in STAGE_KEYS if key in stage):
        if _is_active(key, values):
            values[key] = value_of(key)
    return values


def _is_active(key: str, values: Mapping[str, Any]) -> bool:
    if key == "kernel":
        return values["mixer"] == "local"
    if key == "head_dim":
        return values["mixer"] != "local"
    return key != "mlp_ratio" or values.get("ffn", True)


def _options(value: Any) -> tuple[Any, ...]:
    return value.options if isinstance(value, Choice | Range) else (value,)


def _stage_size(stage: Mapping[str, Any]) -> int:
    """The sum, over mixers and having an FFN, of the product of what is then active."""
    ffns = _options(stage.get("ffn", True))
    total = 0
    for mixer, ffn in itertools.product(_options(stage["mixer"]), ffns):
        known = {"mixer": mixer, "ffn": ffn}
        keys = [key for key in STAGE_KEYS if key in stage and key not in known and _is_active(key, known)]
        total += math.prod(len(_options(stage[key])) for key in keys)
    return total


def _baseline_pick(baseline: Mapping[str, Any], picks: dict[str, Any]) -> Pick:
    """The pattern's mixers, what the baseline names, the first option for the FFN and the middle one for the rest."""

    def pick(name: str, domain: Domain) -> Any:
        stage, _, key = name.rpartition(".")
        wanted = domain.options[0] if key == "ffn" else domain.options[len(domain.options) // 2]
        if key == "mixer":
            wanted = MIXER_LETTERS[baseline["pattern"][int(stage.removeprefix("stage")) - 1]]
        elif key in baseline:
            given = baseline[key]
            by_stage = stage and isinstance(given, list) and key != "kernel" and key != "dpe_kernel"
            wanted = given[int(stage.removeprefix("stage")) - 1] if by_stage else given
        if wanted not in domain.options:
            where = f"baseline {baseline['name']!r}"
            raise UbenchError(f"a baseline must lie in the space, got {name} {wanted!r} in {where}, which is no option")
        picks[name] = stored(domain, wanted)
        return wanted

    return pick


def _largest_pick(pattern: str) -> Pick:
    """The pattern's mixers where they are options, and of all else the largest; of head_dim and drop_path the first."""

    def pick(name: str, domain: Domain) -> Any:
        stage, _, key = name.rpartition(".")
        if key == "mixer":
            wanted = MIXER_LETTERS[pattern[int(stage.removeprefix("stage")) - 1]]
            return wanted if wanted in domain.options else domain.options[0]
        if key in ("head_dim", "drop_path"):
            return domain.options[0]
        return max(domain.options, key=lambda each: _extent(key, each))

    return pick


def _extent(key: str, option: Any) -> float:
    """How large an option is: of a kernel its taps, of a picture its area."""
    if isinstance(option, list | tuple):
        return math.prod(option)
    if option is None:
        return 0
    return option ** {"kernel": 3, "dpe_kernel": 3, "size": 2}.get(key, 1)
