"""Who evaluates: long-lived worker processes on this machine, each with its own device or core.

A worker that hangs, crashes or is killed ends its own trial with a state and a reason, and is replaced.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, Generic, TypeVar

from pebble import ProcessExpired, ProcessPool

from uniformer_bench.search.evaluate import Result, without_numbers

T = TypeVar("T")
R = TypeVar("R")

# glibc gives freed memory back to the kernel and faults it in anew, step after step: kept, a step of a tiny
# model takes 0.86 of the time. Read once, when a worker starts, and by glibc alone.
WORKER_ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_TOP_PAD_": str(64 << 20),
}


class LocalExecutor(Generic[T, R]):
    """Worker processes of this machine, which do `work`. `submit` never blocks; `finished` gives results as they
    come: what the work returned, or a Result whose state and reason say how it ended instead."""

    def __init__(self, workers: int, timeout_s: float | None, work: Callable[[T], R]) -> None:
        for name, value in WORKER_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        context = multiprocessing.get_context("spawn")
        self.workers, self._timeout_s, self._work = workers, timeout_s, work
        self._pool = ProcessPool(max_workers=workers, context=context, initializer=_start_worker)
        self._running: dict[Future[R], Any] = {}

    @property
    def free(self) -> int:
        """How many more trials can start at once."""
        return self.workers - len(self._running)

    def submit(self, key: Any, task: T) -> None:
        """Starts a trial, known as `key` until it is finished."""
        self._running[self._pool.schedule(self._work, args=[task], timeout=self._timeout_s)] = key

    def finished(self, wait_s: float) -> list[tuple[Any, R | Result]]:
        """The trials that ended, after at most this wait for the first."""
        done, _ = wait(self._running, timeout=wait_s, return_when=FIRST_COMPLETED)
        return [(self._running.pop(future), self._result(future)) for future in done]

    def stop(self) -> list[Any]:
        """Ends all workers at once; gives the keys of the trials that were cut short."""
        self._pool.stop()
        self._pool.join()
        return list(self._running.values())

    def _result(self, future: "Future[R]") -> R | Result:
        try:
            return future.result()
        except FutureTimeoutError:
            return without_numbers("timeout", f"a trial must end within {self._timeout_s:g} s, and this did not")
        except ProcessExpired as error:
            return without_numbers("crashed", _death(error.exitcode))
        except Exception as error:  # whatever a trial raised is its own end, not the study's
            return without_numbers("crashed", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


def _death(code: int) -> str:
    if code < 0:
        name = signal.Signals(-code).name
        hint = ", as when the machine runs out of memory" if name == "SIGKILL" else ""
        return f"the worker was ended by {name}{hint}"
    return f"the worker ended with exit code {code}"


def _start_worker() -> None:
    """The driver decides when to stop: an interrupt from the terminal reaches workers too, and is left to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
