"""Gradient checkpointing by stage: a block's activations are computed again in the backward pass, not kept.

The second pass must leave no trace: BatchNorm's running statistics are not updated by it.
"""

import functools
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from torch import nn
from torch.utils.checkpoint import checkpoint

from uniformer_bench.model.uniformer import UniFormer


def recompute_stages(model: UniFormer, stages: Iterable[int]) -> None:
    """Makes every block of these stages (from 1) forget its activations. Weights and results stay as they were."""
    for stage in stages:
        _, blocks = model.stage_modules()[stage - 1]
        for block in blocks.children():
            contexts = functools.partial(_contexts, block)
            # An instance's own forward: the classes, and the names in the state dict, stay untouched.
            block.forward = functools.partial(  # type: ignore[method-assign]
                checkpoint, block.forward, use_reentrant=False, context_fn=contexts
            )


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _statistics_kept(block)


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    norms = [module for module in block.modules() if isinstance(module, nn.BatchNorm3d)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:  # they still take the statistics, which the backward pass saves, but move by nothing
        norm.momentum = 0.0
        norm.num_batches_tracked = None
    try:
        yield
    finally:
        for norm, (momentum, counted) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, counted
