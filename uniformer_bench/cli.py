"""The verbs: each parses, calls one function of the library and prints. No logic of its own.

With --json a verb prints one strict JSON document on stdout and nothing else there; everything meant for a
person goes to stderr. Exit codes: 0 done, 1 an error, 2 usage, 3 nothing feasible, 130 and 143 a signal.
"""

import shlex
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

import uniformer_bench
from uniformer_bench.errors import UbenchError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from uniformer_bench.measure.protocol import Protocol
    from uniformer_bench.space import Space

Command = TypeVar("Command", bound=Callable[..., Any])


def main() -> None:
    """The entry point: turns the library's errors into one line and an exit code, here and nowhere else."""
    try:
        sys.exit(cli.main(prog_name="ubench", standalone_mode=False))  # an exit code, or None where all went well
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(128 + signal.SIGINT)
    except UbenchError as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        click.echo(f"ubench: {' '.join(str(error).split())}", err=True)
        sys.exit(error.exit_code)


def common(command: Command) -> Command:
    """--json, --debug and --seed, which every verb has."""
    for option in (
        click.option("--seed", default=0, show_default=True, help="Seed of everything that is drawn at random."),
        click.option("--debug", is_flag=True, help="Show a traceback with an error."),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout."),
    ):
        command = option(command)
    return command


def measured(command: Command) -> Command:
    """The protocol of a measurement."""
    for option in (
        click.option("--threads", type=click.IntRange(1), help="CPU threads.  [default: all cores, for compare 1]"),
        click.option("--compile", "compiled", is_flag=True, help="Measure under torch.compile."),
        click.option("--implementation", default="fast", show_default=True, help="fast or reference operators."),
        click.option("--graph", is_flag=True, help="On a GPU: time replays of a CUDA graph."),
        click.option("--cache", help="On a GPU: cold (its L2 emptied before each repeat) or warm.  [default: cold]"),
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."),
        click.option("--precision", default="fp32", show_default=True, help="fp32, bf16 or fp16."),
        click.option("--num-classes", type=click.IntRange(1), help="Classes of the head.  [default: the variant's]"),
        click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Clips at a time."),
        click.option("--size", type=click.IntRange(1), help="Height and width.  [default: the variant's]"),
        click.option("--frames", type=click.IntRange(1), help="Frames of a clip.  [default: the variant's]"),
    ):
        command = option(command)
    return command


def listed(command: Command) -> Command:
    """What a data set is: its lists, its root, the sources of its clips."""
    for option in (
        click.option("--data-stride", type=click.IntRange(0), default=0, show_default=True,
                     help="Take every Nth frame of the middle; 0: frames from equal parts of the whole video."),
        click.option("--source-pattern", help="Regular expression for the source video in a clip's name: the clips "
                     "of one source stay in one split."),
        click.option("--val-data", type=click.Path(path_type=Path), help="The validation clips: a folder or a list."),
        click.option("--data-root", type=click.Path(path_type=Path),
                     help="Folder that the paths in lists are in.  [default: the list's own]"),
    ):  # fmt: skip
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(uniformer_bench.__version__, prog_name="ubench")
def cli() -> None:
    """UniFormer for your device and your videos: build, measure and search.

    \b
    ubench search --trials 200        search the default space, write a report
    ubench profile --variant s        what a model costs on this machine
    """


@cli.command()
@common
@click.option("--trials", type=click.IntRange(1), default=200, show_default=True, help="Trials the study shall hold.")
@click.option("--space", "space_name", help="A space's name or file.  [default: tiny on a CPU, compact_112 on a GPU]")
@click.option(
    "--data",
    default="builtin",
    show_default=True,
    help="builtin, a folder with a sub-folder per class, or a list of clips; see `ubench data check`.",
)
@listed
@click.option(
    "--max-bad",
    type=click.FloatRange(0, 1),
    default=0.1,
    show_default=True,
    help="Share of the videos that may be left out.",
)
@click.option(
    "--cache-limit",
    type=click.FloatRange(min=0, min_open=True),
    default=20.0,
    show_default=True,
    help="GB that the cache of decoded data may hold.",
)
@click.option("--objectives", help="Metrics to trade off, as accuracy,latency.  [default: the space's]")
@click.option("--max-latency-ms", type=float, help="Upper limit on latency.")
@click.option("--max-memory-mb", type=float, help="Upper limit on inference memory, MB of 10^6 bytes.")
@click.option("--max-gmacs", type=float, help="Upper limit on MACs, in billions.")
@click.option("--max-params-m", type=float, help="Upper limit on parameters, in millions.")
@click.option("--sampler", default="tpe", show_default=True, help="tpe, nsga2, gp or random.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--precision", default="fp32", show_default=True, help="fp32, bf16 or fp16.")
@click.option("--compile", "compiled", is_flag=True, help="Measure latency under torch.compile.")
@click.option("--workers", type=click.IntRange(1), help="Worker processes.  [default: one a GPU, or one a core]")
@click.option("--storage", help="An Optuna storage URL.  [default: SQLite in the run's folder]")
@click.option("--run", "run_name", help="The run's name.  [default: from the question asked]")
@click.option("--results", type=click.Path(path_type=Path), default=Path("results"), show_default=True, help="Runs.")
@click.option("--reports", type=click.Path(path_type=Path), default=Path("reports"), show_default=True, help="Pages.")
@click.option("--cache", type=click.Path(path_type=Path), help="Decoded data.  [default: the user's cache folder]")
@click.option("--trial-timeout", type=click.FloatRange(min=0, min_open=True), help="Seconds a trial may take.")
@click.option("--budget", help="Time to stop in, as 90s, 30m or 2h.")
@click.option("--dry-run", is_flag=True, help="Check everything, build 20 architectures, train nothing.")
def search(as_json: bool, debug: bool, **options: Any) -> None:
    """Run or resume a search until its study holds TRIALS trials, and write its report.

    Running the same command again resumes it; another question starts another run.
    """
    space = _space(options)
    if options["dry_run"]:
        from uniformer_bench.measure.protocol import resolve_device
        from uniformer_bench.search.plan import dry_run, plan_text

        device = resolve_device(options["device"])
        document = dry_run(
            space,
            data=options["data"],
            listing=_listing_options(options),
            trials=options["trials"],
            seed=options["seed"],
            device=device,
        )
        _print(document, as_json, plan_text(document))
        return
    from uniformer_bench.data.progress import DecodingBar
    from uniformer_bench.search.display import Display
    from uniformer_bench.search.session import run_search

    console = _console()
    with DecodingBar(console) as bar, Display(console, space.objectives) as display:
        finished = run_search(_search_options(space, options), display.show, bar)
    _print(finished.document, as_json, _search_text(finished.document))
    if finished.stopped.signal is not None:
        sys.exit(128 + finished.stopped.signal)
    if not finished.document["front"]:
        raise click.exceptions.Exit(3)


def _space(options: dict[str, Any]) -> "Space":
    from uniformer_bench.space import load_space, with_overrides

    name = options["space_name"]
    if name is None:
        from uniformer_bench.measure.protocol import resolve_device

        name = "tiny" if resolve_device(options["device"]) == "cpu" else "compact_112"
    objectives = tuple(options["objectives"].split(",")) if options["objectives"] else None
    return with_overrides(load_space(name), objectives=objectives, constraints=_limits(options))


def _search_options(space: "Space", options: dict[str, Any]) -> Any:
    from uniformer_bench.search.session import Options

    return Options(
        space=space,
        trials=options["trials"],
        data=options["data"],
        device=options["device"],
        precision=options["precision"],
        compile=options["compiled"],
        sampler=options["sampler"],
        seed=options["seed"],
        workers=options["workers"],
        storage=options["storage"],
        run=options["run_name"],
        results=options["results"],
        reports=options["reports"],
        cache=options["cache"],
        timeout_s=options["trial_timeout"],
        budget_s=_seconds(options["budget"]),
        command=_command_line(),
        data_options={
            **_listing_options(options),
            "stride": options["data_stride"],
            "max_bad": options["max_bad"],
            "cache_limit_gb": options["cache_limit"],
        },
    )


def _listing_options(options: dict[str, Any]) -> dict[str, Any]:
    """The arguments of data.sources.read_listing, with whole paths, as workers may start elsewhere."""
    paths = {"root": options["data_root"], "validation": options["val_data"]}
    return {key: path and path.resolve() for key, path in paths.items()} | {"source_pattern": options["source_pattern"]}


def _command_line() -> str:
    """The command as typed, with what may hold a password left out."""
    words = ["ubench", *sys.argv[1:]]
    for i, word in enumerate(words):
        if word == "--storage" and i + 1 < len(words):
            words[i + 1] = "…"
        elif word.startswith("--storage="):
            words[i] = "--storage=…"
    return shlex.join(words)


def _seconds(budget: str | None) -> float | None:
    if budget is None:
        return None
    unit = {"s": 1, "m": 60, "h": 3600, "d": 86400}.get(budget[-1:], None)
    try:
        seconds = float(budget[:-1]) * unit if unit else float(budget)
    except ValueError:
        seconds = -1.0
    if seconds <= 0:
        raise click.UsageError(f"--budget must be a time such as 90s, 30m or 2h, got {budget!r}")
    return seconds


def _search_text(document: dict[str, Any]) -> str:
    states = ", ".join(f"{count} {state}" for state, count in document["trials"].items() if count and state != "total")
    lines = [
        f"{document['trials']['total']} trials ({states}) in {document['elapsed_s']:.0f} s",
        f"front of {len(document['front'])}:",
        *(f"  {_front_line(row)}" for row in document["front"]),
        f"run     {document['run']}",
        f"report  {document['report']}",
    ]
    return "\n".join(lines)


def _front_line(row: dict[str, Any]) -> str:
    from uniformer_bench.metrics import METRICS

    shown = [m for m in METRICS.values() if m.key in ("accuracy", "latency", "macs", "params")]
    values = [(metric, row.get(metric.column)) for metric in shown]
    cells = [f"{metric.scale * value:.3g} {metric.unit}" for metric, value in values if value is not None]
    return f"trial {row['trial']:>4}  {row['pattern']}  {'  '.join(cells)}  {row['baseline'] or ''}".rstrip()


@cli.command()
@common
@measured
@click.option("--variant", "variant_name", help="A named architecture; see `ubench variants`.")
@click.option("--spec", "spec_file", type=click.Path(path_type=Path), help="An architecture as a YAML file.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Weights, .pth or .safetensors; may stand alone.")
@click.option("--inflate", default="average", show_default=True, help="2D weights into 3D: average or centre.")
@click.option("--energy", is_flag=True, help="Joules a clip too, on a GPU that counts them.")
@click.option("--largest-batch", is_flag=True, help="The largest batch that fits too, for inference and training.")
@click.option("--html", type=click.Path(path_type=Path), help="Write the same as one offline HTML page.")
@click.option("--sweep", type=click.Choice(["batch"]), help="Measure at rising batches and in each precision too.")
def profile(
    as_json: bool,
    debug: bool,
    seed: int,
    variant_name: str | None,
    spec_file: Path | None,
    checkpoint: Path | None,
    inflate: str,
    energy: bool,
    largest_batch: bool,
    html: Path | None,
    sweep: str | None,
    **at: Any,
) -> None:
    """Parameters, MACs and FLOPs by counter, latency, memory and what bounds them, by stage and block."""
    if (variant_name is None) == (spec_file is None) and (variant_name or checkpoint is None):
        raise click.UsageError("either --variant or --spec must be given, or --checkpoint alone")
    from uniformer_bench.measure.profile import Weights
    from uniformer_bench.measure.profile import profile as measure
    from uniformer_bench.measure.profile_table import profile_table
    from uniformer_bench.measure.subjects import named_subject, usual_input
    from uniformer_bench.measure.sweep import sweep as sweep_all
    from uniformer_bench.measure.sweep import sweep_table

    subject = named_subject(variant_name, spec_file, checkpoint)
    usual = usual_input(subject)
    num_classes, protocol = at["num_classes"] or usual.num_classes, _protocol(at, usual.frames, usual.size)
    document = measure(
        subject.spec,
        variant=variant_name,
        num_classes=num_classes,
        protocol=protocol,
        weights=Weights(checkpoint, inflate, subject.notes) if checkpoint else None,
        energy=energy,
        largest=largest_batch,
    )
    tables = [profile_table(document)]
    if sweep:
        document["sweep"] = sweep_all(subject.spec, num_classes=num_classes, protocol=protocol)
        tables += [sweep_table(rows) for rows in document["sweep"].values()]
    if html:
        from uniformer_bench.report.profile_page import write_profile

        write_profile(document, html)
    _show(document, as_json, *tables)


@cli.command()
@common
@measured
@click.argument("a")
@click.argument("b")
@click.option("--budget", default="10s", show_default=True, help="Time to measure for, as 30s or 2m.")
@click.option("--fail-above", help="Exit with 1 where A is slower than B by more than this, as 5%.")
def compare(
    as_json: bool, debug: bool, seed: int, a: str, b: str, budget: str, fail_above: str | None, **at: Any
) -> None:
    """Is A faster than B? Interleaved runs, with a control of B against itself in the same call.

    A and B are variants, spec files or files of weights, with settings of their own: s@precision=bf16,compile=true.
    """
    from uniformer_bench.measure.compare import compare as measure
    from uniformer_bench.measure.comparison import comparison_text, parse_percent
    from uniformer_bench.measure.subjects import parse_subject, usual_input

    subjects = parse_subject(a), parse_subject(b)
    usual = usual_input(subjects[0])
    document = measure(
        *subjects,
        base=_protocol({**at, "threads": at["threads"] or 1}, usual.frames, usual.size),
        num_classes=at["num_classes"] or usual.num_classes,
        budget_s=_seconds(budget) or 10.0,
        fail_above=parse_percent(fail_above) if fail_above else None,
        seed=seed,
    )
    _print(document, as_json, comparison_text(document))
    if document.get("failed"):
        raise click.exceptions.Exit(1)


@cli.command()
@common
def doctor(as_json: bool, debug: bool, seed: int) -> None:
    """Is this machine fit to measure: load, clocks, threads, versions, and what to do about each."""
    from uniformer_bench.measure.doctor import doctor_document, doctor_table, examine

    checks = examine()
    _show(doctor_document(checks), as_json, doctor_table(checks))


def _protocol(at: dict[str, Any], frames: int, size: tuple[int, int]) -> "Protocol":
    """The protocol of the options, on the clip of the options or else this one."""
    from uniformer_bench.measure.protocol import Protocol, check_precision, default_threads, resolve_device

    protocol = Protocol(
        device=resolve_device(at["device"]),
        precision=at["precision"],
        batch=at["batch"],
        frames=at["frames"] or frames,
        size=(at["size"], at["size"]) if at["size"] else size,
        threads=at["threads"] or default_threads(),
        implementation=at["implementation"],
        compile=at["compiled"],
        cache=at["cache"],
        graph=at["graph"],
    )
    check_precision(protocol.device, protocol.precision)
    return protocol


@cli.command()
@common
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@click.option("--reports", type=click.Path(path_type=Path), default=Path("reports"), show_default=True, help="Pages.")
@click.option("--redact", is_flag=True, help="Leave out sample clips, paths, host and user names.")
def report(as_json: bool, debug: bool, seed: int, runs: tuple[Path, ...], reports: Path, redact: bool) -> None:
    """(Re)build the page of RUN, a folder of results; of several, one page that compares them."""
    from uniformer_bench.report import write_comparison, write_report

    one = len(runs) == 1
    page = write_report(runs[0], reports, redact=redact) if one else write_comparison(runs, reports, redact=redact)
    document = {"schema_version": 1, "run": str(runs[0]), "runs": [str(run) for run in runs], "report": str(page)}
    _print(document, as_json, str(page))


def limited(command: Command) -> Command:
    """The limits under which the best trial of a run is meant."""
    from uniformer_bench.metrics import LIMITS

    for key, row in LIMITS.items():
        flag, text = f"--{key.replace('_', '-')}", f"With a run: the best trial of at most so many {row.unit}."
        command = click.option(flag, key, type=click.FloatRange(min=0, min_open=True), help=text)(command)
    return command


def _limits(options: dict[str, Any]) -> dict[str, float]:
    """Takes the limits that are set out of the options."""
    from uniformer_bench.metrics import LIMITS

    found = {key: options.pop(key) for key in LIMITS}
    return {key: value for key, value in found.items() if value is not None}


@cli.command()
@common
@limited
@listed
@click.option("--variant", help="A named architecture; see `ubench variants`.")
@click.option("--spec", type=click.Path(path_type=Path), help="An architecture as a YAML file.")
@click.option("--run", type=click.Path(path_type=Path), help="A folder of results, for one of its trials.")
@click.option("--trial", type=click.IntRange(0), help="With --run: the trial.  [default: the best within the limits]")
@click.option("--data", default="builtin", show_default=True, help="builtin, a folder of videos, or a list of them.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the checkpoint and the log.")
@click.option("--init", type=click.Path(path_type=Path), help="Weights to start from, .pt, .pth or .safetensors.")
@click.option("--epochs", type=click.FloatRange(min=0, min_open=True), help="Passes over the clips.  [default: 110]")
@click.option("--batch", type=click.IntRange(1), help="Clips of a step, over all GPUs.  [default: 32, or the run's]")
@click.option("--lr", type=click.FloatRange(min=0, min_open=True), help="Highest rate.  [default: from the batch]")
@click.option("--recipe", type=click.Path(path_type=Path), help="YAML with lr, mixup, ema, zoom and so on.")
@click.option("--recompute", help="Stages that keep no activations, as 3,4: less memory, a third more time.")
@click.option("--frames", type=click.IntRange(1), help="Frames of a clip.  [default: the variant's, the run's or 16]")
@click.option("--size", type=click.IntRange(1), help="Height and width.  [default: the variant's, the run's or 224]")
@click.option("--views", default="1x1", show_default=True, help="Moments x places of the test at the end, as 4x3.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--precision", default="fp32", show_default=True, help="fp32, bf16 or fp16.")
@click.option("--save-every", type=click.IntRange(1), help="Save every so many steps too, not only after an epoch.")
@click.option("--cache", type=click.Path(path_type=Path), help="Decoded data.  [default: the user's cache folder]")
@click.option("--dry-run", is_flag=True, help="Print the plan, train nothing.")
def train(as_json: bool, debug: bool, dry_run: bool, **options: Any) -> None:
    """Train an architecture in full, then test it. The same command goes on where it was cut short.

    Several GPUs: torchrun --nproc-per-node 8 --no-python ubench train ...
    """
    from uniformer_bench.measure.protocol import check_precision, resolve_device
    from uniformer_bench.training.plan import plan_text
    from uniformer_bench.training.start import plan_document, results_text, run_training
    from uniformer_bench.training.testing import parse_views

    plan, views = _plan(options), parse_views(options["views"])
    if dry_run:
        _print(plan_document(plan), as_json, plan_text(plan))
        return
    device = resolve_device(options["device"])
    check_precision(device, plan.precision)
    kept = {key: options[key] for key in ("cache", "save_every")}
    document = run_training(plan, options["out"], device=device, views=views, told=_say, **kept)
    if document is not None:  # all processes but the first have nothing to say
        _print(document, as_json, f"{results_text(document['test'])}\n{document['checkpoint']}")


def _plan(options: dict[str, Any]) -> Any:
    """The plan of the options of a training."""
    from uniformer_bench.training.start import make_plan, subject_of
    from uniformer_bench.yaml_text import read_yaml

    limits = _limits(options)
    subject = subject_of(**{key: options[key] for key in ("variant", "spec", "run", "trial")}, limits=limits)
    settings = dict(read_yaml(options["recipe"]) or {}) if options["recipe"] else {}
    settings |= {key: options[key] for key in ("epochs", "batch", "lr") if options[key] is not None}
    if options["recompute"]:
        settings["recompute"] = _numbers(options["recompute"])
    kept = {key: options[key] for key in ("data", "frames", "size", "init", "precision", "seed")}
    listing = {key: str(value) for key, value in _listing_options(options).items() if value is not None}
    stride = {"stride": options["data_stride"]} if options["data_stride"] else {}
    return make_plan(subject, settings=settings, data_options=listing | stride, **kept)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise click.UsageError(f"--recompute must be stages such as 3,4, got {text!r}") from None


def _say(sentence: str) -> None:
    click.echo(sentence, err=True)


@cli.command()
@common
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--data", help="builtin, or a folder with a sub-folder per class.  [default: what it was trained on]")
@click.option("--views", default="1x1", show_default=True, help="Moments x places, as 4x3.")
@click.option("--split", type=click.Choice(["train", "validation", "test"]), default="test", show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--cache", type=click.Path(path_type=Path), help="Decoded data.  [default: the user's cache folder]")
def test(
    as_json: bool,
    debug: bool,
    seed: int,
    checkpoint: Path,
    data: str | None,
    views: str,
    split: str,
    device: str,
    cache: Path | None,
) -> None:
    """Accuracy of a CHECKPOINT of `ubench train`: top-1, top-5, mean of the classes, each class, over views."""
    from uniformer_bench.measure.protocol import resolve_device
    from uniformer_bench.training.start import results_text, run_test
    from uniformer_bench.training.testing import parse_views

    seen, on = parse_views(views), resolve_device(device)
    document = run_test(checkpoint, data=data, views=seen, split=split, device=on, cache=cache)
    _print(document, as_json, results_text(document))


@cli.command()
@common
@limited
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--trial", type=click.IntRange(0), help="Of a run: the trial.  [default: the best within the limits]")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A new folder.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="CPU threads of the timing.")
def export(as_json: bool, debug: bool, seed: int, source: Path, trial: int | None, out: Path, **options: Any) -> None:
    """Export SOURCE, a checkpoint of `ubench train` or a run of `ubench search`, as a folder to take away.

    A checkpoint: weights, configuration, model card, snippet, torch.export and ONNX. A run's trial: the same without
    weights and snippet, for a search keeps no weights.
    """
    from uniformer_bench.export import folder

    limits = _limits(options)
    if folder.is_run(source):
        content = folder.from_trial(source, trial, limits)
    elif trial is not None or limits:
        raise click.UsageError("--trial and limits choose from a run, and SOURCE is none")
    else:
        content = folder.from_checkpoint(source)
    document = folder.export(content, out, threads=options["threads"])
    _print(document, as_json, folder.export_text(document))


@cli.command()
@common
def variants(as_json: bool, debug: bool, seed: int) -> None:
    """The named architectures, with what each costs."""
    from uniformer_bench.variants import variant_rows

    rows = variant_rows()
    lines = [f"{'variant':20}{'pattern':9}{'clip':12}{'params':>12}{'GMACs':>10}{'GFLOPs':>10}"]
    for row in rows:
        clip = f"{row['frames']}x{row['size']}x{row['size']}"
        cost = f"{row['params']:>12,}{row['macs'] / 1e9:>10.3f}{row['flops'] / 1e9:>10.3f}"
        lines.append(f"{row['variant']:20}{row['pattern']:9}{clip:12}{cost}")
    _print({"schema_version": 1, "variants": rows}, as_json, "\n".join(lines))


@cli.command()
@common
def spaces(as_json: bool, debug: bool, seed: int) -> None:
    """The search spaces that come with the package."""
    from uniformer_bench.space import load_space, space_files

    found = [load_space(name) for name in space_files()]
    rows = [{"space": s.name, "title": s.title, "size": s.size(), "objectives": list(s.objectives)} for s in found]
    lines = [f"{row['space']:16}{row['size']:>22,}  {row['title']}" for row in rows]
    _print({"schema_version": 1, "spaces": rows}, as_json, "\n".join(lines))


@cli.group()
def data() -> None:
    """Your videos."""


@data.command()
@common
@listed
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--frames", type=click.IntRange(1), default=16, show_default=True, help="Frames of a clip.")
@click.option("--size", type=click.IntRange(1), default=112, show_default=True, help="Height and width.")
@click.option("--sample", type=click.IntRange(1), help="Decode so many of the videos only.  [default: all]")
@click.option(
    "--max-bad",
    type=click.FloatRange(0, 1),
    default=0.01,
    show_default=True,
    help="Exit with 1 where a larger share is bad.",
)
def check(
    as_json: bool,
    debug: bool,
    seed: int,
    path: Path,
    frames: int,
    size: int,
    sample: int | None,
    max_bad: float,
    data_stride: int,
    **options: Any,
) -> None:
    """What a data set holds, every clip that cannot be read, and what loading it will take.

    PATH is a folder with a sub-folder of videos (or of folders of pictures) per class, perhaps in train/, val/ and
    test/; a list of `path label` lines or of columns under a header; a Kinetics table; a split of UCF101 or HMDB51;
    or a Something-Something JSON file.
    """
    from uniformer_bench.data.check import check_data, check_table
    from uniformer_bench.data.progress import DecodingBar
    from uniformer_bench.data.sources import read_listing
    from uniformer_bench.data.videos import Sampling

    listing = read_listing(path, **_listing_options(options))
    with DecodingBar(_console()) as bar:
        sampling = Sampling(frames, (size, size), data_stride)
        document = check_data(listing, sampling, max_bad=max_bad, sample=sample, watch=bar)
    _show(document, as_json, check_table(document))
    if document["failed"]:
        raise click.exceptions.Exit(1)


def _print(document: dict[str, Any], as_json: bool, text: str) -> None:
    from uniformer_bench.files import to_json

    click.echo(to_json(document) if as_json else text)


def _show(document: dict[str, Any], as_json: bool, *tables: "RenderableType") -> None:
    """The document, or tables for a person."""
    if as_json:
        _print(document, True, "")
    else:
        _console(stderr=False).print(*tables)


def _console(stderr: bool = True) -> "Console":
    from rich.console import Console

    return Console(stderr=stderr)
