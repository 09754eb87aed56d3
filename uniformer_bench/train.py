"""The short run: training on a budget, with a schedule that ends within it.

AdamW, a warm-up and a cosine to zero, label smoothing, stochastic depth from the spec, gradients clipped,
mixed precision where the protocol asks for it. Clips stay on the device as uint8, (N, T, H, W, 3), and
are turned into channels-last floats batch by batch, so that nothing is copied twice.
"""

import math
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uniformer_bench.data.clips import Split
from uniformer_bench.recipe import Recipe

MEAN, DEVIATION = 0.45, 0.225  # of pixels in 0 to 1, the field's values for video (SlowFast, UniFormer)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Outcome(NamedTuple):
    """What a short run came to. `diverged` says at which step the loss was no longer finite, else None."""

    steps: int
    seconds: float
    losses: list[float]  # the mean of each tenth of the run
    diverged: str | None


def to_input(clips: Tensor, flip: Tensor | None = None) -> Tensor:
    """uint8 (B, T, H, W, 3) -> normalised float (B, 3, T, H, W), channels-last in memory."""
    x = clips.to(torch.float32).sub_(255 * MEAN).div_(255 * DEVIATION)
    if flip is not None:
        x = torch.where(flip.view(-1, 1, 1, 1, 1), x.flip(3), x)
    return x.permute(0, 4, 1, 2, 3)


def learning_rate(step: int, steps: int, recipe: Recipe) -> float:
    """Linear warm-up to recipe.lr, then a cosine that reaches zero just after the last step."""
    rising = max(1, round(recipe.warmup * steps))
    if step < rising:
        return recipe.lr * (step + 1) / rising
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * (step - rising + 1) / (steps - rising + 1)))


def optimiser_of(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW that decays matrices and kernels, but neither biases nor norms nor scales."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=recipe.lr, fused=True)


def batches(clips: int, batch: int, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Indices for each step: every clip once an epoch, in an order drawn anew for each."""
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        while len(order) < batch:
            order = torch.cat([order, torch.randperm(clips, generator=generator)])
        yield order[:batch]
        order = order[batch:]


def short_run(
    model: nn.Module,
    split: Split,
    recipe: Recipe,
    *,
    device: str,
    precision: str = "fp32",
    seed: int = 0,
    at_step: Callable[[], None] = lambda: None,
) -> Outcome:
    """Trains `model` in place on a training split. Deterministic by seed on one machine.

    `at_step` is called between steps: it may wait, as for a measurement next door. Stops at the first
    loss that is not finite; the outcome says so.
    """
    model.to(device).train()
    clips, labels = (torch.from_numpy(array).to(device) for array in (split.clips, split.labels))
    steps = recipe.steps(len(labels))
    optimiser, generator = optimiser_of(model, recipe), torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)  # stochastic depth
    start, losses = time.perf_counter(), torch.zeros(steps, device=device)
    for step, index in enumerate(batches(len(labels), recipe.batch, steps, generator)):
        at_step()
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, steps, recipe)
        loss = _step(model, optimiser, _batch(clips, labels, index, recipe, generator), recipe, precision)
        losses[step] = loss
        if _due(step, steps, device) and not torch.isfinite(losses[: step + 1]).all():
            return _diverged(losses[: step + 1], time.perf_counter() - start)
    return Outcome(steps, time.perf_counter() - start, _tenths(losses.tolist()), None)


def _batch(
    clips: Tensor, labels: Tensor, index: Tensor, recipe: Recipe, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    flip = torch.rand(len(index), generator=generator) < 0.5 if recipe.flip else None
    index = index.to(clips.device, non_blocking=True)
    return to_input(clips[index], flip if flip is None else flip.to(clips.device)), labels[index]


def _step(
    model: nn.Module, optimiser: torch.optim.Optimizer, batch: tuple[Tensor, Tensor], recipe: Recipe, precision: str
) -> Tensor:
    x, y = batch
    optimiser.zero_grad(set_to_none=True)  # before the forward pass, which then runs without old gradients
    with torch.autocast(x.device.type, dtype=DTYPES[precision], enabled=precision != "fp32"):
        logits = model(x)
    loss = F.cross_entropy(logits.float(), y, label_smoothing=recipe.label_smoothing)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
    optimiser.step()
    return loss.detach()


def _due(step: int, steps: int, device: str) -> bool:
    """Whether to look at the loss: each step on a CPU, where it is free; every 50 on a GPU, which would wait."""
    return device == "cpu" or step % 50 == 49 or step == steps - 1


def _diverged(losses: Tensor, seconds: float) -> Outcome:
    step = int((~torch.isfinite(losses)).nonzero()[0])
    reason = f"loss must stay finite, got {losses[step].item()} at step {step + 1}"
    return Outcome(len(losses), seconds, _tenths(losses[:step].tolist()), reason)


def _tenths(losses: list[float]) -> list[float]:
    size = max(1, math.ceil(len(losses) / 10))
    parts = [losses[i : i + size] for i in range(0, len(losses), size)]
    return [sum(part) / len(part) for part in parts]
