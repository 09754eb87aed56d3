"""docs/walkthroughs.md does what it says: its commands are run, at a scale for tests."""

import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from tests.videos import write_video
from uniformer_bench.cli import cli
from uniformer_bench.data import digits
from uniformer_bench.export import graphs

ROOT = Path(__file__).parent.parent
REFERENCE = "2026-11-23_tiny_cpu_fp32"
BLOCK = re.compile(r"(<!-- needs a GPU -->\n)?```(sh|yaml)\n(.*?)```", re.DOTALL)
SCALE = (("--epochs 30", "--epochs 1"), ("--epochs 40", "--epochs 1"))


def section(title):
    """(the commands to run, those that need a GPU, the recipe) of a walk-through."""
    text = (ROOT / "docs" / "walkthroughs.md").read_text()
    part = re.search(rf"## {title}\n(.*?)(?=\n## |\Z)", text, re.DOTALL)[1]
    found = BLOCK.findall(part)
    assert found, title
    commands = [(bool(gpu), line) for gpu, kind, body in found if kind == "sh" for line in lines_of(body)]
    recipe = "".join(body for _, kind, body in found if kind == "yaml")
    return [line for gpu, line in commands if not gpu], [line for gpu, line in commands if gpu], recipe


def lines_of(body):
    return body.replace("\\\n", " ").strip().splitlines()


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a run, as a search would have left it, and few and small clips."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(digits, "COUNTS", {"train": 70, "validation": 28, "test": 28})
    monkeypatch.setattr(graphs, "TIMING_S", 0.01)
    torch.set_num_threads(1)
    for name in (REFERENCE, "mine"):
        shutil.copytree(ROOT / "results" / REFERENCE, tmp_path / "results" / name)
    for label, name in enumerate(("dark", "light")):
        for number in range(5):
            noise = np.random.default_rng([label, number]).integers(0, 60, (8, 32, 40, 3))
            write_video(tmp_path / "my_videos" / name / f"{number}.mp4", (noise + 180 * label).astype(np.uint8))
    return tmp_path


def run(line, here, monkeypatch, capsys):
    """The output of a command, of which a search is a dry run."""
    words = shlex.split(scaled(line))
    if words[0] == "python":
        monkeypatch.setattr(sys, "argv", words[1:])
        runpy.run_path(words[1], run_name="__main__")
        return capsys.readouterr().out
    cached = words[1] in ("train", "test") and "--dry-run" not in words
    done = CliRunner().invoke(cli, words[1:] + ["--cache", str(here / "cache")] * cached)
    assert done.exit_code == 0, f"{line}\n{done.output}\n{done.exception}"
    return done.output


def scaled(line):
    if line.startswith("ubench search") and "--dry-run" not in line:
        return f"{line} --dry-run"
    for old, new in SCALE:
        line = line.replace(old, new)
    return f"{line} --batch 4" if "my_videos" in line and " train " in line else line


def test_from_the_built_in_clips_to_a_model(here, monkeypatch, capsys):
    commands, _, _ = section("From the built-in clips to a model")
    outputs = {line.split()[1]: run(line, here, monkeypatch, capsys) for line in commands}
    assert list(outputs) == ["search", "train", "test", "export"]
    assert "28 clips of the test split, 2x1 views" in outputs["test"]
    assert "model.onnx" in outputs["export"]
    assert "onnxruntime" in outputs["export"]


def test_from_a_folder_of_videos_to_a_model(here, monkeypatch, capsys):
    commands, _, recipe = section("From a folder of videos to a model under 5 ms")
    (here / "recipe.yaml").write_text(recipe)
    outputs = [run(line, here, monkeypatch, capsys) for line in commands]
    labels = {line.split()[1] for line in outputs[-1].splitlines()}
    assert labels == {"dark", "light"}
    assert (here / "models" / "mine" / "model.safetensors").exists()


def test_your_own_gpu(here, monkeypatch, capsys):
    (search, train), on_gpu, _ = section("Your own GPU and the 224 space")
    assert "110 epochs" in run(train, here, monkeypatch, capsys)
    assert len(on_gpu) == 4
    for line in (search, *on_gpu):  # the search is what test_cli.py runs
        words = shlex.split(line[line.index("ubench ") :])[1:]
        cli.commands[words[0]].make_context(words[0], words[1:])  # raises where an option is unknown
