"""The verb that searches."""

import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from uniformer_bench.cli import options as shared
from uniformer_bench.cli.options import common, limits_of, listed, listing_options, loaded, loading_options, seconds_of
from uniformer_bench.cli.output import console, print_document

if TYPE_CHECKING:
    from uniformer_bench.space import Space


@click.command()
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
@loaded
@click.option("--objectives", help="Metrics to trade off, as accuracy,latency.  [default: the space's]")
@click.option("--max-latency-ms", type=float, help="Upper limit on latency.")
@click.option("--max-memory-mb", type=float, help="Upper limit on inference memory, MB of 10^6 bytes.")
@click.option("--max-gmacs", type=float, help="Upper limit on MACs, in billions.")
@click.option("--max-params-m", type=float, help="Upper limit on parameters, in millions.")
@click.option("--sampler", default="model", show_default=True, help="model (ours), tpe, nsga2, gp or random.")
@shared.device
@shared.precision
@click.option("--compile", "compiled", is_flag=True, help="Measure latency under torch.compile.")
@click.option("--onnx", is_flag=True, help="Measure latency in ONNX Runtime.")
@shared.workers
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Where trials run: worker processes, or tasks of a Ray cluster (--workers is the most at once there).",
)
@click.option(
    "--ray-address",
    envvar="RAY_ADDRESS",
    show_envvar=True,
    help="The Ray cluster, as HOST:6379.  [default: one of this machine's own]",
)
@click.option(
    "--storage",
    envvar="UBENCH_STORAGE",
    show_envvar=True,
    help="An Optuna storage URL; one with a password belongs in the variable.  [default: SQLite in the run's folder]",
)
@click.option("--run", "run_name", help="The run's name.  [default: from the question asked]")
@click.option("--results", type=click.Path(path_type=Path), default=Path("results"), show_default=True, help="Runs.")
@shared.reports
@click.option("--trial-timeout", type=click.FloatRange(min=0, min_open=True), help="Seconds a trial may take.")
@click.option(
    "--warm-start", type=click.Path(path_type=Path), help="A run, also of another device or data, to learn from."
)
@click.option(
    "--init",
    type=click.Path(path_type=Path),
    help="Weights that every architecture inherits from before its short run, in place of the space's donor: official "
    "ones, or of `ubench train`.",
)
@click.option("--budget", help="Time to stop in, as 90s, 30m or 2h.")
@click.option(
    "--finalist-seeds",
    type=click.IntRange(0),
    default=2,
    show_default=True,
    help="More seeds from which the front, who stands behind its lucky ones, and the baselines are trained at the end.",
)
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
            listing=listing_options(options),
            trials=options["trials"],
            seed=options["seed"],
            device=device,
        )
        print_document(document, as_json, plan_text(document))
        return
    from uniformer_bench.data.progress import DecodingBar
    from uniformer_bench.search.display import Display
    from uniformer_bench.search.session import run_search

    _warn_of_password(options["storage"])
    terminal = console()
    with DecodingBar(terminal) as bar, Display(terminal, space.objectives, space.constraints) as display:
        finished = run_search(_search_options(space, options), display.show, bar)
    print_document(finished.document, as_json, _search_text(finished.document))
    if finished.stopped.signal is not None:
        name = signal.Signals(finished.stopped.signal).name
        click.echo(f"stopped by {name}; the same command goes on from here", err=True)
        sys.exit(128 + finished.stopped.signal)
    if not finished.document["front"]:
        raise click.exceptions.Exit(3)


def _space(options: dict[str, Any]) -> "Space":
    from uniformer_bench.space_file import load_space, with_overrides

    name = options["space_name"]
    if name is None:
        from uniformer_bench.measure.protocol import resolve_device

        name = "tiny" if resolve_device(options["device"]) == "cpu" else "compact_112"
    objectives = tuple(options["objectives"].split(",")) if options["objectives"] else None
    return with_overrides(load_space(name), objectives=objectives, constraints=limits_of(options))


def _search_options(space: "Space", options: dict[str, Any]) -> Any:
    from uniformer_bench.search.session import Options

    return Options(
        space=space,
        trials=options["trials"],
        data=options["data"],
        device=options["device"],
        precision=options["precision"],
        compile=options["compiled"],
        onnx=options["onnx"],
        sampler=options["sampler"],
        seed=options["seed"],
        workers=options["workers"],
        storage=options["storage"],
        run=options["run_name"],
        results=options["results"],
        reports=options["reports"],
        cache=options["cache"],
        timeout_s=options["trial_timeout"],
        budget_s=seconds_of(options["budget"]),
        command=_command_line(),
        finalist_seeds=options["finalist_seeds"],
        warm_start=options["warm_start"],
        init=options["init"],
        engine=options["engine"],
        ray_address=options["ray_address"],
        data_options={**listing_options(options), **loading_options(options)},
    )


def _warn_of_password(storage: str | None) -> None:
    """A URL from the variable is read by this user's processes alone; one among the words by everybody's."""
    from uniformer_bench.search.storage import has_password, place_of

    if storage and place_of(storage) and has_password(storage) and any(storage in word for word in sys.argv):
        click.echo(
            "warning: everyone on this machine can read the password of --storage with `ps`, and it stays in the "
            "shell's history; UBENCH_STORAGE is for URLs that have one, or leave it to ~/.pgpass",
            err=True,
        )


def _command_line() -> str:
    """The command as typed, with what may hold a password left out."""
    words = ["ubench", *sys.argv[1:]]
    for i, word in enumerate(words):
        if word == "--storage" and i + 1 < len(words):
            words[i + 1] = "…"
        elif word.startswith("--storage="):
            words[i] = "--storage=…"
    return shlex.join(words)


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
