"""A search from its options to its report: names the run, opens or resumes it, searches, writes what came out."""

import datetime
import fcntl
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import uniformer_bench
from uniformer_bench.data import load_clips
from uniformer_bench.data.strips import sample_strips
from uniformer_bench.data.videos import Watch
from uniformer_bench.errors import UbenchError
from uniformer_bench.export.graphs import check_onnx
from uniformer_bench.files import read_text
from uniformer_bench.measure.environment import environment
from uniformer_bench.measure.protocol import Protocol, check_precision, default_threads, resolve_device, worker_devices
from uniformer_bench.report import write_report
from uniformer_bench.search.donors import Start, check_heir, start_from
from uniformer_bench.search.driver import Progress, Search, Stopped
from uniformer_bench.search.evaluate import check_measurable
from uniformer_bench.search.executors import Executor, LocalExecutor
from uniformer_bench.search.feasible import check_feasible, sample_candidates
from uniformer_bench.search.finalists import Finalists
from uniformer_bench.search.mending import mend, set_aside
from uniformer_bench.search.pareto import Scale
from uniformer_bench.search.question import Before, Means, Question
from uniformer_bench.search.run_files import check_identity, decided, front_rows, identity_hash, write_run
from uniformer_bench.search.study import COUNTED, UNCOUNTED, Study, sqlite_url
from uniformer_bench.search.turns import turns_folder
from uniformer_bench.search.warm import NOTHING, Warm, warm_start
from uniformer_bench.space import Space
from uniformer_bench.yaml_text import parse_yaml

SCHEMA_VERSION = 1
FILES_EVERY_S, PAGE_EVERY_S = 5.0, 30.0
SPARED = 60  # files and page are not written again before so many times what the last writing took


class Options(NamedTuple):
    """What a person asks of a search; see `ubench search --help` for each."""

    space: Space
    trials: int
    data: str
    device: str
    precision: str
    compile: bool
    onnx: bool
    sampler: str
    seed: int
    workers: int | None
    storage: str | None
    run: str | None
    results: Path
    reports: Path
    cache: Path | None
    timeout_s: float | None
    budget_s: float | None
    command: str
    finalist_seeds: int = 2
    warm_start: Path | None = None
    init: Path | None = None
    engine: str = "local"
    ray_address: str | None = None
    data_options: Mapping[str, Any] = MappingProxyType({})  # more arguments of load_clips


class Finished(NamedTuple):
    """What `ubench search --json` prints, and why the search ended."""

    document: dict[str, Any]
    stopped: Stopped


def run_search(options: Options, show: Callable[[Progress], None], watch: Watch | None = None) -> Finished:
    """Runs or resumes the search. Raises UbenchError before any training where something is wrong.

    `watch` is told how the loading of the data goes.
    """
    executor_of = _executor_of(options)
    question, devices, threads = _question(options, watch)
    check_feasible(question.space, len(question.clips.classes), options.seed)
    identity = _identity(options, question)
    warm = warm_start(options.warm_start, identity, question.space) if options.warm_start else NOTHING
    run = options.results / (options.run or _run_name(options, question, identity))
    with only_driver(run):
        old = _old_info(run)
        check_identity(old, identity, run) if old else None
        url = options.storage or sqlite_url(run)
        torn = set_aside(url)
        study = Study(url, run.name, question.space.objectives, options.sampler, options.seed)
        mended = mend(study, question.space, run, old, torn)
        print(mended, file=sys.stderr) if mended else None
        check_identity({"identity": study.identity(identity)}, identity, run)
        lost = study.recover(question.space.constraints)
        study.enqueue(question.space.baseline_picks())
        means = _means(options, run, devices, threads, warm)._replace(donor=_donor(question, run))
        search = Search(question, means, study, _before(old), executor_of=executor_of)
        search.give_up(lost)
        info = _info(options, question, identity, old, run.name)
        info["notes"] += [note for note in (warm.note, mended) if note]
        page = _Page(run, options.reports, info, old)
        page.write(search)

        def changed(now: Search) -> None:
            show(now.progress())
            page.refresh(now)

        stopped = search.run(changed)
        show(search.progress())
        page.write(search)
        study.close()
        return Finished(_summary(run, page.path, search), stopped)


def _executor_of(options: Options) -> Callable[..., Executor]:
    if options.engine == "local":
        return LocalExecutor
    from uniformer_bench.search.ray_executor import ray_engine

    return ray_engine(options.ray_address, options.workers)


def _question(options: Options, watch: Watch | None) -> tuple[Question, tuple[str, ...], int]:
    space = options.space
    device = resolve_device(options.device)
    check_precision(device, options.precision)
    arguments: dict[str, Any] = {
        "source": options.data if options.data == "builtin" else str(Path(options.data).resolve()),
        "frames": space.data.frames,
        "size": space.data.size,
        "seed": 0,  # the clips are one data set, whatever the seed of the search
        "cache": options.cache,
        **options.data_options,
    }
    cores = default_threads()
    protocol = Protocol(
        device=device,
        precision=options.precision,
        compile=options.compile,
        onnx=options.onnx,
        batch=space.input.batch,
        frames=space.input.frames,
        size=space.input.size,
        threads=cores,
    )
    _check_together(options)
    clips = load_clips(**arguments, watch=watch)  # when all that can be refused is: it may take hours
    devices = worker_devices(device, options.workers)
    check_measurable(space.measure, devices)
    start = start_from(options.init) if options.init else None
    if start is not None:
        (candidate,) = sample_candidates(space, 1, options.seed)
        check_heir(start, candidate.trained, len(clips.classes))
    question = Question(space, clips, arguments, protocol, options.seed, options.sampler, start)
    return question, devices, max(1, cores // len(devices))


def _check_together(options: Options) -> None:
    """Raises UbenchError for options that this machine or the space does not go with."""
    if options.onnx:
        check_onnx()
    stride = options.data_options.get("stride")
    if stride and "frames" in options.space.vary:
        rule = "frames must not vary where they are taken with a stride, which would differ"
        raise UbenchError(f"{rule}, got --data-stride {stride}")


def _means(options: Options, run: Path, devices: tuple[str, ...], threads: int, warm: Warm) -> Means:
    trials = min(options.trials, options.space.size())
    limits = (trials, options.budget_s, options.timeout_s, options.finalist_seeds)
    return Means(devices, threads, turns_folder(), run / "checkpoints", *limits, warm.trials)


def _identity(options: Options, question: Question) -> dict[str, Any]:
    """Everything that must match for the trials of two searches to be comparable."""
    space = question.space
    return {
        "space": parse_yaml(space.text, space.name),  # without its comments
        "objectives": list(space.objectives),
        "constraints": dict(space.constraints),
        "recipe": space.recipe.to_dict(),
        "data": question.clips.card["hash"],
        "protocol": question.protocol.to_dict(),
        "device": environment()["cpu" if question.protocol.device == "cpu" else "gpu"],
        "seed": options.seed,
        **({"init": question.start.sha256} if question.start else {}),
        **({"donor": space.donor.to_dict()} if space.donor and _donates(question) else {}),
    }


def _donates(question: Question) -> bool:
    """Whether the trials inherit from the space's donor: where there are trainings, and no other weights are named."""
    return question.space.donor is not None and question.start is None and "accuracy" in question.space.measure


def _donor(question: Question, run: Path) -> Path | None:
    """Where the donor's weights lie in the run's folder."""
    return run / "donor.pt" if _donates(question) else None


def _run_name(options: Options, question: Question, identity: Mapping[str, Any]) -> str:
    data = "builtin" if options.data == "builtin" else Path(options.data).resolve().name
    readable = "".join(c if c.isalnum() else "-" for c in data)[:40]
    device = question.protocol.device.replace(":", "-")
    return f"{question.space.name}-{readable}-{device}-{identity_hash(identity)}"


@contextmanager
def only_driver(run: Path) -> Iterator[None]:
    """Holds the run's lock, which the kernel frees when this process ends, however it ends."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        lock = (run / ".driver.lock").open("w")
    except OSError as error:
        raise UbenchError(f"the run's folder must be writable, got {error.strerror} for {run}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UbenchError(f"a run has one driver at a time, and another is at work in {run}") from None
        yield


def _old_info(run: Path) -> dict[str, Any]:
    path = run / "run.json"
    return json.loads(read_text(path)) if path.exists() else {}


def _before(old: Mapping[str, Any]) -> Before:
    scales = {key: Scale(**scale) for key, scale in old.get("hypervolume", {}).get("scales", {}).items()}
    finalists = Finalists(old.get("finalists", []), old.get("finalists_reason", "the search has not ended"))
    return Before(old.get("elapsed_s", 0.0), scales, finalists)


def _info(
    options: Options, question: Question, identity: Mapping[str, Any], old: Mapping[str, Any], name: str
) -> dict[str, Any]:
    space = question.space
    today = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "command": options.command,
        "version": uniformer_bench.__version__,
        "created": old.get("created", today),
        "seed": options.seed,
        "sampler": options.sampler,
        "space_name": space.name,
        "space_text": space.text,
        "space_size": space.size(),
        "objectives": list(space.objectives),
        "constraints": dict(space.constraints),
        "input": space.input._asdict(),
        "protocol": question.protocol.to_dict(),
        "recipe": space.recipe.to_dict(),
        "data": {**question.clips.card, "samples": sample_strips(question.clips)},
        "environment": environment(),
        "trials_asked": options.trials,
        "identity": dict(identity),
        "notes": _notes(question),
        **_init(question.start),
        **{key: old[key] for key in ("fidelity", "donor") if key in old},
    }


def _init(start: Start | None) -> dict[str, Any]:
    """Where the short runs start from, for `ubench fidelity` to find it again."""
    return {"init": {"path": str(start.path), "sha256": start.sha256}} if start else {}


def _notes(question: Question) -> list[str]:
    """What the page must say could not be measured, or was measured otherwise than one would think."""
    space, start, notes = question.space, question.start, []
    if _donates(question):
        notes.append(
            "Every training, a finalist's too, started from the weights of the one donor that was trained first, of "
            "which each architecture inherits what it can: intervals leave out what another donor would change."
        )
    if start is not None:
        notes.append(
            f"Every training started from the weights in {start.path.name} (sha256 {start.sha256[:12]}), of which each "
            "architecture inherits what it can."
        )
    if space.architectures:
        notes.append(
            "Costs are those of the architectures at full scale; accuracy is that of a short run of the same "
            "pattern, depths, tubes and position embedding at the scale of the space's short_run_scale."
        )
    if question.protocol.onnx:
        notes.append("Latency is that of ONNX Runtime; memory and the latency of single stages are PyTorch's.")
    left_out = {"accuracy", "latency", "memory", "training_memory"} - set(space.measure)
    notes += [
        f"{key.replace('_', ' ')} was not measured: the space's `measure` leaves it out" for key in sorted(left_out)
    ]
    return notes


class _Page:
    """The run's files and its page, rewritten as trials end, but no more often than it is worth."""

    def __init__(self, run: Path, reports: Path, info: dict[str, Any], old: Mapping[str, Any]) -> None:
        self._run, self._reports, self._info = run, reports, info
        self.path = reports / f"{run.name}.html"
        self._files_due = self._page_due = 0.0
        self._shown = -1
        self._cpu_before_s, self._cpu_begun_s = old.get("driver_cpu_s", 0.0), time.process_time()

    def refresh(self, search: Search) -> None:
        if len(search.records) == self._shown or time.monotonic() < self._files_due:
            return
        if time.monotonic() < self._page_due:
            self._write_files(search)
            return
        try:
            self.write(search)
        except UbenchError:
            raise
        except Exception as error:  # a page that cannot be drawn is no reason to stop measuring: the last one raises
            self._page_due = math.inf
            print(f"the page is not written again before the end: {type(error).__name__}: {error}", file=sys.stderr)

    def write(self, search: Search) -> None:
        begun = time.monotonic()
        self._write_files(search)
        with _room_said(self._reports):
            self.path = write_report(self._run, self._reports)
        self._page_due = _due(begun, PAGE_EVERY_S)

    def _write_files(self, search: Search) -> None:
        begun, (rows, reason) = time.monotonic(), search.finalists
        now = {"elapsed_s": search.elapsed_s, "hypervolume": search.hypervolume()}
        now |= {"finalists": rows, "finalists_reason": reason}
        now |= {"donor": search.donor} if search.donor else {}
        now["driver_cpu_s"] = self._cpu_before_s + time.process_time() - self._cpu_begun_s  # asking, telling, the page
        with _room_said(self._run):
            write_run(self._run, {**self._info, **now}, search.records)
        self._files_due, self._shown = _due(begun, FILES_EVERY_S), len(search.records)


def _due(begun: float, every_s: float) -> float:
    """When something that was begun then, and has just ended, is to be done again."""
    now = time.monotonic()
    return now + max(every_s, SPARED * (now - begun))


@contextmanager
def _room_said(folder: Path) -> Iterator[None]:
    """Raises UbenchError in one line where a file cannot be written."""
    try:
        yield
    except OSError as error:
        end = "the study has what had finished, and the same command goes on from there"
        raise UbenchError(f"a run's files must be writable, got {error.strerror} for {folder}; {end}") from None


def _summary(run: Path, page: Path, search: Search) -> dict[str, Any]:
    objectives, limits = search.question.space.objectives, search.question.space.constraints
    records = decided(search.records, search.finalists.rows, objectives, limits)
    states = Counter(record["state"] for record in records)
    return {
        "schema_version": SCHEMA_VERSION,
        "run": str(run),
        "report": str(page),
        "elapsed_s": search.elapsed_s,
        "trials": {"total": search.counted} | {state: states[state] for state in (*COUNTED, *UNCOUNTED)},
        "objectives": list(objectives),
        "hypervolume": search.hypervolume()["value"],
        "front": front_rows(records, objectives),
    }
