"""A driver whose trials go wrong as told: `search` from here is the product's, but for what workers run.

UBENCH_TEST_FAULTS is JSON: a fault by the number of its trial or its architecture's id, or "quick", the seconds in
which every trial ends with made-up numbers, or "patience_s" with storages. Workers unpickle `evaluate` by name, so
they import it from here, and nothing in the product knows.
"""

import json
import os
import signal
import time
from dataclasses import replace

import numpy as np
import torch

from uniformer_bench.search import driver, storage
from uniformer_bench.search.evaluate import Result, Task
from uniformer_bench.search.evaluate import evaluate as product_evaluate


def evaluate(task: Task) -> Result:
    """The product's, or the fault that was asked for."""
    assert task.paused is not None
    number, told = task.paused.stem, json.loads(os.environ["UBENCH_TEST_FAULTS"])
    fault = told.get(number) or told.get(task.spec.id)
    if fault == "hang":
        time.sleep(600)
    if fault == "driver":
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "exit":
        os._exit(7)
    if fault == "segfault":
        import ctypes

        ctypes.string_at(0)
    if fault == "nan":
        task = task._replace(recipe=replace(task.recipe, lr=1e30, clip_norm=1e30))
    if fault == "memory":
        import uniformer_bench.search.evaluate as module

        module.ShortRun, kept = greedy, module.ShortRun
        try:
            return product_evaluate(task)
        finally:
            module.ShortRun = kept
    return made_up(task, told["quick"]) if "quick" in told else product_evaluate(task)


def greedy(*arguments, **keywords):
    return torch.empty(1 << 60, dtype=torch.uint8)


def made_up(task: Task, seconds: float) -> Result:
    time.sleep(seconds)
    accuracy = np.random.default_rng(int(task.spec.id, 16)).random()
    return Result("complete", None, {"accuracy": accuracy}, {"accuracy": (0.0, 1.0)}, {"train": seconds}, [], [], {})


def main() -> None:
    from uniformer_bench.cli import main

    driver.evaluate = evaluate
    storage.PATIENCE_S = json.loads(os.environ["UBENCH_TEST_FAULTS"]).get("patience_s", storage.PATIENCE_S)
    main()
