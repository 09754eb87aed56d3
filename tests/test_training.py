"""The full training: mixing, averaging, recomputing, going on to the bit, two processes, and the test after it."""

import csv
import json
import math
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner

from tests.make_run import make_run, save_run
from tests.videos import write_video
from uniformer_bench.cli import cli
from uniformer_bench.data import load_clips
from uniformer_bench.data.clips import Clips, Split
from uniformer_bench.errors import UbenchError
from uniformer_bench.measure.accuracy import Accuracy
from uniformer_bench.measure.profile import thread_count
from uniformer_bench.model import build
from uniformer_bench.optimiser import optimisers_of
from uniformer_bench.recipe import Recipe
from uniformer_bench.spec import ArchSpec, StageSpec
from uniformer_bench.train import MEAN, batches
from uniformer_bench.training import mixing
from uniformer_bench.training.augment import augmented
from uniformer_bench.training.averaging import average_into, start_average
from uniformer_bench.training.loop import finish, train
from uniformer_bench.training.mixing import mix, random_crop
from uniformer_bench.training.plan import PAPER, Plan, with_settings
from uniformer_bench.training.recompute import recompute_stages
from uniformer_bench.training.saved import read_saved
from uniformer_bench.training.start import Loading, accuracies_of, subject_of
from uniformer_bench.training.start import make_plan as make_plan_of
from uniformer_bench.training.steps import Learner, batch_of, change_weights, make_learner, share_of
from uniformer_bench.training.testing import Views, accuracies, parse_views, views_of
from uniformer_bench.training.world import World
from uniformer_bench.variants import variant

SPEC = ArchSpec(
    stages=(StageSpec(mixer="local", depth=1, width=8, kernel=(3, 3, 3)), StageSpec(mixer="global", depth=1, width=8)),
    head_dim=4,
    mlp_ratio=2,
    drop_path=0.3,
)
ALONE = World(0, 1, "cpu")


def light_and_dark(n, seed, side=16):
    labels = np.arange(n) % 2
    noise = np.random.default_rng(seed).integers(0, 60, (n, 4, side, side, 3))
    return Split((noise + 180 * labels[:, None, None, None, None]).astype(np.uint8), labels)


def make_clips(side=16):
    splits = [light_and_dark(n, seed, side) for seed, n in enumerate((24, 8, 10))]
    return Clips(*splits, ("dark", "light"), {"name": "shades", "hash": "abc"})


def make_plan(**changes):
    recipe = Recipe(epochs=2, batch=4, lr=0.01)
    return Plan(**{"spec": SPEC, "data": "shades", "frames": 4, "size": (16, 16), "recipe": recipe, **changes})


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class KilledError(Exception):
    pass


def interrupted_at(step):
    def told(row):
        if row["step"] >= step:
            raise KilledError

    return told


@pytest.mark.parametrize(
    "changes", [{}, {"ema": 0, "precision": "bf16", "recompute": (1, 2)}, {"randaugment": 2, "erasing": 0.5}]
)
def test_an_interrupted_training_goes_on_to_the_same_bits(tmp_path, changes):
    plan, clips = make_plan(**changes), make_clips()
    whole = train(plan, clips, tmp_path / "whole", world=ALONE)
    with pytest.raises(KilledError):  # after step 6 is taken, before it is saved: step 5 is what there is
        train(plan, clips, tmp_path / "cut", world=ALONE, save_every=5, told=interrupted_at(6))
    assert read_saved(tmp_path / "cut").step == 5
    resumed = train(plan, clips, tmp_path / "cut", world=ALONE, save_every=5)
    assert (whole.step, resumed.step) == (12, 12)
    assert same(whole.model, resumed.model)
    assert not same(whole.model, build(plan.spec, 2).state_dict())
    assert [{**row, "seconds": 0} for row in whole.log] == [{**row, "seconds": 0} for row in resumed.log]
    rows = csv.DictReader((tmp_path / "cut" / "log.csv").read_text().splitlines())
    assert [int(row["step"]) for row in rows] == [6, 12]


def test_another_training_in_its_place_is_refused(tmp_path):
    clips = make_clips()
    train(make_plan(recipe=Recipe(epochs=0.2, batch=4)), clips, tmp_path, world=ALONE)
    with pytest.raises(UbenchError, match=r"goes on only as it began, got seed was 0, now 1 in .*; name another --out"):
        train(make_plan(recipe=Recipe(epochs=0.2, batch=4), seed=1), clips, tmp_path, world=ALONE)


def test_what_is_over_is_not_trained_again(tmp_path):
    plan, clips = make_plan(recipe=Recipe(epochs=0.2, batch=4)), make_clips()
    finish(train(plan, clips, tmp_path, world=ALONE), tmp_path, {"clips": 10})
    size = (tmp_path / "checkpoint.pt").stat().st_size
    again = train(plan, clips, tmp_path, world=ALONE, told=pytest.fail)
    assert again.results == {"clips": 10}
    assert again.training is None
    assert (tmp_path / "checkpoint.pt").stat().st_size == size


def test_it_learns_and_its_average_is_what_is_kept(tmp_path):
    plan = make_plan(recipe=Recipe(epochs=12, batch=4, lr=0.01), mixup=0, cutmix=0, ema=0.9)
    clips, rows = make_clips(), []
    saved = train(plan, clips, tmp_path, world=ALONE, told=rows.append)
    assert rows[-1]["loss"] < 0.6 * rows[0]["loss"]
    assert accuracies(saved.build(), clips.test, clips.classes, size=(16, 16)).top1.value == 1
    assert not same(saved.model, saved.training["weights"])


def test_weights_to_start_from_come_from_any_checkpoint(tmp_path):
    first = train(make_plan(recipe=Recipe(epochs=0.2, batch=4)), make_clips(), tmp_path / "a", world=ALONE)
    notes = []
    still = make_plan(init=str(tmp_path / "a" / "checkpoint.pt"), recipe=Recipe(epochs=0.1, batch=4, lr=1e-12), ema=0)
    second = train(still, make_clips(), tmp_path / "b", world=ALONE, noted=notes.append)
    for name, value in first.model.items():
        if "running" not in name and "batches" not in name:
            torch.testing.assert_close(second.model[name], value)
    assert notes[0] == "the weights are those under 'model'"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixup": -1}, "mixup must be from 0 to 100, got -1 in the plan"),
        ({"ema": 1}, "ema must be from 0 to 0.999999, got 1 in the plan"),
        ({"randaugment": 2.5}, "randaugment must be a number of operations, got 2.5 in the plan"),
        ({"magnitude": 11}, "magnitude must be from 0 to 10, got 11"),
        ({"zoom": 0.5}, "zoom must be from 1 to 2, got 0.5"),
        ({"precision": "fp8"}, "precision must be one of fp32, bf16, fp16, got 'fp8'"),
        ({"recompute": (3,)}, r"recompute must name stages from 1 to 2, got \(3,\)"),
    ],
)
def test_a_broken_plan_is_named(changes, message):
    with pytest.raises(UbenchError, match=message):
        make_plan(**changes)


@pytest.mark.parametrize(
    ("batch", "size", "message"),
    [(5, 2, "multiple of the 2 processes, got 5"), (64, 1, "at most the number of training clips, got 64 of 24")],
)
def test_a_batch_must_fit(tmp_path, batch, size, message):
    plan = make_plan(recipe=Recipe(batch=batch))
    with pytest.raises(UbenchError, match=message):
        train(plan, make_clips(), tmp_path, world=World(0, size, "cpu"))


def test_a_lost_loss_ends_it(tmp_path):
    plan = make_plan(recipe=Recipe(epochs=1, batch=4, lr=1e38, warmup=0))
    with pytest.raises(UbenchError, match="the loss must stay finite, got nan by step 6"):
        train(plan, make_clips(), tmp_path, world=ALONE)


def test_a_plan_round_trips_and_keys_are_known():
    plan = make_plan(recompute=(2, 1, 2), recipe=Recipe(drop_path=0.1))
    assert plan.recompute == (1, 2)
    assert plan.spec.drop_path == 0.1
    assert Plan.from_dict(plan.to_dict()) == plan
    with pytest.raises(UbenchError, match="unknown key 'mixups' in the recipe, did you mean mixup"):
        with_settings(PAPER, {"mixups": 1})


def test_the_rate_follows_the_batch_unless_it_is_set():
    assert with_settings(PAPER, {"batch": 256})[0].lr == pytest.approx(8e-4)  # 1e-4 x 256 / 32
    assert with_settings(PAPER, {"batch": 256, "lr": 0.5, "ema": 0})[0].lr == 0.5
    assert with_settings(PAPER, {"ema": 0, "epochs": None})[1] == {"ema": 0}


def test_clips_mix_in_the_share_of_their_pixels():
    generator = torch.Generator().manual_seed(0)
    x = torch.zeros(2, 3, 2, 10, 12)
    x[1] = 1  # a mixture's mean is then its share of the second clip
    labels = torch.tensor([0, 1])
    for mixup, cutmix in ((0.8, 0), (0, 1.0), (0.8, 1.0)):
        for _ in range(20):
            mixed, targets = mix(x, labels, 2, mixup=mixup, cutmix=cutmix, generator=generator)
            torch.testing.assert_close(mixed.mean((1, 2, 3, 4)), targets[:, 1])
            torch.testing.assert_close(targets.sum(1), torch.ones(2))
            if not mixup:
                assert set(mixed.unique().tolist()) <= {0.0, 1.0}
    untouched, targets = mix(x, labels, 2, mixup=0, cutmix=0, generator=generator)
    assert torch.equal(untouched, x)
    assert targets.tolist() == [[1, 0], [0, 1]]


def test_a_crop_moves_and_keeps_its_clip():
    clips = torch.arange(6 * 8, dtype=torch.uint8).view(1, 1, 6, 8, 1).repeat(50, 2, 1, 1, 3)
    cropped = random_crop(clips, (4, 5), torch.Generator().manual_seed(0))
    corners = {tuple(divmod(int(clip[0, 0, 0, 0]), 8)) for clip in cropped}
    assert corners == {(top, left) for top in range(3) for left in range(4)}
    top, left = divmod(int(cropped[0, 0, 0, 0, 0]), 8)
    assert torch.equal(cropped[0], clips[0, :, top : top + 4, left : left + 5])


def test_augmentation_is_alike_in_all_frames_and_another_for_each_clip():
    torch.manual_seed(0)
    still = torch.randint(0, 256, (6, 1, 16, 16, 3), dtype=torch.uint8).expand(6, 4, 16, 16, 3).contiguous()
    drawn = set()
    for seed in range(12):
        torch.manual_seed(seed)
        found = augmented(still, 2, 7, 0.25)
        assert (found.shape, found.dtype) == (still.shape, torch.uint8)
        assert torch.equal(found, found[:, :1].expand_as(found))  # what stands still does so afterwards
        drawn |= {float((a.float() - b.float()).abs().mean()) for a, b in zip(found, still, strict=True)}
        torch.manual_seed(seed)
        assert torch.equal(augmented(still, 2, 7, 0.25), found)
    assert len(drawn) > 60  # 72 clips, nearly each changed in a way of its own
    assert augmented(still, 0, 7, 0) is still


def test_erasing_makes_a_box_grey_in_so_many_clips():
    torch.manual_seed(0)
    white = torch.full((200, 2, 16, 16, 3), 255, dtype=torch.uint8)
    gone = (augmented(white, 0, 7, 0.25) == round(255 * MEAN)).all(-1)
    assert gone.flatten(1).any(1).float().mean() == pytest.approx(0.25, abs=0.1)
    for box in gone[gone.flatten(1).any(1)]:
        down, across = (box[0].any(axis) for axis in (1, 0))
        assert box[0].sum() == down.sum() * across.sum()  # a rectangle
        assert torch.equal(box[0], box[1])


def test_kornia_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "kornia.augmentation", None)
    with pytest.raises(UbenchError, match=r"need Kornia, got none; pip install 'uniformer_bench\[augment\]'"):
        augmented(torch.zeros(1, 1, 4, 4, 3, dtype=torch.uint8), 0, 7, 0.123)


def test_the_average_follows_its_formula():
    average = start_average({"w": torch.zeros(3), "n": torch.tensor(0)})
    average_into(average, {"w": torch.ones(3), "n": torch.tensor(7)}, step=0, decay=0.5)
    assert average["w"].tolist() == pytest.approx([0.9] * 3)  # the decay starts at 1 / 10
    average_into(average, {"w": torch.zeros(3), "n": torch.tensor(8)}, step=1000, decay=0.5)
    assert average["w"].tolist() == pytest.approx([0.45] * 3)
    assert average["n"] == 8


def test_recomputing_changes_neither_gradients_nor_statistics():
    x = torch.randn(3, 3, 4, 16, 16)
    found = []
    for stages in ((), (1, 2)):
        torch.manual_seed(0)
        model = build(SPEC, 2).train()
        recompute_stages(model, stages)
        torch.manual_seed(1)  # of stochastic depth
        model(x).square().sum().backward()
        found.append((model.state_dict(), {name: p.grad for name, p in model.named_parameters()}))
    for plain, recomputed in zip(*found, strict=True):
        assert plain.keys() == recomputed.keys()
        for name in plain:
            torch.testing.assert_close(plain[name], recomputed[name], msg=name)


class Fixed(torch.nn.Module):
    """Answers with logits that stand in the first pixels of a clip."""

    def forward(self, x):
        return x[:, 0, 0, 0, :3]


def test_accuracies_count_answers_by_class():
    clips = np.zeros((5, 1, 3, 3, 3), np.uint8)
    for row, place in enumerate((0, 0, 1, 2, 0)):  # the answers
        clips[row, :, :, place] = 200
    found = accuracies(Fixed(), Split(clips, np.array([0, 0, 0, 2, 2])), ("a", "b", "c"), size=(3, 3))
    assert (found.top1, found.top5) == (Accuracy(3, 5), Accuracy(5, 5))
    assert found.by_class == {"a": Accuracy(2, 3), "c": Accuracy(1, 2)}  # b has no clip
    mean, (low, high) = found.mean_class
    assert mean == pytest.approx((2 / 3 + 1 / 2) / 2)
    a, c = Accuracy(2, 3), Accuracy(1, 2)
    assert low == pytest.approx(mean - math.hypot(a.value - a.ci95[0], c.value - c.ci95[0]) / 2)
    assert high == pytest.approx(mean + math.hypot(a.ci95[1] - a.value, c.ci95[1] - c.value) / 2)
    assert found.to_dict()["top1"]["ci95"] == list(Accuracy(3, 5).ci95)


def test_a_clip_without_finite_logits_is_wrong():
    class Lost(torch.nn.Module):
        def forward(self, x):
            return torch.full((len(x), 9), float("nan"))

    found = accuracies(Lost(), light_and_dark(4, 0), ("a", "b"), size=(16, 16))
    assert (found.top1.correct, found.top5.correct) == (0, 0)


def test_views_are_moments_and_places():
    clips = torch.arange(2 * 4 * 10).view(1, 2, 4, 10, 1).expand(1, 2, 4, 10, 3)
    seen = [(int(v[0, 0, 0, 0, 0]) // 40, tuple(v.shape[1:4])) for v in views_of(clips, (4, 6), Views(2, 1))]
    assert seen == [(0, (1, 4, 6)), (1, (1, 4, 6))]
    lefts = [int(v[0, 0, 0, 0, 0]) for v in views_of(clips, (4, 6), Views(1, 3))]
    assert lefts == [0, 2, 4]
    tops = [int(v[0, 0, 0, 0, 0]) for v in views_of(clips.transpose(2, 3), (6, 4), Views(1, 3))]
    assert tops == [0, 2, 4]
    twice = clips.repeat(1, 2, 1, 1, 1)  # frames 0 1 0 1
    for dense, expected in ((True, [[0, 1], [0, 1]]), (False, [[0, 0], [1, 1]])):
        found = views_of(twice, (4, 10), Views(2), dense)
        assert [[int(frame) // 40 for frame in view[0, :, 0, 0, 0]] for view in found] == expected
    assert parse_views("4x3") == Views(4, 3)


def test_the_processes_share_a_batch():
    plan, split = make_plan(mixup=0, cutmix=0), light_and_dark(8, 0)
    index = torch.tensor([6, 1, 4, 3])
    whole, _ = batch_of(plan, 2, share_of(split, index, ALONE), 0, ALONE)
    worlds = [World(rank, 2, "cpu") for rank in (0, 1)]
    shares = [batch_of(plan, 2, share_of(split, index, world), 0, world)[0] for world in worlds]
    assert torch.equal(torch.stack(shares, 1).flatten(0, 1), whole)  # every clip once


def test_a_box_in_the_middle_has_the_share_that_was_drawn(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.tensor([0.5, 0.5]))
    cut, left = mixing._cut(torch.zeros(1, 1, 1, 8, 16), torch.ones(1, 1, 1, 8, 16), 0.75, torch.Generator())
    assert left == 0.75
    assert cut.nonzero()[:, 3:].amin(0).tolist() == [2, 4]
    assert cut.nonzero()[:, 3:].amax(0).tolist() == [5, 11]


def test_views_that_cannot_be_are_refused():
    with pytest.raises(UbenchError, match="3 places need clips larger than the crop"):
        accuracies(Fixed(), light_and_dark(2, 0), ("a", "b"), size=(16, 16), views=Views(1, 3))
    with pytest.raises(UbenchError, match="a test must have at least one clip"):
        accuracies(Fixed(), light_and_dark(0, 0), ("a", "b"), size=(16, 16))
    with pytest.raises(UbenchError, match="views must be moments x places such as 4x3, got '4'"):
        parse_views("4")


def test_a_foreign_file_is_no_training(tmp_path):
    torch.save({"model": {}}, tmp_path / "x.pt")
    with pytest.raises(UbenchError, match="must be a checkpoint of `ubench train`, got another file"):
        read_saved(tmp_path / "x.pt")


def write_shades(folder, sides=(24, 32)):
    """Two classes of tiny videos, ten each."""
    for label, name in enumerate(("dark", "light")):
        for number in range(10):
            clip = light_and_dark(2, 10 * label + number, 32).clips[label][:, : sides[0], : sides[1]]
            write_video(folder / name / f"{number}.mp4", np.tile(clip, (2, 1, 1, 1)))
    return folder


def start_ubench(*words, **environment):
    code = "from uniformer_bench.cli import main; main()"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)], env=os.environ | {"OMP_NUM_THREADS": "1"} | environment, **pipes
    )


def test_two_processes_train_one_model_which_is_then_tested(tmp_path):
    data = write_shades(tmp_path / "data")
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(SPEC.to_dict()))
    (tmp_path / "recipe.yaml").write_text("{mixup: 0, cutmix: 0, ema: 0, zoom: 1.25, warmup: 0, drop_path: 0}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["train", "--spec", tmp_path / "spec.yaml", "--recipe", tmp_path / "recipe.yaml", "--data", data, "--json"]
    words += ["--frames", 4, "--size", 16, "--out", tmp_path / "out", "--cache", tmp_path / "cache"]
    words += ["--data-stride", 2, "--epochs", 0.5, "--batch", 6, "--lr", 0.01, "--views", "2x3", "--device", "cpu"]
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    running = [start_ubench(*words, RANK=str(rank), LOCAL_RANK=str(rank), **world) for rank in (0, 1)]
    (first, errors), (other, _) = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0], errors
    document = json.loads(first, parse_constant=pytest.fail)
    assert other == ""
    assert (document["step"], document["test"]["clips"], document["test"]["views"]) == (1, 4, "2x3")

    saved = read_saved(tmp_path / "out")
    assert saved.plan.stride == 2
    clips = load_clips(str(data), 4, (20, 20), 0, tmp_path / "cache", stride=2)
    with thread_count(1):  # AdamW's first step is the gradient's sign, which rounding decides under a BatchNorm
        expected = one_step_by_hand(saved.plan, clips, 2)
    for name, value in expected.named_parameters():
        torch.testing.assert_close(saved.model[name], value.detach(), msg=name)

    done = CliRunner().invoke(
        cli, ["test", str(tmp_path / "out"), "--views", "2x3", "--cache", str(tmp_path / "cache")]
    )
    assert f"top-1           {100 * document['test']['top1']['value']:5.1f} %" in done.stdout, done.output


def one_step_by_hand(plan, clips, processes):
    """What the mean of the processes' gradients makes of the model: another way than DistributedDataParallel's."""
    learner, _ = make_learner(plan, len(clips.classes), ALONE)
    index = next(batches(len(clips.train.labels), plan.recipe.batch, 1, torch.Generator().manual_seed(plan.seed)))
    model = learner.network
    for rank in range(processes):
        world = World(rank, processes, "cpu")
        x, targets = batch_of(plan, 2, share_of(clips.train, index, world), 0, world)
        loss = torch.nn.functional.cross_entropy(model(x), targets, label_smoothing=plan.recipe.label_smoothing)
        (loss / processes).backward()  # adds up over the ranks
    learner.optimisers.gather()
    learner.optimisers.clip(plan.recipe.clip_norm)
    learner.optimisers.step()
    return model


@pytest.mark.parametrize("lost", [torch.inf, torch.nan])
def test_in_float16_no_optimiser_steps_where_one_has_lost_its_gradients(lost):
    network = build(variant("micro"), 2)
    optimisers, scaler = optimisers_of(network, Recipe(muon_lr=0.02)), torch.amp.GradScaler("cpu")
    learner = Learner(network, network, optimisers, scaler, None)
    before = [weight.detach().clone() for weight in network.parameters()]
    for broken in (True, False):
        optimisers.zero_grad()
        scaler.scale(sum(weight.square().sum() for weight in network.parameters())).backward()
        if broken:
            network.head.bias.grad[0] = lost
        change_weights(learner, 1.0)
        scaler.update()
        assert all(map(torch.equal, network.parameters(), before)) == broken
    assert scaler.get_scale() == 2.0**15  # half of where it begins
    assert all(weight.isfinite().all() for weight in network.parameters())


def test_a_pick_keeps_what_the_search_tried_and_others_take_the_papers_recipe(tmp_path):
    run = save_run(make_run(3), tmp_path / "run")
    nothing = {"variant": None, "spec": None, "run": None, "trial": None, "limits": {}}
    picked = subject_of(**nothing | {"run": run, "trial": 1})
    assert (picked.spec.id, picked.frames, picked.size) == (make_run(3).trials[1]["spec_id"], 8, (32, 32))
    assert (picked.recipe.lr, picked.recipe.batch, picked.recipe.epochs) == (0.002, 64, 110)
    asked = {"data": "builtin", "frames": None, "size": 48, "precision": "fp32", "seed": 0}
    tuned = make_plan_of(picked, settings={}, init=tmp_path / "w.pt", **asked)
    assert tuned.recipe.lr == pytest.approx(2e-4)  # the paper's 1e-4 for 32 clips, at the run's batch of 64
    assert (tuned.frames, tuned.size) == (8, (48, 48))
    named = subject_of(**nothing | {"variant": "micro"})
    assert make_plan_of(named, settings={"batch": 64}, init=None, **asked).recipe.lr == pytest.approx(2e-3)
    with pytest.raises(UbenchError, match="one of --variant, --spec and --run must be given"):
        subject_of(**nothing | {"variant": "micro", "run": run})
    with pytest.raises(UbenchError, match="choose from a run: name it with --run"):
        subject_of(**nothing | {"variant": "micro", "limits": {"max_gmacs": 1}})


def test_other_classes_than_those_of_the_training_are_refused(tmp_path):
    saved = train(make_plan(recipe=Recipe(epochs=0.2, batch=4)), make_clips(), tmp_path, world=ALONE)
    data = write_shades(tmp_path / "data")
    (data / "dark").rename(data / "black")
    with pytest.raises(UbenchError, match=r"the 2 it was trained on, got others: \['black', 'dark'\]"):
        accuracies_of(saved, data=str(data), views=Views(), device="cpu", loading=Loading(tmp_path / "cache"))


def test_more_damaged_videos_than_may_be_left_out_are_refused_by_both_verbs(tmp_path):
    data = write_shades(tmp_path / "data")
    first, *others = sorted(data.rglob("*.*"))
    first.write_bytes(b"no video")
    train(make_plan(recipe=Recipe(epochs=0.2, batch=4)), make_clips(), tmp_path / "out", world=ALONE)
    options = ["--data", str(data), "--max-bad", "0.01", "--cache", str(tmp_path / "cache"), "--device", "cpu"]
    size = ["--variant", "micro", "--frames", "4", "--size", "16", "--out", str(tmp_path / "new")]
    for words in (["train", *size], ["test", str(tmp_path / "out")]):
        refused = CliRunner().invoke(cli, [*words, *options])
        assert f"at most 0.01 of the videos may be left out, got 1 of {1 + len(others)}" in str(refused.exception)


def test_stages_that_are_no_numbers_are_a_usage_error():
    words = ["train", "--variant", "micro", "--recompute", "a", "--out", "x", "--dry-run"]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 2
    assert "--recompute must be stages such as 3,4, got 'a'" in done.output
