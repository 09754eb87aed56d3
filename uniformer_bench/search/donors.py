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
from uniformer_bench.export.config import ours
from uniformer_bench.files import read_text
from uniformer_bench.model import build
from uniformer_bench.model.checkpoints import checkpoint_in, read_content
from uniformer_bench.model.inheritance import inherit
from uniformer_bench.model.uniformer import UniFormer
from uniformer_bench.model.weights import load_weights, spec_from_state_dict
from uniformer_bench.spec import ArchSpec
from uniformer_bench.training.saved import saved_in


class Start(NamedTuple):
    """A file of weights and its hash; it travels to a worker."""

    path: Path
    sha256: str


def start_from(path: Path) -> Start:
    """The file, as it is now. Raises UbenchError where it cannot be read."""
    return Start(path.resolve(), _sha256(path))


def begin(model: UniFormer, start: Start | None) -> None:
    """Has `model`, on the CPU, inherit from the weights to start from; without any it stays as it is."""
    if start is not None:
        inherit(model, donor_of(start))


def check_heir(start: Start, spec: ArchSpec, num_classes: int) -> None:
    """Raises UbenchError where `spec` cannot inherit from that file."""
    begin(build(spec, num_classes), start)


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
    content = read_content(path)
    if (saved := saved_in(content)) is not None:
        return saved.build()
    weights = checkpoint_in(path, content).weights
    spec = _exported_spec(path) or spec_from_state_dict(weights, filename=path.name).spec
    donor = build(spec, len(weights["head.weight"]) if "head.weight" in weights else 1)
    load_weights(donor, weights, filename=path.name)
    return donor.eval()


def _exported_spec(path: Path) -> ArchSpec | None:
    """What the config.json beside exported weights says; from the weights alone no width of a head can be told."""
    config = path.parent / CONFIG
    if path.suffix != ".safetensors" or not config.exists():
        return None
    with ours(config):
        return ArchSpec.from_dict(json.loads(read_text(config))["spec"])


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UbenchError(f"{path} cannot be read: {error.strerror}") from None
