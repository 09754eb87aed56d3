"""Where the short runs of a search start from: the weights of a file, for every architecture to inherit from.

The file is an official checkpoint, one of `ubench train`, or an exported model. Its hash is part of the question that
a search asks.
"""

import functools
import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import torch

from uniformer_bench.errors import UbenchError
from uniformer_bench.export.config import FILE as CONFIG
from uniformer_bench.files import read_text
from uniformer_bench.model import build
from uniformer_bench.model.checkpoints import open_checkpoint, read_pickled
from uniformer_bench.model.inheritance import inherit
from uniformer_bench.model.uniformer import UniFormer
from uniformer_bench.model.weights import assumed_head_dim, load_weights, spec_from_state_dict
from uniformer_bench.spec import ArchSpec
from uniformer_bench.training.saved import FORMAT, read_saved

HEAD_DIM = 64  # of the official video models; weights do not tell


class Start(NamedTuple):
    """A file of weights and its hash; it travels to a worker."""

    path: Path
    sha256: str


def start_from(path: Path) -> Start:
    """The file, as it is now. Raises UbenchError where it cannot be read."""
    return Start(path.resolve(), _sha256(path))


def check_heir(start: Start, spec: ArchSpec, num_classes: int) -> None:
    """Raises UbenchError where `spec` cannot inherit from that file."""
    inherit(build(spec, num_classes), donor_of(start))


@functools.cache
def donor_of(start: Start) -> UniFormer:
    """The model in the file, read once a process. Raises UbenchError for a changed file, and for no such weights."""
    now = _sha256(start.path)
    if now != start.sha256:
        raise UbenchError(
            f"the weights to start from must stay as they were, got sha256 {now[:12]} for {start.path}, "
            f"and the search began from {start.sha256[:12]}"
        )
    with torch.random.fork_rng(devices=[]):  # the trial that happens to be first draws as the others do
        return _read(start.path)


def _read(path: Path) -> UniFormer:
    if path.suffix != ".safetensors":
        content = read_pickled(path)
        if isinstance(content, dict) and content.get("format") == FORMAT:
            return read_saved(path).build()
    weights = open_checkpoint(path).weights
    spec = _exported_spec(path)
    if spec is None:
        spec = spec_from_state_dict(weights, head_dim=assumed_head_dim(path.name) or HEAD_DIM).spec
    donor = build(spec, len(weights["head.weight"]) if "head.weight" in weights else 1)
    load_weights(donor, weights, filename=path.name)
    return donor.eval()


def _exported_spec(path: Path) -> ArchSpec | None:
    """What the config.json beside exported weights says; from the weights alone no width of a head can be told."""
    config = path.parent / CONFIG
    if path.suffix != ".safetensors" or not config.exists():
        return None
    try:
        return ArchSpec.from_dict(json.loads(read_text(config))["spec"])
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise UbenchError(f"{config} must be what `ubench export` writes, got {error!r}") from None


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UbenchError(f"{path} cannot be read: {error.strerror}") from None
