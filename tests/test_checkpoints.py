"""Files of weights: what is in them is found, and nothing in them is run."""

import argparse
import ast
import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import uniformer_bench
from uniformer_bench.errors import UbenchError
from uniformer_bench.model import build
from uniformer_bench.model.checkpoints import load_checkpoint, open_checkpoint, read_checkpoint
from uniformer_bench.spec import ArchSpec, StageSpec

PACKAGE = Path(uniformer_bench.__file__).parent
SPEC = ArchSpec(stages=(StageSpec(mixer="global", depth=1, width=32),), head_dim=32)


def _weights():
    return {"norm.weight": torch.arange(3.0), "head.bias": torch.ones(2)}


def _saved(content, **options):
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def _file(tmp_path, data, name="weights.pth"):
    path = tmp_path / name
    path.write_bytes(data)
    return path


def _assert_weights(found):
    assert list(found) == list(_weights())
    assert all(torch.equal(found[name], value) for name, value in _weights().items())


class Gadget:
    """Unpickled, it runs a shell command."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("name", ["weights.pth", "weights.pt", "checkpoint_epoch_00110.pyth"])
@pytest.mark.parametrize("legacy", [False, True])
def test_bare_weights(tmp_path, name, legacy):
    path = _file(tmp_path, _saved(_weights(), _use_new_zipfile_serialization=not legacy), name)
    found = open_checkpoint(path)
    _assert_weights(found.weights)
    assert found.notes == ()


def test_safetensors(tmp_path):
    save_file(_weights(), tmp_path / "weights.safetensors")
    found = read_checkpoint(str(tmp_path / "weights.safetensors"))
    assert {name: value.tolist() for name, value in found.items()} == {"norm.weight": [0, 1, 2], "head.bias": [1, 1]}


@pytest.mark.parametrize("container", ["model", "model_state", "state_dict"])
def test_weights_in_a_container_beside_anything_plain(tmp_path, container):
    beside = {"epoch": 3, "optimizer": {"lr": 0.1}, "cfg": "TRAIN: {}", "args": argparse.Namespace(model="uniformer")}
    found = open_checkpoint(_file(tmp_path, _saved({container: _weights()} | beside)))
    _assert_weights(found.weights)
    assert found.notes == (f"the weights are those under '{container}'",)


@pytest.mark.parametrize("prefix", ["module.", "backbone.", "module.backbone."])
def test_prefixes_are_stripped_with_a_word(tmp_path, prefix):
    prefixed = {prefix + name: value for name, value in _weights().items()}
    found = open_checkpoint(_file(tmp_path, _saved(prefixed)))
    _assert_weights(found.weights)
    words = [f"the prefix '{word}.' is stripped from the names" for word in prefix.split(".")[:-1]]
    assert list(found.notes) == words


def test_a_weight_with_and_without_a_prefix_is_refused(tmp_path):
    path = _file(tmp_path, _saved({"module.a": torch.zeros(1), "a": torch.ones(1)}))
    with pytest.raises(UbenchError, match=r"must hold every weight once, got some with and without 'module\.'"):
        read_checkpoint(path)


def _malicious(command, form):
    content = {"model": _weights(), "epoch": Gadget(command)}
    if form == "pickle":
        return pickle.dumps({"epoch": Gadget(command)}, protocol=2)
    return _saved(content, _use_new_zipfile_serialization=form == "zip")


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_a_malicious_pickle_is_refused_and_not_run(tmp_path, form):
    canary = tmp_path / "canary"
    path = _file(tmp_path, _malicious(f"touch {canary}", form))
    with pytest.raises(UbenchError, match=r"got a call for posix\.system, which was not run$"):
        read_checkpoint(path)
    assert not canary.exists()


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_the_malicious_pickle_would_do_harm(tmp_path, form):
    """So that the test above can fail."""
    canary = tmp_path / "canary"
    torch.load(_file(tmp_path, _malicious(f"touch {canary}", form)), weights_only=False)
    assert canary.exists()


def test_a_pickle_named_safetensors_is_not_unpickled(tmp_path):
    canary = tmp_path / "canary"
    path = _file(tmp_path, _malicious(f"touch {canary}", "zip"), "weights.safetensors")
    with pytest.raises(UbenchError, match="must be a whole safetensors file"):
        read_checkpoint(path)
    assert not canary.exists()


def test_an_objects_pickle_is_refused_by_name(tmp_path):
    path = _file(tmp_path, _saved({"model": _weights(), "accuracy": np.float64(80.8)}))
    with pytest.raises(UbenchError, match=r"got a call for numpy\.\S*scalar, which was not run"):
        read_checkpoint(path)


def _torchscript():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("m/constants.pkl", pickle.dumps(()))
        archive.writestr("m/data.pkl", pickle.dumps({}))
        archive.writestr("m/version", "3")
    return buffer.getvalue()


LARGE = {"a": torch.zeros(5000)}
DAMAGED = {
    "empty": b"",
    "text": b"hello, world\nI am a text file\n",
    "html": b"<!DOCTYPE html><html><body>Quota exceeded</body></html>",
    "noise": bytes(np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8)),
    "other zip": _torchscript(),
    "first bytes": _saved(LARGE)[:50],
    "all but the last bytes": _saved(LARGE)[:-100],
    "half": _saved(LARGE)[:9000],
    "legacy, half": _saved(LARGE, _use_new_zipfile_serialization=False)[:9000],
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_or_foreign_file_is_refused_on_one_line(tmp_path, data):
    path = _file(tmp_path, data)
    with pytest.raises(UbenchError, match=r"must be a whole file of weights as torch.save writes it, got") as raised:
        read_checkpoint(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert raised.value.exit_code == 1


BROKEN_SAFETENSORS = {
    "empty": b"",
    "no json": (16).to_bytes(8, "little") + b"{not json either",
    "header longer than the file": (10**12).to_bytes(8, "little") + b"{}",
    "tensor longer than the file": (62).to_bytes(8, "little")
    + b'{"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}',
}


@pytest.mark.parametrize("data", BROKEN_SAFETENSORS.values(), ids=BROKEN_SAFETENSORS)
def test_broken_safetensors_are_refused_on_one_line(tmp_path, data):
    path = _file(tmp_path, data, "weights.safetensors")
    with pytest.raises(UbenchError, match="must be a whole safetensors file, got one it cannot read") as raised:
        read_checkpoint(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "must hold a mapping of names to tensors, got an empty one"),
        ({"model": {}}, "must hold a mapping of names to tensors, got an empty one"),
        ([torch.zeros(1)], "must hold a mapping of names to tensors, got a list"),
        (torch.zeros(1), "must hold a mapping of names to tensors, got a Tensor"),
        ({"epoch": 3, "loss": 0.1}, "must hold tensors by name, got int at 'epoch'"),
        ({"model": {"a": torch.zeros(1), "b": "text"}}, "must hold tensors by name, got str at 'b'"),
        ({1: torch.zeros(1)}, "must hold tensors by name, got Tensor at '1'"),
        ({"model": "uniformer_small"}, "must hold tensors by name, got str at 'model'"),
    ],
)
def test_a_file_without_tensors_by_name_is_refused(tmp_path, content, message):
    with pytest.raises(UbenchError, match=message):
        read_checkpoint(_file(tmp_path, _saved(content)))


@pytest.mark.parametrize("name", ["none.pth", "none.safetensors"])
def test_a_file_that_is_not_there(tmp_path, name):
    with pytest.raises(UbenchError, match=r"none\..* cannot be read: No such file or directory"):
        read_checkpoint(tmp_path / name)


@pytest.mark.parametrize("name", ["folder", "folder.safetensors"])
def test_a_folder_is_no_file(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(UbenchError, match="cannot be read: Is a directory"):
        read_checkpoint(tmp_path / name)


def test_a_models_own_weights_come_back_with_every_note(tmp_path):
    model, other = build(SPEC, 7), build(SPEC, 7)
    weights = {f"module.{name}": value for name, value in model.state_dict().items()}
    path = _file(tmp_path, _saved({"model_state": weights}), "uniformer_small_plus_in1k.pth")
    assert load_checkpoint(other, path).notes == (
        "the weights are those under 'model_state'",
        "the prefix 'module.' is stripped from the names",
        "head_dim 32, as the official uniformer_small_plus_in1k.pth was trained with",
    )
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in other.state_dict().items())


# What the package itself may do, whatever reads a file in it.

UNSAFE_MODULES = {"pickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "jsonpickle"}
UNSAFE_YAML = {"unsafe_load", "unsafe_load_all", "full_load", "full_load_all", "UnsafeLoader", "FullLoader"}


def unsafe_reads(source):
    """What in Python source would unpickle or build objects from a file, as 'line: what'."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else names
        found += [f"{node.lineno}: import {m}" for m in modules if m.split(".")[0] in UNSAFE_MODULES]
        found += [f"{node.lineno}: {m}" for m in names if m in UNSAFE_YAML]
        if isinstance(node, ast.ImportFrom) and node.module in ("torch", "yaml"):
            found += [f"{node.lineno}: {node.module}.{name} under another name" for name in names if name == "load"]
        if isinstance(node, ast.Attribute) and node.attr in UNSAFE_YAML:
            found.append(f"{node.lineno}: {node.attr}")
        if isinstance(node, ast.Call) and not _is_safe_call(node):
            found.append(f"{node.lineno}: {ast.unparse(node.func)}")
    return found


def _is_safe_call(call):
    options = {word.arg: word.value for word in call.keywords}
    name = ast.unparse(call.func)
    if name in ("torch.load", "torch.hub.load_state_dict_from_url"):
        weights_only = options.get("weights_only")
        return isinstance(weights_only, ast.Constant) and weights_only.value is True
    if name in ("yaml.load", "yaml.load_all"):
        return "Loader" in options and ast.unparse(options["Loader"]) in ("_Loader", "yaml.SafeLoader")
    pickles = options.get("allow_pickle")
    return pickles is None or (isinstance(pickles, ast.Constant) and pickles.value is False)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_in_the_package_builds_objects_from_a_file(path):
    assert unsafe_reads(path.read_text(encoding="utf-8")) == []


def test_the_package_is_all_there_and_loads_weights_at_one_place():
    loads = [path.name for path in PACKAGE.rglob("*.py") if "torch.load(" in path.read_text(encoding="utf-8")]
    assert "checkpoints.py" in loads


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import cloudpickle as c",
        "from dill import loads",
        "from pickle import loads",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "from torch import load",
        "torch.hub.load_state_dict_from_url(url)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.load(text)",
        "yaml.unsafe_load(text)",
        "from yaml import unsafe_load",
        "np.load(path, allow_pickle=True)",
    ],
)
def test_what_the_check_finds(source):
    assert len(unsafe_reads(source)) == 1


def test_what_the_check_lets_pass():
    safe = (
        "torch.load(p, map_location='cpu', weights_only=True)\nnp.save(f, a, allow_pickle=False)\nyaml.safe_load(t)\n"
    )
    assert (
        unsafe_reads(safe + "yaml.load(t, Loader=_Loader)\nimport json, torch\nfrom safetensors.torch import load\n")
        == []
    )
