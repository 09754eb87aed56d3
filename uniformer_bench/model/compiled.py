"""A model compiled by torch.compile for inference on clips of one shape, or the model itself with a word why not.

What is compiled is kept in the user's cache folder (or TORCHINDUCTOR_CACHE_DIR), so that the same architecture is
compiled once on a machine. No CUDA graph is asked of the compiler: the latency's clock captures one itself, of the
compiled kernels as of any others, and "reduce-overhead" would capture inside that capture.
"""

import os
import types
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from uniformer_bench.data.cache import cache_dir

FOLDER = "inductor"  # in the user's cache folder
LONGEST_REASON = 160  # characters of a compiler's message


class Compiled(NamedTuple):
    """`run` gives the logits of clips like those it was made for; `notes` says why it is not compiled, or is empty."""

    run: Callable[[Tensor], Tensor]
    notes: tuple[str, ...]


def compile_model(model: nn.Module, clips: Tensor) -> Compiled:
    """Compiles `model` and runs it once on `clips`, whose shape, dtype and device are from then on assumed.

    The number of CPU threads is assumed too: under another one the model is compiled again. Hooks are left out.
    Raises only what the model itself raises without compilation.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_dir(None) / FOLDER))
    plain = _inference(model)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # compilers use deprecated parts of torch
            run = _inference(_fresh(model))
            run(clips)
    except Exception as error:  # whatever a compiler may find
        plain(clips)
        return Compiled(plain, (f"torch.compile failed, so the model runs without it: {_one_line(error)}",))
    return Compiled(run, ())


def _fresh(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """`model.forward`, to be compiled, as code of its own.

    What is compiled belongs to a code object, which may have a few compiled forms only, after which all run without.
    With a code object each, hundreds of models of one class are compiled in a process, and go when they are dropped.
    """
    forward = type(model).forward
    code = forward.__code__.replace()
    own = types.FunctionType(code, forward.__globals__, forward.__name__, forward.__defaults__, forward.__closure__)
    return torch.compile(types.MethodType(own, model), dynamic=False)


def _inference(run: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def without_gradients(clips: Tensor) -> Tensor:
        with torch.inference_mode():  # part of what is compiled: without it, another compilation
            return run(clips)

    return without_gradients


def _one_line(error: Exception) -> str:
    said = str(error).partition("Set TORCHDYNAMO_VERBOSE")[0]  # advice for those who mend compilers
    return f"{type(error).__name__}: {' '.join(said.split())[:LONGEST_REASON]}"
