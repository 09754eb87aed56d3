"""Who evaluates on a cluster: Ray tasks, one a trial, with a core of their own and on a GPU's machine a GPU.

What fails in a trial is its own end, as with the workers of this machine; what fails in a machine is not: a trial
whose node dies runs again elsewhere. Code travels with the connection, paused trials and weights to start from with
their tasks; clips are read or made where a task runs, by the arguments that the task carries.

Costs are measured on one model of device, the driver's own. A node with another trains only: what it has trained is
measured afterwards, on a node that has that model.
"""

import functools
import logging
import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import uniformer_bench
from uniformer_bench.errors import UbenchError
from uniformer_bench.files import write_whole
from uniformer_bench.measure.environment import environment
from uniformer_bench.search.donors import Start
from uniformer_bench.search.evaluate import Result, Task, without_numbers
from uniformer_bench.search.executors import Crew, one_line, raised, timed_out
from uniformer_bench.search.turns import device_turns, turns_folder

MOST_MOVED = 2  # a third node that dies under the same trial may die of it
STOP_S = 2.0  # for cancelled tasks to end
# Ray reads these when it is imported; what it prints, it prints among the lines of `--json`
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
    "RAY_SCHEDULER_EVENTS": "0",
}

COSTS = {"latency", "energy"}  # what differs between models of device


class _Begun(NamedTuple):
    """The first that a task gives: where it runs, and the model of the device there."""

    node: str
    model: str


class _Ended(NamedTuple):
    """What a task gives at its end. `file` is that of a trial that pauses; `measured` False where costs are wanted,
    and the node has not the device for them."""

    result: Result
    file: bytes | None
    measured: bool


@dataclass
class _Flight:
    """A trial on its way. `trained` is what it came to where it has still to be measured."""

    key: Any
    task: Task
    moved: int = 0
    begun_s: float | None = None  # by the monotonic clock, when its node had begun
    node: str | None = None
    trained: _Ended | None = None


def ray_engine(address: str | None, most: int | None) -> Callable[..., "RayExecutor"]:
    """What makes the executor of a search: on the cluster at `address`, or one of this machine; at most so many trials
    at once. Raises UbenchError where Ray is not installed."""
    _import_ray()
    return functools.partial(_executor, address, most)


def _executor(
    address: str | None, most: int | None, crew: Crew, timeout_s: float | None, work: Callable[[Task], Result]
) -> "RayExecutor":
    crew.end()  # this machine's own workers would lie in the memory of the cluster's
    return RayExecutor(address, timeout_s, work, most)


class RayExecutor:
    """Does as LocalExecutor, on a Ray cluster. `free` follows the cluster, so that nodes which join are used."""

    def __init__(
        self, address: str | None, timeout_s: float | None, work: Callable[[Task], Result], most: int | None = None
    ) -> None:
        self._ray, self._timeout_s, self._work, self._most = _import_ray(), timeout_s, work, most
        self._running: dict[Any, _Flight] = {}  # by Ray's generator
        self._unmeasured: list[_Flight] = []  # until a node is known that has the device
        self._models: dict[str, str] = {}  # of devices, by node
        self._weights: dict[Start, Any] = {}  # as Ray has them
        self._gpus = False  # known with the first task
        _connect(self._ray, address)

    @property
    def free(self) -> int:
        """How many more trials can start at once."""
        kind = "GPU" if self._gpus else "CPU"
        slots = int(self._ray.cluster_resources().get(kind, 0))
        idle = int(self._ray.available_resources().get(kind, 0))  # others may use the cluster too; it lags behind
        flying = len(self._running) + len(self._unmeasured)
        least = 0 if flying else 1  # it waits for a node: a search that can neither begin nor wait has ended
        return max(least, min(idle, min(slots, self._most or slots) - flying))

    def submit(self, key: Any, task: Task) -> None:
        """Starts a trial, known as `key` until it is finished."""
        self._start(_Flight(key, task))

    def finished(self, wait_s: float) -> list[tuple[Any, Result]]:
        """The trials that ended, after at most this wait for the first. Raises UbenchError where no node has the
        device that costs are measured on."""
        self._measure_trained()
        if not self._running:
            time.sleep(wait_s)
            return []
        ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=wait_s)
        ended = []
        for one in list(self._running):
            result = self._timed_out(one)
            if result is None and ready:
                at_hand, _ = self._ray.wait([one], timeout=0)
                result = self._step(one) if at_hand else None
            if result is not None:
                ended.append((self._running.pop(one).key, result))
        return ended

    def stop(self) -> list[Any]:
        """Ends all tasks at once; gives the keys of the trials that were cut short."""
        cut, self._running = self._running, {}
        waiting, self._unmeasured = self._unmeasured, []
        for one in cut:
            self._ray.cancel(one, force=True)
        self._ray.wait(list(cut), num_returns=len(cut), timeout=STOP_S) if cut else None
        self._ray.shutdown()
        return [flight.key for flight in (*cut.values(), *waiting)]

    def _start(self, flight: _Flight, node: str | None = None) -> None:
        """Sends the task to this node, or where Ray will."""
        task = _costs_alone(flight.task) if flight.trained else flight.task
        self._gpus = task.protocol.device != "cpu"
        held = task.paused.read_bytes() if task.resumed and task.paused and task.paused.exists() else None
        remote = self._ray.remote(_on_node).options(
            num_cpus=1, num_gpus=int(self._gpus), max_retries=0, num_returns="streaming",
            scheduling_strategy=self._at(node) if node else None,
        )  # fmt: skip
        model = _device_name(task.protocol.device)
        self._running[remote.remote(self._work, _for_node(task), held, self._sent(task.start), model)] = flight

    def _sent(self, start: Start | None) -> Any:
        """The file of weights as Ray has it for all nodes; None where none is, or what is beside it is needed too."""
        if start is None or start.path.suffix == ".safetensors":
            return None
        if start not in self._weights:
            self._weights[start] = self._ray.put(start.path.read_bytes())
        return self._weights[start]

    def _at(self, node: str) -> Any:
        return self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)

    def _measure_trained(self) -> None:
        """Sends what is trained and not measured to a node that can, or that nobody knows yet. Raises UbenchError where
        none is left."""
        kind = "GPU" if self._gpus else "CPU"
        nodes = [known["NodeID"] for known in self._ray.nodes() if known["Alive"] and known["Resources"].get(kind)]
        while nodes and self._unmeasured:
            wanted = _device_name(self._unmeasured[0].task.protocol.device)
            fitting = [node for node in nodes if self._models.get(node, wanted) == wanted]
            if not fitting:
                got = ", ".join(sorted({self._models[node] for node in nodes}))
                raise UbenchError(f"costs must be measured on {wanted}, as the driver has it, got nodes with {got}")
            self._start(self._unmeasured.pop(0), min(fitting, key=self._load))

    def _load(self, node: str) -> int:
        return sum(flight.node == node for flight in self._running.values())

    def _step(self, one: Any) -> Result | None:
        """What a trial has come to, or None: it has begun, or begins again elsewhere."""
        flight, errors = self._running[one], self._ray.exceptions
        try:
            told = self._ray.get(next(one))
        except errors.RayTaskError as error:
            return raised(error.cause)
        except errors.OutOfMemoryError as error:
            return without_numbers("oom", f"memory must suffice, got a worker that Ray ended: {one_line(error)}")
        except errors.RayError as error:
            return self._lost(one, error)
        if isinstance(told, _Begun):
            flight.begun_s, flight.node, self._models[told.node] = time.monotonic(), told.node, told.model
            return None
        if not told.measured and told.result.state in ("complete", "paused"):
            trained = flight.trained or told  # it may have been sent to a node that was not known
            self._unmeasured.append(_Flight(flight.key, flight.task, flight.moved, trained=trained))
            del self._running[one]
            return None
        ended = _both(flight.trained, told) if flight.trained else told
        if ended.file is not None and ended.result.state == "paused" and flight.task.paused is not None:
            write_whole(flight.task.paused, ended.file)
        return ended.result

    def _lost(self, one: Any, error: Exception) -> Result | None:
        """A worker that died ends its trial; a node that died does not."""
        flight = self._running[one]
        if not self._node_died(flight.node, error):
            return without_numbers("crashed", f"the worker died, {one_line(error)}")
        if flight.moved == MOST_MOVED:
            return without_numbers("crashed", f"{MOST_MOVED + 1} nodes died while they evaluated it")
        del self._running[one]
        again = _Flight(flight.key, flight.task, flight.moved + 1, trained=flight.trained)
        self._unmeasured.append(again) if again.trained else self._start(again)
        return None

    def _node_died(self, node: str | None, error: Exception) -> bool:
        alive = {known["NodeID"] for known in self._ray.nodes() if known["Alive"]}
        return isinstance(error, self._ray.exceptions.NodeDiedError) or (node is not None and node not in alive)

    def _timed_out(self, one: Any) -> Result | None:
        begun_s = self._running[one].begun_s
        if self._timeout_s is None or begun_s is None or time.monotonic() - begun_s < self._timeout_s:
            return None
        self._ray.cancel(one, force=True)
        return timed_out(self._timeout_s)


def _on_node(
    work: Callable[[Task], Result], task: Task, held: bytes | None, weights: bytes | None, model: str
) -> Iterator[_Begun | _Ended]:
    """Runs on the node that Ray chose: says which that is, then what the trial came to. `held` is the file of a paused
    trial, `weights` that of what it starts from. `model` of device is wanted where costs are measured; elsewhere only
    the rest of the task is done."""
    import ray

    here = _device_name(task.protocol.device)
    yield _Begun(ray.get_runtime_context().get_node_id(), here)
    measured = here == model or task.resumed or not COSTS & set(task.measure)
    place = f"cuda-{ray.get_gpu_ids()[0]}" if ray.get_gpu_ids() else task.protocol.device
    task = task._replace(turns=device_turns(turns_folder(), place), start=_at_hand(task.start, weights))
    if not measured:
        task = task._replace(measure=tuple(key for key in task.measure if key == "accuracy"))
    with tempfile.TemporaryDirectory(prefix="ubench-") as folder:
        paused = Path(folder) / (task.paused.name if task.paused else "none")
        if held is not None:
            paused.write_bytes(held)
        result = work(task._replace(paused=paused))
        file = paused.read_bytes() if result.state == "paused" and paused.exists() else None
        yield _Ended(result, file, measured)


def _at_hand(start: Start | None, weights: bytes | None) -> Start | None:
    """What a trial starts from, where this node has it: at the driver's path, or as it was sent, kept for the next."""
    if start is None or weights is None or start.path.exists():
        return start
    path = turns_folder() / f"{start.sha256}.pt"
    if not path.exists():
        write_whole(path, weights)
    return start._replace(path=path)


def _costs_alone(task: Task) -> Task:
    """What is left of a task that has been trained."""
    return task._replace(measure=tuple(key for key in task.measure if key != "accuracy"))


def _both(trained: _Ended, costs: _Ended) -> _Ended:
    """A trial that was trained on one node and measured on another. What the measurement refuses is refused."""
    first, second = trained.result, costs.result
    how = (second.state, second.reason) if second.state != "complete" else (first.state, first.reason)
    both = first._replace(
        state=how[0],
        reason=how[1],
        metrics=first.metrics | second.metrics,
        intervals=first.intervals | second.intervals,
        seconds=second.seconds | first.seconds,
        warnings=[*first.warnings, *second.warnings],
    )
    return trained._replace(result=both)


@functools.cache
def _device_name(device: str) -> str:
    return str(environment()["cpu" if device == "cpu" else "gpu"])


def _for_node(task: Task) -> Task:
    """A task of Ray's sees one core and, as its first, the one GPU it was given."""
    device = "cpu" if task.protocol.device == "cpu" else "cuda"
    return task._replace(protocol=replace(task.protocol, device=device), training_threads=1)


def _import_ray() -> Any:
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        raise UbenchError("the ray engine needs Ray, got none; pip install 'uniformer_bench[ray]'") from None
    return ray


def _connect(ray: Any, address: str | None) -> None:
    """Joins the cluster, and sends this package there; without an address starts one of this machine."""
    quiet = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    with _signals_kept():
        if address is None:
            ray.init("local", include_dashboard=False, **quiet)
            return
        _reach(address)
        code = {"py_modules": [str(Path(uniformer_bench.__file__).parent)]}
        try:
            ray.init(address, runtime_env=code, **quiet)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UbenchError(f"a Ray cluster must answer at {address}, got {one_line(error)}") from None


def _reach(address: str) -> None:
    """Raises UbenchError where nothing listens: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise UbenchError(f"a Ray cluster must answer at HOST:PORT, got {one_line(error)} at {address}") from None


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray takes over SIGTERM, which is the driver's."""
    old = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)
