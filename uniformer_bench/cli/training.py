"""The verbs from your videos to your model: data check, train, test, export."""

from pathlib import Path
from typing import Any

import click

from uniformer_bench.cli import options as shared
from uniformer_bench.cli.options import common, limited, limits_of, listed, listing_options, loaded, loading_of
from uniformer_bench.cli.output import console, print_document, show_document


@click.command()
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
@click.option("--recipe", type=click.Path(path_type=Path), help="YAML with lr, mixup, erasing, ema, zoom and so on.")
@click.option("--recompute", help="Stages that keep no activations, as 3,4: less memory, a third more time.")
@click.option("--frames", type=click.IntRange(1), help="Frames of a clip.  [default: the variant's, the run's or 16]")
@click.option("--size", type=click.IntRange(1), help="Height and width.  [default: the variant's, the run's or 224]")
@click.option("--views", default="1x1", show_default=True, help="Moments x places of the test at the end, as 4x3.")
@shared.device
@shared.precision
@click.option("--save-every", type=click.IntRange(1), help="Save every so many steps too, not only after an epoch.")
@loaded
@click.option("--dry-run", is_flag=True, help="Print the plan, train nothing.")
def train(as_json: bool, debug: bool, dry_run: bool, **options: Any) -> None:
    """Train an architecture in full, then test it. The same command goes on where it was cut short.

    Several GPUs: torchrun --nproc-per-node 8 --no-python ubench train ...
    """
    from uniformer_bench.data.progress import DecodingBar
    from uniformer_bench.measure.protocol import check_precision, resolve_device
    from uniformer_bench.training.plan import plan_text
    from uniformer_bench.training.start import plan_document, results_text, run_training
    from uniformer_bench.training.testing import parse_views

    plan, views = _plan(options), parse_views(options["views"])
    if dry_run:
        print_document(plan_document(plan), as_json, plan_text(plan))
        return
    device = resolve_device(options["device"])
    check_precision(device, plan.precision)
    with DecodingBar(console()) as bar:
        loading, every = loading_of(options, bar), options["save_every"]
        document = run_training(
            plan, options["out"], device=device, views=views, loading=loading, save_every=every, told=_say
        )
    if document is not None:  # all processes but the first have nothing to say
        print_document(document, as_json, f"{results_text(document['test'])}\n{document['checkpoint']}")


def _plan(options: dict[str, Any]) -> Any:
    """The plan of the options of a training."""
    from uniformer_bench.training.start import make_plan, subject_of
    from uniformer_bench.yaml_text import read_yaml

    limits = limits_of(options)
    subject = subject_of(**{key: options[key] for key in ("variant", "spec", "run", "trial")}, limits=limits)
    settings = dict(read_yaml(options["recipe"]) or {}) if options["recipe"] else {}
    settings |= {key: options[key] for key in ("epochs", "batch", "lr") if options[key] is not None}
    if options["recompute"]:
        settings["recompute"] = _numbers(options["recompute"])
    kept = {key: options[key] for key in ("data", "frames", "size", "init", "precision", "seed")}
    listing = {key: str(value) for key, value in listing_options(options).items() if value is not None}
    stride = {"stride": options["data_stride"]} if options["data_stride"] else {}
    return make_plan(subject, settings=settings, data_options=listing | stride, **kept)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise click.UsageError(f"--recompute must be stages such as 3,4, got {text!r}") from None


def _say(sentence: str) -> None:
    click.echo(sentence, err=True)


@click.command()
@common
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--data", help="builtin, or a folder with a sub-folder per class.  [default: what it was trained on]")
@click.option("--views", default="1x1", show_default=True, help="Moments x places, as 4x3.")
@click.option("--split", type=click.Choice(["train", "validation", "test"]), default="test", show_default=True)
@shared.device
@loaded
def test(
    as_json: bool,
    debug: bool,
    seed: int,
    checkpoint: Path,
    data: str | None,
    views: str,
    split: str,
    device: str,
    **options: Any,
) -> None:
    """Accuracy of a CHECKPOINT of `ubench train`: top-1, top-5, mean of the classes, each class, over views."""
    from uniformer_bench.data.progress import DecodingBar
    from uniformer_bench.measure.protocol import resolve_device
    from uniformer_bench.training.start import results_text, run_test
    from uniformer_bench.training.testing import parse_views

    seen, on = parse_views(views), resolve_device(device)
    with DecodingBar(console()) as bar:
        loading = loading_of(options, bar)
        document = run_test(checkpoint, data=data, views=seen, split=split, device=on, loading=loading)
    print_document(document, as_json, results_text(document))


@click.command()
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

    limits = limits_of(options)
    if folder.is_run(source):
        content = folder.from_trial(source, trial, limits)
    elif trial is not None or limits:
        raise click.UsageError("--trial and limits choose from a run, and SOURCE is none")
    else:
        content = folder.from_checkpoint(source)
    document = folder.export(content, out, threads=options["threads"])
    print_document(document, as_json, folder.export_text(document))


@click.group()
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

    listing = read_listing(path, **listing_options(options))
    with DecodingBar(console()) as bar:
        sampling = Sampling(frames, (size, size), data_stride)
        document = check_data(listing, sampling, max_bad=max_bad, sample=sample, watch=bar)
    show_document(document, as_json, check_table(document))
    if document["failed"]:
        raise click.exceptions.Exit(1)
