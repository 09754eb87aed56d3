"""One step of a full training: its batch, the pass forward and back, and the averaged weights.

Every step draws from a seed of its own, made of the plan's seed, the step and the process: to go on from a step no
random state is needed but the step.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from uniformer_bench.data.clips import Split
from uniformer_bench.model.checkpoints import load_checkpoint
from uniformer_bench.model.uniformer import UniFormer, build
from uniformer_bench.optimiser import Optimisers, optimisers_of
from uniformer_bench.train import DTYPES, share_of_rate, to_input
from uniformer_bench.training.augment import augmented
from uniformer_bench.training.averaging import Weights, average_into, start_average
from uniformer_bench.training.mixing import mix, random_crop
from uniformer_bench.training.plan import Plan
from uniformer_bench.training.recompute import recompute_stages
from uniformer_bench.training.world import World


class Learner(NamedTuple):
    """All that a step changes. `model` is `network`, wrapped where there are several processes."""

    network: UniFormer
    model: nn.Module
    optimisers: Optimisers
    scaler: torch.amp.GradScaler
    average: Weights | None

    def weights(self) -> Weights:
        """Those to be used and judged by: the averaged ones where there are."""
        return self.average if self.average is not None else self.network.state_dict()

    def state(self) -> dict[str, Any]:
        """What going on needs beside weights()."""
        return {
            "weights": self.network.state_dict() if self.average is not None else None,
            "optimisers": self.optimisers.state(),
            "scaler": self.scaler.state_dict(),
        }


def make_learner(plan: Plan, classes: int, world: World) -> tuple[Learner, tuple[str, ...]]:
    """(a learner at its start, what to know of the weights it starts from)."""
    torch.manual_seed(plan.seed)
    network = build(plan.spec, classes)
    notes = load_checkpoint(network, plan.init).notes if plan.init else ()
    network.to(world.device).train()
    recompute_stages(network, plan.recompute)
    optimisers = optimisers_of(network, plan.recipe)
    wrapped = DistributedDataParallel(network) if world.size > 1 else network
    scaler = torch.amp.GradScaler(torch.device(world.device).type, enabled=plan.precision == "fp16")
    average = start_average(network.state_dict()) if plan.ema else None
    return Learner(network, wrapped, optimisers, scaler, average), notes


def restore(learner: Learner, weights: Weights, training: dict[str, Any]) -> None:
    """Puts a learner where another one's weights() and state() were taken."""
    learner.network.load_state_dict(weights if training["weights"] is None else training["weights"])
    learner.optimisers.restore(training["optimisers"])
    learner.scaler.load_state_dict(training["scaler"])
    if learner.average is not None:
        for name, value in weights.items():
            learner.average[name].copy_(value)


def share_of(split: Split, index: Tensor, world: World) -> Split:
    """The clips of `index` that this process trains on, read from where they are."""
    own = index[world.rank :: world.size].numpy()
    return Split(split.clips[own], split.labels[own])


def take_step(plan: Plan, learner: Learner, share: Split, at: tuple[int, int], world: World) -> Tensor:
    """The loss of step `at[0]` of `at[1]` on this process's share of the batch."""
    step, steps = at
    torch.manual_seed(_seed(plan.seed, step, world.rank))  # augmentation and stochastic depth
    x, targets = batch_of(plan, learner.network.num_classes, share, step, world)
    learner.optimisers.at(share_of_rate(step, steps, plan.recipe.warmup))
    learner.optimisers.zero_grad()
    with torch.autocast(x.device.type, dtype=DTYPES[plan.precision], enabled=plan.precision != "fp32"):
        logits = learner.model(x)
    loss = F.cross_entropy(logits.float(), targets, label_smoothing=plan.recipe.label_smoothing)
    learner.scaler.scale(loss).backward()
    change_weights(learner, plan.recipe.clip_norm)
    learner.scaler.update()
    if learner.average is not None:
        average_into(learner.average, learner.network.state_dict(), step, plan.ema)
    return loss.detach()


def change_weights(learner: Learner, clip_norm: float) -> None:
    """The weights, by the gradients. Where one of these is not finite in float16, no optimiser takes a step: clipped
    together, those of the others are lost as well."""
    learner.optimisers.gather()
    for optimiser in learner.optimisers.each:
        learner.scaler.unscale_(optimiser)
    norm = learner.optimisers.clip(clip_norm)
    if not learner.scaler.is_enabled() or torch.isfinite(norm):
        for optimiser in learner.optimisers.each:
            learner.scaler.step(optimiser)


def batch_of(plan: Plan, classes: int, share: Split, step: int, world: World) -> tuple[Tensor, Tensor]:
    """This process's share of a batch as (clips (B, 3, T, H, W), targets (B, classes)) on its device, cropped,
    augmented, mirrored and mixed."""
    generator = torch.Generator().manual_seed(_seed(plan.seed, step, world.rank))
    clips = random_crop(torch.from_numpy(share.clips[:]), plan.size, generator)
    flip = torch.rand(len(share.labels), generator=generator) < 0.5 if plan.recipe.flip else None
    labels = torch.from_numpy(share.labels).to(world.device)
    clips = augmented(clips.to(world.device), plan.randaugment, plan.magnitude, plan.erasing)
    x = to_input(clips, flip)
    return mix(x, labels, classes, mixup=plan.mixup, cutmix=plan.cutmix, generator=generator)


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)
