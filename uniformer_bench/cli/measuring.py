"""The verbs that measure a model or a machine, and what there is to measure."""

from pathlib import Path
from typing import Any

import click

from uniformer_bench.cli.options import common, measured, protocol_of, seconds_of
from uniformer_bench.cli.output import print_document, show_document


@click.command()
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
    num_classes, protocol = at["num_classes"] or usual.num_classes, protocol_of(at, usual.frames, usual.size)
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
    show_document(document, as_json, *tables)


@click.command()
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
        base=protocol_of({**at, "threads": at["threads"] or 1}, usual.frames, usual.size),
        num_classes=at["num_classes"] or usual.num_classes,
        budget_s=seconds_of(budget) or 10.0,
        fail_above=parse_percent(fail_above) if fail_above else None,
        seed=seed,
    )
    print_document(document, as_json, comparison_text(document))
    if document.get("failed"):
        raise click.exceptions.Exit(1)


@click.command()
@common
def doctor(as_json: bool, debug: bool, seed: int) -> None:
    """Is this machine fit to measure: load, clocks, threads, versions, and what to do about each."""
    from uniformer_bench.measure.doctor import doctor_document, doctor_table, examine

    checks = examine()
    show_document(doctor_document(checks), as_json, doctor_table(checks))


@click.command()
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
    print_document({"schema_version": 1, "variants": rows}, as_json, "\n".join(lines))


@click.command()
@common
def spaces(as_json: bool, debug: bool, seed: int) -> None:
    """The search spaces that come with the package."""
    from uniformer_bench.space_file import load_space, space_files

    found = [load_space(name) for name in space_files()]
    rows = [{"space": s.name, "title": s.title, "size": s.size(), "objectives": list(s.objectives)} for s in found]
    lines = [f"{row['space']:16}{row['size']:>22,}  {row['title']}" for row in rows]
    print_document({"schema_version": 1, "spaces": rows}, as_json, "\n".join(lines))
