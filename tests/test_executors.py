"""Workers that hang, die or raise end their own trial, with a state and a reason, and the next one runs."""

import os
import signal
import time

import pytest

from tests.trials import end_of
from uniformer_bench.search.evaluate import Result
from uniformer_bench.search.executors import Crew, LocalExecutor, only


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
    with Crew(1) as crew:
        yield LocalExecutor(crew, timeout_s=8, work=misbehave)


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
    with Crew(1) as crew:
        ended = outcome(LocalExecutor(crew, timeout_s=None, work=misbehave), "late")
    assert (ended.state, ended.reason) == ("crashed", "TimeoutError: the disk does not answer")


def test_stopping_names_what_was_cut_short(executor):
    executor.submit("hang", "hang")
    assert executor.stop() == ["hang"]


def process(_):
    """Another work; runs in the worker."""
    return os.getpid()


def test_a_crew_lives_from_one_work_to_the_next_and_begins_anew_after_its_end():
    with Crew(1) as crew:
        first = only(process, None, crew, lambda: True)
        executor = LocalExecutor(crew, None, process)
        assert outcome(executor, "same") == first
        assert executor.stop() == []  # nobody was at work, and nobody is ended
        assert only(process, None, crew, lambda: True) == first
        assert only(misbehave, "hang", crew, lambda: False) is None  # ends who was at it
        assert only(process, None, crew, lambda: True) not in (first, os.getpid())
