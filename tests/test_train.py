"""The short run: its schedule, what it learns, and that it stops where the loss is lost."""

import math
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from uniformer_bench.data.clips import Split
from uniformer_bench.errors import UbenchError
from uniformer_bench.model import build
from uniformer_bench.recipe import Recipe
from uniformer_bench.train import (
    DEVIATION,
    MEAN,
    ShortRun,
    batches,
    gradients,
    share_of_rate,
    short_run,
    to_input,
)
from uniformer_bench.variants import variant


def light_and_dark(n=32):
    """Two classes that any model tells apart."""
    labels = np.arange(n) % 2
    noise = np.random.default_rng(0).integers(0, 60, (n, 4, 32, 32, 3))
    return Split((noise + 180 * labels[:, None, None, None, None]).astype(np.uint8), labels)


def test_the_rate_rises_then_falls_to_zero_within_the_budget():
    rates = [share_of_rate(step, 10, 0.2) for step in range(10)]
    assert rates[:2] == [0.5, 1.0]
    assert rates[2:] == pytest.approx([0.5 * (1 + math.cos(math.pi * i / 9)) for i in range(1, 9)])
    assert share_of_rate(10, 10, 0.2) == pytest.approx(0)


def test_every_clip_is_seen_once_an_epoch():
    order = torch.cat(list(batches(10, 4, 5, torch.Generator().manual_seed(0))))
    assert len(order) == 20
    assert sorted(order[:10].tolist()) == sorted(order[10:].tolist()) == list(range(10))


def test_input_is_normalised_and_channels_last():
    clips = torch.zeros(2, 4, 8, 8, 3, dtype=torch.uint8)
    clips[..., 1] = 255
    x = to_input(clips)
    assert x.shape == (2, 3, 4, 8, 8)
    assert x.is_contiguous(memory_format=torch.channels_last_3d)
    assert x[0, :, 0, 0, 0].tolist() == pytest.approx([-MEAN / DEVIATION, (1 - MEAN) / DEVIATION, -MEAN / DEVIATION])
    clips[:, :, :, 0] = 7
    mirrored = to_input(clips, torch.tensor([True, False]))
    torch.testing.assert_close(mirrored[0], to_input(clips)[0].flip(-1))
    assert torch.equal(to_input(clips, torch.zeros(len(clips), dtype=torch.bool)), to_input(clips))
    torch.testing.assert_close(mirrored[1], to_input(clips)[1])


def run_once(seed=0, **recipe):
    torch.manual_seed(0)
    model = build(variant("micro"), 2)
    outcome = short_run(
        model, light_and_dark(), Recipe(**{"epochs": 8, "batch": 8, "lr": 0.004, **recipe}), device="cpu", seed=seed
    )
    return model, outcome


def test_it_learns_and_is_the_same_for_the_same_seed():
    model, outcome = run_once()
    again, same = run_once()
    _, other = run_once(seed=1)
    assert outcome.steps == 32
    assert outcome.diverged is None
    assert len(outcome.losses) <= 10
    assert outcome.losses[-1] < 0.5 * outcome.losses[0]
    assert outcome.losses == same.losses != other.losses
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_run_that_paused_elsewhere_ends_the_same(tmp_path):
    """Through a file, into another model, with stochastic depth and mirrored clips drawn on either side."""
    spec, recipe = replace(variant("micro"), drop_path=0.4), Recipe(epochs=3, batch=8, flip=True)

    def start():
        torch.manual_seed(0)
        return ShortRun(build(spec, 2), light_and_dark(36), recipe, device="cpu", seed=5)

    whole, first = start(), start()
    whole.advance(whole.steps)
    first.advance(5)
    torch.save(first.state(), tmp_path / "paused.pt")
    torch.manual_seed(99)  # other work in between
    second = start()
    second.restore(torch.load(tmp_path / "paused.pt", weights_only=True))
    assert (second.step, second.recent_loss()) == (5, first.losses[4].item())
    second.advance(whole.steps)
    assert torch.equal(second.losses, whole.losses)
    for a, b in zip(second.model.state_dict().values(), whole.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert second.outcome().losses == whole.outcome().losses


def test_it_waits_between_steps_and_flips_where_asked():
    calls = []
    torch.manual_seed(0)
    short_run(
        build(variant("micro"), 2),
        light_and_dark(),
        Recipe(epochs=1, batch=8, flip=True),
        device="cpu",
        at_step=lambda: calls.append(1),
    )
    assert len(calls) == 4


def test_bfloat16_trains():
    torch.manual_seed(0)
    outcome = short_run(
        build(variant("micro"), 2), light_and_dark(), Recipe(epochs=2, batch=8), device="cpu", precision="bf16"
    )
    assert outcome.diverged is None


class Bomb(nn.Module):
    """A model whose third answer is not finite."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 2))
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x.mean((2, 3, 4))[:, :2] @ self.weight * (float("nan") if self.calls == 3 else 1)


def test_it_stops_at_the_first_loss_that_is_not_finite():
    bomb = Bomb()
    outcome = short_run(bomb, light_and_dark(), Recipe(epochs=3, batch=8), device="cpu")
    assert outcome.diverged == "loss must stay finite, got nan at step 3"
    assert outcome.steps == 3 == bomb.calls


class Small(nn.Module):
    """A model without BatchNorm on a machine whose allocator holds so many clips."""

    def __init__(self, holds, error=RuntimeError, words="DefaultCPUAllocator: can't allocate memory: you tried"):
        super().__init__()
        self.head = nn.Linear(3, 2)
        self.holds, self.error, self.words, self.seen = holds, error, words, []

    def forward(self, x):
        if len(x) > self.holds:
            raise self.error(self.words)
        self.seen.append(len(x))
        return self.head(x.mean((2, 3, 4)))


def run_of(model, **recipe):
    nn.init.zeros_(model.head.weight)
    nn.init.zeros_(model.head.bias)
    return ShortRun(model, light_and_dark(), Recipe(**{"epochs": 2, "batch": 7, **recipe}), device="cpu")


@pytest.mark.parametrize("micro_batch", [1, 3, 4])
def test_gradients_of_micro_batches_add_up_to_those_of_the_batch(micro_batch):
    torch.manual_seed(0)
    model = build(variant("micro"), 2).train()
    for module in model.modules():
        module.eval() if isinstance(module, nn.BatchNorm3d) else None
    split, found = light_and_dark(8), []
    batch = to_input(torch.from_numpy(split.clips)), torch.from_numpy(split.labels)
    for size in (8, micro_batch):
        model.zero_grad()
        loss = gradients(model, batch, Recipe(), "fp32", size)
        found.append([loss.clone(), *(p.grad.clone() for p in model.parameters())])
    assert len(found[0]) > 10
    for whole, parts in zip(*found, strict=True):
        torch.testing.assert_close(parts, whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("error", [RuntimeError, MemoryError, torch.OutOfMemoryError])
def test_a_batch_that_memory_does_not_hold_is_split_and_learns_the_same(error):
    whole, split = run_of(Small(7)), run_of(Small(3, error))
    whole.advance(whole.steps)
    split.advance(2)
    assert (whole.micro_batch, split.micro_batch) == (7, 2)  # 7, 4, 2
    assert split.model.seen == [2, 2, 2, 1] * 2
    again = run_of(Small(3))
    again.restore(split.state())
    again.advance(again.steps)
    assert again.model.seen == [2, 2, 2, 1] * (again.steps - 2)
    torch.testing.assert_close(again.losses, whole.losses, rtol=0, atol=1e-6)
    torch.testing.assert_close(again.model.head.weight, whole.model.head.weight, rtol=0, atol=1e-5)


def test_a_clip_that_memory_does_not_hold_ends_the_run_and_so_does_another_error():
    alone = run_of(Small(0))
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        alone.advance(1)
    assert alone.micro_batch == 1
    other = run_of(Small(0, words="shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        other.advance(1)
    assert other.micro_batch == 7


def test_what_did_fit_is_free_before_the_smaller_batch_is_tried():
    class Hoarder(Small):
        def forward(self, x):
            assert not any(reference() is not None for reference in kept)
            kept.append(weakref.ref(held := x * 2))
            return super().forward(held)

    kept = []
    run_of(Hoarder(3)).advance(1)
    assert len(kept) == 2 + 4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "epochs must be a positive number, got 0 in recipe"),
        ({"lr": float("inf")}, "lr must be a positive number, got inf in recipe"),
        ({"batch": 2.5}, "batch must be an integer, got 2.5 in recipe"),
        ({"warmup": 1}, r"warmup must be in \[0, 1\), got 1 in recipe"),
        ({"drop_path": 2}, r"drop_path must be in \[0, 1\), got 2 in recipe"),
        ({"flip": 1}, "flip must be true or false, got 1 in recipe"),
        ({"epoch": 3}, "unknown key 'epoch' in recipe, did you mean epochs"),
    ],
)
def test_a_broken_recipe_is_named(values, message):
    with pytest.raises(UbenchError, match=message):
        Recipe.from_dict(values)


def test_a_recipe_round_trips():
    recipe = Recipe(epochs=2.5, flip=True)
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert recipe.steps(100) == round(2.5 * 100 / 32)
