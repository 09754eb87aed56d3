"""Our CPU kernels as they would be on other processors."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from uniformer_bench.model import llvm

MACHINES = [llvm.Machine(16, 15), llvm.Machine(8, 10), llvm.Machine(4, 25)]


@contextmanager
def compiled_for(machine: llvm.Machine, kernels: Any) -> Iterator[None]:
    """Within it `kernels.compiled` is for that machine, after it for this one again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(llvm, "machine_of", lambda features: machine)
        kernels.compiled.cache_clear()
        try:
            yield
        finally:
            kernels.compiled.cache_clear()
