"""The model as a graph that runs without its Python: torch.export and ONNX, each compared with the model and timed.

Graphs are made of the plain operators with PyTorch's attention, on any number of clips at a time; the frames and
the size of a clip are fixed. What a backend cannot do is a reason in its row, never an exception.
"""

import functools
import importlib.util
import logging
import math
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from uniformer_bench.errors import UbenchError
from uniformer_bench.files import finite
from uniformer_bench.measure.latency import measure_latency
from uniformer_bench.measure.protocol import Protocol
from uniformer_bench.model.attention import fused
from uniformer_bench.model.ops import REFERENCE
from uniformer_bench.model.uniformer import UniFormer, clips_like

PLAIN = REFERENCE._replace(name="plain", attention=fused)
TOLERANCE = 1e-4  # of the largest difference between logits, in fp32
BATCHES = (1, 3)  # that a graph is compared at; it is traced with another
TRACED_BATCH, MOST_CLIPS = 2, 4096
TIMING_S = 1.0

Runner = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Graph:
    """What came of a backend: `file` where it was written, `reason` where something is amiss, else None.

    `largest_difference` is that of the logits to the model's, `latency_ms` the median of one clip.
    """

    backend: str
    file: str | None = None
    largest_difference: float | None = None
    latency_ms: float | None = None
    reason: str | None = None

    @property
    def ok(self) -> bool:
        return self.reason is None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"ok": self.ok}


def export_graphs(model: UniFormer, folder: Path, *, stem: str, protocol: Protocol) -> list[Graph]:
    """Writes STEM.pt2 and STEM.onnx of a model on the CPU into `folder`; a row for PyTorch itself stands first.

    `protocol` names frames, size and threads.
    """
    model = model.eval()
    program = functools.cache(lambda: _export(_plain(model), protocol))
    saved, translated = folder / f"{stem}.pt2", folder / f"{stem}.onnx"

    def reloaded() -> Runner:
        torch.export.save(program(), saved)
        return torch.export.load(saved).module()

    def in_onnxruntime() -> Runner:
        _to_onnx(program(), translated)
        return _onnx_runner(translated, protocol.threads)

    return [
        _checked("pytorch", None, lambda: model, model, protocol),
        _checked("torch.export", saved, reloaded, model, protocol),
        _checked("onnxruntime", translated, in_onnxruntime, model, protocol),
    ]


def onnx_runner(model: UniFormer, protocol: Protocol) -> Runner:
    """The model on the CPU as ONNX Runtime runs it. Raises ModuleNotFoundError where that is not installed."""
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder) / "model.onnx"
        _to_onnx(_export(_plain(model), protocol), path)
        return _onnx_runner(path, protocol.threads)


def check_onnx() -> None:
    """Raises UbenchError where what translates or runs ONNX is not installed."""
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise UbenchError(
            f"ONNX Runtime must be installed to measure by it, got no {missing[0]}: pip install "
            "'uniformer_bench[export]'"
        )


def _plain(model: UniFormer) -> UniFormer:
    """The model of plain operators, ready for inference."""
    plain = UniFormer(model.spec, model.num_classes, PLAIN)
    plain.load_state_dict(model.state_dict())
    return plain.eval()


def _checked(
    backend: str, path: Path | None, make: Callable[[], Runner], model: UniFormer, protocol: Protocol
) -> Graph:
    """The row of a backend with its difference and its latency, or with the reason why it has none."""
    difference = latency = None
    with _quiet():
        try:
            run = make()
            difference = max(_difference(run, model, protocol, batch) for batch in BATCHES)
            clip = clips_like(model.spec, 1, protocol.frames, protocol.size)
            latency = measure_latency(lambda: run(clip), protocol, budget_s=TIMING_S).median
            reason = None if difference <= TOLERANCE else _too_far(difference)
        except Exception as error:  # a backend breaks in any way there is, and each is a fact to report
            reason = _reason(error)
    file = path.name if path is not None and path.exists() else None
    return Graph(backend, file, finite(difference), latency, reason)


def _too_far(difference: float) -> str:
    return f"the largest difference must be at most {TOLERANCE:g}, got {difference:.3g}"


def _difference(run: Runner, model: UniFormer, protocol: Protocol, batch: int) -> float:
    clips = clips_like(model.spec, batch, protocol.frames, protocol.size, seed=batch)
    with torch.inference_mode():
        difference = (run(clips) - model(clips)).abs().max().item()
    return math.inf if math.isnan(difference) else difference


def _reason(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed: pip install 'uniformer_bench[export]'"
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def _export(plain: UniFormer, protocol: Protocol) -> Any:
    clips = clips_like(plain.spec, TRACED_BATCH, protocol.frames, protocol.size)
    batch = torch.export.Dim("batch", min=1, max=MOST_CLIPS)
    with torch.no_grad():
        return torch.export.export(plain, (clips,), dynamic_shapes=({0: batch},), strict=False)


def _to_onnx(program: Any, path: Path) -> None:
    made = torch.onnx.export(
        program, input_names=["clips"], output_names=["logits"], dynamo=True, verify=False, verbose=False
    )
    assert made is not None, "the dynamo exporter returns its program"
    made.save(path)


def _onnx_runner(path: Path, threads: int) -> Runner:
    import onnxruntime  # an extra

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    options.add_session_config_entry("session.force_spinning_stop", "1")  # else its threads spin while another is timed
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda clips: torch.from_numpy(np.asarray(session.run(None, {"clips": clips.numpy()})[0]))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' remarks on their own insides."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
