"""The one file of a training: weights under official names beside all that is needed to use them, or to go on.

It is what torch.save writes of tensors and plain data, read with weights_only; the weights lie under `model`, where
every reader of checkpoints looks, `ubench train --init` among them.
"""

from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from uniformer_bench.errors import UbenchError
from uniformer_bench.model.checkpoints import read_pickled, write_pickled
from uniformer_bench.model.uniformer import UniFormer, build
from uniformer_bench.training.plan import Plan

FORMAT = "uniformer_bench checkpoint 1"
FILE = "checkpoint.pt"


class Saved(NamedTuple):
    """A training after `step` of `steps`. `model` holds the weights to use, averaged where the plan says so.

    `training` (None once it is over) is what going on needs; `results` what the final test came to.
    """

    model: dict[str, Tensor]
    plan: Plan
    classes: tuple[str, ...]
    data: dict[str, Any]  # the card of the clips
    step: int
    steps: int
    log: list[dict[str, Any]]
    results: dict[str, Any] | None = None
    training: dict[str, Any] | None = None

    def build(self) -> UniFormer:
        """The model with its weights, to be used."""
        model = build(self.plan.spec, len(self.classes))
        model.load_state_dict(self.model)
        return model.eval()


def write_saved(path: Path, saved: Saved) -> None:
    """Replaces the file whole."""
    plain = saved._asdict() | {"format": FORMAT, "plan": saved.plan.to_dict(), "classes": list(saved.classes)}
    write_pickled(path, plain)


def read_saved(path: Path) -> Saved:
    """The training in a file, or in the checkpoint.pt of a folder. Raises UbenchError where there is none."""
    path = path / FILE if path.is_dir() else path
    saved = saved_in(read_pickled(path))
    if saved is None:
        raise UbenchError(f"{path} must be a checkpoint of `ubench train`, got another file")
    return saved


def saved_in(content: object) -> Saved | None:
    """The training in what a file held; None where that is none."""
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        return None
    rest: dict[str, Any] = {key: content.get(key) for key in Saved._fields}
    return Saved(**rest | {"plan": Plan.from_dict(content["plan"]), "classes": tuple(content["classes"])})
