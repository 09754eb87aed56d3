"""Options that several verbs share, and what they become.

Heavy imports wait until a verb runs.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from uniformer_bench.data.videos import Watch
    from uniformer_bench.measure.protocol import Protocol
    from uniformer_bench.training.start import Loading

Command = TypeVar("Command", bound=Callable[..., Any])
device = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
precision = click.option("--precision", default="fp32", show_default=True, help="fp32, bf16 or fp16.")
workers = click.option(
    "--workers", type=click.IntRange(1), help="Worker processes.  [default: one a GPU, or one a core]"
)
cache = click.option(
    "--cache", type=click.Path(path_type=Path), help="Decoded data.  [default: the user's cache folder]"
)
reports = click.option(
    "--reports", type=click.Path(path_type=Path), default=Path("reports"), show_default=True, help="Pages."
)


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
        device,
        precision,
        click.option("--num-classes", type=click.IntRange(1), help="Classes of the head.  [default: the variant's]"),
        click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Clips at a time."),
        click.option("--size", type=click.IntRange(1), help="Height and width.  [default: the variant's]"),
        click.option("--frames", type=click.IntRange(1), help="Frames of a clip.  [default: the variant's]"),
    ):
        command = option(command)
    return command


def protocol_of(at: dict[str, Any], frames: int, size: tuple[int, int]) -> "Protocol":
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


def listing_options(options: dict[str, Any]) -> dict[str, Any]:
    """The arguments of data.sources.read_listing, with whole paths, as workers may start elsewhere."""
    paths = {"root": options["data_root"], "validation": options["val_data"]}
    return {key: path and path.resolve() for key, path in paths.items()} | {"source_pattern": options["source_pattern"]}


def loaded(command: Command) -> Command:
    """How clips are loaded."""
    for option in (
        click.option("--cache-limit", type=click.FloatRange(min=0, min_open=True), default=20.0, show_default=True,
                     help="GB that the cache of decoded data may hold; other clips are decoded each time."),
        click.option("--max-bad", type=click.FloatRange(0, 1), default=0.1, show_default=True,
                     help="Share of the videos that may be left out."),
        cache,
    ):  # fmt: skip
        command = option(command)
    return command


def loading_options(options: dict[str, Any]) -> dict[str, Any]:
    """More arguments of load_clips, beside those of the listing and the cache."""
    names = {"stride": "data_stride", "max_bad": "max_bad", "cache_limit_gb": "cache_limit"}
    return {argument: options[option] for argument, option in names.items()}


def loading_of(options: dict[str, Any], watch: "Watch") -> "Loading":
    """The options of loading; `watch` is told how it goes."""
    from uniformer_bench.training.start import Loading

    return Loading(options["cache"], options["cache_limit"], options["max_bad"], watch)


def limited(command: Command) -> Command:
    """The limits under which the best trial of a run is meant."""
    from uniformer_bench.metrics import LIMITS

    for key, row in LIMITS.items():
        flag, text = f"--{key.replace('_', '-')}", f"With a run: the best trial of at most so many {row.unit}."
        command = click.option(flag, key, type=click.FloatRange(min=0, min_open=True), help=text)(command)
    return command


def limits_of(options: dict[str, Any]) -> dict[str, float]:
    """Takes the limits that are set out of the options."""
    from uniformer_bench.metrics import LIMITS

    found = {key: options.pop(key) for key in LIMITS}
    return {key: value for key, value in found.items() if value is not None}


def seconds_of(budget: str | None) -> float | None:
    """Seconds of a time such as 90s, 30m or 2h; raises UsageError for anything else."""
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
