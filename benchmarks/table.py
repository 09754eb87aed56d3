"""A table of the tiny space: architectures drawn at random, each trained once in full, with what its rungs said.

    python benchmarks/table.py results/2026-11-23_tiny_table --architectures 400      about 45 minutes on one core

One line of JSON an architecture, appended as it ends, so that it may be stopped and started again. `--seeds 3` trains
the first ones again with other seeds, and `--shard 0/2` takes every second. A line holds, at shares of the run, the
accuracy and the validation loss by the weights as they are (`raw`) and by their moving average (`average`), the mean
training loss of each tenth of the run, and with `--own-end 0.25` the accuracy of a run a quarter as long whose schedule
ends in it.
"""

import argparse
import copy
import json
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from uniformer_bench.cost import cost
from uniformer_bench.data import load_clips
from uniformer_bench.data.clips import Clips
from uniformer_bench.measure.accuracy import accuracy
from uniformer_bench.model import build
from uniformer_bench.recipe import Recipe
from uniformer_bench.space import Candidate, Space, load_space, random_pick
from uniformer_bench.train import short_run, to_input

RUNGS = (0.125, 0.25, 0.5)  # shares of the run at which it is looked at
KEPT = 0.95  # of the moving average of the weights, a step


class Watcher:
    """Follows a model through its steps: the moving average of its weights, and its accuracy at the rungs."""

    def __init__(self, model: nn.Module, clips: Clips, steps: int) -> None:
        self.model, self.average, self.clips = model, copy.deepcopy(model), clips
        self.step, self.at = 0, {max(1, round(share * steps)): share for share in RUNGS}
        self.rungs: list[dict[str, Any]] = []

    def __call__(self) -> None:
        """Called before every step."""
        if self.step:
            for kept, now in zip(self.average.state_dict().values(), self.model.state_dict().values(), strict=True):
                kept.lerp_(now, 1 - KEPT) if kept.is_floating_point() else kept.copy_(now)
        if self.step in self.at:
            seen = {"raw": self.look(self.model), "average": self.look(self.average)}
            self.rungs.append({"share": self.at[self.step], **seen})
        self.step += 1

    def look(self, model: nn.Module) -> dict[str, float]:
        """Accuracy and mean loss on the validation split."""
        losses, right, split = 0.0, 0, self.clips.validation
        model.eval()
        with torch.inference_mode():
            for start in range(0, len(split.labels), 64):
                clips, labels = (torch.tensor(array[start : start + 64]) for array in split)
                logits = model(to_input(clips))
                losses += F.cross_entropy(logits, labels, reduction="sum").item()
                right += int((logits.argmax(1) == labels).sum())
        model.train()
        return {"accuracy": right / len(split.labels), "loss": losses / len(split.labels)}


def draw(space: Space, rng: random.Random) -> tuple[Candidate, dict[str, Any]]:
    """An architecture with the picks that made it, by label."""
    pick, picks = random_pick(rng), dict[str, Any]()

    def noted(name: str, domain: Any) -> Any:
        value = pick(name, domain)
        picks[name] = domain.labels[domain.options.index(value)] if hasattr(domain, "labels") else value
        return value

    return space.candidate(noted), picks


def train(candidate: Candidate, clips: Clips, recipe: Recipe, seed: int) -> dict[str, Any]:
    """One full short run, watched."""
    torch.manual_seed(seed)
    model = build(candidate.trained, len(clips.classes))
    watcher, begun = Watcher(model, clips, recipe.steps(len(clips.train.labels))), time.process_time()
    outcome = short_run(model, clips.train, recipe, device="cpu", seed=seed, at_step=watcher)
    spent = time.process_time() - begun
    last = {} if outcome.diverged else watcher.look(model)
    found = {
        "seed": seed,
        "accuracy": last.get("accuracy"),
        "loss": last.get("loss"),
        "diverged": outcome.diverged,
        "losses": outcome.losses,
    }
    return found | {"rungs": watcher.rungs, "cpu_s": spent}


def shorter(candidate: Candidate, clips: Clips, recipe: Recipe, share: float) -> float:
    """The accuracy of a run with a schedule of its own that ends after this share of the usual one."""
    torch.manual_seed(0)
    model = build(candidate.trained, len(clips.classes))
    short_run(model, clips.train, replace(recipe, epochs=recipe.epochs * share), device="cpu", seed=0)
    return accuracy(model, clips.validation, to_input=to_input, device="cpu").value


def main(
    folder: Path, architectures: int, first: int, seeds: int, shard: tuple[int, int], own_ends: list[float]
) -> None:
    torch.set_num_threads(1)
    space, rng = load_space("tiny"), random.Random(1)
    clips = load_clips("builtin", space.data.frames, space.data.size, 0, None)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"table_{shard[0]}.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    known = {(line["index"], line["seed"]) for line in lines}
    drawn = [draw(space, rng) for _ in range(architectures)]
    for seed in range(seeds):
        for index, (candidate, picks) in enumerate(drawn):
            skipped = index < first or index % shard[1] != shard[0] or (index, seed) in known
            if skipped:
                continue
            at = cost(candidate.spec, frames=space.input.frames, size=space.input.size, num_classes=len(clips.classes))
            row = {"index": index, "spec_id": candidate.spec.id, "pattern": candidate.spec.pattern, "picks": picks}
            row |= {"params": at.params, "macs": at.macs, **train(candidate, clips, space.recipe, seed)}
            row |= {"own_end": {str(share): shorter(candidate, clips, space.recipe, share) for share in own_ends}}
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--architectures", type=int, default=400)
    parser.add_argument("--first", type=int, default=0, help="leave out the architectures before this one")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--shard", default="0/1", help="i/n: every n-th architecture, from the i-th")
    parser.add_argument("--own-end", type=float, action="append", default=[], dest="own_ends")
    arguments = parser.parse_args()
    i, n = arguments.shard.split("/")
    main(
        arguments.folder,
        arguments.architectures,
        arguments.first,
        arguments.seeds,
        (int(i), int(n)),
        arguments.own_ends,
    )
