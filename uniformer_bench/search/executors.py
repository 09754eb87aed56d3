"""Who evaluates: long-lived worker processes on this machine, each with its own device or core.

A worker that hangs, crashes or is killed ends its own trial with a state and a reason, and is replaced. A worker
whose driver dies ends too, whatever it was at: what it came to would be told to nobody.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection, resource_tracker
from typing import Any, Generic, Protocol, TypeVar

from pebble import ProcessExpired, ProcessPool

from uniformer_bench.search.evaluate import Result, Task, without_numbers

T = TypeVar("T")
R = TypeVar("R")

POLL_S = 0.5  # how soon a signal, the budget or the display is looked after

# glibc gives freed memory back to the kernel and faults it in anew, step after step: kept, a step of a tiny
# model takes 0.86 of the time. Read once, when a worker starts, and by glibc alone.
WORKER_ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_TOP_PAD_": str(64 << 20),
}


class Executor(Protocol):
    """What evaluates a search's trials: LocalExecutor here, RayExecutor on a cluster."""

    @property
    def free(self) -> int: ...

    def submit(self, key: Any, task: Task) -> None: ...

    def finished(self, wait_s: float) -> list[tuple[Any, Result]]: ...

    def stop(self) -> list[Any]: ...


class Crew:
    """Worker processes of this machine. They begin with the first task and live until `end`: what one phase of a search
    has imported, loaded and compiled, the next has too. A task after the end begins new ones."""

    def __init__(self, workers: int) -> None:
        for name, value in WORKER_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        self.workers = workers
        self._pool = _pool(workers)

    def schedule(self, work: Callable[[T], R], task: T, timeout_s: float | None) -> "Future[R]":
        """Has a worker do this, at most so long."""
        with _interrupts_held():
            if not self._pool.active:  # ended; or a worker died before it had begun, which breaks its pool
                self.end()
                self._pool = _pool(self.workers)
            found: Future[R] = self._pool.schedule(work, args=[task], timeout=timeout_s)
            return found

    def end(self) -> None:
        """Ends all workers at once, whatever they are at."""
        self._pool.stop()
        self._pool.join()

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


class LocalExecutor(Generic[T, R]):
    """Has a crew do `work`. `submit` never blocks; `finished` gives results as they come: what the work returned, or a
    Result whose state and reason say how it ended instead."""

    def __init__(self, crew: Crew, timeout_s: float | None, work: Callable[[T], R]) -> None:
        self._crew, self._timeout_s, self._work = crew, timeout_s, work
        self._running: dict[Future[R], Any] = {}

    @property
    def free(self) -> int:
        """How many more trials can start at once."""
        return self._crew.workers - len(self._running)

    def submit(self, key: Any, task: T) -> None:
        """Starts a trial, known as `key` until it is finished."""
        self._running[self._crew.schedule(self._work, task, self._timeout_s)] = key

    def finished(self, wait_s: float) -> list[tuple[Any, R | Result]]:
        """The trials that ended, after at most this wait for the first."""
        done, _ = wait(self._running, timeout=wait_s, return_when=FIRST_COMPLETED)
        return [(self._running.pop(future), self._result(future)) for future in done]

    def stop(self) -> list[Any]:
        """Ends the crew's workers where they are at work; gives the keys of the trials that were cut short."""
        if self._running:
            self._crew.end()
        return list(self._running.values())

    def _result(self, future: "Future[R]") -> R | Result:
        try:
            return future.result()
        except FutureTimeoutError as error:  # without a limit, the trial's own
            return raised(error) if self._timeout_s is None else timed_out(self._timeout_s)
        except ProcessExpired as error:
            return without_numbers("crashed", _death(error.exitcode))
        except BrokenProcessPool:
            return without_numbers("crashed", "the worker ended before it had begun")
        except Exception as error:  # whatever a trial raised is its own end, not the study's
            return raised(error)


def only(work: Callable[[T], R], task: T, crew: Crew, poll: Callable[[], bool]) -> R | Result | None:
    """What one task comes to while the rest of the crew waits: what the work returned, or a Result that says how it
    ended. None where `poll`, called twice a second, stopped it by a False.
    """
    executor = LocalExecutor(crew, None, work)
    executor.submit(None, task)
    try:
        while poll():
            for _, found in executor.finished(POLL_S):
                return found
    finally:
        executor.stop()
    return None


def timed_out(limit_s: float) -> Result:
    """What a trial comes to that had to be ended."""
    return without_numbers("timeout", f"a trial must end within {limit_s:g} s, and this did not")


def raised(error: BaseException) -> Result:
    """What a trial comes to that raised."""
    return without_numbers("crashed", f"{type(error).__name__}: {one_line(error)}")


def one_line(error: BaseException) -> str:
    """An error's words without its line breaks, not too many."""
    return " ".join(str(error).split())[:300]


def _death(code: int) -> str:
    if code < 0:
        name = signal.Signals(-code).name
        hint = ", as when the machine runs out of memory" if name == "SIGKILL" else ""
        return f"the worker was ended by {name}{hint}"
    return f"the worker ended with exit code {code}"


def _pool(workers: int) -> ProcessPool:
    context = multiprocessing.get_context("spawn")
    return ProcessPool(max_workers=workers, context=context, initializer=_start_worker)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Workers begun in here (and by threads begun in here) hold back an interrupt from the terminal from their birth:
    one that came while they import would end them with a traceback."""
    resource_tracker.ensure_running()  # which sets the mask itself
    old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)


def _start_worker() -> None:
    """The driver decides when to stop: an interrupt from the terminal reaches workers too, and is left to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_driver, daemon=True).start()


def _end_with_driver() -> None:
    driver = multiprocessing.parent_process()
    assert driver is not None, "a worker is a child"
    connection.wait([driver.sentinel])
    os._exit(1)
