"""Exported folders: what is in them reads back as the same model, in this package and without it."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner

from tests.make_run import make_run, save_run
from tests.specs import CLIP, random_spec
from tests.videos import write_video
from uniformer_bench.cli import cli
from uniformer_bench.data.video import read_clip
from uniformer_bench.errors import NothingFeasibleError, UbenchError
from uniformer_bench.export import graphs, load_exported, predict
from uniformer_bench.export.card import cell
from uniformer_bench.export.folder import export, from_checkpoint, from_trial
from uniformer_bench.export.graphs import export_graphs
from uniformer_bench.measure.protocol import Protocol
from uniformer_bench.model import build, clips_like
from uniformer_bench.picks import pick_trial
from uniformer_bench.recipe import Recipe
from uniformer_bench.runs import Run
from uniformer_bench.spec import ArchSpec, StageSpec
from uniformer_bench.train import to_input
from uniformer_bench.training.plan import Plan
from uniformer_bench.training.saved import Saved, write_saved
from uniformer_bench.variants import VARIANTS

SPEC = ArchSpec(stages=(StageSpec(mixer="global", depth=1, width=8),), head_dim=4, mlp_ratio=2)
CLASSES = ("<b>jump|", "run")


@pytest.fixture(autouse=True)
def _short_timings(monkeypatch):
    monkeypatch.setattr(graphs, "TIMING_S", 0.01)


def with_life(model):
    """A model whose every weight matters: statistics, scales and biases as training might leave them."""
    generator = torch.Generator().manual_seed(1)
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            noise = torch.rand(value.shape, generator=generator)
            value.copy_(0.5 + noise if "var" in name else value + 0.2 * (noise - 0.5))
    return model.eval()


def saved_model(frames=4, size=(16, 16), zoom=1.0):
    plan = Plan(spec=SPEC, data="/home/me/sports", frames=frames, size=size, recipe=Recipe(), zoom=zoom, init="/x/a.pt")
    row = {"value": 0.5, "ci95": [0.2, 0.8]}
    results = {"clips": 4, "top1": row, "top5": row, "mean_class": row, "by_class": {"run": row}}
    weights = with_life(build(SPEC, 2)).state_dict()
    card = {"name": "sports", "hash": "12ab", "counts": {"train": 7}, "left_out": []}
    return Saved(weights, plan, CLASSES, card, 9, 9, [], results | {"split": "test", "views": "2x1"})


def export_saved(folder, saved):
    write_saved(folder / "training" / "checkpoint.pt", saved)
    return export(from_checkpoint(folder / "training"), folder / "out"), folder / "out"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graphs, "TIMING_S", 0.01)
        saved = saved_model(zoom=1.25)
        return saved, *export_saved(tmp_path_factory.mktemp("exported"), saved)


def test_a_checkpoint_becomes_a_folder_that_holds_everything(exported):
    _, document, folder = exported
    names = "README.md config.json export.json model.onnx model.pt2 model.safetensors predict.py spec.yaml"
    assert sorted(path.name for path in folder.iterdir()) == names.split() == document["files"]
    assert [graph["reason"] for graph in document["graphs"]] == [None, None, None]
    assert all(graph["largest_difference"] <= 1e-4 and graph["latency_ms"] > 0 for graph in document["graphs"])
    assert ArchSpec.load(str(folder / "spec.yaml")) == SPEC
    config = json.loads((folder / "config.json").read_text())
    assert config["id2label"] == {"0": "<b>jump|", "1": "run"}
    assert config["preprocessing"]["resize"] == [20, 20]
    assert len((folder / "predict.py").read_text().splitlines()) == 10


def test_it_reads_back_as_the_same_model(exported):
    saved, _, folder = exported
    again, clips = load_exported(folder), clips_like(SPEC, 3, 4, (16, 16))
    with torch.inference_mode():
        assert torch.equal(again.model(clips), saved.build()(clips))


def test_the_snippet_prints_the_labels_of_a_video(exported, tmp_path):
    saved, _, folder = exported
    picture = np.random.default_rng(0).integers(0, 255, (8, 24, 32, 3)).astype(np.uint8)
    video = write_video(tmp_path / "v.mp4", picture)
    row = np.empty((4, 20, 20, 3), np.uint8)
    read_clip(video, row)
    with torch.inference_mode():
        expected = saved.build()(to_input(torch.from_numpy(row[None, :, 2:18, 2:18].copy()))).softmax(1)[0]
    found = predict(load_exported(folder), video)
    assert dict(found) == pytest.approx(dict(zip(CLASSES, expected.tolist(), strict=True)))
    words = [sys.executable, folder / "predict.py", video]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines()[0] == f"{found[0][1]:7.2%}  {found[0][0]}"


def test_onnx_takes_any_number_of_clips(exported):
    import onnxruntime

    saved, _, folder = exported
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    for batch in (1, 2, 7):
        clips = clips_like(SPEC, batch, 4, (16, 16))
        with torch.inference_mode():
            expected = saved.build()(clips).numpy()
        np.testing.assert_allclose(session.run(["logits"], {"clips": clips.numpy()})[0], expected, atol=1e-4)


def test_the_card_shows_the_numbers_and_no_markup_of_others(exported):
    _, _, folder = exported
    card = (folder / "README.md").read_text()
    for text in ("50.0 % (20.0 to 80.0)", "4 clips of the test split, 2x1 views", "| hash | 12ab |", "model.onnx"):
        assert text in card
    assert "<b>" not in card
    assert "/home/me" not in card
    assert "/x/" not in card
    assert cell("<a|b>\n*c*") == "&lt;a\\|b&gt; \\*c\\*"


def test_a_trial_is_an_architecture_without_weights(tmp_path):
    run = save_run(make_run(8), tmp_path / "run")
    done = CliRunner().invoke(cli, ["export", str(run), "--trial", "0", "--out", str(tmp_path / "out"), "--json"])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["trained"] is False
    assert document["files"] == "README.md config.json export.json spec.yaml untrained.onnx untrained.pt2".split()
    assert ArchSpec.load(str(tmp_path / "out" / "spec.yaml")).id == make_run(8).trials[0]["spec_id"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Not trained" in card
    assert "validation accuracy" in card
    with pytest.raises(UbenchError, match=r"must hold model.safetensors, got an architecture without trained weights"):
        load_exported(tmp_path / "out")


def test_the_best_trial_within_limits_is_picked():
    run = make_run(60)
    complete = [record for record in run.trials if record["state"] == "complete"]
    limit = sorted(record["metrics"]["latency"] for record in complete)[len(complete) // 2]
    best = pick_trial(run, None, {"max_latency_ms": limit})
    assert best["metrics"]["latency"] <= limit
    within = [record for record in complete if record["metrics"]["latency"] <= limit]
    assert best["metrics"]["accuracy"] == max(record["metrics"]["accuracy"] for record in within)
    cheap_first = Run(run.info | {"objectives": ["latency", "accuracy"]}, run.trials)
    assert pick_trial(cheap_first, None, {})["metrics"]["latency"] == min(r["metrics"]["latency"] for r in complete)
    with pytest.raises(NothingFeasibleError, match=r"got none of \d+: max_latency_ms 1e-09"):
        pick_trial(run, None, {"max_latency_ms": 1e-9})
    with pytest.raises(UbenchError, match="one of the run's 60, got number 99"):
        pick_trial(run, 99, {})
    with pytest.raises(UbenchError, match="by its number or by limits, got both: 1 and max_gmacs 3"):
        pick_trial(run, 1, {"max_gmacs": 3})
    without = Run(run.info, [{"number": 0, "state": "crashed", "spec": None}])
    with pytest.raises(UbenchError, match="must have an architecture, got number 0, which is crashed"):
        pick_trial(without, 0, {})


def shallow(spec):
    """One block a stage, at an eighth of the width: every kind of part that the variant has."""
    heads = max(1, spec.head_dim // 8)
    stages = [dataclasses.replace(s, depth=1, width=s.width // 8, head_dim=None) for s in spec.stages]
    return dataclasses.replace(spec, stages=tuple(stages), head_dim=heads)


# The convolutional stem; a local stage without FFN before a divided one with layer scale. The paper's pattern is that
# of the trial above. All variants in full and more random ones: benchmarks/export.py.
SPECS = {"image": (shallow(VARIANTS["image_s_plus"].spec), 1), "random": (random_spec(51), CLIP["frames"])}


@pytest.mark.parametrize("name", SPECS)
def test_architectures_make_the_round_trip(name, tmp_path):
    (spec, frames), size, folder = SPECS[name], CLIP["size"], tmp_path
    model = with_life(build(spec, 5))
    rows = export_graphs(model, folder, stem="m", protocol=Protocol(device="cpu", frames=frames, size=size))
    assert [(row.backend, row.reason) for row in rows] == [
        ("pytorch", None),
        ("torch.export", None),
        ("onnxruntime", None),
    ]


def test_another_graph_is_told_from_the_model(tmp_path, monkeypatch):
    monkeypatch.setattr(graphs, "PLAIN", graphs.PLAIN._replace(position=lambda x, conv: 1.5 * x))
    spec = ArchSpec(stages=(StageSpec(mixer="global", depth=1, width=8),), head_dim=4)
    rows = export_graphs(
        with_life(build(spec, 3)), tmp_path, stem="m", protocol=Protocol(device="cpu", frames=4, size=16)
    )
    assert rows[0].reason is None
    assert all(r.reason.startswith("the largest difference must be at most 0.0001, got") for r in rows[1:])


def test_what_a_backend_cannot_do_is_reported(tmp_path, monkeypatch):
    def refuses(*_):
        raise ValueError("no such operator\nand more")

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    at = {"stem": "m", "protocol": Protocol(device="cpu", frames=4, size=16)}
    rows = export_graphs(build(SPEC, 3), tmp_path, **at)
    assert [row.ok for row in rows] == [True, True, False]
    assert rows[2].reason == "onnxruntime is not installed: pip install 'uniformer_bench[export]'"
    monkeypatch.setattr(graphs, "_export", refuses)
    rows = export_graphs(build(SPEC, 3), tmp_path / "none", **at)
    assert [row.reason for row in rows] == [None, "ValueError: no such operator", "ValueError: no such operator"]
    assert [row.file for row in rows] == [None, None, None]


def test_what_cannot_be_exported_or_read_is_named(exported, tmp_path):
    _, _, folder = exported
    content = from_trial(save_run(make_run(3), tmp_path / "run"), 0, {})
    with pytest.raises(UbenchError, match="a folder to export to must be new or empty, got"):
        export(content, folder)
    with pytest.raises(UbenchError, match=r"config\.json cannot be read"):
        load_exported(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UbenchError, match="must be what `ubench export` writes, got KeyError"):
        load_exported(tmp_path)
    (tmp_path / "x.mp4").write_text("no video")
    with pytest.raises(UbenchError, match=r"x\.mp4 cannot be decoded"):
        predict(load_exported(folder), tmp_path / "x.mp4")
    done = CliRunner().invoke(cli, ["export", str(tmp_path / "x.mp4"), "--trial", "1", "--out", str(tmp_path / "o")])
    assert done.exit_code == 2
    assert "choose from a run, and SOURCE is none" in done.output


def test_the_specification_in_yaml_is_plain(exported):
    _, _, folder = exported
    assert yaml.safe_load((folder / "spec.yaml").read_text()) == SPEC.to_dict()
