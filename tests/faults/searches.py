"""Searches in processes of their own, for tests that do them harm."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import psutil
import pytest

from uniformer_bench.search.study import COUNTED

ROOT = Path(__file__).parents[2]
SOAK = os.environ.get("UBENCH_SOAK") == "1"  # `make soak`: as long as it takes
SPACE = """# a space for tests, large enough that no draw comes twice
name: faulty
input: {frames: 4, size: 16}
spec: {head_dim: 8, stem: {kernel: [1, 2, 2], stride: [2, 2, 2]}}
vary: {mlp_ratio: [1, 2, 3]}
stages:
  - {mixer: [local, global], depth: {low: 1, high: 2}, width: [8, 16, 24, 32], kernel: [[1, 3, 3], 3],
     ffn: [true, false], dpe_kernel: [null, 3]}
  - {mixer: [local, split], depth: 1, width: [8, 16, 24, 32], dpe_kernel: [null, 3], ffn: [true, false]}
objectives: [accuracy, macs]
measure: [accuracy]
recipe: {epochs: 0.1, batch: 32}
baselines: [{name: paper pattern, pattern: LS}, {name: local, pattern: LL}]
"""
MARKS = ("front", "finalist", "stages", "intervals")  # what trials.json has otherwise than the study's records
DRIVER = "from tests.faults.injected import main; main()"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the space lies and the clips are cached, for all tests of a file."""
    path = tmp_path_factory.mktemp("faults")
    (path / "space.yaml").write_text(SPACE)
    return path


def start(folder, *options, faults=None, shell=None, **environment):
    """A search that has begun. `faults`: see injected.py. `shell`: a command line in which CMD is the search."""
    paths = {"space": folder / "space.yaml", "results": folder / "results", "reports": folder / "reports"}
    paths["cache"] = folder / "cache"
    words = [sys.executable, "-c", DRIVER, "search", "--json", "--device", "cpu", "--finalist-seeds", "0"]
    words += [f"--{name}={path}" for name, path in paths.items()] + [str(option) for option in options]
    own = {"UBENCH_TEST_FAULTS": json.dumps(faults or {}), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    if shell:
        words = ["bash", "-c", shell.replace("CMD", '"$@"'), "bash", *words]
    return subprocess.Popen(
        words,
        cwd=ROOT,
        env={**os.environ, **own, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ended(process, code=0, timeout_s=300):
    """The document of a search that ends by itself, and what it said on stderr."""
    out, said = process.communicate(timeout=timeout_s)
    assert process.returncode == code, (process.returncode, said)
    return json.loads(out) if out.strip() else None, said


def killed(process, after_s):
    """Kills the driver after so long, if it has not ended; gives whether it had to."""
    try:
        process.wait(after_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    with process:
        process.communicate()  # ends when the last that holds its pipes does: its workers too
    return process.returncode == -signal.SIGKILL


def workers_of(process):
    """The processes of the session that a search leads, but for itself."""
    return [p for p in psutil.process_iter() if _session(p.pid) == process.pid and p.pid != process.pid and alive(p)]


def alive(process):
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def _session(pid):
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def wait_for(condition, what, timeout_s=120):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
        time.sleep(0.05)


def wait_for_study(folder, run):
    """To open a study while it is made would get in its way."""
    wait_for((folder / "reports" / f"{run}.html").exists, "the study")


def trials_of(folder, run):
    """What a run's trials.json holds by now."""
    path = folder / "results" / run / "trials.json"
    return json.loads(path.read_text()) if path.exists() else []


def told_of(folder, run, storage=None):
    """The trials as Optuna has them; none where there is no study yet."""
    path = folder / "results" / run / "study.db"
    if storage is None and not path.exists():
        return []
    opened = optuna.storages.RDBStorage(storage or f"sqlite:///{path}")
    try:
        return optuna.load_study(study_name=run, storage=opened).get_trials()
    except KeyError:  # killed before it was made
        return []
    finally:
        opened.engine.dispose()


def stored(folder, run, storage=None):
    """The records of the finished trials by number, as the study has them."""
    found = {t.number: t.user_attrs.get("record") for t in told_of(folder, run, storage) if t.state.is_finished()}
    return {number: json.loads(record) for number, record in found.items() if record}


def plain(records):
    """Records by number without what the end of a search puts in trials.json."""
    return {r["number"]: {key: r[key] for key in r if key not in MARKS} for r in records}


def check_whole(folder, run, trials, storage=None):
    """Exactly so many trials are finished, each architecture once, each as the study has it; none runs."""
    records = stored(folder, run, storage)
    counted = [r for r in records.values() if r["state"] in COUNTED]
    assert len(counted) == len({r["spec_id"] for r in counted}) == trials
    assert {r["baseline"] for r in counted} == {None, "paper pattern", "local"}
    assert plain(trials_of(folder, run)) == plain(records.values())
    assert not [t for t in told_of(folder, run, storage) if t.state is optuna.trial.TrialState.RUNNING]
