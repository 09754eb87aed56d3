"""Trials on a Ray cluster: faults are their own trials' ends, and a node that dies ends none."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.faults.searches import check_whole, ended, folder, killed, start, stored, told_of, wait_for, wait_for_study
from tests.faults.servers import missing
from tests.trials import end_of
from uniformer_bench.errors import UbenchError
from uniformer_bench.measure.protocol import Protocol
from uniformer_bench.recipe import Recipe
from uniformer_bench.search import ray_executor
from uniformer_bench.search.donors import start_from
from uniformer_bench.search.evaluate import Task, without_numbers
from uniformer_bench.search.turns import turns_folder

__all__ = ["folder"]

ABACUS = "UBENCH_TEST_DEVICE"  # in the environment of a node with another device
if ABACUS in os.environ:
    ray_executor._device_name = lambda device: os.environ[ABACUS]


def misbehave(task):
    """A trial's work; runs on a node. The task's spec says how."""
    if task.spec == "exit":
        os._exit(7)
    if task.spec == "raise":
        raise OSError("the file\nis lost")
    if task.spec == "hang":
        time.sleep(600)
    if task.spec == "start":
        return without_numbers("complete", task.start.path.read_text())
    if task.spec == "pause":
        before = task.paused.read_bytes() if task.resumed else b""
        task.paused.write_bytes(before + b"step ")
        return without_numbers("paused", f"with {task.training_threads} thread")
    return told(task) if task.spec == "told" else without_numbers("complete", None)


def told(task):
    """What was measured, by whether it was on the abacus; of trial 1 the latency is refused."""
    at, asked, number = float(ABACUS in os.environ), set(task.measure), task.constraints["number"]
    state = "infeasible" if "latency" in asked and number == 1 else "paused" if "accuracy" in asked else "complete"
    if state == "paused":
        time.sleep(1)  # so that the other trials begin elsewhere
        task.paused.write_bytes(b"step")
    found = without_numbers(state, f"{state} because")
    return found._replace(metrics={key: at for key in asked if state != "infeasible" or key == "latency"})


def task(how, **more):
    protocol = Protocol(device="cpu", batch=1, frames=4, size=16)
    made = Task(how, how, 2, protocol, ("accuracy",), {}, Recipe(), {}, 0, Path("/nowhere"), 8)
    return made._replace(**more)


@pytest.fixture(scope="module")
def ray():
    try:
        import ray
    except ImportError:
        missing("ray")
    return ray


@pytest.fixture(scope="module")
def cluster(ray, tmp_path_factory):
    """A head without a core, and one node with two."""
    from ray.cluster_utils import Cluster

    patch = pytest.MonkeyPatch()
    patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    patch.setenv("UBENCH_TEST_FAULTS", json.dumps({"quick": 1.0}))  # its workers have the environment of their node
    one = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    one.add_node(num_cpus=2)
    yield one
    one.shutdown()
    patch.undo()


@pytest.fixture
def executor(cluster):
    made = ray_executor.RayExecutor(cluster.address, 4, misbehave)
    yield made
    made.stop()


def outcome(executor, how, **more):
    executor.submit(how, task(how, **more))
    return end_of(executor, how)


def test_each_fault_is_one_trials_end_and_pauses_travel(executor, tmp_path):
    assert executor.free == 2
    assert outcome(executor, "nothing").state == "complete"
    raised = outcome(executor, "raise")
    assert (raised.state, raised.reason) == ("crashed", "OSError: the file is lost")
    exited = outcome(executor, "exit")
    assert exited.state == "crashed"
    assert exited.reason.startswith("the worker died")
    hung = outcome(executor, "hang")
    assert (hung.state, hung.reason) == ("timeout", "a trial must end within 4 s, and this did not")
    held = tmp_path / "3.pt"
    assert outcome(executor, "pause", paused=held).reason == "with 1 thread"
    assert outcome(executor, "pause", paused=held, resumed=True).state == "paused"
    assert held.read_bytes() == b"step step "
    executor.submit("hang", task("hang"))
    assert executor.stop() == ["hang"]


def test_weights_to_start_from_travel_once(executor, tmp_path):
    """The second trial finds no file where the driver has had it, as on another machine."""
    weights = tmp_path / "donor.pt"
    weights.write_text("of the donor")
    start = start_from(weights)
    assert outcome(executor, "start", start=start).reason == "of the donor"
    weights.unlink()
    kept = turns_folder() / f"{start.sha256}.pt"
    kept.unlink(missing_ok=True)
    assert outcome(executor, "start", start=start).reason == kept.read_text() == "of the donor"
    assert outcome(executor, "start", start=start).reason == "of the donor"
    kept.unlink()


def test_weights_that_lie_beside_others_are_the_nodes_own(executor, tmp_path):
    weights = tmp_path / "model.safetensors"
    weights.write_text("and its config.json")
    assert executor._sent(start_from(weights)) is None
    assert outcome(executor, "start", start=start_from(weights)).reason == "and its config.json"


def test_costs_that_no_node_can_measure_end_the_search(executor, monkeypatch):
    monkeypatch.setattr(ray_executor, "_device_name", lambda device: "a loom")
    assert outcome(executor, "nothing", measure=("accuracy", "memory")).state == "complete"
    assert outcome(executor, "nothing", measure=("accuracy", "latency"), resumed=True).state == "complete"
    with pytest.raises(UbenchError, match=r"costs must be measured on a loom, as the driver has it, got nodes with "):
        outcome(executor, "nothing", measure=("accuracy", "latency"))


def test_a_node_with_another_device_trains_and_one_with_the_drivers_measures(cluster, executor, monkeypatch, tmp_path):
    """The driver has an abacus, as one node of the two; trials that begin on the other are measured there."""
    node = cluster.add_node(num_cpus=2, env_vars={ABACUS: "an abacus"})
    monkeypatch.setattr(ray_executor, "_device_name", lambda device: "an abacus")
    try:
        wait_for(lambda: executor.free == 4, "the node")
        costs = ("accuracy", "latency", "memory")
        for number in range(4):
            made = task("told", measure=costs, paused=tmp_path / f"{number}.pt", constraints={"number": number})
            executor.submit(number, made)
        found = {}
        wait_for(lambda: found.update(executor.finished(0.2)) or len(found) == 4, "all four")
    finally:
        cluster.remove_node(node, allow_graceful=False)
    assert len(found) == 4
    trained = {result.metrics["accuracy"] for number, result in found.items() if number != 1}
    assert trained == {0.0, 1.0}  # on either node
    assert {result.metrics["latency"] for result in found.values()} == {1.0}
    assert [found[number].state for number in range(4)] == ["paused", "infeasible", "paused", "paused"]
    assert [(tmp_path / f"{number}.pt").exists() for number in range(4)] == [True, False, True, True]


def test_ray_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UbenchError, match=r"the ray engine needs Ray, got none; pip install 'uniformer_bench\[ray\]'"):
        ray_executor.ray_engine(None, None)


def test_a_cluster_that_does_not_answer_is_named(ray):
    with pytest.raises(UbenchError, match=r"a Ray cluster must answer at HOST:PORT, got .* at 127\.0\.0\.1:1"):
        ray_executor.RayExecutor("127.0.0.1:1", None, misbehave)


def busy(node):
    """Whether a trial runs on this node: Ray names its worker after the task."""
    (raylet,) = node.all_processes["raylet"]
    return any("_on_node" in " ".join(words_of(p)) for p in psutil.Process(raylet.process.pid).children())


def words_of(process):
    """The command line of a process; none of one that has just ended."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:  # a zombie too
        return []


def on(cluster, folder, run, trials, *options):
    """A search on the cluster, the study of which stands."""
    where = (f"--run={run}", "--engine=ray", f"--ray-address={cluster.address}")
    search = start(folder, f"--trials={trials}", *where, *options, faults={"quick": 1.0})
    wait_for_study(folder, run)
    return search


def test_a_node_that_dies_ends_no_trial(cluster, folder):
    lost = cluster.add_node(num_cpus=2)
    search = on(cluster, folder, "moved", 12)
    wait_for(lambda: len(stored(folder, "moved")) >= 3 and busy(lost), "three trials, and one on the node")
    cluster.remove_node(lost, allow_graceful=False)
    document, said = ended(search)
    assert (document["trials"]["total"], document["trials"]["complete"]) == (12, 12), said
    assert [line for line in said.splitlines() if "/12 trials, " not in line] == []  # Ray says nothing
    check_whole(folder, "moved", 12)


def test_a_node_that_joins_late_is_used_and_a_signal_stops_all_nodes_in_order(cluster, folder):
    search, late = on(cluster, folder, "joined", 500), None
    try:
        wait_for(lambda: stored(folder, "joined"), "a trial")
        late = cluster.add_node(num_cpus=2)
        wait_for(lambda: busy(late), "a trial on the node that joined")
        search.send_signal(signal.SIGINT)
        document, said = ended(search, 130)
    finally:
        killed(search, 0)
        if late is not None:
            cluster.remove_node(late)
    assert said.splitlines()[-1] == "stopped by SIGINT; the same command goes on from here"
    assert document["trials"]["total"] == document["trials"]["complete"] >= 1
    assert document["trials"]["interrupted"] >= 1
    assert not [t for t in told_of(folder, "joined") if t.state.name == "RUNNING"]
    wait_for(lambda: not any(busy(node) for node in cluster.list_all_nodes()), "the nodes to be idle")
    more = document["trials"]["total"] + 2
    document, _ = ended(on(cluster, folder, "joined", more))
    assert document["trials"]["total"] == more
    check_whole(folder, "joined", more)


def test_no_more_trials_fly_than_were_asked_for(cluster):
    made = ray_executor.RayExecutor(cluster.address, None, misbehave, most=1)
    try:
        assert made.free == 1
        made.submit("one", task("hang"))
        assert made.free == 0
        assert made.stop() == ["one"]
    finally:
        made.stop()
