"""Frames and size that vary in a space: each architecture is measured and trained on clips of its own."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from tests.test_search import records_of, ubench
from uniformer_bench.cli import cli
from uniformer_bench.cost import cost
from uniformer_bench.data.video import sample_indices
from uniformer_bench.errors import UbenchError
from uniformer_bench.measure.protocol import Protocol
from uniformer_bench.remeasure import _on_own_clip
from uniformer_bench.report.arch import read_input, view
from uniformer_bench.report.info import read_trials
from uniformer_bench.runs import clip_of, load_records
from uniformer_bench.search import evaluate as evaluate_module
from uniformer_bench.search import retraining
from uniformer_bench.search.evaluate import Task
from uniformer_bench.search.feasible import cost_of
from uniformer_bench.search.proposals.candidates import QuasiRandom
from uniformer_bench.search.warm import _fits
from uniformer_bench.space import Clip, stored_pick
from uniformer_bench.space_file import parse_space
from uniformer_bench.spec import ArchSpec
from uniformer_bench.train import input_of, smaller, to_input

SPACE = """# a space of clips for tests
name: clips
input: {frames: 8, size: [16, 32]}
spec: {head_dim: 8, stem: {kernel: [1, 2, 2], stride: [2, 2, 2]}}
vary: {frames: [4, 8], size: [16, [16, 24], [16, 32]]}
stages:
  - {mixer: [local, global], depth: 1, width: 8}
recipe: {epochs: 0.1, batch: 32}
baselines: [{name: all local, pattern: L, frames: 8}, {name: small, pattern: L, frames: 4, size: 16}]
"""
NAMED = ", frames: 8}, {name: small, pattern: L, frames: 4, size: 16}"
VARIED = "vary: {frames: [4, 8], size: [16, [16, 24], [16, 32]]}\n"


def space(old="", new=""):
    assert old in SPACE
    return parse_space(SPACE.replace(old, new, 1), "here")


def unvaried(new=""):
    """The space whose baselines name no clip, with other clips in `vary`, or none."""
    return parse_space(SPACE.replace(NAMED, "}").replace(VARIED, new), "here")


def candidate(**params):
    return space().candidate(stored_pick({"stage1.mixer": "local", "frames": "4", "size": "16"} | params))


def test_the_clip_is_picked_and_part_of_what_is_evaluated_once():
    small, wide = candidate(), candidate(size="16x24", frames="8")
    assert (small.clip, wide.clip) == (Clip(4, (16, 16)), Clip(8, (16, 24)))
    assert small.spec == wide.spec
    assert (small.id, wide.id) == (f"{small.spec.id}@4x16x16", f"{small.spec.id}@8x16x24")
    assert space().size() == 2 * 3 * 2
    some = unvaried("vary: {frames: {low: 2, high: 8, step: 2}}\n")
    assert some.candidate(lambda name, domain: domain.options[0]).clip == Clip(2, (16, 32))


def test_where_clips_do_not_vary_an_architecture_has_none_of_its_own():
    fixed = unvaried().candidate(lambda name, domain: "local")
    assert fixed.clip is None
    assert fixed.id == fixed.spec.id


def test_cost_is_that_of_the_own_clip():
    for params in ({}, {"frames": "8"}, {"size": "16x32", "stage1.mixer": "global"}):
        each = candidate(**params)
        assert cost_of(each, space(), 5) == cost(each.spec, frames=each.clip.frames, size=each.clip.size, num_classes=5)


def test_a_baseline_names_its_clip_or_has_the_middle_one():
    picks = dict(space().baseline_picks())
    assert (picks["all local"]["frames"], picks["all local"]["size"]) == ("8", "16x24")
    assert (picks["small"]["frames"], picks["small"]["size"]) == ("4", "16")


def test_the_start_is_spread_over_clips():
    draw = QuasiRandom(space(), 0)
    assert len({draw(i).candidate.clip for i in range(12)}) == 6


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[4, 8]", "[4, 16]", "clips must not be larger than input's, which they are made of, got 16x16x32 in "
         "vary of 8x16x32"),
        ("[16, 24]", "[24, 24]", "got 8x24x24 in vary of 8x16x32"),
        ("[4, 8]", "[4, 1.5]", "frames must be a positive integer, got 1.5 in vary"),
        ("[4, 8]", "[0, 8]", "frames must be a positive integer, got 0 in vary"),
        ("[16, 24]", "[16, 24, 3]", "height must be a positive integer, got [16, 24, 3] in vary"),
        ("spec:", "data: {frames: 4}\nspec:", "clips must be trained on as they are measured where frames and size "
         "vary, got 4x16x32 in data and 8x16x32 in input"),
        ("[16, [", "[1, [", "which is 4x0x0"),
        ("frames: [4, 8], size", "size", "a baseline's frames must vary, got it fixed in baseline 'all local'"),
        ("[4, 8]", "8", "frames must be a list or a range in vary, got 8; what is fixed belongs into input"),
    ],
)  # fmt: skip
def test_a_space_whose_clips_cannot_be_made_is_refused(old, new, message):
    with pytest.raises(UbenchError) as raised:
        space(old, new)
    assert message in str(raised.value)


def test_a_smaller_clip_has_frames_of_the_middle_and_means_of_areas():
    clips = torch.arange(8, dtype=torch.uint8)[None, :, None, None, None].expand(1, 8, 4, 4, 3) * 10
    assert sample_indices(8, 2) == [2, 6]
    assert smaller(clips, Clip(2, (4, 4)))[0, :, 0, 0, 0].tolist() == [20, 60]
    picture = torch.tensor([[0, 10, 200, 204], [20, 30, 200, 201]], dtype=torch.uint8)
    wide = picture[None, None, :, :, None].expand(2, 1, 2, 4, 3)
    found = smaller(wide, Clip(1, (1, 2)))
    assert found.dtype == torch.uint8
    assert found.shape == (2, 1, 1, 2, 3)
    assert found[1, 0, 0, :, 2].tolist() == [15, 201]  # (0 + 10 + 20 + 30) / 4, (200 + 204 + 200 + 201) / 4


def test_what_a_model_sees_is_the_smaller_clip_normalised_and_mirrored():
    clips = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 8, 6, 6, 3), np.uint8))
    flip = torch.tensor([True, False, True])
    own = Clip(4, (3, 3))
    assert torch.equal(input_of(own)(clips, flip), to_input(smaller(clips, own), flip))
    assert input_of(None) is to_input


def test_a_smaller_clip_of_another_shape_is_cropped_about_the_centre():
    columns = torch.arange(8, dtype=torch.uint8)[None, None, None, :, None].expand(1, 1, 4, 8, 3) * 10
    assert smaller(columns, Clip(1, (4, 4)))[0, 0, 0, :, 0].tolist() == [20, 30, 40, 50]
    assert smaller(columns, Clip(1, (2, 2)))[0, 0, 0, :, 0].tolist() == [25, 45]
    assert smaller(columns.transpose(2, 3), Clip(1, (2, 2)))[0, 0, :, 0, 0].tolist() == [25, 45]


def seen_by(monkeypatch, module):
    """The shapes that models built by `module` are called with."""
    shapes, make = set(), module.build

    def watched(*arguments):
        model = make(*arguments)
        model.register_forward_pre_hook(lambda _, given: shapes.add((model.training, tuple(given[0].shape[2:]))))
        return model

    monkeypatch.setattr(module, "build", watched)
    return shapes


def test_trials_and_finalists_learn_and_are_judged_on_their_own_clip(tmp_path, monkeypatch):
    each, data = candidate(size="16x24"), {"source": "builtin", "frames": 8, "size": (16, 32), "seed": 0}
    data |= {"cache": tmp_path}
    protocol = Protocol(device="cpu", frames=4, size=(16, 24))
    own, recipe = {(True, (4, 16, 24)), (False, (4, 16, 24))}, space().recipe
    shapes = seen_by(monkeypatch, evaluate_module)
    task = Task(each.spec, each.trained, 14, protocol, ("accuracy",), {}, recipe, data, 0, tmp_path, 1, clip=each.clip)
    assert evaluate_module.evaluate(task).state == "complete"
    assert shapes == own
    shapes = seen_by(monkeypatch, retraining)
    lesson = retraining.Lesson(14, recipe, data, "fp32", "fast", 1)
    training = retraining.Training(0, each.trained, 1, 0.0, each.clip)
    assert retraining.train_again((training, lesson, retraining.Place("cpu", tmp_path))).test is not None
    assert shapes == own


def test_frames_that_vary_and_a_stride_are_refused_before_anything_is_read(tmp_path):
    (tmp_path / "space.yaml").write_text(SPACE)
    words = ["search", "--space", str(tmp_path / "space.yaml"), "--data", str(tmp_path / "none"), "--data-stride", "2",
             "--device", "cpu", "--results", str(tmp_path)]  # fmt: skip
    done = CliRunner().invoke(cli, words)
    assert "frames must not vary where they are taken with a stride, which would differ, got --data-stride 2" in str(
        done.exception or done.output
    )


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    (folder / "space.yaml").write_text(SPACE)
    document, said = ubench(folder, "--trials", "8")
    return folder, document, said


def test_a_search_over_clips_measures_each_on_its_own(searched):
    folder, document, said = searched
    records = records_of(document)
    assert document["trials"]["total"] == 8, said
    assert len({(r["clip"]["frames"], *r["clip"]["size"]) for r in records}) >= 3
    for record in records:
        frames, size = record["clip"]["frames"], tuple(record["clip"]["size"])
        assert record["spec_id"].endswith(f"@{frames}x{size[0]}x{size[1]}")
        assert (str(frames), "x".join(map(str, size))) == (record["params"]["frames"], {"16": "16x16"}.get(
            record["params"]["size"], record["params"]["size"]))  # fmt: skip
        own = cost(ArchSpec.from_dict(record["spec"]), frames=frames, size=size, num_classes=14)
        assert record["metrics"]["macs"] == own.macs
    memory = {r["clip"]["frames"]: r["metrics"]["memory"] for r in records if r["baseline"]}
    assert memory[8] > memory[4]
    again, _ = ubench(folder, "--trials", "8")
    assert again["front"] == document["front"]


def test_a_pick_takes_its_clip_along(searched, tmp_path):
    _, document, _ = searched
    run = load_records(document["run"])
    record = next(r for r in run.trials if r["clip"] != {"frames": 8, "size": [16, 32]} and r["state"] == "complete")
    own, number = clip_of(run.info, record), str(record["number"])
    words = ["train", "--run", document["run"], "--trial", number, "--out", str(tmp_path / "t"), "--dry-run", "--json"]
    plan = json.loads(CliRunner().invoke(cli, words).stdout)["plan"]
    assert Clip(plan["frames"], tuple(plan["size"])) == own
    words = ["export", document["run"], "--trial", number, "--out", str(tmp_path / "out"), "--json"]
    assert CliRunner().invoke(cli, words).exit_code == 0
    at = json.loads((tmp_path / "out" / "config.json").read_text())["preprocessing"]
    assert Clip(at["frames"], tuple(at["size"])) == own
    drawn = view(next(t for t in read_trials(run.trials) if t.number == record["number"]), read_input(run.info))
    assert drawn.stages[0].grid == (own.frames // 2, own.size[0] // 2, own.size[1] // 2)


def test_other_devices_measure_each_on_its_own(searched):
    folder, document, _ = searched
    words = ["remeasure", document["run"], "--budget", "2s", "--device", "cpu", "--json"]
    words += ["--reports", str(folder / "reports")]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    rows = {row["trial"]: row["memory_bytes"] for row in json.loads(done.stdout)["rows"]}
    inside = {r["number"]: r["metrics"]["memory"] for r in records_of(document) if r["number"] in rows}
    assert rows == inside


def test_another_clip_that_is_asked_for_is_everybodys(searched):
    _, document, _ = searched
    run = load_records(document["run"])
    record = next(r for r in run.trials if r["clip"] != {"frames": 8, "size": [16, 32]})
    asked = Protocol(device="cpu", frames=2, size=(16, 32))
    assert _on_own_clip(asked, run.info, record) is asked


def test_trials_of_another_clip_teach_nothing(searched):
    """The space of old, which varied clips, and one that does not: `frames` and `size` are not asked for there."""
    _, document, _ = searched
    run = load_records(document["run"])
    assert not any(_fits(unvaried(), record) for record in run.trials)
    assert all(_fits(space(), record) for record in run.trials)


def test_fidelity_trains_each_on_its_own(searched):
    folder, document, _ = searched
    words = ["fidelity", document["run"], "--sample", "3", "--times", "2", "--cache", str(folder / "cache"),
             "--reports", str(folder / "reports"), "--device", "cpu", "--json"]  # fmt: skip
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    assert len(json.loads(done.stdout)["fidelity"]["points"]) == 3
