"""The short run: training on a budget, with a schedule that ends within it.

AdamW or Muon, a warm-up and a cosine to zero, label smoothing, stochastic depth from the spec, gradients clipped,
mixed precision where the protocol asks for it. Clips stay on the device as uint8, (N, T, H, W, 3), and
are turned into channels-last floats batch by batch, so that nothing is copied twice. Those that are streamed are read
between steps, never ahead: nothing of ours may run while a measurement is taken next door.

A batch that memory does not hold is split into micro-batches whose gradients add up to the batch's: the recipe stays,
but for BatchNorm, whose statistics in training are then those of a micro-batch.
"""

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uniformer_bench.data.clips import Split
from uniformer_bench.data.reading import StreamedClips
from uniformer_bench.data.video import sample_indices
from uniformer_bench.measure.memory import is_out_of_memory
from uniformer_bench.optimiser import Optimisers, optimisers_of
from uniformer_bench.recipe import Recipe
from uniformer_bench.space import Clip

MEAN, DEVIATION = 0.45, 0.225  # of pixels in 0 to 1, the field's values for video (SlowFast, UniFormer)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Outcome(NamedTuple):
    """What a short run came to. `diverged` says at which step the loss was no longer finite, else None."""

    steps: int
    seconds: float
    losses: list[float]  # the mean of each tenth of the run
    diverged: str | None


def to_input(clips: Tensor, flip: Tensor | None = None) -> Tensor:
    """uint8 (B, T, H, W, 3) -> normalised float (B, 3, T, H, W), channels-last in memory. `flip` (B,) says which are
    mirrored; it lies on the CPU, so that no device is waited for."""
    if flip is not None:  # of a byte a number, not four, and of those alone that are mirrored
        mirrored = flip.nonzero().squeeze(1).to(clips.device, non_blocking=True)
        clips = clips.index_copy(0, mirrored, clips.index_select(0, mirrored).flip(3))
    x = clips.to(torch.float32).sub_(255 * MEAN).div_(255 * DEVIATION)
    return x.permute(0, 4, 1, 2, 3)


def input_of(clip: Clip | None) -> Callable[..., Tensor]:
    """to_input on clips made of those it is given, see smaller; None leaves them as they are."""
    if clip is None:
        return to_input
    return lambda clips, flip=None: to_input(smaller(clips, clip), flip)


def smaller(clips: Tensor, clip: Clip) -> Tensor:
    """uint8 (B, T, H, W, 3) -> (B, clip.frames, *clip.size, 3): the frames in the middle of equal parts of the clip,
    as video.sample_indices has them, cropped about the centre to the shape and averaged over areas, which overlap
    where sizes do not divide (adaptive pooling)."""
    clips = clips[:, sample_indices(clips.shape[1], clip.frames)]
    if clips.shape[2:4] == clip.size:
        return clips
    pictures = _cropped(clips, clip.size).flatten(0, 1).permute(0, 3, 1, 2).float()
    scaled = F.interpolate(pictures, clip.size, mode="area").round_().to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).unflatten(0, clips.shape[:2]).contiguous()


def _cropped(clips: Tensor, size: tuple[int, int]) -> Tensor:
    """The largest part about the centre that is as high to its width as `size`."""
    scale = min(clips.shape[2] / size[0], clips.shape[3] / size[1])
    high, wide = round(size[0] * scale), round(size[1] * scale)
    top, left = (clips.shape[2] - high) // 2, (clips.shape[3] - wide) // 2
    return clips[:, :, top : top + high, left : left + wide]


def share_of_rate(step: int, steps: int, warmup: float) -> float:
    """Of the highest rate: a linear warm-up, then a cosine that reaches zero just after the last step."""
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising + 1) / (steps - rising + 1)))


def batches(clips: int, batch: int, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Indices for each step: every clip once an epoch, in an order drawn anew for each."""
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        while len(order) < batch:
            order = torch.cat([order, torch.randperm(clips, generator=generator)])
        yield order[:batch]
        order = order[batch:]


class ShortRun:
    """A short run of `model`, in place, on a training split, that may pause between steps and go on elsewhere.

    Deterministic by seed on one machine, also across a pause: `state` is all that the steps to come depend on.
    `micro_batch` is how many clips go through the model at once: the recipe's batch where they fit. `clip` is what the
    model sees of the split's clips, where that is less than all.
    """

    def __init__(
        self,
        model: nn.Module,
        split: Split,
        recipe: Recipe,
        *,
        device: str,
        precision: str = "fp32",
        seed: int = 0,
        clip: Clip | None = None,
    ) -> None:
        self.model, self.recipe, self.precision = model.to(device).train(), recipe, precision
        self.clips = split.clips if isinstance(split.clips, StreamedClips) else torch.from_numpy(split.clips).to(device)
        self.labels = torch.from_numpy(split.labels).to(device)
        self.steps, self.step, self.seconds = recipe.steps(len(self.labels)), 0, 0.0
        self.losses = torch.zeros(self.steps, device=device)
        self.diverged: str | None = None
        self.micro_batch = recipe.batch
        self._seed, self._to_input = seed, input_of(clip)
        self._optimisers = optimisers_of(model, recipe)
        self._batches = self._batches_from_start()
        torch.manual_seed(seed)  # stochastic depth
        self._random = _random_state(device)

    def advance(self, until: int, at_step: Callable[[], None] = lambda: None) -> None:
        """Trains until so many steps are done, or to the first loss that is not finite, which `diverged` then names.

        `at_step` is called between steps: it may wait, as for a measurement next door.
        """
        start, device = time.perf_counter(), str(self.losses.device)
        _set_random_state(self._random, device)
        while self.step < until and self.diverged is None:
            at_step()
            self._optimisers.at(share_of_rate(self.step, self.steps, self.recipe.warmup))
            batch = next(self._batches)
            while (loss := self._learnt(batch, device)) is None:
                self.micro_batch = (self.micro_batch + 1) // 2
            self.losses[self.step] = loss
            self.step += 1
            if _due(self.step, until, self.losses.device.type):
                self.diverged = _diverged(self.losses[: self.step])
        self._random = _random_state(device)
        self.seconds += time.perf_counter() - start

    def _learnt(self, batch: tuple[Tensor, Tensor], device: str) -> Tensor | None:
        """The loss of one step, or None where memory does not hold a micro-batch that could be smaller.

        What BatchNorm has seen before memory ran out stays in its running statistics, until later batches replace it.
        """
        before = _random_state(device)
        try:
            return _step(self.model, self._optimisers, batch, self.recipe, self.precision, self.micro_batch)
        except (RuntimeError, MemoryError) as error:
            if self.micro_batch == 1 or not is_out_of_memory(error):
                raise
        self._optimisers.zero_grad()  # only here: while the error lives, its frames hold what did fit
        gc.collect()
        torch.cuda.empty_cache()
        _set_random_state(before, device)
        return None

    def recent_loss(self) -> float:
        """The mean training loss of the last tenth of the run, of what there is of it."""
        return self.losses[max(0, self.step - max(1, self.steps // 10)) : self.step].mean().item()

    def outcome(self) -> Outcome:
        """What it has come to so far."""
        finite = self.losses[: self.step]
        finite = finite[: int(finite.isfinite().long().cumprod(0).sum())]
        return Outcome(self.step, self.seconds, _tenths(finite.tolist()), self.diverged)

    def state(self) -> dict[str, Any]:
        """Tensors and plain data that `restore` takes, for a run of the same arguments."""
        return {
            "model": self.model.state_dict(),
            "optimisers": self._optimisers.state(),
            "step": self.step,
            "seconds": self.seconds,
            "losses": self.losses,
            "random": self._random,
            "micro_batch": self.micro_batch,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from `state`: the batches that have been are drawn again, and left out."""
        self.model.load_state_dict(state["model"])
        self._optimisers.restore(state["optimisers"])
        self.step, self.seconds, self._random = state["step"], state["seconds"], state["random"].cpu()
        self.losses.copy_(state["losses"])
        self.micro_batch = state.get("micro_batch", self.recipe.batch)
        self._batches = self._batches_from_start(self.step)

    def _batches_from_start(self, skipped: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(self._seed)
        for step, index in enumerate(batches(len(self.labels), self.recipe.batch, self.steps, generator)):
            flip = torch.rand(len(index), generator=generator) < 0.5 if self.recipe.flip else None
            if step >= skipped:
                yield self._batch(index, flip)

    def _batch(self, index: Tensor, flip: Tensor | None) -> tuple[Tensor, Tensor]:
        there = index.to(self.labels.device, non_blocking=True)
        if isinstance(self.clips, Tensor):
            chosen = self.clips.index_select(0, there)  # which copies clips whole, as self.clips[there] does not
        else:
            chosen = torch.from_numpy(self.clips[index.numpy()]).to(self.labels.device)
        return self._to_input(chosen, flip), self.labels[there]


def _random_state(device: str) -> Tensor:
    """The state of what stochastic depth draws from on that device."""
    return torch.cuda.get_rng_state(device) if device.startswith("cuda") else torch.get_rng_state()


def _set_random_state(state: Tensor, device: str) -> None:
    torch.cuda.set_rng_state(state, device) if device.startswith("cuda") else torch.set_rng_state(state)


def short_run(
    model: nn.Module,
    split: Split,
    recipe: Recipe,
    *,
    device: str,
    precision: str = "fp32",
    seed: int = 0,
    clip: Clip | None = None,
    at_step: Callable[[], None] = lambda: None,
) -> Outcome:
    """Trains `model` in place on a training split, without a pause: see ShortRun."""
    run = ShortRun(model, split, recipe, device=device, precision=precision, seed=seed, clip=clip)
    run.advance(run.steps, at_step)
    return run.outcome()


def _step(
    model: nn.Module,
    optimisers: Optimisers,
    batch: tuple[Tensor, Tensor],
    recipe: Recipe,
    precision: str,
    micro_batch: int,
) -> Tensor:
    optimisers.zero_grad()
    loss = gradients(model, batch, recipe, precision, micro_batch)
    optimisers.gather()
    optimisers.clip(recipe.clip_norm)
    optimisers.step()
    return loss


def gradients(
    model: nn.Module, batch: tuple[Tensor, Tensor], recipe: Recipe, precision: str, micro_batch: int
) -> Tensor:
    """Adds the gradients of the batch's mean loss to the model's, so many clips at a time; gives that loss."""
    total = torch.zeros((), device=batch[0].device)
    for x, y in zip(*(part.split(micro_batch) for part in batch), strict=True):
        with torch.autocast(x.device.type, dtype=DTYPES[precision], enabled=precision != "fp32"):
            logits = model(x)
        loss = F.cross_entropy(logits.float(), y, label_smoothing=recipe.label_smoothing)
        if len(y) < len(batch[1]):
            loss = loss * (len(y) / len(batch[1]))
        loss.backward()
        total += loss.detach()
    return total


def _due(done: int, until: int, kind: str) -> bool:
    """Whether to look at the loss: each step on a CPU, where it is free; every 50 on a GPU, which would wait."""
    return kind == "cpu" or done % 50 == 0 or done == until


def _diverged(losses: Tensor) -> str | None:
    lost = (~torch.isfinite(losses)).nonzero()
    if not len(lost):
        return None
    step = int(lost[0])
    return f"loss must stay finite, got {losses[step].item()} at step {step + 1}"


def _tenths(losses: list[float]) -> list[float]:
    size = max(1, math.ceil(len(losses) / 10))
    parts = [losses[i : i + size] for i in range(0, len(losses), size)]
    return [sum(part) / len(part) for part in parts]
