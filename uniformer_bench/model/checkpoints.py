"""Files of weights from anywhere: tensors by name, and nothing in a file is ever run.

torch.load is told weights_only, which refuses every pickle that calls for more than tensors and plain data;
safetensors files hold no code. Whatever else a file may be is one UbenchError.
"""

import argparse
import io
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from uniformer_bench.errors import UbenchError
from uniformer_bench.files import write_whole
from uniformer_bench.model.uniformer import UniFormer
from uniformer_bench.model.weights import Loaded, load_weights

CONTAINERS = ("model", "model_state", "state_dict")  # image code and DeiT, SlowFast, mmaction2 and Lightning
PREFIXES = ("module.", "backbone.")  # of DistributedDataParallel, of a classifier around a backbone


class Checkpoint(NamedTuple):
    """The weights of a file under official names, and what was done to find them, a sentence each."""

    weights: dict[str, Tensor]
    notes: tuple[str, ...]


def open_checkpoint(path: str | Path) -> Checkpoint:
    """The weights in a file that torch.save wrote (.pth, .pt), or a .safetensors one, on the CPU.

    They may lie bare or under `model`, `model_state` or `state_dict`. Raises UbenchError for a file that cannot be
    read, is damaged, is none of these, calls for code or holds anything but tensors by name.
    """
    path = Path(path)
    return checkpoint_in(path, read_content(path))


def read_content(path: Path) -> object:
    """What a file of weights holds, whichever of the two kinds it is."""
    return _safetensors(path) if path.suffix == ".safetensors" else read_pickled(path)


def checkpoint_in(path: Path, content: object) -> Checkpoint:
    """The weights in what a file held; `path` names it in errors."""
    weights, container_notes = _unpacked(path, content)
    weights, prefix_notes = _without_prefixes(path, weights)
    return Checkpoint(weights, container_notes + prefix_notes)


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """The weights of open_checkpoint alone."""
    return open_checkpoint(path).weights


def load_checkpoint(model: UniFormer, path: str | Path, *, inflate: str = "average") -> Loaded:
    """Copies the weights of a file into `model`: open_checkpoint and load_weights, with the notes of both."""
    found = open_checkpoint(path)
    loaded = load_weights(model, found.weights, inflate=inflate, filename=Path(path).name)
    return Loaded(found.notes + loaded.notes)


def read_pickled(path: Path) -> object:
    """What torch.save wrote, if it is tensors and plain data. Raises UbenchError for all else."""
    # DeiT's scripts, the image models' among them, keep their options as a Namespace, which holds data only.
    harmless = torch.serialization.safe_globals([argparse.Namespace])
    try:
        with path.open("rb") as file, harmless, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they say of foreign files is said below
            try:
                return torch.load(file, map_location="cpu", weights_only=True)
            except Exception as error:  # foreign bytes break an unpickler in any way there is
                raise UbenchError(f"{path} {_refusal(error)}") from None
    except OSError as error:
        raise UbenchError(f"{path} cannot be read: {error.strerror}") from None


def write_pickled(path: Path, content: object) -> None:
    """Replaces a file whole by what torch.save writes of tensors and plain data, for read_pickled."""
    file = io.BytesIO()
    torch.save(content, file)
    write_whole(path, file.getvalue())


def _refusal(error: Exception) -> str:
    """Why torch refused. Its own advice, to load without weights_only, is not handed on."""
    called = re.search(r"GLOBAL ([\w.]{1,100})", str(error))
    if called:
        return f"must hold tensors and plain data only, got a call for {called[1]}, which was not run"
    return f"must be a whole file of weights as torch.save writes it, got one it cannot read ({type(error).__name__})"


def _safetensors(path: Path) -> object:
    try:
        return load(path.read_bytes())
    except OSError as error:
        raise UbenchError(f"{path} cannot be read: {error.strerror}") from None
    except SafetensorError as error:
        reason = " ".join(str(error).split())[:200]
        raise UbenchError(f"{path} must be a whole safetensors file, got one it cannot read ({reason})") from None


def _unpacked(path: Path, content: object) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors by name in a file's content, out of its container."""
    notes: tuple[str, ...] = ()
    if isinstance(content, Mapping):
        container = next((key for key in CONTAINERS if isinstance(content.get(key), Mapping)), None)
        if container is not None:
            content, notes = content[container], (f"the weights are those under {container!r}",)
    if not isinstance(content, Mapping) or not content:
        got = "an empty one" if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise UbenchError(f"{path} must hold a mapping of names to tensors, got {got}")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise UbenchError(f"{path} must hold tensors by name, got {type(value).__name__} at {str(name)[:100]!r}")
    return dict(content), notes


def _without_prefixes(path: Path, weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    notes = []
    for prefix in PREFIXES:
        if any(name.startswith(prefix) for name in weights):
            stripped = {name.removeprefix(prefix): value for name, value in weights.items()}
            if len(stripped) < len(weights):
                raise UbenchError(f"{path} must hold every weight once, got some with and without {prefix!r}")
            weights = stripped
            notes.append(f"the prefix {prefix!r} is stripped from the names")
    return weights, tuple(notes)
