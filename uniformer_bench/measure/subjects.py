"""What is measured or compared: `NAME_OR_FILE[@setting=value,...]`, read into a subject, made ready to run.

A setting overrides the protocol that both share. A file of weights alone is of the architecture that can be read off
it; where that assumes too much it is named beside it: `s@checkpoint=weights.pth`.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from uniformer_bench.errors import SpecError, UbenchError
from uniformer_bench.files import nearest
from uniformer_bench.measure.memory import is_out_of_memory
from uniformer_bench.measure.profile import thread_count
from uniformer_bench.measure.protocol import Protocol, check_precision
from uniformer_bench.model import build, clips_like
from uniformer_bench.model.checkpoints import load_checkpoint, open_checkpoint
from uniformer_bench.model.compiled import compile_model
from uniformer_bench.model.inference import for_inference
from uniformer_bench.model.weights import spec_from_state_dict
from uniformer_bench.spec import ArchSpec
from uniformer_bench.variants import find_variant

Run = Callable[[], object]

CHECKPOINT_SUFFIXES = (".pth", ".pt", ".safetensors")
SPEC_SUFFIXES = (".yaml", ".yml")
USUAL = "s"  # whose clips are taken where nothing else is known
FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


class Input(NamedTuple):
    """What a model is usually given: clips of `frames` x `size`, height and width, of one of so many classes."""

    frames: int
    size: tuple[int, int]
    num_classes: int


@dataclass(frozen=True)
class Subject:
    """An architecture, the weights it is given (None: random ones) and what differs from the shared protocol.

    Where it was read off the weights, `usual` is what they are usually given, and `notes` say what was assumed.
    """

    text: str
    spec: ArchSpec
    variant: str | None = None
    checkpoint: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    usual: Input | None = None
    notes: tuple[str, ...] = ()

    def protocol(self, base: Protocol) -> Protocol:
        """`base` with the subject's own settings. Raises UbenchError for a value that no protocol has."""
        return replace(base, **self.settings)


class Ready(NamedTuple):
    """A subject that is built: every call of `fresh` gives a forward pass of it at another place in memory; `notes`
    are those of its weights."""

    fresh: Callable[[], Run]
    notes: tuple[str, ...]


def parse_subject(text: str) -> Subject:
    """`s`, `spec.yaml`, `weights.pth` or one with settings: `s@precision=bf16,compile=true`, `s@checkpoint=w.pth`.

    Settings are precision, implementation, compile, threads, batch, frames, size (224 or 224x320), checkpoint and on
    a GPU cache and graph. Raises UbenchError for an unknown variant, file, setting or value.
    """
    what, _, words = text.partition("@")
    settings = _settings(text, words) if words else {}
    checkpoint = settings.pop("checkpoint", None)
    path = Path(what)
    if path.suffix in CHECKPOINT_SUFFIXES:
        if checkpoint is not None:
            raise UbenchError(f"a file of weights has no other checkpoint, got {text!r}")
        return _weights_alone(text, path, settings)
    if path.suffix in SPEC_SUFFIXES:
        return Subject(text, ArchSpec.load(path), None, checkpoint, settings)
    return Subject(text, find_variant(what).spec, what, checkpoint, settings)


def named_subject(variant: str | None, spec_file: Path | None, checkpoint: Path | None) -> Subject:
    """The subject of a variant or a spec file, with or without weights, or of weights alone.

    Raises UbenchError for an unknown variant, and for a file that is no spec or holds no weights.
    """
    if variant is not None:
        return Subject(variant, find_variant(variant).spec, variant, checkpoint)
    if spec_file is not None:
        return Subject(str(spec_file), ArchSpec.load(spec_file), None, checkpoint)
    assert checkpoint is not None, "nothing is named"
    return _weights_alone(str(checkpoint), checkpoint, {})


def _weights_alone(text: str, path: Path, settings: Mapping[str, Any]) -> Subject:
    """The architecture read off a file of weights, its head_dim by the name of a released file, or else 64."""
    opened = open_checkpoint(path)
    try:
        found = spec_from_state_dict(opened.weights, filename=path.name)
    except SpecError as error:
        raise UbenchError(f"{path} alone makes no architecture: {error}; name its variant or spec too") from None
    row, of_images = find_variant(USUAL), found.spec.stem.kernel[0] == 1
    usual = Input(1 if of_images else row.frames, (row.size, row.size), found.num_classes or row.num_classes)
    return Subject(text, found.spec, None, path, settings, usual, opened.notes + found.notes)


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
    "cache": _word,
    "graph": _flag,
}


def usual_input(subject: Subject) -> Input:
    """A variant's own clip and classes; those of UniFormer-S for a spec file."""
    if subject.usual is not None:
        return subject.usual
    row = find_variant(subject.variant or USUAL)
    return Input(row.frames, (row.size, row.size), row.num_classes)


def make_ready(subject: Subject, protocol: Protocol, num_classes: int, seed: int) -> Ready:
    """Builds a subject once; a fresh run of it is then one forward pass of a copy, at another place in memory.

    Where weights and activations happen to lie moves a time by a percent or so, hence the copies. A compiled
    model is not copied, for a copy would be compiled again. Weights and clips are drawn from `seed`.
    Raises UbenchError where the device cannot, memory does not suffice, weights do not fit or compilation fails.
    """
    check_precision(protocol.device, protocol.precision)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build(subject.spec, num_classes, protocol.implementation)
    loaded = load_checkpoint(model, subject.checkpoint).notes if subject.checkpoint else ()
    notes = tuple(dict.fromkeys(subject.notes + loaded))
    clips = clips_like(subject.spec, protocol.batch, protocol.frames, protocol.size, seed)
    try:
        model = for_inference(model.eval().to(protocol.device, protocol.dtype()))
        clips = clips.to(protocol.device, protocol.dtype())
        if protocol.compile:
            with thread_count(protocol.threads):  # what it is compiled for
                run = _forward(_compiled(subject, model, clips), clips)
            return Ready(lambda: run, notes)
        _forward(model, clips)()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UbenchError(f"{subject.text} needs more memory than {protocol.device} has; lower batch or size") from None
    return Ready(lambda: _forward(copy.deepcopy(model), clips.clone()), notes)


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
