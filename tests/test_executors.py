"""Workers that hang, die or raise end their own trial, with a state and a reason, and the next one runs."""

import os
import signal
import time

import pytest

from tests.trials import end_of
from uniformer_bench.search.evaluate import Result
from uniformer_bench.search.executors import LocalExecutor


def misbehave(how):
    """A trial's work; runs in the worker."""
    if how == "exit":
        os._exit(7)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "raise":
        raise OSError("the file\nis lost")
    if how == "late":
        raise TimeoutError("the disk does not answer")
    if how == "hang":
        time.sleep(600)
    return Result("complete", None, {"accuracy": 0.5}, {}, {}, [], [], {})


@pytest.fixture
def executor():
    one = LocalExecutor(1, timeout_s=8, work=misbehave)
    yield one
    one.stop()


def outcome(executor, how):
    executor.submit(how, how)
    assert executor.free == 0
    return end_of(executor, how)


def test_each_fault_is_one_trials_end(executor):
    assert outcome(executor, "nothing").state == "complete"
    exited = outcome(executor, "exit")
    assert (exited.state, exited.reason) == ("crashed", "the worker ended with exit code 7")
    killed = outcome(executor, "kill")
    assert killed.state == "crashed"
    assert killed.reason == "the worker was ended by SIGKILL, as when the machine runs out of memory"
    raised = outcome(executor, "raise")
    assert (raised.state, raised.reason) == ("crashed", "OSError: the file is lost")
    hung = outcome(executor, "hang")
    assert (hung.state, hung.reason) == ("timeout", "a trial must end within 8 s, and this did not")
    assert outcome(executor, "nothing").state == "complete"


def test_a_trials_own_time_out_is_no_limit_of_ours():
    executor = LocalExecutor(1, timeout_s=None, work=misbehave)
    ended = outcome(executor, "late")
    executor.stop()
    assert (ended.state, ended.reason) == ("crashed", "TimeoutError: the disk does not answer")


def test_stopping_names_what_was_cut_short(executor):
    executor.submit("hang", "hang")
    assert executor.stop() == ["hang"]
