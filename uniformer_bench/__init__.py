"""UniFormer for your device and your videos: build, measure and search.

Importing this imports neither torch nor Optuna nor plotly; what needs them comes on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from uniformer_bench.cost import cost
from uniformer_bench.spec import ArchSpec, StageSpec
from uniformer_bench.variants import variant

if TYPE_CHECKING:
    from uniformer_bench.model import build, load_official_state_dict
    from uniformer_bench.runs import load_run

__version__ = "0.1.0"
__all__ = ["ArchSpec", "StageSpec", "build", "cost", "load_official_state_dict", "load_run", "variant"]

_ON_FIRST_USE = {
    "build": "uniformer_bench.model",
    "load_official_state_dict": "uniformer_bench.model",
    "load_run": "uniformer_bench.runs",
}


def __getattr__(name: str) -> Any:
    if name in _ON_FIRST_USE:
        return getattr(importlib.import_module(_ON_FIRST_USE[name]), name)
    raise AttributeError(f"module 'uniformer_bench' has no attribute {name!r}")
