"""The ends of single trials, whoever evaluates them."""

import time


def end_of(executor, key, timeout_s=60):
    """What the one trial that runs comes to; `key` is its own."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        for ended, result in executor.finished(wait_s=0.2):
            assert ended == key
            return result
    raise AssertionError("the trial never ended")
