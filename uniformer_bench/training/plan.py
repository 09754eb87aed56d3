"""How a full training goes, as a frozen value that needs no torch: two equal plans on equal data train alike.

PAPER is what the released video models were trained with (run.sh of the K400 configurations: 110 epochs of which
10 warm up, 1e-4 for a batch of 32, label smoothing 0.1), with mixup and cutmix at SlowFast's values.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from uniformer_bench.errors import UbenchError
from uniformer_bench.files import nearest
from uniformer_bench.measure.protocol import PRECISIONS
from uniformer_bench.recipe import Recipe
from uniformer_bench.spec import ArchSpec

PAPER = Recipe(epochs=110, batch=32, lr=1e-4, weight_decay=0.05, label_smoothing=0.1, warmup=10 / 110)
SPLIT_SEED = 0  # clips are split as for a search, whatever the seed of the training
FROM_SCRATCH_LR = 1e-3  # per batch of 32; the paper's rate is for weights that were trained on images
RANGES = (
    ("mixup", 0, 100), ("cutmix", 0, 100), ("randaugment", 0, 14), ("magnitude", 0, 10), ("erasing", 0, 1),
    ("ema", 0, 0.999999), ("zoom", 1, 2),
)  # fmt: skip
RECIPE_KEYS = tuple(row.name for row in fields(Recipe))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is trained, on which clips, and how.

    `recipe.batch` counts the clips of a step over all processes. `mixup` and `cutmix` are the alphas of their beta
    distributions, 0 leaves one out. `randaugment` is how many operations, of `magnitude` up to 10, a clip goes through,
    `erasing` the share of clips that lose a box; 0 leaves either out. `ema` is the decay of the averaged weights that
    are tested and exported, 0 for none. Clips are read at `zoom` times their size: training crops at random, a test in
    the centre or in several places. `recompute` names the stages (from 1) whose activations are computed again in the
    backward pass. `data_options` is what else load_clips is told, as plain data.
    """

    spec: ArchSpec
    data: str
    frames: int
    size: tuple[int, int]
    recipe: Recipe = field(default=PAPER)
    mixup: float = 0.8
    cutmix: float = 1.0
    randaugment: int = 0
    magnitude: float = 7.0
    erasing: float = 0.0
    ema: float = 0.9999
    zoom: float = 1.0
    recompute: tuple[int, ...] = ()
    precision: str = "fp32"
    seed: int = 0
    init: str | None = None
    data_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", tuple(self.size))
        object.__setattr__(self, "recompute", tuple(sorted(set(self.recompute))))
        if self.recipe.drop_path is not None:
            object.__setattr__(self, "spec", replace(self.spec, drop_path=self.recipe.drop_path))
        if not isinstance(self.randaugment, int):
            raise UbenchError(f"randaugment must be a number of operations, got {self.randaugment!r} in the plan")
        for name, low, high in RANGES:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise UbenchError(f"{name} must be from {low} to {high}, got {value!r} in the plan")
        if self.precision not in PRECISIONS:
            raise UbenchError(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        stages = len(self.spec.stages)
        if any(not isinstance(stage, int) or not 1 <= stage <= stages for stage in self.recompute):
            raise UbenchError(f"recompute must name stages from 1 to {stages}, got {self.recompute}")
        self.spec.grids(self.frames, self.size)

    @property
    def stride(self) -> int:
        """Frames from one of a clip's to the next; 0 where they come from equal parts of the whole video."""
        return int(self.data_options.get("stride") or 0)

    @property
    def read_size(self) -> tuple[int, int]:
        """(height, width) at which clips are read, before the crop."""
        height, width = self.size
        return round(height * self.zoom), round(width * self.zoom)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, from which from_dict restores an equal plan."""
        plain: dict[str, Any] = {row.name: getattr(self, row.name) for row in fields(self)}
        plain |= {"spec": self.spec.to_dict(), "recipe": asdict(self.recipe), "data_options": dict(self.data_options)}
        return json.loads(json.dumps(plain))

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Plan":
        """The plan of plain data. Raises UbenchError for what is no plan."""
        given = dict(plain)
        _check_keys(given, [row.name for row in fields(cls)])
        return cls(**given | {"spec": ArchSpec.from_dict(given["spec"]), "recipe": Recipe.from_dict(given["recipe"])})


PLAN_KEYS = (*(name for name, _, _ in RANGES), "recompute")  # which a recipe file may set beside those of a recipe


def with_settings(recipe: Recipe, settings: Mapping[str, Any]) -> tuple[Recipe, dict[str, Any]]:
    """(the recipe with those settings that are a recipe's, the plan's own among them).

    Where no rate is set, AdamW's follows the batch linearly from `recipe`'s. Raises UbenchError for an unknown key.
    """
    given = {key: value for key, value in settings.items() if value is not None}
    _check_keys(given, [*RECIPE_KEYS, *PLAN_KEYS])
    own = {key: given[key] for key in RECIPE_KEYS if key in given}
    made = Recipe.from_dict(asdict(recipe) | own)
    if "lr" not in given:
        made = replace(made, lr=recipe.lr * made.batch / recipe.batch)
    return made, {key: given[key] for key in PLAN_KEYS if key in given}


def _check_keys(given: Mapping[str, Any], known: list[str]) -> None:
    for key in given:
        if key not in known:
            raise UbenchError(f"unknown key {key!r} in the recipe{nearest(key, known)}")


def plan_text(plan: Plan) -> str:
    """A plan for a person, a line each."""
    recipe = plan.recipe
    erased = f"RandAugment {plan.randaugment} x {plan.magnitude:g}, erasing {plan.erasing:g}"
    mixed = f"mixup {plan.mixup:g}, cutmix {plan.cutmix:g}, {erased}, EMA {plan.ema:g}, zoom {plan.zoom:g}"
    rates = f"AdamW at {recipe.lr:g}" + (f", Muon at {recipe.muon_lr:g}" if recipe.muon_lr else "")
    return "\n".join(
        (
            f"architecture  {plan.spec.pattern} {plan.spec.id}, drop path {plan.spec.drop_path:g}",
            f"clips         {plan.data}, {plan.frames} frames of {plan.size[0]} x {plan.size[1]}",
            f"recipe        {recipe.epochs:g} epochs, batch {recipe.batch}, {rates}, {mixed}",
            f"precision     {plan.precision}",
            f"starts from   {plan.init or 'nothing'}",
        )
    )
