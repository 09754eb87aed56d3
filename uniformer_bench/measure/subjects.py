"""What two things are compared: `NAME_OR_FILE[@setting=value,...]`, read into a subject, made ready to run.

A setting overrides the protocol that both share. A checkpoint needs an architecture: `s@checkpoint=weights.pth`.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from uniformer_bench.errors import UbenchError
from uniformer_bench.files import nearest
from uniformer_bench.measure.memory import is_out_of_memory
from uniformer_bench.measure.profile import thread_count
from uniformer_bench.measure.protocol import Protocol, check_precision
from uniformer_bench.model import build, clips_like, load_official_state_dict
from uniformer_bench.model.compiled import compile_model
from uniformer_bench.spec import ArchSpec
from uniformer_bench.variants import find_variant

Run = Callable[[], object]

CHECKPOINT_SUFFIXES = (".pth", ".pt", ".safetensors")
SPEC_SUFFIXES = (".yaml", ".yml")
FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True)
class Subject:
    """An architecture, the weights it is given (None: random ones) and what differs from the shared protocol."""

    text: str
    spec: ArchSpec
    variant: str | None = None
    checkpoint: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def protocol(self, base: Protocol) -> Protocol:
        """`base` with the subject's own settings. Raises UbenchError for a value that no protocol has."""
        return replace(base, **self.settings)


class Input(NamedTuple):
    """What a model is usually given: clips of `frames` x `size`, height and width, of one of so many classes."""

    frames: int
    size: tuple[int, int]
    num_classes: int


def parse_subject(text: str) -> Subject:
    """`s`, `spec.yaml` or either with settings: `s@precision=bf16,compile=true`, `s@checkpoint=weights.pth`.

    Settings are precision, implementation, compile, threads, batch, frames, size (224 or 224x320) and checkpoint.
    Raises UbenchError for an unknown variant, file, setting or value.
    """
    what, _, words = text.partition("@")
    settings = _settings(text, words) if words else {}
    checkpoint = settings.pop("checkpoint", None)
    path = Path(what)
    if path.suffix in CHECKPOINT_SUFFIXES:
        raise UbenchError(f"a checkpoint needs an architecture, as in s@checkpoint={what}, got {text!r}")
    if path.suffix in SPEC_SUFFIXES:
        return Subject(text, ArchSpec.load(path), None, checkpoint, settings)
    return Subject(text, find_variant(what).spec, what, checkpoint, settings)


def _settings(text: str, words: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for word in words.split(","):
        name, equals, value = word.partition("=")
        if not equals or not value:
            raise UbenchError(f"a setting must read name=value, got {word!r} in {text!r}")
        if name not in _READERS:
            raise UbenchError(f"unknown setting {name!r} in {text!r}{nearest(name, _READERS)}")
        if name in found:
            raise UbenchError(f"a setting must be given once, got {name} twice in {text!r}")
        found[name] = _READERS[name](name, value)
    return found


def _word(name: str, value: str) -> str:
    return value


def _count(name: str, value: str) -> int:
    if not value.isdecimal():
        raise UbenchError(f"{name} must be a positive integer, got {value!r}")
    return int(value)


def _flag(name: str, value: str) -> bool:
    if value.lower() not in FLAGS:
        raise UbenchError(f"{name} must be true or false, got {value!r}")
    return FLAGS[value.lower()]


def _size(name: str, value: str) -> tuple[int, ...]:
    sides = [_count(name, side) for side in value.split("x")]
    return tuple(sides * 2 if len(sides) == 1 else sides)


def _file(name: str, value: str) -> Path:
    if not Path(value).is_file():
        raise UbenchError(f"{name} must be a file, got {value!r}")
    return Path(value)


_READERS: dict[str, Callable[[str, str], Any]] = {
    "precision": _word,
    "implementation": _word,
    "compile": _flag,
    "threads": _count,
    "batch": _count,
    "frames": _count,
    "size": _size,
    "checkpoint": _file,
}


def usual_input(subject: Subject) -> Input:
    """A variant's own clip and classes; those of UniFormer-S for a spec file."""
    row = find_variant(subject.variant or "s")
    return Input(row.frames, (row.size, row.size), row.num_classes)


def make_ready(subject: Subject, protocol: Protocol, num_classes: int, seed: int) -> Callable[[], Run]:
    """Builds a subject once; every call then gives one forward pass of a copy of it, at another place in memory.

    Where weights and activations happen to lie moves a time by a percent or so, hence the copies. A compiled
    model is not copied, for a copy would be compiled again. Weights and clips are drawn from `seed`.
    Raises UbenchError where the device cannot, memory does not suffice, weights do not fit or compilation fails.
    """
    check_precision(protocol.device, protocol.precision)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build(subject.spec, num_classes, protocol.implementation)
    if subject.checkpoint is not None:
        from uniformer_bench.model.checkpoints import read_checkpoint

        load_official_state_dict(model, read_checkpoint(subject.checkpoint))
    clips = clips_like(subject.spec, protocol.batch, protocol.frames, protocol.size, seed)
    try:
        model = model.eval().to(protocol.device, protocol.dtype())
        clips = clips.to(protocol.device, protocol.dtype())
        if protocol.compile:
            with thread_count(protocol.threads):  # what it is compiled for
                run = _forward(_compiled(subject, model, clips), clips)
            return lambda: run
        _forward(model, clips)()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UbenchError(f"{subject.text} needs more memory than {protocol.device} has; lower batch or size") from None
    return lambda: _forward(copy.deepcopy(model), clips.clone())


def _forward(model: Callable[[torch.Tensor], torch.Tensor], clips: torch.Tensor) -> Run:
    def run() -> torch.Tensor:
        with torch.inference_mode():
            return model(clips)

    return run


def _compiled(subject: Subject, model: nn.Module, clips: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    run, notes = compile_model(model, clips)
    if notes:
        raise UbenchError(f"{subject.text}: {notes[0]}")
    return run
